"""Votes counted over comparisons: what is one pair, what is left out, and who wrote what."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data.comparisons import Comparison
from guerdon.evaluation.human_pairs import REPEATED, SAME_TEXT, UNDECIDED, HumanPair, voted_pairs


def test_a_record_and_the_same_turned_round_are_one_pair():
    meta = {"votes_tie": 1, "chosen_system": "x", "rejected_system": "y", "id": "7"}
    records = [
        Comparison("s", ("a", "b"), (1, 2), weight=2.0, meta=meta, references=("r",)),
        Comparison("s", ("a", "b"), (-1, -2), weight=1.0, meta=meta, references=("r",)),
    ]
    found = voted_pairs(records)
    assert found.pairs == [HumanPair("s", "a", "b", ("r",), 2, 1, 1, ("x", "y"))]
    assert found.dropped == {}
    assert not found.pairs[0].unanimous


def test_the_majority_is_what_is_chosen_and_its_system_goes_with_it():
    meta = {"chosen_system": "x", "rejected_system": "y"}
    records = [
        Comparison("s", ("a", "b"), (1, 2), weight=1.0, meta=meta),
        Comparison("s", ("a", "b"), (2, 1), weight=3.0, meta=meta),
    ]
    (pair,) = voted_pairs(records).pairs
    assert (pair.chosen, pair.rejected, pair.votes_for, pair.votes_against, pair.systems) == ("b", "a", 3, 1, ("y", "x"))


def test_records_of_other_votes_stay_apart_and_annotators_are_counted_together():
    apart = [Comparison("s", ("a", "b"), (1, 2), meta={"id": n}) for n in range(3)]
    assert [pair.votes_for for pair in voted_pairs(apart).pairs] == [1, 1, 1]
    together = [Comparison("s", ("a", "b"), (1, 2), annotator=f"w{n}", meta={"id": n}) for n in range(3)]
    against = Comparison("s", ("b", "a"), (1, 2), annotator="w9")
    (pair,) = voted_pairs([*together, against]).pairs
    assert (pair.votes_for, pair.votes_against) == (3, 1)
    assert len(voted_pairs([*together, Comparison("s", ("a", "b"), (1, 2), aspect="other", annotator="w1")]).pairs) == 2


def test_what_is_left_out_is_counted():
    records = [
        Comparison("s", ("a", "b"), (1, 2)),
        Comparison("s", ("a", "b"), (1, 2)),
        Comparison("s", ("c", "c"), (1, 2)),
        Comparison("t", ("a", "b"), (1, 1)),
        Comparison("u", ("a", "b"), (1, 2), annotator="w1"),
        Comparison("u", ("b", "a"), (1, 2), annotator="w2"),
    ]
    found = voted_pairs(records)
    assert [(pair.source, pair.votes_for) for pair in found.pairs] == [("s", 1)]
    assert found.dropped == {REPEATED: 1, SAME_TEXT: 1, UNDECIDED: 2}


def test_rankings_give_every_pair_and_ties_are_no_votes():
    meta = {"systems": ["x", "y", "z"]}
    ranking = Comparison("s", ("a", "b", "c"), (2, 1, 2), annotator="w", meta=meta)
    found = voted_pairs([ranking])
    assert {(pair.chosen, pair.rejected, pair.systems) for pair in found.pairs} == {
        ("b", "a", ("y", "x")),
        ("b", "c", ("y", "z")),
    }
    assert found.dropped == {UNDECIDED: 1}


def test_weights_that_are_no_votes_are_not_counted():
    (pair,) = voted_pairs([Comparison("s", ("a", "b"), (1, 2), weight=0.5)]).pairs
    assert (pair.votes_for, pair.unanimous) == (None, False)


@pytest.mark.parametrize("systems", [["x"], "xy", [1, 2]])
def test_systems_that_are_not_named_are_none(systems):
    (pair,) = voted_pairs([Comparison("s", ("a", "b"), (1, 2), meta={"systems": systems})]).pairs
    assert pair.systems is None


@given(st.lists(st.tuples(st.sampled_from("st"), st.sampled_from("ab"), st.sampled_from("ab")), max_size=30))
def test_votes_are_those_of_a_plain_count(votes):
    records = [
        Comparison(source, (first, second), (1, 2), annotator=f"w{number}")
        for number, (source, first, second) in enumerate(votes)
    ]
    count = Counter(votes)
    found = {pair.source: pair for pair in voted_pairs(records).pairs}
    for source in "st":
        a, b = count[source, "a", "b"], count[source, "b", "a"]
        if a == b:
            assert source not in found
            continue
        pair = found[source]
        assert pair.chosen == ("a" if a > b else "b")
        assert (pair.votes_for, pair.votes_against) == (max(a, b), min(a, b))
