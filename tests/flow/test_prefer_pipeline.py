"""Recipes with the section prefer: comparisons from a file and from the reward, and what a run leaves of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow.conftest import tiny_recipe, write_rows

from guerdon.cli.main import answer
from guerdon.data.judgements import read_comparisons
from guerdon.data.selection import split_by_source
from guerdon.evaluation.results import Evaluation
from guerdon.generator import load
from guerdon.models.load import load_tensors

SMALL = {"steps": 4, "batch": {"max_tokens": 800}}
LOOP = {"validate_every": 2, "checkpoint_every": 2, "criterion": "margin", "higher_is_better": True, "average_best": 0}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def comparisons(records: Path) -> list[dict[str, Any]]:
    """One for each training source: its reference against that of the next one; some with three outputs, or votes."""
    rows = lines(records / "train.jsonl")
    made = []
    for i, (row, other) in enumerate(zip(rows, [*rows[1:], rows[0]], strict=True)):
        good, bad = row["references"][0], other["references"][0]
        if i % 3:
            made.append({"prompt": row["source"], "chosen": good, "rejected": bad, "votes": 1 + i % 2})
        else:
            made.append({"prompt": row["source"], "outputs": [bad, good, "A talk."], "ranks": [2, 1, 2]})
    return made


def recipe_of(folder: Path, records: Path, section: dict[str, Any], **changes: Any) -> Path:
    values = {**tiny_recipe(records), "prefer": {**SMALL, "loop": LOOP, **section}, "controls": {"run": []}, **changes}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}), encoding="utf-8")
    return path


def run(recipe: Path, folder: Path) -> int:
    return answer(["run", str(recipe), "--folder", str(folder), "--json"])


@pytest.fixture(scope="module")
def given(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with comparisons from a file, and reinforcement behind it; not to be written into."""
    folder = tmp_path_factory.mktemp("given")
    rows = comparisons(records)
    records = Path(shutil.copytree(records, folder / "data"))
    write_rows(records / "pairs.jsonl", [*rows, rows[1], {**rows[2], "chosen": "same", "rejected": "same"}, {"prompt": ""}])
    section = {
        "comparisons": "pairs.jsonl",
        "validation_share": 0.2,
        "fields": {"source": "prompt", "weight": "votes"},
    }
    data = {**tiny_recipe(records)["data"], "on_error": "skip"}
    reinforce = {**tiny_recipe(records)["reinforce"], "optimiser": {"learning_rate": 1e-12}}
    recipe = recipe_of(folder, records, section, data=data, reinforce=reinforce)
    assert run(recipe, folder / "run") == 0
    return folder


