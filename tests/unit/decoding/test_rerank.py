from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.decoding import best_of_n, minimum_bayes_risk
from guerdon.errors import InputError, RewardError

texts = st.text("ab ", max_size=4)


def overlap(outputs: list[str], references: list[list[str]]) -> list[float]:
    """An asymmetric utility: the share of the output's letters found in the reference, less a cost of length."""
    return [
        sum(letter in reference for letter in output) / (1 + len(output)) - len(output) / 16
        for output, (reference,) in zip(outputs, references, strict=True)
    ]


# --- best of n


def test_the_best_of_each_source() -> None:
    assert best_of_n([["a", "b", "c"], ["d"], ["e", "f"]], torch.tensor([0.1, 0.9, 0.2, -5.0, -1.0, -2.0])) == [1, 0, 0]


def test_of_equals_the_first() -> None:
    assert best_of_n([["a", "b", "c"]], torch.tensor([0.0, 1.0, 1.0])) == [1]


def test_no_sources() -> None:
    assert best_of_n([], torch.zeros(0)) == minimum_bayes_risk([], overlap) == []


@pytest.mark.parametrize("scores", [torch.zeros(2), torch.zeros(4), torch.zeros(3, 1)])
def test_another_number_of_scores_is_refused(scores: torch.Tensor) -> None:
    with pytest.raises(InputError, match="3 candidates"):
        best_of_n([["a", "b"], ["c"]], scores)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(bad: float) -> None:
    with pytest.raises(RewardError, match="finite"):
        best_of_n([["a", "b"]], torch.tensor([1.0, bad]))


def test_a_source_without_candidates_is_refused() -> None:
    with pytest.raises(InputError, match="source 1"):
        best_of_n([["a"], []], torch.zeros(1))
    with pytest.raises(InputError, match="source 1"):
        minimum_bayes_risk([["a"], []], overlap)


# --- minimum Bayes risk


@settings(deadline=None)
@given(groups=st.lists(st.lists(texts, min_size=1, max_size=7), min_size=1, max_size=3), data=st.data())
def test_the_choice_has_the_largest_expected_utility(groups: list[list[str]], data: st.DataObject) -> None:
    weights = [data.draw(st.lists(st.integers(1, 5), min_size=len(group), max_size=len(group))) for group in groups]
    for weighting in (None, weights):
        chosen = minimum_bayes_risk(groups, overlap, weighting)
        for number, (group, index) in enumerate(zip(groups, chosen, strict=True)):
            if len(group) == 1:
                assert index == 0
                continue
            w = [1] * len(group) if weighting is None else weighting[number]
            expected = []
            for i, candidate in enumerate(group):
                # exact: every pair by itself, in rational numbers
                total = sum(Fraction(overlap([candidate], [[r]])[0]) * w[j] for j, r in enumerate(group) if j != i)
                expected.append(total / sum(w[j] for j in range(len(group)) if j != i))
            assert float(expected[index]) == pytest.approx(float(max(expected)), abs=1e-14)


def test_the_consensus_wins() -> None:
    assert minimum_bayes_risk([["the cat sat", "a dog", "the cat sits", "the cat sat"]], overlap_of_words) == [0]


def overlap_of_words(outputs: list[str], references: list[list[str]]) -> list[float]:
    pairs = [(set(output.split()), set(reference[0].split())) for output, reference in zip(outputs, references, strict=True)]
    return [len(a & b) / len(a | b) for a, b in pairs]


def test_copies_count_as_often_as_they_were_drawn() -> None:
    table = {"xx": 1.0, "yy": 1.0, "xy": 0.0, "yx": 0.0, "xz": 0.6, "zx": 0.6, "yz": 0.0, "zy": 0.5}

    def utility(outputs: list[str], references: list[list[str]]) -> list[float]:
        return [table[output + reference] for output, (reference,) in zip(outputs, references, strict=True)]

    assert minimum_bayes_risk([["x", "y", "z"]], utility) == [2]  # z: (0.6 + 0.5) / 2
    assert minimum_bayes_risk([["x", "y", "z", "y", "y"]], utility) == [2]  # z: 2.1 / 4 = 0.525 against y: 2 / 4
    assert minimum_bayes_risk([["x", "y", "z", "y", "y", "y"]], utility) == [1]  # y: 3 / 5 = 0.6 against z: 2.6 / 5 = 0.52


def test_each_distinct_pair_is_judged_once_in_one_call_a_source() -> None:
    calls = []

    def counted(outputs: list[str], references: list[list[str]]) -> list[float]:
        calls.append(list(zip(outputs, (reference[0] for reference in references), strict=True)))
        return overlap(outputs, references)

    minimum_bayes_risk([["a", "b", "a", "c"], ["a", "b"]], counted)
    assert len(calls) == 2
    assert sorted(calls[0]) == [("a", "a"), ("a", "b"), ("a", "c"), ("b", "a"), ("b", "c"), ("c", "a"), ("c", "b")]
    assert sorted(calls[1]) == [("a", "b"), ("b", "a")]


def test_all_the_weight_on_one_candidate_chooses_it() -> None:
    assert minimum_bayes_risk([["a", "b", "c"]], overlap, [[0.0, 0.0, 2.0]]) == [2]


@pytest.mark.parametrize("weights", [[[1.0]], [[1.0, -1.0]], [[0.0, 0.0]], [[1.0, math.nan]], [[1.0, math.inf]], []])
def test_weights_that_do_not_fit_are_refused(weights: list[list[float]]) -> None:
    with pytest.raises(InputError, match="weights"):
        minimum_bayes_risk([["a", "b"]], overlap, weights)


@pytest.mark.parametrize(("values", "message"), [([1.0], "1 scores for 2"), ([1.0, math.nan], "finite")])
def test_a_broken_utility_is_reported(values: list[float], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        minimum_bayes_risk([["a", "b"]], lambda outputs, references: values)
