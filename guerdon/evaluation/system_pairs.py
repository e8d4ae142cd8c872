"""Accuracy by the systems whose outputs were compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guerdon.evaluation.judged_pairs import JudgedPairs
from guerdon.evaluation.rating_agreement import correlation_of
from guerdon.evaluation.reward_results import SystemPair, SystemRank


def system_pairs(judged: JudgedPairs, order: NDArray[np.int64]) -> list[SystemPair]:
    """Every two systems that were compared, most pairs first; ``order`` [pairs] as in `JudgedPairs.agreements`."""
    rows: dict[tuple[str, str], list[int]] = {}
    for row, pair in enumerate(judged.pairs):
        if pair.systems is not None and pair.systems[0] != pair.systems[1]:
            first, second = sorted(pair.systems)
            rows.setdefault((first, second), []).append(row)
    found = []
    for systems, own in sorted(rows.items(), key=lambda entry: (-len(entry[1]), entry[0])):
        agrees = JudgedPairs([judged.pairs[row] for row in own], judged.resampling).agreements(order[own])["all"].agrees
        people = np.array([1.0 if judged.pairs[row].systems == systems else -1.0 for row in own])
        reward = people * order[own]
        found.append(SystemPair(systems, len(own), float((1 + people).mean() / 2), float((1 + reward).mean() / 2), agrees))
    return found


def system_ranks(judged: JudgedPairs, order: NDArray[np.int64]) -> list[SystemRank]:
    """Of each system the share of its pairs that it wins, with people and with the reward; best with people first."""
    wins: dict[str, list[tuple[float, float]]] = {}
    for row, pair in enumerate(judged.pairs):
        if pair.systems is None or pair.systems[0] == pair.systems[1]:
            continue
        won = (1 + int(order[row])) / 2
        wins.setdefault(pair.systems[0], []).append((1.0, won))
        wins.setdefault(pair.systems[1], []).append((0.0, 1 - won))
    ranks = [SystemRank(system, len(own), *map(float, np.mean(own, axis=0))) for system, own in wins.items()]
    return sorted(ranks, key=lambda rank: (-rank.people, rank.system))


def system_correlation(ranks: Sequence[SystemRank]) -> float | None:
    """Kendall's tau-b of the two shares; None for fewer than three systems."""
    if len(ranks) < 3:
        return None
    return correlation_of("kendall", np.array([r.reward for r in ranks]), np.array([r.people for r in ranks]))
