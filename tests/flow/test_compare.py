"""A comparison from recipe to page: what it leaves, that it does nothing twice, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
import yaml
from flow.conftest import FRAGILE, tiny_recipe
from scipy import stats

from guerdon.cli.main import answer
from guerdon.generator import load
from guerdon.models.load import load_tensors

ROOT = Path(__file__).parents[2]
CELLS = ["baseline-leave_one_out", "baseline-none"]
VARY = ["--vary", "reinforce.baseline=leave_one_out,none"]
ASKED = [*VARY, "--seeds", "2", "--gradients", "4", "--json"]
SYSTEMS = {"reinforced": "reinforce", "shuffled": "reinforce-shuffled", "constant": "reinforce-constant"}
EXACT = ("metrics.jsonl", "samples.jsonl", "outputs/reinforced.jsonl", "reinforce/model.safetensors")


def write_recipe(folder: Path, records: Path) -> Path:
    """The tiny recipe with a learning rate at which four steps show, and a reward that can kill its process."""
    (folder / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    (folder / "slots.yaml").write_text("title: {}\nkind: {lecture: [lecture, talk]}\n", encoding="utf-8")
    values = tiny_recipe(records)
    values["reward"] = [{"type": "function", "function": "fragile:words", "weight": -0.5}, {"type": "chrf", "weight": 0.5}]
    values["reinforce"]["optimiser"] = {"learning_rate": 0.01, "warmup_steps": 1, "schedule": "constant", "weight_decay": 0.0}
    values["evaluation"]["slots"] = "slots.yaml"
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def compared(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe and of its comparison, two cells by two seeds; not to be written into."""
    folder = tmp_path_factory.mktemp("compared")
    recipe = write_recipe(folder, records)
    assert answer(["compare", str(recipe), *ASKED, "--folder", str(folder / "all")]) == 0
    return folder


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> list[str]:
    """The command that made a copy of that comparison."""
    shutil.copytree(compared, tmp_path / "own")
    return ["compare", str(tmp_path / "own" / "recipe.yaml"), *ASKED, "--folder", str(tmp_path / "own" / "all")]


def said(command: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert answer(command) == 0
    return dict(json.loads(capsys.readouterr().out))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def text_of(page: Path) -> str:
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(words.split())


# --- what it leaves


def test_every_run_is_a_run_folder_and_the_policy_is_trained_once(compared: Path) -> None:
    folder = compared / "all"
    assert sorted(path.name for path in (folder / "cells").iterdir()) == CELLS
    assert (folder / "start" / "finetune" / "model.safetensors").is_file()
    for cell in CELLS:
        for seed in ("seed-1", "seed-2"):
            run = folder / "cells" / cell / seed
            controls = ["shuffled", "constant"] if cell == CELLS[0] else []
            names = {"best_of_n", "reinforced", *controls} if controls else {"reinforced"}
            assert {path.stem for path in (run / "outputs").iterdir()} == names
            assert {stage for stage in SYSTEMS.values() if (run / stage / "done.json").is_file()} == {
                SYSTEMS[name] for name in names - {"best_of_n"}
            }
            assert not (run / "finetune").exists()
            assert yaml.safe_load((run / "recipe.yaml").read_text())["seed"] == int(seed[-1])
            assert load(run).policy.vocabulary_size <= 400
    assert not [path for path in folder.rglob("*") if "partial" in path.name or path.name.endswith(".tmp")]


def test_runs_begin_with_one_policy_and_differ_in_their_draws(compared: Path) -> None:
    def row(cell: str, seed: int, kind: str, step: int) -> dict[str, Any]:
        rows = lines(compared / "all" / "cells" / cell / f"seed-{seed}" / "metrics.jsonl")
        (found,) = [r for r in rows if (r["stage"], r["kind"], r["step"]) == ("reinforce", kind, step)]
        return dict(found)

    first = row(CELLS[0], 1, "validation", 0)
    assert first["kl"] == 0.0
    assert all(row(cell, seed, "validation", 0) == first for cell in CELLS for seed in (1, 2))
    for name in ("reward", "length", "entropy"):  # one seed draws the same of one policy, another seed does not
        assert row(CELLS[0], 1, "train", 1)[name] == row(CELLS[1], 1, "train", 1)[name]
    assert row(CELLS[0], 1, "train", 1)["entropy"] != row(CELLS[0], 2, "train", 1)["entropy"]
    runs = [compared / "all" / "cells" / cell / f"seed-{seed}" / "reinforce" for cell in CELLS for seed in (1, 2)]
    weights = [load_tensors(run / "model.safetensors")["embedding.weight"] for run in runs]
    assert all(not torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])


