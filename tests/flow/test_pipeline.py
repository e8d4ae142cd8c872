"""A recipe from records to report: what it leaves, that it does nothing twice, and that a kill changes nothing."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
import yaml
from filelock import FileLock
from flow.conftest import tiny_recipe, write_rows

from guerdon.cli.main import answer
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit
from guerdon.errors import GuerdonError
from guerdon.evaluation.results import Evaluation
from guerdon.generator import load
from guerdon.models.load import load_tensors
from guerdon.pipeline.execute import execute
from guerdon.pipeline.folder import LOCK
from guerdon.pipeline.prepare import reward_context
from guerdon.pipeline.recipe import read_recipe
from guerdon.rewards.base import Judged
from guerdon.rewards.build import build_reward
from guerdon.training.progress import Silent

ROOT = Path(__file__).parents[2]
SYSTEMS = ["finetuned", "reinforced", "shuffled", "constant", "best_of_n", "mbr"]
REINFORCED = ["reinforce", "reinforce-shuffled", "reinforce-constant"]
STAGES = ["finetune", *REINFORCED]


@pytest.fixture
def finished(whole: Path) -> Path:
    """A whole run with every control, to look at."""
    return whole / "run"


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> list[str]:
    """The command that made a copy of that run."""
    shutil.copytree(whole, tmp_path / "whole")
    return ["run", str(tmp_path / "whole" / "recipe.yaml"), "--folder", str(tmp_path / "whole" / "run"), "--json"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and time of change."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def judged(whole: Path, rows: Sequence[dict[str, Any]], outputs: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The raw scores of the recipe's reward for each of ``outputs``, by part."""
    recipe = read_recipe(whole / "recipe.yaml")
    reward = build_reward(recipe.reward, reward_context(recipe))
    given = Judged.of([r["source"] for r in rows], outputs, [r["references"] for r in rows])
    return {name: part.scores.double().numpy() for name, part in reward.judge(given).parts.items()}


# --- what it leaves


def test_it_leaves_what_it_promises(finished: Path) -> None:
    for name in ("recipe.yaml", "environment.json", "run.json", "metrics.jsonl", "samples.jsonl", "timings.jsonl"):
        assert (finished / name).is_file(), name
    for stage in STAGES:
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (finished / stage).iterdir()}
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
    assert [path.stem for path in sorted((finished / "outputs").iterdir())] == sorted(SYSTEMS)
    assert load(finished).policy.vocabulary_size <= 400
    assert not [path for path in finished.rglob("*") if "partial" in path.name or path.name.endswith(".tmp")]


def test_run_json_counts_what_was_worked_on(finished: Path, records: Path) -> None:
    counts = json.loads((finished / "run.json").read_text())["counts"]
    for split in ("train", "validation", "test"):
        rows = lines(records / f"{split}.jsonl")
        assert counts[f"{split} records"] == len(rows)
        assert counts[f"{split} references"] == sum(len(row["references"]) for row in rows)
    assert counts["training pairs"] == counts["train references"]
    assert counts["parameters"] == sum(t.numel() for t in load_tensors(finished / "finetune" / "model.safetensors").values())
    assert "records skipped" not in counts
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert all(f"<dt>{name}</dt><dd>{count:,}</dd>" in page for name, count in counts.items())


@pytest.mark.parametrize("stage", STAGES)
def test_every_figure_that_is_promised_is_logged(stage: str, finished: Path) -> None:
    rows = [row for row in lines(finished / "metrics.jsonl") if row["stage"] == stage]
    parts = [f"reward/{name}" for name in ("word_frequency", "chrf", "words", "required_content")]
    common = {"stage", "step", "kind"}
    rewards = {"reward", *parts, "kl", "length", "finished"}
    train = {"loss", "learning_rate", "grad_norm", "skipped"}
    train |= {"nll", "tokens"} if stage == "finetune" else {*rewards, "entropy", "advantage_std", "samples"}
    validation = {"bleu", "chrf"} | ({"nll"} if stage == "finetune" else rewards)
    expected = {"train": common | train, "validation": common | validation, "final": common | validation}
    assert [row["step"] for row in rows if row["kind"] == "train"] == [1, 2, 3, 4]
    first = [] if stage == "finetune" else [0]
    assert [row["step"] for row in rows if row["kind"] == "validation"] == [*first, 2, 4]
    assert [row["kind"] for row in rows][-1] == "final"
    for row in rows:
        assert expected[row["kind"]] <= row.keys(), expected[row["kind"]] - row.keys()


