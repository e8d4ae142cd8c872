"""Declared requirements and human pairs: read, refused, judged."""

from __future__ import annotations

import doctest
import json

import pytest

from guerdon.errors import ConfigurationError, DataError
from guerdon.evaluation import requirements as module
from guerdon.evaluation.human_pairs import HumanPair, read_human_pairs
from guerdon.evaluation.probes import PROBES
from guerdon.evaluation.requirements import FURTHER, Requirement, outcomes, requirements_of


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("text", ["empty<=0.05", " empty <= 0.05 ", "empty <=5e-2"])
def test_text_and_mapping_say_the_same(text):
    assert Requirement.from_text(text) == Requirement("empty", 0.05) == requirements_of({"empty": 0.05})[0]


@pytest.mark.parametrize("name", [*PROBES, *FURTHER])
def test_everything_that_is_measured_can_be_bounded(name):
    assert str(Requirement.from_text(f"{name}<=1")) == f"{name} <= 1"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("empty", "is no requirement; write for example empty<=0.05"),
        ("empty<0.05", "is no requirement"),
        ("empty<=little", "is no requirement"),
        ("emtpy<=0.05", "did you mean 'empty'"),
        ("empty<=1.5", "the bound is 1.5; give a share from 0 to 1"),
        ("empty<=-0.1", "the bound is -0.1"),
        ("empty<=nan", "the bound is nan"),
    ],
)
def test_other_texts_are_refused_in_one_line(text, words):
    with pytest.raises(ConfigurationError) as caught:
        Requirement.from_text(text)
    assert words in str(caught.value)


@pytest.mark.parametrize("bound", [True, "0.05", None, float("inf")])
def test_a_bound_is_a_number(bound):
    with pytest.raises(ConfigurationError, match="the bound is"):
        requirements_of({"empty": bound})


def test_what_was_not_measured_meets_nothing():
    wanted = requirements_of({"empty": 0.05, "shuffled": 0.5, "negation": 1.0})
    found = outcomes(wanted, {"empty": 0.06, "shuffled": 0.5})
    assert [(o.measured, o.met) for o in found] == [(0.06, False), (0.5, True), (None, False)]


# --- pairs


def pairs_file(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_pairs_with_and_without_votes(tmp_path):
    plain = {"source": "s", "chosen": "a", "rejected": ""}
    voted = {"source": "s", "chosen": "a", "rejected": "b", "votes_for": 2, "votes_against": 0, "references": ["r"]}
    table = {**voted, "votes_for": "3", "votes_against": "1", "references": "r"}
    found = read_human_pairs(pairs_file(tmp_path, plain, voted, table))
    assert found == [
        HumanPair("s", "a", ""),
        HumanPair("s", "a", "b", ("r",), 2, 0),
        HumanPair("s", "a", "b", ("r",), 3, 1),
    ]
    assert [pair.unanimous for pair in found] == [False, True, False]
    assert not HumanPair("s", "a", "b", (), 1, 0).unanimous


def test_the_real_pairs(data_folder):
    found = read_human_pairs(data_folder / "e2e_human" / "pairs_naturalness.jsonl", "prompt", limit=500)
    assert len(found) == 500
    assert 0 < sum(pair.unanimous for pair in found) < 500


GOOD = {"source": "s", "chosen": "a", "rejected": "b"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": None}, "holds no text in 'source'"),
        ({"chosen": " "}, "holds no text in 'chosen'"),
        ({"rejected": 3}, "holds no text in 'rejected'"),
        ({"votes_for": -1}, "-1 is no count"),
        ({"votes_for": 1.5}, "1.5 is no count"),
        ({"votes_for": True}, "True is no count"),
        ({"votes_for": "many"}, "'many' is no count"),
        ({"votes_against": 1}, "there is no 'votes_for'"),
        ({"references": [1]}, "holds no texts"),
        ({"references": 7}, "holds no texts"),
    ],
)
def test_bad_pairs_name_the_line(change, words, tmp_path):
    with pytest.raises(DataError) as caught:
        read_human_pairs(pairs_file(tmp_path, GOOD, {**GOOD, **change}))
    assert words in str(caught.value)
    assert "line 2" in str(caught.value)


def test_a_limit_is_above_zero(tmp_path):
    with pytest.raises(ConfigurationError, match="0 is below 1"):
        read_human_pairs(pairs_file(tmp_path, GOOD), limit=0)
