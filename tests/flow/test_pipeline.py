"""A recipe from records to report: what it leaves, that it does nothing twice, and that a kill changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
import yaml
from flow.conftest import tiny_recipe

from guerdon.cli.main import answer
from guerdon.evaluation.results import Evaluation
from guerdon.generator import load
from guerdon.models.load import load_tensors
from guerdon.pipeline.prepare import reward_context
from guerdon.pipeline.recipe import read_recipe
from guerdon.rewards.build import build_reward

ROOT = Path(__file__).parents[2]
SYSTEMS = ["finetuned", "reinforced", "shuffled", "constant", "best_of_n", "mbr"]


@pytest.fixture(scope="module")
def finished(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with every control; its recipe stands beside it."""
    folder = tmp_path_factory.mktemp("whole")
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(tiny_recipe(records)), encoding="utf-8")
    assert answer(["run", str(recipe), "--folder", str(folder / "run")]) == 0
    return folder / "run"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_it_leaves_what_it_promises(finished: Path) -> None:
    for name in (
        "recipe.yaml",
        "environment.json",
        "run.json",
        "metrics.jsonl",
        "samples.jsonl",
        "timings.jsonl",
        "evaluation.json",
    ):
        assert (finished / name).is_file(), name
    for stage in ("finetune", "reinforce", "reinforce-shuffled", "reinforce-constant"):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (finished / stage).iterdir()}
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="http' not in page
    assert [path.stem for path in sorted((finished / "outputs").iterdir())] == sorted(SYSTEMS)
    assert load(finished).policy.vocabulary_size <= 400
    stages = {row["stage"] for row in lines(finished / "metrics.jsonl")}
    assert stages == {"finetune", "reinforce", "reinforce-shuffled", "reinforce-constant"}


def test_bleu_is_sacrebleus_of_the_outputs_that_were_written(finished: Path) -> None:
    evaluation = Evaluation.read(finished)
    assert [system.name for system in evaluation.systems] == SYSTEMS
    for system in evaluation.systems:
        rows = lines(finished / system.outputs)
        most = max(len(row["references"]) for row in rows)
        streams = [[row["references"][i] if i < len(row["references"]) else None for row in rows] for i in range(most)]
        expected = sacrebleu.corpus_bleu([row["output"] for row in rows], streams).score
        assert system.metrics["bleu"].value == pytest.approx(expected, abs=1e-9)


def test_best_of_n_scores_best_among_the_choices_from_the_same_samples(finished: Path) -> None:
    recipe = read_recipe(finished.parent / "recipe.yaml")
    reward = build_reward(recipe.reward, reward_context(recipe))
    means = {}
    for name in ("best_of_n", "mbr"):
        rows = lines(finished / "outputs" / f"{name}.jsonl")
        scores = reward([r["source"] for r in rows], [r["output"] for r in rows], [r["references"] for r in rows])
        means[name] = float(scores.mean())
    assert means["best_of_n"] > means["mbr"]


def test_controls_begin_with_the_fine_tuned_weights(finished: Path) -> None:
    start = load_tensors(finished / "finetune" / "model.safetensors")
    validations = [row for row in lines(finished / "metrics.jsonl") if row["kind"] == "train" and row["step"] == 1]
    first = {row["stage"]: row for row in validations}
    assert first["reinforce"]["reward"] == first["reinforce-shuffled"]["reward"] == first["reinforce-constant"]["reward"]
    moved = load_tensors(finished / "reinforce" / "model.safetensors")
    assert any(not torch.equal(tensor, start[name]) for name, tensor in moved.items())


def test_a_second_call_trains_nothing(finished: Path) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    assert answer(["run", str(finished.parent / "recipe.yaml"), "--folder", str(finished)]) == 0
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed <= {"timings.jsonl", "report.html"}


@pytest.mark.parametrize("delay", [0.0, 0.3, 1.0])
def test_a_kill_changes_no_byte(delay: float, finished: Path, tmp_path: Path) -> None:
    """SIGKILL while it reinforces, then the same command again: logs, outputs and figures equal an uninterrupted run's."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "guerdon.cli.main", "run", str(finished.parent / "recipe.yaml"), "--folder", str(folder)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    begun = folder / "checkpoints" / "reinforce"
    deadline = time.monotonic() + 120
    while not begun.is_dir() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(delay)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    for name in ("metrics.jsonl", "samples.jsonl", "evaluation.json", *(f"outputs/{system}.jsonl" for system in SYSTEMS)):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name
    for stage in ("finetune", "reinforce", "reinforce-shuffled", "reinforce-constant"):
        one, other = (load_tensors(where / stage / "model.safetensors") for where in (folder, finished))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


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