METRICS: dict[str, Callable[[list[str], list[list[str | None]]], float]] = {
    "bleu": lambda outputs, streams: sacrebleu.corpus_bleu(outputs, streams).score,
    "chrf": lambda outputs, streams: sacrebleu.metrics.CHRF().corpus_score(outputs, streams).score,
    "ter": lambda outputs, streams: sacrebleu.metrics.TER().corpus_score(outputs, streams).score,
}


@pytest.mark.parametrize("metric", METRICS)
def test_figures_are_sacrebleus_of_the_outputs_that_were_written(metric: str, finished: Path) -> None:
    evaluation = Evaluation.read(finished)
    assert [system.name for system in evaluation.systems] == SYSTEMS
    for system in evaluation.systems:
        rows = lines(finished / system.outputs)
        most = max(len(row["references"]) for row in rows)
        streams = [[row["references"][i] if i < len(row["references"]) else None for row in rows] for i in range(most)]
        expected = METRICS[metric]([row["output"] for row in rows], streams)
        assert system.metrics[metric].value == pytest.approx(expected, abs=1e-6)


def test_rewards_are_those_of_the_outputs_that_were_written(whole: Path) -> None:
    for system in Evaluation.read(whole / "run").systems:
        rows = lines(whole / "run" / system.outputs)
        means = {name: scores.mean() for name, scores in judged(whole, rows, [row["output"] for row in rows]).items()}
        for name, mean in means.items():
            assert system.metrics[f"reward/{name}"].value == pytest.approx(mean, abs=1e-5)
        total = 0.5 * means["word_frequency"] + 0.5 * means["chrf"] - 0.1 * means["words"] + means["required_content"]
        assert system.metrics["reward"].value == pytest.approx(total, abs=1e-5)
        assert system.metrics["slot_errors"].value >= 0.0


def test_best_of_n_is_the_best_of_the_samples_at_the_recipes_temperature(whole: Path) -> None:
    """Parts are weighed as in training: each on the scale of its own mean and deviation."""
    rows = lines(whole / "run" / "outputs" / "best_of_n.jsonl")
    policy = load(whole / "run" / "finetune")
    groups = policy.generate(
        [r["source"] for r in rows], method="sample", returned=3, temperature=0.7, limit=LengthLimit(24), batch_size=32
    )
    flat = [output.text for group in groups for output in group]
    parts = judged(whole, [row for row in rows for _ in range(3)], flat)
    weights = {"word_frequency": 0.5, "chrf": 0.5, "words": -0.1, "required_content": 1.0}
    normal = {name: (s - s.mean()) / s.std() if s.std() else 0.0 * s for name, s in parts.items()}
    total = sum(weights[name] * scores for name, scores in normal.items())
    assert isinstance(total, np.ndarray)
    assert len(set(flat)) > len(rows)
    for number, row in enumerate(rows):
        own = total[3 * number : 3 * number + 3]
        chosen = [own[i] for i in range(3) if flat[3 * number + i] == row["output"]]
        assert chosen
        assert max(chosen) == pytest.approx(own.max(), abs=1e-5)