@pytest.fixture(scope="module")
def drawn(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that draws its comparisons, without reinforcement; not to be written into."""
    folder = tmp_path_factory.mktemp("drawn")
    changes = {"reinforce": None, "decoding": {"method": "greedy", "limit": {"absolute": 60}}}
    changes["finetune"] = {**tiny_recipe(records)["finetune"], "steps": 60, "optimiser": {"learning_rate": 0.02}}
    section = {"from_reward": {"samples": 4, "temperature": 1.0}, "loss": "ipo", "tau": 0.5}
    assert run(recipe_of(folder, records, section, **changes), folder / "run") == 0
    return folder


def test_a_run_on_given_comparisons_leaves_what_it_promises(given: Path) -> None:
    folder = given / "run"
    assert [system.name for system in Evaluation.read(folder).systems] == ["finetuned", "preferred", "reinforced"]
    assert (folder / "outputs" / "preferred.jsonl").is_file()
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (folder / "prefer").iterdir()}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Learning from comparisons" in page
    assert "trained on comparisons" in page
    figures = [row for row in lines(folder / "metrics.jsonl") if row["stage"] == "prefer"]
    measured = {"accuracy", "margin", "loss", "bleu", "chrf"}
    assert all(measured <= row.keys() for row in figures if row["kind"] != "train")
    assert [row["step"] for row in figures if row["kind"] == "train"] == [1, 2, 3, 4]


def test_every_comparison_is_accounted_for(given: Path) -> None:
    counts = json.loads((given / "run" / "run.json").read_text())["counts"]
    rows = lines(given / "data" / "pairs.jsonl")[:-3]
    pairs = sum(2 if "ranks" in row else 1 for row in rows)
    assert counts["preference pairs"] + counts["validation preference pairs"] == pairs
    held = {row["prompt"] for row in rows}
    assert counts["validation preference pairs"] >= round(0.2 * len(held))
    assert sum(count for name, count in counts.items() if name.startswith("comparisons dropped")) <= 2
    assert counts["records skipped"] == 1
    assert lines(given / "run" / "skipped.jsonl")[0]["line"] == len(rows) + 3


def test_reinforcement_begins_with_the_preferred_policy(given: Path) -> None:
    """Its own learning rate is next to nothing here, so that it ends where it began."""
    weights = {s: load_tensors(given / "run" / s / "model.safetensors") for s in ("finetune", "prefer", "reinforce")}

    def moved(stage: str) -> float:
        return max(float((tensor - weights["reinforce"][name]).abs().max()) for name, tensor in weights[stage].items())

    assert moved("prefer") < 1e-8
    assert moved("finetune") > 1e-5


def test_drawn_comparisons_are_kept_and_drawn_once(drawn: Path, tmp_path: Path) -> None:
    folder = drawn / "run"
    found = read_comparisons(folder / "comparisons" / "comparisons.jsonl", empty_outputs=True).comparisons
    assert len(found) > 5
    assert all(c.meta["rewards"][0] > c.meta["rewards"][1] for c in found)
    assert [system.name for system in Evaluation.read(folder).systems] == ["finetuned", "preferred"]
    assert (
        load(folder)
        .policy.state_dict()["embedding.weight"]
        .equal(load_tensors(folder / "prefer" / "model.safetensors")["embedding.weight"])
    )
    copied = Path(shutil.copytree(drawn, tmp_path / "copy"))
    for name in ("prefer", "checkpoints/prefer"):
        shutil.rmtree(copied / "run" / name)
    (copied / "run" / "evaluation.json").unlink()
    before = (copied / "run" / "comparisons" / "comparisons.jsonl").stat().st_mtime_ns
    assert run(copied / "recipe.yaml", copied / "run") == 0
    assert (copied / "run" / "comparisons" / "comparisons.jsonl").stat().st_mtime_ns == before
    assert (copied / "run" / "prefer" / "model.safetensors").read_bytes() == (
        folder / "prefer" / "model.safetensors"
    ).read_bytes()
    shutil.rmtree(copied / "run" / "comparisons")
    shutil.rmtree(copied / "run" / "prefer")
    shutil.rmtree(copied / "run" / "checkpoints" / "prefer")
    (copied / "run" / "evaluation.json").unlink()
    assert run(copied / "recipe.yaml", copied / "run") == 0
    for name in ("comparisons.jsonl", "validation_comparisons.jsonl"):
        drawn_again = (copied / "run" / "comparisons" / name).read_bytes()
        assert drawn_again == (folder / "comparisons" / name).read_bytes()


def test_other_comparisons_need_another_folder_and_fine_tuning_does_not(
    given: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Path(shutil.copytree(given, tmp_path / "copy"))
    values = yaml.safe_load((copied / "recipe.yaml").read_text())
    values["data"]["folder"] = str(copied / "data")
    (copied / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert run(copied / "recipe.yaml", copied / "run") == 0
    pairs = copied / "data" / "pairs.jsonl"
    pairs.write_text(pairs.read_text().replace("A talk.", "A lecture."))
    assert run(copied / "recipe.yaml", copied / "run") == 1
    assert "was made with other options or other data" in capsys.readouterr().err
    for stage in ("prefer", "reinforce"):
        shutil.rmtree(copied / "run" / stage)
        shutil.rmtree(copied / "run" / "checkpoints" / stage)
    before = (copied / "run" / "finetune" / "model.safetensors").stat().st_mtime_ns
    del values["reinforce"]
    (copied / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert run(copied / "recipe.yaml", copied / "run") == 0
    assert (copied / "run" / "finetune" / "model.safetensors").stat().st_mtime_ns == before


def test_check_tells_what_the_stage_would_work_on(given: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["check", str(given / "recipe.yaml"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    counts = json.loads((given / "run" / "run.json").read_text())["counts"]
    names = ("preference pairs", "validation preference pairs", "preference steps")
    assert {name: facts[name] for name in names} == {name: counts[name] for name in names}


def test_sources_that_are_tested_on_are_counted(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines(records / "test.jsonl")
    pairs = [{"source": r["source"], "chosen": r["references"][0], "rejected": "A talk."} for r in rows]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    section = {"comparisons": str(tmp_path / "pairs.jsonl"), "validation_share": 0.3}
    assert answer(["check", str(recipe_of(tmp_path, records, section)), "--json"]) == 0
    found = read_comparisons(tmp_path / "pairs.jsonl").comparisons
    expected = len({c.source for c in split_by_source(found, 0.3, 1)[0]})
    assert json.loads(capsys.readouterr().out)["compared sources that are tested on"] == expected


GOOD = {"source": "title[The Amber Tide], kind[lecture]", "chosen": "A lecture.", "rejected": "A talk."}
FILE = {"comparisons": "PAIRS", "validation_share": 0.5}
OTHER = {**GOOD, "source": "title[The Amber Tide], kind[talk]"}


@pytest.mark.parametrize(
    ("section", "rows", "said"),
    [
        ({**FILE, "from_reward": {}}, [GOOD], "prefer.comparisons: needs either comparisons or from_reward"),
        ({}, [GOOD], "prefer.comparisons: needs either comparisons or from_reward"),
        ({"comparisons": "PAIRS"}, [GOOD], "prefer.validation_comparisons: needs either validation_comparisons or"),
        ({"from_reward": {}, "validation_share": 0.1}, [GOOD], "prefer.validation_share: belongs to a file of comparisons"),
        ({"from_reward": {}, "fields": {"source": "x"}}, [GOOD], "prefer.fields: belongs to a file of comparisons"),
        ({"from_reward": {"samples": 1}}, [GOOD], "prefer.from_reward.samples: 1 leaves nothing to compare"),
        ({"from_reward": {"sample": 4}}, [GOOD], "prefer.from_reward.sample: there is no such option; did you mean 'samples'"),
        ({**FILE, "validation_share": 1.0}, [GOOD], "prefer.validation_share: 1.0 is no share"),
        ({**FILE, "loss": "orpo", "beta": 0.2}, [GOOD, OTHER], "prefer.beta: belongs to the loss dpo"),
        ({**FILE, "comparisons": "no.jsonl"}, [GOOD], "no.jsonl: no such file"),
        (FILE, [GOOD], "pairs.jsonl: 1 sources cannot be split"),
        (FILE, [GOOD, {"source": "a", "chosen": "b"}], "line 2: no field 'rejected'"),
        (FILE, [GOOD, {**OTHER, "chosen": ""}], "line 2, field 'chosen': the output is empty"),
        (FILE, [GOOD, {**OTHER, "rejected": "A lecture."}], "no pair is left to work with"),
        (FILE, [GOOD, {**OTHER, "weight": 0}], "line 2: the weight is 0.0"),
        (FILE, [GOOD, {**OTHER, "chosen": "word " * 400}], "pairs.jsonl, target "),
        ({**FILE, "batch": {"max_tokens": 10}}, [GOOD, OTHER], "raise max_tokens to"),
    ],
)
def test_bad_sections_and_files_are_one_line_and_nothing_is_written(
    section: dict[str, Any], rows: list[dict[str, Any]], said: str, records: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    section = {name: str(path) if value == "PAIRS" else value for name, value in section.items()}
    assert run(recipe_of(tmp_path, records, section), tmp_path / "run") == 2
    message = capsys.readouterr().err.strip()
    assert said in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


def test_drawing_needs_a_reward(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_of(tmp_path, records, {"from_reward": {}}, reward=None, reinforce=None)
    assert run(recipe, tmp_path / "run") == 2
    assert "prefer.from_reward needs a reward" in capsys.readouterr().err
