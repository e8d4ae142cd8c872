"""The verbs evaluate and overoptimise on rewards: what they read, print and write, and what they refuse."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from flow.conftest import tiny_recipe, write_rows

from guerdon.cli.main import answer

DATA = Path(os.environ.get("GUERDON_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
FUNCTIONS = """
def words(sources, outputs, references):
    return [float(len(o.split())) for o in outputs]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a module of rewards."""
    (tmp_path / "my_judges.py").write_text(FUNCTIONS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pairs(here: Path) -> Path:
    """People prefer the longer text, in two splits and for two aspects."""
    votes = [{"votes_for": 2 + n % 2, "votes_against": n % 2, "votes_tie": 0} for n in range(48)]
    texts = [{"chosen": f"a longer text {n} of words", "rejected": f"short {n}"} for n in range(48)]
    rows = [
        {
            "mr": f"{split} {n % 12}",
            **texts[n],
            **votes[n],
            "split": split,
            "aspect": "truth" if n % 12 < 6 else "style",
            "id": n,
        }
        for split in ("train", "valid")
        for n in range(48)
    ]
    return write_rows(here / "pairs.jsonl", rows)


def one_object(capsys: pytest.CaptureFixture[str]) -> Any:
    said = capsys.readouterr()
    assert said.err == ""
    (line,) = said.out.splitlines()
    return json.loads(line)


def command(*more: str) -> list[str]:
    return ["evaluate", "my_judges:words", "--pairs", "pairs.jsonl", "--field", "source=mr", "--bootstrap", "100", *more]


def test_a_split_is_evaluated_and_another_trained_on(here: Path, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(command("--split", "valid", "--train-split", "train", "--json", "-o", "made")) == 0
    found = one_object(capsys)
    assert json.loads((here / "made" / "reward_evaluation.json").read_text(encoding="utf-8")) == found
    assert (here / "made" / "reward_evaluation.html").read_text(encoding="utf-8").lstrip().startswith("<!doctype html>")
    assert (found["reward"], found["pairs"], found["sources"]) == ("words", 48, 12)
    assert found["scorers"][0]["groups"]["all"]["agrees"]["value"] == 1.0
    assert {scorer["name"] for scorer in found["scorers"]} == {"reward", "linear", "length", "frequency", "overlap"}
    assert found["data"] == "pairs.jsonl, split valid"
    assert {name: group["pairs"] for name, group in found["scorers"][0]["groups"].items()} == {
        "all": 48,
        "unanimous": 24,
        "2 votes": 24,
        "4 votes": 24,
    }


def test_an_aspect_and_the_table(pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(command("--split", "valid", "--aspect", "truth")) == 0
    said = capsys.readouterr().out
    assert "words: how often it prefers what people prefer" in said
    assert "all (24)" in said
    assert "aspect: truth" in said
    assert "linear" not in said


def test_ratings_records_and_a_recipe(records: Path, recipe: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [json.loads(line) for line in (records / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [(row["source"], row["references"][0], "Some other text.") for row in rows]
    write_rows(here / "pairs.jsonl", [{"source": s, "chosen": a, "rejected": b} for s, a, b in texts])
    write_rows(
        here / "ratings.jsonl",
        [{"source": s, "output": text, "score": n, "annotator": "w"} for s, *both in texts for n, text in enumerate(both)],
    )
    asked = ["--pairs", "pairs.jsonl", "--ratings", "ratings.jsonl", "--data", str(records / "test.jsonl")]
    assert answer(["evaluate", str(recipe), *asked, "--bootstrap", "100", "--json"]) == 0
    found = one_object(capsys)
    assert found["reward"] == "0.5 word_frequency + 0.5 chrf"
    assert found["scorers"][0]["groups"]["all"]["pairs"] == len(rows)
    assert found["ratings"]["outputs"] == 2 * len(rows)
    assert answer(["evaluate", "{type: chrf}", *asked, "--bootstrap", "100", "--json"]) == 0
    assert one_object(capsys)["reward"] == "chrf"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--split", "test"], "no record has 'split' 'test'; choose one of train, valid"),
        (["--aspect", "tone"], "no record has the aspect 'tone'"),
        (["--train-split", "valid"], "trained on what it is measured on"),
        (["--split", "valid", "--train-split", "valid"], "trained on what it is measured on"),
        (["--field", "votes=x"], "there is no field 'votes'"),
        (["--field", "prompt"], "is not NAME=FIELD"),
        (["--lowercase"], "--pairs is given"),
        (["--bootstrap", "10"], "resamples: 10 are too few"),
    ],
)
def test_what_is_refused(more: list[str], told: str, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(command(*more)) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_options_of_a_reward_without_pairs(records: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["evaluate", str(records / "test.jsonl"), "--split", "valid"]) == 2
    assert "--split is about a reward, and needs --pairs" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{type: chrf", "{type: nothing}"])
def test_a_reward_that_is_no_part(text: str, pairs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(["evaluate", text, "--pairs", "pairs.jsonl"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


# --- over-optimisation


@pytest.fixture
def samples(here: Path) -> Path:
    """Eight samples of each source, of 1 to 8 words, beside a reference of four."""
    reference = ["a b c d"]
    rows = [
        {"source": f"s{n}", "outputs": [" ".join("abcdefgh"[: k + 1]) for k in range(8)], "references": reference}
        for n in range(6)
    ]
    return write_rows(here / "samples.jsonl", rows)


def test_best_of_n_against_a_judge(here: Path, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["overoptimise", "my_judges:words", "--samples", str(samples), "--judge", "bleu={type: bleu}", "--bootstrap", "100"]
    assert answer([*asked, "--json", "-o", "made"]) == 0
    found = one_object(capsys)
    assert json.loads((here / "made" / "overoptimisation.json").read_text(encoding="utf-8")) == found
    assert (here / "made" / "overoptimisation.html").is_file()
    assert (found["proxy"], found["judges"], found["samples"]) == ("words", ["bleu"], 8)
    (course,) = found["courses"]
    assert [point["at"] for point in course["points"]] == [1, 2, 4, 8]
    assert [point["values"]["proxy"]["value"] for point in course["points"]] == pytest.approx([4.5, 6.0, 7.2, 8.0])
    assert course["stops"]["bleu"]["overoptimised"] is True
    assert answer(asked) == 0
    assert "over-optimised" in capsys.readouterr().out


def test_the_validations_of_a_run_are_a_second_course(
    records: Path, here: Path, samples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml

    (here / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe(records)), encoding="utf-8")
    assert answer(["run", "recipe.yaml", "--folder", "run", "--json"]) == 0
    capsys.readouterr()
    asked = ["overoptimise", "my_judges:words", "--samples", str(samples), "--judge", "chrf={type: chrf}", "--run", "run"]
    assert answer([*asked, "--bootstrap", "100", "--json"]) == 0
    _, course = one_object(capsys)["courses"]
    logged = [json.loads(line) for line in (here / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    validations = [row for row in logged if row["stage"] == "reinforce" and row["kind"] == "validation"]
    assert (course["name"], course["unit"], course["sources"]) == ("run", "step", 8)
    assert [(p["at"], p["kl"], p["values"]["proxy"]["value"]) for p in course["points"]] == [
        (row["step"], row["kl"], row["reward"]) for row in validations
    ]
    assert set(course["stops"]) == {"chrf"}


@pytest.mark.parametrize(
    ("judges", "told"),
    [
        (["bleu"], "'bleu' is no judge"),
        (["proxy={type: bleu}"], "is no judge"),
        (["a={type: bleu}", "a={type: chrf}"], "is no judge"),
        (["a=nowhere"], "is no reward"),
    ],
)
def test_judges_that_are_refused(judges: list[str], told: str, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [part for judge in judges for part in ("--judge", judge)]
    assert answer(["overoptimise", "my_judges:words", "--samples", str(samples), *asked]) == 2
    assert told in capsys.readouterr().err


def test_a_folder_without_reinforcement(here: Path, samples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "empty").mkdir()
    (here / "empty" / "metrics.jsonl").write_text('{"stage": "finetune", "kind": "train", "step": 1}\n', encoding="utf-8")
    asked = ["overoptimise", "my_judges:words", "--samples", str(samples), "--judge", "chrf={type: chrf}", "--run", "empty"]
    assert answer(asked) == 2
    assert "has no two validations of reinforcement" in capsys.readouterr().err


@pytest.mark.skipif(not (DATA / "e2e_human").is_dir(), reason=f"no e2e_human in {DATA}")
@pytest.mark.parametrize(("aspect", "length"), [("naturalness", (0.6, 0.72)), ("quality", (0.6, 0.74))])
def test_real_judgements(aspect: str, length: tuple[float, float], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts of the data's own description, and length alone about where it puts it."""
    asked = ["--pairs", str(DATA / "e2e_human" / f"pairs_{aspect}.jsonl"), "--split", "valid", "--field", "source=prompt"]
    ratings = ["--ratings", str(DATA / "e2e_human" / f"ratings_{aspect}.jsonl"), "--field", "output=response"]
    asked += [*ratings, "--data", str(DATA / "e2e" / "test.jsonl"), "--bootstrap", "100", "--json"]
    assert answer(["evaluate", "{type: chrf}", *asked]) == 0
    found = one_object(capsys)
    groups = found["scorers"][0]["groups"]
    assert (groups["all"]["pairs"], groups["unanimous"]["pairs"]) == {"naturalness": (1471, 525), "quality": (1300, 374)}[
        aspect
    ]
    alone = next(scorer for scorer in found["scorers"] if scorer["name"] == "length")
    assert length[0] < alone["groups"]["unanimous"]["agrees"]["value"] < length[1]
    assert len(found["system_ranks"]) == 21