def scored(path: Path) -> dict[str, float]:
    """A file of outputs by sacrebleu, and by the words that the reward counts."""
    rows = lines(path)
    outputs, most = [row["output"] for row in rows], max(len(row["references"]) for row in rows)
    streams = [[r["references"][i] if i < len(r["references"]) else None for r in rows] for i in range(most)]
    return {
        "bleu": sacrebleu.corpus_bleu(outputs, streams).score,
        "chrf": sacrebleu.metrics.CHRF().corpus_score(outputs, streams).score,
        "reward/words": float(np.mean([len(output.split()) for output in outputs])),
    }


def test_figures_are_those_of_the_outputs_of_each_seed(copied: list[str], compared: Path, capsys: Any) -> None:
    found, cells = said(copied, capsys)["systems"], compared / "all" / "cells"
    files = {name: [cells / name / f"seed-{seed}" / "outputs" / "reinforced.jsonl" for seed in (1, 2)] for name in CELLS}
    for name in ("shuffled", "constant", "best_of_n"):
        files[name] = [cells / CELLS[0] / f"seed-{seed}" / "outputs" / f"{name}.jsonl" for seed in (1, 2)]
    files["finetuned"] = [compared / "all" / "start" / "outputs" / "finetuned.jsonl"] * 2
    assert found.keys() == files.keys()
    for system, paths in files.items():
        for measure in ("bleu", "chrf", "reward/words"):
            expected = [scored(path)[measure] for path in paths]
            assert found[system][measure] == pytest.approx(expected, abs=1e-5), (system, measure)
    assert {"reward", "reward/words", "reward/chrf", "slot_errors", "bleu", "chrf"} <= found["finetuned"].keys()
    assert len({tuple(values["reward"]) for values in found.values()}) > 3


def test_the_page_shows_means_with_students_interval(copied: list[str], capsys: Any) -> None:
    answered = said(copied, capsys)
    page = Path(answered["page"]).read_text(encoding="utf-8")
    text = text_of(Path(answered["page"]))
    assert "http://" not in page
    assert "<script" not in page
    assert 'src="' not in page
    for cell in ("baseline: leave_one_out", "baseline: none"):
        values = answered["systems"][cell.replace(": ", "-")]["chrf"]
        interval = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        row = re.search(rf"{cell} .*?(?=baseline: none|control: shuffled)", text[text.index("samples drawn") :])
        assert row is not None
        half = (interval.high - interval.low) / 2
        pairs = [
            (float(a.replace("−", "-").replace(",", "")), float(b)) for a, b in re.findall(r"([−\d.,]+) ± ([\d.]+)", row[0])
        ]
        assert any(abs(a - np.mean(values)) < 0.06 and abs(b - half) < 0.06 for a, b in pairs), (pairs, values, half)
    for words in ("control: shuffled rewards", "control: constant reward", "best of 5 samples", "start policy"):
        assert words in text
    assert re.search(r"\b[12] of 2\b", text)  # runs of a cell that reached what the page counts to
    assert "A full run of the first cell draws 4 × 4 × 3 = 48." in text
    assert answered["verdict"][0].split(":")[0] in text
    assert page.count('class="band') >= 8  # four lines, over steps and over samples
    best = max(CELLS, key=lambda cell: np.mean(answered["systems"][cell]["reward"]))
    assert answered["best"] == best
    assert answered["verdict"][0].startswith(f"Highest reward on the test sources: {best.replace('-', ': ', 1)}")