def test_controls_begin_alike_and_end_apart(finished: Path) -> None:
    rows = lines(finished / "metrics.jsonl")

    def row(stage: str, kind: str, step: int) -> dict[str, Any]:
        (found,) = [r for r in rows if (r["stage"], r["kind"], r["step"]) == (stage, kind, step)]
        return {name: value for name, value in found.items() if name != "stage"}

    assert row("reinforce", "validation", 0)["kl"] == 0.0
    drawn = ("reward", "length", "tokens", "entropy", "reward/words")
    for control in REINFORCED[1:]:
        assert row(control, "validation", 0) == row("reinforce", "validation", 0)
        assert all(row(control, "train", 1)[name] == row("reinforce", "train", 1)[name] for name in drawn)
    weights = [load_tensors(finished / stage / "model.safetensors") for stage in STAGES]
    for one, other in itertools.combinations(weights, 2):
        assert any(not torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_the_resolved_recipe_means_the_same_from_its_own_folder(
    whole: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scored = []
    for recipe in (whole / "recipe.yaml", finished / "recipe.yaml"):
        values = yaml.safe_load(recipe.read_text(encoding="utf-8"))
        values["reward"] = [part for part in values["reward"] if part["type"] != "function"]  # a module lies beside a recipe
        own = tmp_path / "recipe.yaml" if recipe.parent == finished else whole / "other.yaml"
        own.write_text(yaml.safe_dump(values), encoding="utf-8")
        out = tmp_path / "out.jsonl"
        assert answer(["score", str(own), "-i", str(finished / "outputs" / "mbr.jsonl"), "-o", str(out)]) == 0
        scored.append(out.read_bytes())
    (whole / "other.yaml").unlink()
    assert scored[0] == scored[1]


# --- what it does not do again


def test_a_second_call_does_nothing(copied: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = state(tmp_path / "whole" / "run")
    capsys.readouterr()
    assert answer(copied) == 0
    said = json.loads(capsys.readouterr().out)
    assert list(said["systems"]) == SYSTEMS
    after = state(tmp_path / "whole" / "run")
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"report.html"}
    moved = [str(folder).encode() for folder in (tmp_path / "whole" / "run", whole / "run")]
    assert after["report.html"][0].replace(*moved) == before["report.html"][0]


@pytest.mark.parametrize("change", ["decoding.beam_size=1", "controls.run=[shuffled]", "controls.temperature=0.2"])
def test_other_outputs_train_nothing_again(change: str, copied: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "whole" / "run"
    before = state(folder)
    assert answer([*copied, "--set", change]) == 0
    after = state(folder)
    assert after["evaluation.json"][0] != before["evaluation.json"][0]
    for name in [n for n in before if n.startswith(("checkpoints", *STAGES)) or n in ("metrics.jsonl", "samples.jsonl")]:
        assert after[name] == before[name], name


def test_a_stage_that_was_removed_is_made_again_alone(copied: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "whole" / "run"
    before = state(folder)
    shutil.rmtree(folder / "reinforce-constant")
    assert answer(copied) == 0
    after = state(folder)
    for name in ("reinforce-constant/model.safetensors", "evaluation.json", "metrics.jsonl", "outputs/constant.jsonl"):
        assert after[name][0] == before[name][0]
    assert after["reinforce/model.safetensors"] == before["reinforce/model.safetensors"]


def test_kills_change_no_byte(whole: Path, tmp_path: Path) -> None:
    """SIGKILL amid the reward of a step, again and again, then left alone: all equals the run that nobody killed.

    Calls of the reward in each process: one on trial, one at the first validation of each stage, and one a step.
    """
    for name in ("recipe.yaml", "fragile.py", "slots.yaml"):
        shutil.copy(whole / name, tmp_path)
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "guerdon", "run", str(tmp_path / "recipe.yaml"), "--folder", str(folder)]
    stages = []
    for calls in ("6", "7", "9", "0"):
        environment = {**os.environ, "FRAGILE": calls, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == (0 if calls == "0" else -signal.SIGKILL), done.stderr
        stages.append(lines(folder / "metrics.jsonl")[-1]["stage"])
    assert len(set(stages)) > 1, stages
    assert stages[0] == "reinforce"
    for name in ("metrics.jsonl", "samples.jsonl", "evaluation.json", *(f"outputs/{system}.jsonl" for system in SYSTEMS)):
        assert (folder / name).read_bytes() == (whole / "run" / name).read_bytes(), name
    for stage in STAGES:
        one, other = ((where / stage / "model.safetensors").read_bytes() for where in (folder, whole / "run"))
        assert one == other


# --- other recipes


def run(values: dict[str, Any], tmp_path: Path, *more: str) -> Path:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert answer(["run", str(recipe), "--folder", str(tmp_path / "own"), "--json", *more]) == 0
    return tmp_path / "own"


def test_a_loaded_model_is_reinforced_without_any_reference(model: Path, records: Path, tmp_path: Path) -> None:
    values = {**tiny_recipe(records), "model": {"load": str(model)}, "finetune": None, "reward": [{"type": "repetition"}]}
    for split in ("train", "validation", "test"):
        rows = [{"source": row["source"]} for row in lines(records / f"{split}.jsonl")]
        values["data"][split] = str(write_rows(tmp_path / f"{split}.jsonl", rows))
    folder = run(values, tmp_path)
    evaluation = Evaluation.read(folder)
    assert [system.name for system in evaluation.systems] == SYSTEMS
    assert "bleu" not in evaluation.systems[0].metrics
    assert "reward/repetition" in evaluation.systems[0].metrics
    assert not (folder / "tokenizer").exists()
    start, stored = (load_tensors(where / "model.safetensors") for where in (model, folder / "reinforce"))
    assert start.keys() == stored.keys()


def test_pairs_that_are_too_long_are_left_out_of_every_stage(records: Path, tmp_path: Path) -> None:
    values = tiny_recipe(records)
    values["finetune"]["too_long"] = "skip"
    values["controls"]["run"] = []
    rows = lines(records / "train.jsonl")
    long = {"source": "kind[lecture] " * 200, "references": ["A lecture."]}
    values["data"]["train"] = str(write_rows(tmp_path / "train.jsonl", [*rows, long]))
    folder = run(values, tmp_path)
    counts = json.loads((folder / "run.json").read_text())["counts"]
    assert counts["train records"] == len(rows) + 1
    assert counts["training pairs"] == counts["train references"] - 1


def test_bad_records_are_skipped_counted_and_kept_where_a_recipe_says_so(records: Path, tmp_path: Path) -> None:
    values = {**tiny_recipe(records), "reinforce": None}
    values["data"] |= {"on_error": "skip", "train": str(tmp_path / "train.jsonl")}
    good = (records / "train.jsonl").read_text(encoding="utf-8")
    (tmp_path / "train.jsonl").write_text(good + '{"source": 5, "references": ["x"]}\nbroken\n', encoding="utf-8")
    folder = run(values, tmp_path)
    counts = json.loads((folder / "run.json").read_text())["counts"]
    assert counts["records skipped"] == 2
    assert counts["train records"] == good.count("\n")
    skipped = lines(folder / "skipped.jsonl")
    assert [(row["split"], row["line"], row["text"][:7]) for row in skipped] == [
        ("train", 49, '{"sourc'),
        ("train", 50, "broken"),
    ]


def test_a_tokenizer_can_be_taken_from_a_folder(model: Path, records: Path, tmp_path: Path) -> None:
    values = {**tiny_recipe(records), "reinforce": None, "tokenizer": {"folder": str(model)}}
    folder = run(values, tmp_path)
    taken = Tokenizer.load(model).fingerprint
    assert Tokenizer.load(folder / "tokenizer").fingerprint == taken == Tokenizer.load(folder / "finetune").fingerprint


def test_pretraining_comes_first_where_a_recipe_has_it(records: Path, tmp_path: Path, data_folder: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join((data_folder / "rawtext_en" / "valid.jsonl").read_text(encoding="utf-8").splitlines()[:40]))
    stage = {"texts": [str(texts)], "validation_texts": [str(texts)], "references": True, "steps": 4, "max_length": 48}
    values = {**tiny_recipe(records), "pretrain": {**stage, "batch": {"max_tokens": 512}, "loop": {"validate_every": 2}}}
    values["reinforce"] = None
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert answer(["run", str(recipe), "--folder", str(tmp_path / "run")]) == 0
    rows = lines(tmp_path / "run" / "metrics.jsonl")
    assert [row["stage"] for row in rows if row["kind"] == "final"] == ["pretrain", "finetune"]
    assert Evaluation.read(tmp_path / "run").systems[0].name == "finetuned"


def test_a_folder_belongs_to_one_process_at_a_time(copied: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(copied[3])
    (folder / "evaluation.json").unlink()  # so that there is something to do
    code = (
        "import sys, time; from pathlib import Path; from guerdon.pipeline.folder import RunFiles;"
        "from guerdon.pipeline.recipe import read_recipe;"
        "files = RunFiles(read_recipe(Path(sys.argv[1])), Path(sys.argv[2])); files.hold(); print('held', flush=True);"
        "time.sleep(600)"
    )
    command = [sys.executable, "-c", code, copied[1], str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            before = state(folder)
            assert answer(copied) == 2
            assert "another process is writing here" in capsys.readouterr().err
            assert state(folder) == before
        finally:
            other.send_signal(signal.SIGKILL)
    assert answer(copied) == 0


def test_a_run_that_fails_lets_go_of_its_folder(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "tokenizer").write_text("a file where a stage's folder belongs")
    with pytest.raises(GuerdonError) as caught:  # whose traceback keeps the run alive
        execute(read_recipe(whole / "recipe.yaml"), folder, Silent())
    with FileLock(folder / LOCK, timeout=0):
        assert "tokenizer" in str(caught.value)
