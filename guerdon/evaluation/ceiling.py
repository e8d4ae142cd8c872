"""How well people agree with one another on pairs: what a reward can be expected to reach, and what nothing can pass.

Pairs of which nobody knows better than those who voted have labels that are themselves draws. Let θ be the share of all
people who would prefer the first output of a pair, and the votes binomial given θ. With θ ~ Beta(a, a) over pairs (the sides
are named by chance), k of m votes leave θ ~ Beta(a + k, a + m − k), and the label is that of most people with probability
P(θ > ½). Its mean over pairs bounds the accuracy that is expected of any scorer, one that knows every θ included. a is
fitted by maximum likelihood to the votes of pairs with two or more, given that a majority was found (the others are no pairs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guerdon.evaluation.folds import sums_by_source
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.metrics.base import FloatArray, MeanMetric, Measure
from guerdon.metrics.significance import Interval, bootstrap_interval

_GRID = np.exp(np.linspace(np.log(0.02), np.log(200.0), 241))  # of a


@dataclass(frozen=True)
class Ceiling:
    """The agreement of people on some pairs.

    Attributes:
        pairs: with counted votes.
        left_out_pairs: those of them with two votes or more.
        leave_one_out: how often a vote agrees with the majority of the others of its pair (a tie of the others counts half),
            over all votes of pairs with two or more; None where there are none. Ties are no votes.
        best: upper bound of the accuracy expected of any scorer; None where no pair has two votes.
        concentration: a; None likewise.
    """

    pairs: int
    left_out_pairs: int
    leave_one_out: Interval | None
    best: Interval | None
    concentration: float | None


class _Best(Measure):
    """The mean of P(θ > ½), a fitted to the same sums: columns are the (k, m) that occur."""

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
        """The place on the grid of the most likely a, for each row of counts."""
        return (counts @ self._likelihood).argmax(1)


def ceiling(measured: Sequence[HumanPair], everything: Sequence[HumanPair], resamples: int, seed: int) -> Ceiling:
    """The agreement of people on ``measured`` pairs; a is fitted to ``everything``, whose sources are what is resampled."""
    counted = [pair for pair in measured if pair.votes_for]
    several = [pair for pair in counted if _votes(pair) >= 2]
    informing = [pair for pair in everything if pair.votes_for and _votes(pair) >= 2]
    if not informing or not counted:
        return Ceiling(len(counted), len(several), None, None, None)
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
        len(several),
        _leave_one_out(several, resamples, seed) if several else None,
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
    """log P(k or m − k of m votes | a majority was found), for each a of the grid."""
    from scipy.stats import betabinom  # type: ignore[import-untyped]

    tie = betabinom.pmf(m // 2, m, _GRID, _GRID) if m % 2 == 0 else 0.0
    return np.asarray(betabinom.logpmf(k, m, _GRID, _GRID) + np.log(2.0) - np.log1p(-tie), dtype=np.float64)


def _label_is_right(k: int, m: int) -> FloatArray:
    """P(θ > ½) under Beta(a + k, a + m − k), for each a of the grid."""
    from scipy.special import betaincc  # type: ignore[import-untyped]

    return np.asarray(betaincc(_GRID + k, _GRID + m - k, 0.5), dtype=np.float64)
