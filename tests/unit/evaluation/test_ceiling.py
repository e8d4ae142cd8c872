"""The agreement of people: enumeration of votes, simulated voters, and a bound that no scorer passes."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.evaluation import ceiling as module
from guerdon.evaluation.ceiling import agreeing_votes, ceiling
from guerdon.evaluation.human_pairs import HumanPair


def pair(votes_for, votes_against, source="s"):
    return HumanPair(source, "a", "b", votes_for=votes_for, votes_against=votes_against)


def voted(shares, votes, seed=0):
    """Pairs whose first output a share of people prefers, and how often the label is on the side of most people."""
    rng = np.random.default_rng(seed)
    pairs, right = [], []
    for number, share in enumerate(shares):
        ups = int(rng.binomial(votes, share))
        if 2 * ups != votes:
            pairs.append(pair(max(ups, votes - ups), min(ups, votes - ups), f"s{number % 200}"))
            right.append((ups > votes - ups) == (share > 0.5))
    return pairs, float(np.mean(right))


@given(st.integers(1, 5), st.integers(0, 5))
def test_agreeing_votes_by_enumeration(votes_for, votes_against):
    votes = [1] * votes_for + [-1] * votes_against
    total = 0.0
    for place, vote in enumerate(votes):
        others = sum(votes[:place] + votes[place + 1 :])
        total += 0.5 if others == 0 else float((others > 0) == (vote > 0))
    assert agreeing_votes(votes_for, votes_against) == total


def test_leave_one_out_over_odd_votes():
    pairs = [pair(3, 0, "s"), pair(2, 1, "t"), pair(2, 0, "u"), pair(1, 0, "v")]
    found = ceiling(pairs, pairs, 100, 1)
    assert (found.pairs, found.left_out_pairs) == (4, 2)
    assert found.leave_one_out is not None
    assert found.leave_one_out.value == pytest.approx((3 + 1) / 6)


def test_leave_one_out_is_what_two_people_agree_on():
    """A vote against the majority of two others, a tie half: the chance that two random people agree."""
    shares = np.random.default_rng(3).beta(2, 2, size=6000)
    pairs, _ = voted(shares, 3)
    found = ceiling(pairs, pairs, 100, 1).leave_one_out
    two_agree = float(np.mean(shares**2 + (1 - shares) ** 2))
    assert found is not None
    assert found.value == pytest.approx(two_agree, abs=0.015)


def test_unanimous_pairs_say_nothing_about_their_own_agreement():
    pairs = [pair(3, 0, "s"), pair(2, 1, "t"), pair(3, 0, "u")]
    assert ceiling([pairs[0], pairs[2]], pairs, 100, 1).leave_one_out is None


def test_votes_that_are_not_there_give_no_ceiling():
    bare = [HumanPair("s", "a", "b"), HumanPair("t", "a", "b")]
    assert ceiling(bare, bare, 100, 1).best is None
    single = [pair(1, 0), pair(1, 0, "t"), pair(2, 0, "u")]
    assert ceiling(single, single, 100, 1).best is None


@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_where_all_pairs_are_alike_the_bound_is_reached(share):
    sides = np.where(np.random.default_rng(5).random(20_000) < 0.5, share, 1 - share)
    pairs, right = voted(sides, 3)
    found = ceiling(pairs, pairs, 100, 1)
    assert found.behind == pytest.approx(share, abs=0.02)
    assert found.best is not None
    assert found.best.value == pytest.approx(right, abs=0.02)
    assert found.best.value == pytest.approx(share**3 + 3 * share**2 * (1 - share), abs=0.02)


@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.3, 0.3), (5, 5), (0.5, 3)])
@pytest.mark.parametrize("votes", [3, 5])
def test_no_scorer_passes_the_bound(a, b, votes):
    """Not even one that knows each share of people: its accuracy is how often labels are on the side of most people."""
    pairs, right = voted(np.random.default_rng(1).beta(a, b, size=8000), votes)
    found = ceiling(pairs, pairs, 100, 1).best
    assert found is not None
    assert right <= found.value + 0.01


@pytest.mark.parametrize(("a", "b"), [(1, 1), (0.3, 0.3), (5, 5)])
def test_nor_of_unanimous_pairs(a, b):
    shares = np.random.default_rng(2).beta(a, b, size=20_000)
    every, _ = voted(shares, 3)
    rng = np.random.default_rng(0)
    right = [(ups == 3) == (share > 0.5) for share in shares if (ups := int(rng.binomial(3, share))) in (0, 3)]
    found = ceiling([p for p in every if p.unanimous], every, 100, 1).best
    assert found is not None
    assert float(np.mean(right)) <= found.value + 0.01


def test_the_bound_of_a_few_votes_by_hand():
    """s fitted to two unanimous pairs in four of three votes: 3 s (1 - s) = 1/2, and k of m votes by Bayes."""
    every = [pair(3, 0, "s"), pair(3, 0, "t"), pair(2, 1, "u"), pair(2, 1, "v")]
    share = (1 + (1 - 4 / 6) ** 0.5) / 2
    for votes, against in itertools.product((1, 2, 3), (0, 1)):
        if votes <= against:
            continue
        own = share**votes * (1 - share) ** against
        other = (1 - share) ** votes * share**against
        found = ceiling([pair(votes, against, "s"), pair(votes, against, "t")], every, 100, 1).best
        assert found is not None
        assert found.value == pytest.approx(own / (own + other), abs=2e-3)


def test_examples():
    assert doctest.testmod(module).failed == 0
