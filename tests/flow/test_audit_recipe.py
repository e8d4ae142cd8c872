"""The audit within a run: it comes before reinforcement, stops it where a requirement fails, and stands in the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow.conftest import tiny_recipe, write_rows

from guerdon.cli.main import answer
from guerdon.evaluation.audit_results import Audit

SILENT = [{"type": "word_frequency", "reduction": "sum"}]


def write_recipe(records: Path, folder: Path, **sections: Any) -> Path:
    values = {**tiny_recipe(records), "controls": {"run": []}, "audit": {"sources": 6, "bootstrap": 100}, **sections}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def run(recipe: Path, *more: str) -> int:
    return answer(["run", str(recipe), "--folder", str(recipe.parent / "run"), *more])


def events(folder: Path) -> list[str]:
    rows = [json.loads(line) for line in (folder / "timings.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["stage"] for row in rows if row.get("event") == "finished"]


def test_it_is_done_before_reinforcement_and_told(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(records, tmp_path, audit={"sources": 6, "bootstrap": 100, "require": {"empty": 0.05}})
    assert run(recipe) == 0
    assert "audit of the reward: Prefers the reference to" in capsys.readouterr().err
    folder = tmp_path / "run"
    done = events(folder)
    assert done.index("audit") < done.index("finetune") < done.index("reinforce"), "a bad reward costs no training"
    audit = Audit.read(folder / "audit")
    assert audit.counts.sources == 6
    assert json.loads(json.dumps(audit.plain())) == json.loads((folder / "audit" / "audit.json").read_text(encoding="utf-8"))
    report = (folder / "report.html").read_text(encoding="utf-8")
    for said in ('id="audit"', "audit/audit.html#empty", "empty", "met", audit.data):
        assert said in report
    before = (folder / "audit" / "audit.json").read_bytes()
    assert run(recipe) == 0
    assert (folder / "audit" / "audit.json").read_bytes() == before


def test_a_requirement_that_fails_ends_the_run_until_it_is_met(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = {"sources": 6, "bootstrap": 100, "require": {"empty": 0.05, "doubled": 1.0}}
    recipe, folder = write_recipe(records, tmp_path, reward=SILENT, audit=strict), tmp_path / "run"
    for _ in range(2):
        assert run(recipe, "--json") == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder / 'audit' / 'audit.html'}: the reward does not meet empty <= 0.05 of")
        assert said.count("\n") == 1
        assert events(folder) == ["audit"]
    assert (folder / "audit" / "audit.html").is_file()
    assert not (folder / "checkpoints" / "reinforce").exists()
    assert run(recipe, "--json", "--set", "audit.require.empty=1.0") == 0
    assert events(folder).count("finetune") == 1
    assert events(folder).count("audit") == 2
    assert (folder / "reinforce" / "model.safetensors").is_file()
    assert run(recipe, "--json") == 1, "the stricter recipe is audited again, though all else is finished"


def test_comparisons_are_not_drawn_by_a_reward_that_fails(records: Path, tmp_path: Path) -> None:
    prefer = {"steps": 2, "from_reward": {"samples": 3}}
    strict = {"bootstrap": 100, "require": {"empty": 0.05}}
    recipe = write_recipe(records, tmp_path, reward=SILENT, prefer=prefer, reinforce=None, audit=strict)
    assert run(recipe, "--json") == 1
    assert not (tmp_path / "run" / "comparisons").exists()


def test_a_comparison_audits_before_its_first_cell(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    audit = {"bootstrap": 100, "require": {"empty": 0.05}}
    recipe = write_recipe(records, tmp_path, reward=SILENT, audit=audit, reinforce=short(records))
    grid = tmp_path / "grid"
    command = ["compare", str(recipe), "--vary", "reinforce.baseline=none,leave_one_out", "--seeds", "2", "--folder", str(grid)]
    assert answer([*command, "--gradients", "0", "--json"]) == 1
    assert "the reward does not meet empty <= 0.05" in capsys.readouterr().err
    assert (grid / "start" / "audit" / "audit.html").is_file()
    assert not [*grid.glob("cells/*/*/reinforce*")]


def short(records: Path) -> dict[str, Any]:
    return {**tiny_recipe(records)["reinforce"], "steps": 2}


def test_the_verb_takes_the_requirements_of_the_recipe(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(records, tmp_path, reward=SILENT, audit={"require": {"empty": 0.05}})
    data = ["--data", str(records / "test.jsonl"), "--bootstrap", "100"]
    assert answer(["audit", str(recipe), *data]) == 1
    assert "FAILED: empty <= 0.05" in capsys.readouterr().out
    assert answer(["audit", str(recipe), *data, "--require", "empty<=1"]) == 0


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"audit": {"require": {"emty": 0.1}}}, "nothing is called 'emty' in an audit; did you mean 'empty'?"),
        ({"audit": {"require": {"empty": 2}}}, "the bound is 2"),
        ({"audit": {"require": {"disagreement": 0.4}}}, "audit.require.disagreement: needs human pairs"),
        ({"audit": {"sources": 1}}, "audit.sources: 1 give no interval"),
        ({"audit": {"language": "la"}}, "'la'"),
        ({"audit": {"sorces": 9}}, "did you mean 'sources'?"),
        ({"reward": [], "reinforce": None}, "audit needs a reward; give the section reward"),
    ],
)
def test_bad_options_are_one_line(
    sections: dict[str, Any], said: str, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(write_recipe(records, tmp_path, **sections), "--json") == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_validation_records_without_references_are_refused(
    records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = write_rows(tmp_path / "bare.jsonl", [{"source": f"title[The {name}], kind[play]"} for name in ("Fox", "Owl")])
    recipe = write_recipe(records, tmp_path, finetune=None, reward=[{"type": "repetition"}])
    assert run(recipe, "--json", "--set", f"data.validation={bare}", "--set", "reinforce.loop.criterion=reward") == 2
    assert "has no references, which the audit sets its probes against" in capsys.readouterr().err


def test_a_damaged_note_is_said(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(records, tmp_path, reward=SILENT, audit={"bootstrap": 100, "require": {"empty": 0.05}})
    assert run(recipe, "--json") == 1
    (tmp_path / "run" / "audit" / "done.json").write_text("{", encoding="utf-8")
    capsys.readouterr()
    assert run(recipe, "--json") == 1
    assert "done.json: is damaged" in capsys.readouterr().err
