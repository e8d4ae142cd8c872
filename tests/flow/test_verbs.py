"""Every verb on small real files: what it writes, what it prints, how it answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from flow.conftest import write_rows

import guerdon
from guerdon.cli.main import answer, app
from guerdon.metrics.bleu import Bleu

VERBS = ["quickstart", "run", "check", "generate", "score", "evaluate", "report"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def one_object(capsys: pytest.CaptureFixture[str]) -> Any:
    """What --json prints: one line on the standard output, and nothing on the other."""
    said = capsys.readouterr()
    assert said.err == ""
    assert len(said.out.splitlines()) == 1
    return json.loads(said.out)


def test_the_verbs_are_those_of_the_design() -> None:
    assert sorted(command.callback.__name__ for command in app.registered_commands if command.callback) == sorted(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer([verb, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"guerdon {verb}" in said
    assert "Example" in said
    assert "--json" in said


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["--version"]) == 0
    assert capsys.readouterr().out.strip() == guerdon.__version__


def test_generate_keeps_fields_and_writes_the_policys_log_probabilities(
    model: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    command = [
        "generate",
        str(model),
        "-i",
        str(records / "test.jsonl"),
        "-o",
        str(out),
        "--method",
        "beam",
        "--beam-size",
        "4",
    ]
    assert answer([*command, "--returned", "3", "--max-length", "12", "--json"]) == 0
    assert one_object(capsys) == {"records": 10, "output": str(out)}
    policy = guerdon.load(model)
    for written, given in zip(lines(out), lines(records / "test.jsonl"), strict=True):
        assert {name: written[name] for name in given} == given
        assert len(written["outputs"]) == len(written["log_probs"]) == 3
        outputs = policy.generate([given["source"]], method="beam", beam_size=4, returned=3, limit=guerdon_limit(12))[0]
        assert written["outputs"] == [output.text for output in outputs]
        assert written["log_probs"] == pytest.approx([output.log_prob for output in outputs], abs=1e-4)
        assert [output.score for output in outputs] == sorted((output.score for output in outputs), reverse=True)


def guerdon_limit(tokens: int) -> Any:
    from guerdon.decoding import LengthLimit

    return LengthLimit(tokens)


def test_sampling_repeats_with_the_seed(model: Path, records: Path, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate(["1", "1", "2"]):
        out = tmp_path / f"{number}.jsonl"
        command = [
            "generate",
            str(model),
            "-i",
            str(records / "test.jsonl"),
            "-o",
            str(out),
            "--method",
            "sample",
            "--seed",
            seed,
        ]
        assert answer([*command, "--returned", "2", "--max-length", "8"]) == 0
        found.append([row["outputs"] for row in lines(out)])
    assert found[0] == found[1] != found[2]


def test_score_writes_one_list_per_output_list_and_the_parts(
    recipe: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{**row, "outputs": [row["references"][0], "A lecture."]} for row in lines(records / "test.jsonl")]
    given, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert answer(["score", str(recipe), "-i", str(given), "-o", str(out), "--json"]) == 0
    means = one_object(capsys)["means"]
    written = lines(out)
    assert all(row["parts"]["chrf"][0] == pytest.approx(1.0) for row in written)
    for row in written:
        sums = [0.5 * a + 0.5 * b for a, b in zip(row["parts"]["word_frequency"], row["parts"]["chrf"], strict=True)]
        assert row["scores"] == pytest.approx(sums, abs=1e-5)
    flat = [score for row in written for score in row["scores"]]
    assert means["score"] == pytest.approx(math.fsum(flat) / len(flat))


def test_score_with_a_function(records: Path, tmp_path: Path) -> None:
    rows = [{"source": "x", "output": "four"}, {"source": "y", "output": "seven77"}]
    (tmp_path / "letters.py").write_text("def count(sources, outputs, references):\n    return [len(o) for o in outputs]\n")
    given, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        assert answer(["score", "letters:count", "-i", str(given), "-o", str(out)]) == 0
    assert [row["scores"] for row in lines(out)] == [[4.0], [7.0]]
    assert "parts" not in lines(out)[0]


def test_evaluate_compares_two_files(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines(records / "test.jsonl")
    good = write_rows(tmp_path / "good.jsonl", [{**row, "outputs": [row["references"][0]]} for row in rows])
    bad = write_rows(tmp_path / "bad.jsonl", [{**row, "output": "A lecture at the mill."} for row in rows])
    assert answer(["evaluate", str(good), "--against", str(bad), "--bootstrap", "200", "--json"]) == 0
    found = one_object(capsys)
    systems = {system["name"]: system["metrics"] for system in found["systems"]}
    assert systems[str(good)]["bleu"]["value"] == pytest.approx(100.0)
    references = [row["references"] for row in rows]
    assert systems[str(bad)]["bleu"]["value"] == pytest.approx(
        Bleu().corpus(["A lecture at the mill."] * len(rows), references)
    )
    (difference,) = [c for c in found["comparisons"] if c["metric"] == "bleu"]
    assert difference["system"] == str(good)
    assert difference["low"] > 50
    assert answer(["evaluate", str(good), "--against", str(bad), "--bootstrap", "200"]) == 0
    assert "BLEU" in capsys.readouterr().out


def test_check_writes_nothing(recipe: Path, records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(recipe.parent.rglob("*"))
    assert answer(["check", str(recipe), "--json"]) == 0
    facts = one_object(capsys)
    assert facts["train records"] == 48
    assert facts["fine-tuning steps"] == 4
    assert facts["reward chrf of the first references"] == pytest.approx(1.0)
    assert sorted(recipe.parent.rglob("*")) == before
