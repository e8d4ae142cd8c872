"""Validation sources that are held out of the training file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow.conftest import SIZES, tiny_recipe, write_rows

from guerdon.cli.main import answer
from guerdon.pipeline.prepare import read_records, reward_context
from guerdon.pipeline.recipe import Recipe, read_recipe


def recipe_of(records: Path, folder: Path, share: Any = 0.25, **changes: Any) -> Recipe:
    values = {**tiny_recipe(records), **changes}
    values["data"] = {**values["data"], "validation": share}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return read_recipe(path)


def sources(recipe: Recipe, split: str) -> list[str]:
    return [example.source for example in read_records(recipe)[split].examples]


def test_sources_are_held_out_the_same_ones_for_every_seed(records: Path, tmp_path: Path) -> None:
    recipe = recipe_of(records, tmp_path)
    train, held = sources(recipe, "train"), sources(recipe, "validation")
    assert len(held) == round(0.25 * SIZES["train"])
    assert not set(train) & set(held)
    assert len(train) + len(held) == SIZES["train"]
    assert sources(recipe_of(records, tmp_path, seed=9), "validation") == held
    assert sources(recipe, "test") == sources(recipe_of(records, tmp_path, "validation.jsonl"), "test")


def test_what_is_held_out_is_not_counted_in_the_reward(records: Path, tmp_path: Path) -> None:
    recipe = recipe_of(records, tmp_path)
    train = read_records(recipe)["train"].examples
    assert list(reward_context(recipe).texts) == [text for example in train for text in example.references]


def test_a_run_says_so(records: Path, tmp_path: Path) -> None:
    recipe_of(records, tmp_path, controls={"run": []}, reinforce=None, reward=[])
    command = ["run", str(tmp_path / "recipe.yaml"), "--folder", str(tmp_path / "run"), "--json"]
    assert answer(command) == 0
    counts = json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["counts"]
    assert (counts["train records"], counts["validation records"]) == (36, 12)
    assert "25% of its sources for validation" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert answer([*command, "--set", "data.validation=0.5"]) == 1, "another share is another run"


def test_without_test_records_it_is_measured_on_them(records: Path, tmp_path: Path) -> None:
    recipe_of(records, tmp_path, controls={"run": []}, reinforce=None, reward=[])
    command = ["run", str(tmp_path / "recipe.yaml"), "--folder", str(tmp_path / "run"), "--json", "--set", "data.test=null"]
    assert answer(command) == 0
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text(encoding="utf-8"))
    assert (evaluation["data"], evaluation["sources"]) == ("train.jsonl (sources held out)", 12)


def test_bad_records_are_told_once(records: Path, tmp_path: Path) -> None:
    lines = (records / "train.jsonl").read_text(encoding="utf-8").splitlines()
    folder = tmp_path / "data"
    folder.mkdir()
    write_rows(folder / "train.jsonl", [*map(json.loads, lines), {"source": "", "references": ["x"]}])
    write_rows(folder / "test.jsonl", [json.loads(line) for line in (records / "test.jsonl").read_text().splitlines()])
    recipe = recipe_of(folder, tmp_path, data={**tiny_recipe(folder)["data"], "on_error": "skip"})
    assert [len(found.skipped) for found in read_records(recipe).values()] == [1, 0, 0]


@pytest.mark.parametrize(
    ("share", "said"),
    [(1.5, "data.validation: 1.5 is no share; name a file, or give a number"), (0, "0"), ([], "data.validation")],
)
def test_what_is_no_share_is_refused(
    share: Any, said: str, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {**tiny_recipe(records)}
    values["data"] = {**values["data"], "validation": share}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert answer(["check", str(tmp_path / "recipe.yaml")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