def test_steps_to_the_target_are_those_of_the_logs(copied: list[str], compared: Path, capsys: Any) -> None:
    def validations(cell: str, seed: int, stage: str = "reinforce") -> list[tuple[int, float]]:
        rows = lines(compared / "all" / "cells" / cell / f"seed-{seed}" / "metrics.jsonl")
        return [(r["step"], r["reward"]) for r in rows if r["kind"] == "validation" and r["stage"] == stage]

    highest = max(reward for cell in CELLS for seed in (1, 2) for _, reward in validations(cell, seed))
    answered = said([*copied, "--target", str(highest)], capsys)
    for cell in CELLS:
        expected = [next((step for step, r in validations(cell, seed) if r >= highest), None) for seed in (1, 2)]
        assert answered["cells"][cell]["steps_to_target"] == expected
        assert answered["cells"][cell]["samples"] == [4 * 12.0] * 2
    assert "as asked for" in text_of(Path(answered["page"]))


def test_estimators_are_measured_on_the_same_policy(compared: Path) -> None:
    one, other = (json.loads((compared / "all" / "cells" / cell / "gradient.json").read_text()) for cell in CELLS)
    assert one["estimates"] == other["estimates"] == 4
    assert one["samples"] == other["samples"] == 12
    assert one["covariance"] != other["covariance"]
    assert min(one["covariance"], other["covariance"]) > 0


# --- what it does not do again


def test_a_second_call_does_nothing(copied: list[str], tmp_path: Path, capsys: Any) -> None:
    before = state(tmp_path / "own" / "all")
    said(copied, capsys)
    after = state(tmp_path / "own" / "all")
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == ["comparison.html"]
    assert after["comparison.html"][0] == before["comparison.html"][0]


