"""A judge that a run trains beside its reward model: the systems are measured by it, and nothing is trained on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow.conftest import tiny_recipe, write_rows
from flow.test_reward_model_recipe import SECTION
from helpers.judged import comparisons

from guerdon.cli.main import answer
from guerdon.models.load import load_tensors
from guerdon.rewards.learned import LearnedReward

BOTH = {
    "reward_model": {**SECTION, "where": {"split": "train"}},
    "judge": {**SECTION, "where": {"split": "valid"}, "held_out": 0.3},
}


def write_recipe(records: Path, folder: Path, **sections: Any) -> Path:
    rows = [{**c.fields(), "split": "valid" if i % 2 else "train", "aspect": "order"} for i, c in enumerate(comparisons())]
    for name in ("pairs", "others"):
        write_rows(folder / f"{name}.jsonl", rows)
    values = {**tiny_recipe(records), "controls": {"run": []}, **BOTH, **sections}
    values["judge"] = values["judge"] and {**values["judge"], "judgements": [str(folder / "others.jsonl")]}
    values["reward_model"] = {**values["reward_model"], "judgements": [str(folder / "pairs.jsonl")]}
    values["reward"] = [{"type": "learned", "from": "reward_model"}]
    values["reinforce"] = {**values["reinforce"], "steps": 2}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def done(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judged")
    assert answer(["run", str(write_recipe(records, folder)), "--folder", str(folder / "run"), "--json"]) == 0
    return folder


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_systems_are_measured_by_it(done: Path) -> None:
    run = done / "run"
    evaluation = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    measure = next(m for m in evaluation["measures"] if m["name"] == "judge_order")
    assert measure == {"name": "judge_order", "label": "judge: order", "higher_is_better": True, "optimised": False}
    judge = LearnedReward.load(run / "judge")
    for system in evaluation["systems"]:
        outputs = rows(run / "outputs" / f"{system['name']}.jsonl")
        expected = judge([row["source"] for row in outputs], [row["output"] for row in outputs]).mean()
        assert system["metrics"]["judge_order"]["value"] == pytest.approx(float(expected), abs=1e-5)
    assert "judge: order" in (run / "report.html").read_text(encoding="utf-8")


def test_it_is_another_model_on_other_judgements(done: Path) -> None:
    run = done / "run"
    weights = [load_tensors(run / name / "model.safetensors") for name in ("reward_model", "judge")]
    assert weights[0].keys() == weights[1].keys()
    assert any(not tensor.equal(weights[1][name]) for name, tensor in weights[0].items())
    counts = json.loads((run / "run.json").read_text(encoding="utf-8"))["counts"]
    assert counts["training judgements"] == counts["training judgements of the judge"] == 30
    stages = [row["stage"] for row in rows(run / "metrics.jsonl")]
    assert set(stages) == {"finetune", "reward_model", "reinforce", "judge"}


def test_reinforcement_does_not_depend_on_the_judge(records: Path, done: Path, tmp_path: Path) -> None:
    recipe = write_recipe(records, tmp_path, judge=None)
    assert answer(["run", str(recipe), "--folder", str(tmp_path / "run"), "--json"]) == 0
    for stage in ("reward_model", "reinforce"):
        files = [folder / "run" / stage / "model.safetensors" for folder in (done, tmp_path)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert "judge_order" not in (tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8")


def test_another_judge_is_another_evaluation_and_no_other_training(
    done: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["run", str(done / "recipe.yaml"), "--folder", str(done / "run"), "--json"]
    assert answer([*again, "--set", "judge.steps=3"]) == 1
    assert f"{done / 'run' / 'judge'}: was made with other options" in capsys.readouterr().err
    before = (done / "run" / "evaluation.json").read_text(encoding="utf-8")
    for trained in (done / "run" / "judge", done / "run" / "checkpoints" / "judge"):
        shutil.rmtree(trained)
    assert answer([*again, "--set", "judge.steps=3"]) == 0
    assert (done / "run" / "evaluation.json").read_text(encoding="utf-8") != before
    timings = [row["stage"] for row in rows(done / "run" / "timings.jsonl") if row.get("event") == "finished"]
    assert [timings.count(stage) for stage in ("reward_model", "judge", "reinforce")] == [1, 2, 1]


def test_bad_judgements_name_their_section(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(records, tmp_path)
    assert answer(["check", str(recipe), "--set", "judge.where.split=vald"]) == 2
    assert "judge.where: no judgement has {'split': 'vald'}" in capsys.readouterr().err
    assert answer(["check", str(recipe), "--set", "judge.exact={}"]) == 2
    assert "error: judge.steps: is not for an exact optimum; take it out" in capsys.readouterr().err
