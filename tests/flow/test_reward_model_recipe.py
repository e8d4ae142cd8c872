"""A recipe that trains its reward model, reinforces against it, and leaves it to be scored with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow.conftest import tiny_recipe, write_rows
from helpers.judged import comparisons

from guerdon.cli.main import answer
from guerdon.rewards.learned import LearnedReward

SECTION = {
    "steps": 12,
    "judgements": ["pairs.jsonl"],
    "where": {"split": "train"},
    "batch": {"max_tokens": 1500},
    "model": {"pooling": ["last", "mean"], "ngrams": {"buckets": 512}, "max_source": 100, "max_output": 80},
    "optimiser": {"learning_rate": 0.01, "warmup_steps": 2},
    "loop": {"validate_every": 6, "checkpoint_every": 6, "criterion": "accuracy", "higher_is_better": True},
}


def write_pairs(folder: Path) -> Path:
    rows = [
        {**c.fields(), "split": "train" if i % 4 else "valid", "aspect": aspect}
        for aspect in ("fluency", "order")
        for i, c in enumerate(comparisons(aspect))
    ]
    return write_rows(folder / "pairs.jsonl", rows)


def write_recipe(records: Path, folder: Path, **changes: Any) -> Path:
    values = tiny_recipe(records)
    del values["controls"]
    values["controls"] = {"run": []}
    values["reinforce"]["steps"] = 2
    values["reward"] = [{"type": "learned", "from": "reward_model", "heads": {"order": 1.0}, "clip": 5.0}]
    values["reward_model"] = {**SECTION, "validation_where": {"split": "valid"}, **changes}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewarded")
    write_pairs(records)
    recipe = write_recipe(records, folder)
    assert answer(["check", str(recipe), "--json"]) == 0
    assert not (folder / "run").exists()
    assert answer(["run", str(recipe), "--folder", str(folder / "run"), "--json"]) == 0
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_reward_model_is_trained_and_is_what_reinforcement_follows(done: Path) -> None:
    run = done / "run"
    facts = json.loads((run / "reward_model" / "done.json").read_text())
    assert facts["steps"] == 12
    assert facts["accuracy"] > 0.7
    assert {"accuracy_fluency", "accuracy_order"} <= facts.keys()
    reward = LearnedReward.load(run, heads={"order": 1.0}, clip=5.0)
    texts = [row for row in rows(run / "samples.jsonl") if "output" in row]
    expected = reward([row["source"] for row in texts], [row["output"] for row in texts]).tolist()
    assert [row["parts"]["learned"] for row in texts] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) > 5
    stages = [row["stage"] for row in rows(run / "metrics.jsonl")]
    assert list(dict.fromkeys(stages)) == ["finetune", "reward_model", "reinforce"]


def test_a_run_is_scored_with_by_its_folder(done: Path, tmp_path: Path) -> None:
    pairs = comparisons()[:8]
    given = write_rows(tmp_path / "in.jsonl", [{"source": c.source, "outputs": list(c.outputs)} for c in pairs])
    for folder in (done / "run", done / "run" / "reward_model"):
        assert answer(["score", str(folder), "-i", str(given), "-o", str(tmp_path / "out.jsonl"), "--json"]) == 0
        scored = rows(tmp_path / "out.jsonl")
        assert sum(row["scores"][0] > row["scores"][1] for row in scored) >= 6
    expected = LearnedReward.load(done / "run")([c.source for c in pairs], [c.outputs[0] for c in pairs])
    assert [row["scores"][0] for row in scored] == pytest.approx(expected.tolist(), rel=1e-6)


def test_the_same_command_again_trains_nothing(done: Path) -> None:
    before = (done / "run" / "metrics.jsonl").read_bytes()
    assert answer(["run", str(done / "recipe.yaml"), "--folder", str(done / "run"), "--json"]) == 0
    assert (done / "run" / "metrics.jsonl").read_bytes() == before


def test_other_judgements_are_another_run(done: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = records / "pairs.jsonl"
    kept = path.read_text()
    path.write_text(kept + kept.splitlines()[0].replace("fluency", "order") + "\n")
    assert answer(["run", str(done / "recipe.yaml"), "--folder", str(done / "run"), "--json"]) == 1
    assert "made with other options or other data" in capsys.readouterr().err
    path.write_text(kept)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"judgements": []}, 2, "reward_model.judgements: there are none; name files"),
        ({"judgements": ["nowhere.jsonl"]}, 2, "nowhere.jsonl"),
        ({"where": {"split": "tran"}}, 2, "no judgement has {'split': 'tran'}"),
        ({"loss": "elo"}, 2, "reward_model.loss"),
        ({"model": {"kind": "linear"}}, 2, "a linear model has nothing but n-grams"),
        ({"loss": "davidson", "label_smoothing": 0.1}, 2, "belongs to the loss bradley_terry"),
        ({"validation_where": {}, "validation_judgements": ["pairs.jsonl"]}, 2, "validation sources are trained on"),
        ({"model": {"max_source": 900}}, 2, "max_source: is 900 tokens"),
        ({"model": {"max_source": 3}}, 2, "the reward model takes at most 3"),
        ({"loss": "regression"}, 2, "reward_model.loop.criterion: nothing measures 'accuracy'; choose correlation or loss"),
    ],
)
def test_bad_input_is_one_line(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], code: int, said: str
) -> None:
    write_pairs(records)
    recipe = write_recipe(records, tmp_path, **changes)
    assert answer(["run", str(recipe), "--folder", str(tmp_path / "run"), "--set", "finetune.steps=1", "--json"]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_reward_without_its_model_is_refused(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(records)
    recipe = write_recipe(records, tmp_path)
    assert answer(["check", str(recipe), "--set", "reward_model=null"]) == 2
    assert "its reward model is trained by no section; add the section reward_model" in capsys.readouterr().err
    given = write_rows(tmp_path / "in.jsonl", [{"source": "a", "output": "b"}])
    assert answer(["score", str(recipe), "-i", str(given), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert "trained by a run of the recipe" in capsys.readouterr().err
    assert answer(["score", str(tmp_path), "-i", str(given), "-o", str(tmp_path / "out.jsonl")]) == 2
    assert "holds no reward model" in capsys.readouterr().err
    assert answer(["generate", str(tmp_path), "-i", str(given), "-o", str(tmp_path / "out.jsonl")]) == 2