def test_a_removed_cell_is_done_again_alone(copied: list[str], tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "own" / "all"
    before = state(folder)
    shutil.rmtree(folder / "cells" / CELLS[1])
    shutil.rmtree(folder / "cells" / CELLS[0] / "seed-2" / "reinforce-constant")
    said(copied, capsys)
    after = state(folder)
    assert after.keys() == before.keys()
    apart = ("timings.jsonl", "comparison.html", "recipe.yaml")  # durations, and paths of the folder that was copied
    assert [name for name in after if after[name][0] != before[name][0] and not name.endswith(apart)] == []
    again = {name for name in after if after[name][1] != before[name][1]}
    assert not any(name.startswith((f"cells/{CELLS[0]}/seed-1", "start")) for name in again)


def test_more_seeds_train_only_what_is_new(copied: list[str], tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "own" / "all"
    before = state(folder)
    fewer = said([*copied[:2], *VARY, "--seed-list", "2", *copied[6:]], capsys)
    assert fewer["seeds"] == [2]
    assert "One seed: nothing here tells what another seed would give." in text_of(Path(fewer["page"]))
    assert "one seed does not tell" in fewer["verdict"][0] or "level with" in fewer["verdict"][0]
    more = said([*copied[:2], *VARY, "--seed-list", "1,2,7", *copied[6:]], capsys)
    assert [len(values["reward"]) for values in more["systems"].values()] == [3] * 6
    after = state(folder)
    for name in before:
        if name.startswith(("cells/", "start/")) and not name.endswith("gradient.json"):
            assert after[name] == before[name], name


def test_kills_change_no_byte(compared: Path, tmp_path: Path) -> None:
    """SIGKILL amid the reward of a step, again and again, then left alone: all equals what nobody killed."""
    for name in ("recipe.yaml", "fragile.py", "slots.yaml"):
        shutil.copy(compared / name, tmp_path)
    folder = tmp_path / "all"
    command = [sys.executable, "-m", "guerdon", "compare", str(tmp_path / "recipe.yaml"), *ASKED]
    for calls in ("6", "16", "0"):
        environment = {**os.environ, "FRAGILE": calls, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--folder", str(folder)], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
        )
        assert done.returncode == (0 if calls == "0" else -signal.SIGKILL), done.stderr
    one, other = compared / "all", folder
    assert json.loads((one / "evaluation.json").read_text()) == json.loads((other / "evaluation.json").read_text())
    for cell in CELLS:
        assert (one / "cells" / cell / "gradient.json").read_bytes() == (other / "cells" / cell / "gradient.json").read_bytes()
        for seed in ("seed-1", "seed-2"):
            for name in EXACT:
                path = Path("cells") / cell / seed / name
                assert (one / path).read_bytes() == (other / path).read_bytes(), path


# --- other plans


def test_a_given_policy_is_where_every_cell_begins(copied: list[str], compared: Path, tmp_path: Path, capsys: Any) -> None:
    start = compared / "all" / "start" / "finetune"
    other = [*copied[:2], "--folder", str(tmp_path / "given"), "--start", str(start), "--json"]
    plan = ["--vary", "reinforce.temperature=1", "--seeds", "1", "--no-controls", "--gradients", "0"]
    answered = said([*other, *plan], capsys)
    assert list(answered["systems"]) == ["finetuned", "temperature-1"]
    assert not (tmp_path / "given" / "start" / "finetune").exists()
    twin = compared / "all" / "cells" / CELLS[0] / "seed-1"  # temperature 1 and leave-one-out are the recipe's own
    for name in ("reinforce/model.safetensors", "outputs/reinforced.jsonl"):
        made = tmp_path / "given" / "cells" / "temperature-1" / "seed-1" / name
        assert made.read_bytes() == (twin / name).read_bytes()
    text = text_of(Path(answered["page"]))
    assert "No control was run" in text
    assert "Gradient variance" not in text


def fails(command: Sequence[str], words: str, folder: Path, capsys: Any) -> None:
    """One line, exit code 2, and nothing written."""
    before = state(folder)
    capsys.readouterr()
    assert answer(list(command)) == 2
    heard = capsys.readouterr()
    assert heard.out == ""
    (line,) = heard.err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert "; " in line
    after = {name: content for name, content in state(folder).items() if not name.endswith(".pyc")}
    assert after == {name: content for name, content in before.items() if not name.endswith(".pyc")}


BAD: dict[str, tuple[list[str], str]] = {
    "an unknown option": (["--vary", "reinforce.baselin=none"], "did you mean 'baseline'"),
    "a cell that contradicts itself": (
        ["--vary", "reinforce.baseline=none,leave_one_out", "--vary", "reinforce.samples_per_source=3,1"],
        "(with reinforce.baseline=leave_one_out, reinforce.samples_per_source=1)",
    ),
    "a cell that the data cannot give": (["--vary", "reinforce.sources_per_step=4,100"], "a step takes 100 sources"),
    "two ways to say the seeds": (["--seeds", "2", "--seed-list", "1"], "--seed-list"),
    "no such policy": (["--start", "absent"], "absent: no such folder"),
    "too few gradients": (["--gradients", "2"], "2 gradients"),
    "a target that is none": (["--target", "nan"], "--target"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, records: Path, tmp_path: Path, capsys: Any) -> None:
    asked, words = BAD[name]
    recipe = write_recipe(tmp_path, records)
    fails(["compare", str(recipe), "--folder", str(tmp_path / "out"), "--json", *asked], words, tmp_path, capsys)
    assert not (tmp_path / "out").exists()


def test_a_policy_of_another_vocabulary_is_refused(model: Path, records: Path, tmp_path: Path, capsys: Any) -> None:
    recipe = write_recipe(tmp_path, records)
    command = ["compare", str(recipe), "--folder", str(tmp_path / "out"), "--json", "--start", str(model)]
    fails([*command, "--set", "tokenizer.vocabulary_size=300"], "has another vocabulary", tmp_path, capsys)


@pytest.mark.parametrize(
    "change",
    [
        ["--set", "reinforce.steps=5"],
        ["--set", "decoding.beam_size=3"],
        ["--set", "seed=4"],
        ["--vary", "reinforce.temperature=1,0.5"],
    ],
)
def test_the_folder_of_another_comparison_stays_as_it_is(
    change: list[str], copied: list[str], tmp_path: Path, capsys: Any
) -> None:
    fails([*copied, *change], "holds another comparison", tmp_path / "own", capsys)


def test_the_folder_of_a_run_is_none_of_a_comparison(copied: list[str], tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "own" / "all" / "cells" / CELLS[0] / "seed-1"
    fails([*copied[:-1], str(run)], "holds something else", tmp_path / "own", capsys)
