"""How well people agree with one another on pairs: what a reward can be expected to reach, and what nothing can pass.

The labels of pairs are themselves draws. Let θ be the share of all people who would prefer the first output of a pair, and its
votes binomial given θ. What is known of θ over pairs is how often voters disagree: E[θ(1 − θ)]. Of all distributions with
that expectation, the one that leaves most to a scorer that knows every θ is θ ∈ {s, 1 − s}, the same s for each pair: the
chance that the majority of an odd number of votes is that of most people is a concave function of θ(1 − θ) (Jensen), and so is
that of three votes out of three. Under it k of m votes are right with probability s^k (1 − s)^(m − k) over the sum of that and
the same with k and m − k exchanged. Its mean over pairs is what accuracy can be expected at most. s is fitted by maximum
likelihood to the votes of pairs, given that a majority was found (the others are no pairs); with three votes that matches the
share of pairs that are not unanimous.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guerdon.evaluation.folds import sums_by_source
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.metrics.base import FloatArray, MeanMetric, Measure
from guerdon.metrics.significance import Interval, bootstrap_interval

_GRID = np.linspace(0.5, 0.999, 500)  # of s


@dataclass(frozen=True)
class Ceiling:
    """The agreement of people on some pairs.

    Attributes:
        pairs: with counted votes.
        left_out_pairs: those of them that ``leave_one_out`` is measured on.
        leave_one_out: how often a vote agrees with the majority of the others of its pair (a tie of the others counts half),
            over all votes of pairs with an odd number of them, three or more: of an even number those that end level are
            no pairs, which flatters the rest. None where there are none, or the pairs were chosen for being unanimous.
        best: upper bound of the accuracy expected of any scorer; None where no pair has three votes or more.
        behind: s, the share of people behind the better output of each pair; None likewise.
    """

    pairs: int
    left_out_pairs: int
    leave_one_out: Interval | None
    best: Interval | None
    behind: float | None


class _Best(Measure):
    """The mean chance that a label is right, s fitted to the same sums: columns are the (k, m) that occur."""

    name = label = "best"

    def __init__(self, informing: Sequence[tuple[int, int]], measured: Sequence[tuple[int, int]]) -> None:
        self._informing = len(informing)
        self._likelihood = np.array([_log_likelihood(k, m) for k, m in informing])  # [kinds, grid]
        self._posterior = np.array([_label_is_right(k, m) for k, m in measured])

    def score(self, summed: Sequence[float]) -> float:
        """Of one row of sums."""
        return float(self.aggregate(np.asarray(summed)[None])[0])

    def aggregate(self, summed: FloatArray) -> FloatArray:
        """Of rows of sums: counts of the informing kinds, then of the measured ones."""
        rows = np.atleast_2d(summed)
        counts, measured = rows[:, : self._informing], rows[:, self._informing :]
        best = self.fitted(counts)
        total = (measured * self._posterior[:, best].T).sum(1) / np.maximum(measured.sum(1), 1)
        return np.asarray(total if summed.ndim > 1 else total[0], dtype=np.float64)

    def fitted(self, counts: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """The place on the grid of the most likely s, for each row of counts."""
        return (counts @ self._likelihood).argmax(1)


def ceiling(measured: Sequence[HumanPair], everything: Sequence[HumanPair], resamples: int, seed: int) -> Ceiling:
    """The agreement of people on ``measured`` pairs; s is fitted to ``everything``, whose sources are what is resampled."""
    counted = [pair for pair in measured if pair.votes_for]
    chosen_by_votes = all(pair.unanimous for pair in counted)
    odd = [] if chosen_by_votes else [pair for pair in counted if _votes(pair) % 2 and _votes(pair) > 1]
    informing = [pair for pair in everything if pair.votes_for and _votes(pair) > 2]
    if not informing or not counted:
        return Ceiling(len(counted), len(odd), None, None, None)
    kinds, own = sorted({_kind(pair) for pair in informing}), sorted({_kind(pair) for pair in counted})
    best = _Best(kinds, own)
    rows = np.zeros((len(informing) + len(counted), len(kinds) + len(own)))
    for row, pair in enumerate(informing):
        rows[row, kinds.index(_kind(pair))] = 1
    for row, pair in enumerate(counted, len(informing)):
        rows[row, len(kinds) + own.index(_kind(pair))] = 1
    sums = sums_by_source([pair.source for pair in (*informing, *counted)], rows)
    place = int(best.fitted(sums.sum(0, keepdims=True)[:, : len(kinds)])[0])
    return Ceiling(
        len(counted),
        len(odd),
        _leave_one_out(odd, resamples, seed) if odd else None,
        bootstrap_interval(best, sums, resamples, seed),
        float(_GRID[place]),
    )


def agreeing_votes(votes_for: int, votes_against: int) -> float:
    """How many votes of a pair agree with the majority of its other votes, a tie of these counting half.

    >>> agreeing_votes(3, 0), agreeing_votes(2, 1)
    (3.0, 1.0)
    """
    total = 0.0
    for own, other in ((votes_for, votes_against), (votes_against, votes_for)):
        rest = own - 1 - other
        total += own * (1 + (rest > 0) - (rest < 0)) / 2
    return total


def _leave_one_out(pairs: Sequence[HumanPair], resamples: int, seed: int) -> Interval:
    rows = np.array([[agreeing_votes(pair.votes_for or 0, pair.votes_against), _votes(pair)] for pair in pairs])
    return bootstrap_interval(MeanMetric("agreement"), sums_by_source([pair.source for pair in pairs], rows), resamples, seed)


def _votes(pair: HumanPair) -> int:
    return (pair.votes_for or 0) + pair.votes_against


def _kind(pair: HumanPair) -> tuple[int, int]:
    return pair.votes_for or 0, _votes(pair)


def _log_likelihood(k: int, m: int) -> FloatArray:
    """log P(k or m − k of m votes | a majority was found), up to a constant, for each s of the grid."""
    tie = math.comb(m, m // 2) * (_GRID * (1 - _GRID)) ** (m // 2) if m % 2 == 0 else np.zeros_like(_GRID)
    ways = _GRID**k * (1 - _GRID) ** (m - k) + _GRID ** (m - k) * (1 - _GRID) ** k
    return np.asarray(np.log(ways) - np.log1p(-tie), dtype=np.float64)


def _label_is_right(k: int, m: int) -> FloatArray:
    """The chance that k of m votes are on the side of most people, for each s of the grid."""
    odds = ((1 - _GRID) / _GRID) ** (2 * k - m)
    return np.asarray(1 / (1 + odds), dtype=np.float64)
