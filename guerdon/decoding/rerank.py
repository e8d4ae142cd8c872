"""Choosing among outputs that a policy has already written. Texts in, indices out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from guerdon.errors import InputError, RewardError

Utility = Callable[[list[str], list[list[str]]], Sequence[float]]
"""(outputs, the references of each) -> one score per output, larger is better."""


def best_of_n(candidates: Sequence[Sequence[object]], scores: Tensor) -> list[int]:
    """The index of each source's best candidate; of equal ones the first.

    Args:
        candidates: the outputs of each source; their number may differ.
        scores: [n], one per candidate, those of the first source first.

    Raises:
        InputError: for a source without candidates, or another number of scores than candidates.
        RewardError: for a score that is not finite.
    """
    counts = [_count(source, group) for source, group in enumerate(candidates)]
    if scores.shape != (sum(counts),):
        raise InputError(
            f"{list(scores.shape)} scores for {sum(counts)} candidates", where="best of n", cure="pass one score per candidate"
        )
    values, chosen, first = scores.tolist(), [], 0
    for count in counts:
        own = values[first : first + count]
        _check_finite(own, "best of n")
        chosen.append(own.index(max(own)))
        first += count
    return chosen


def minimum_bayes_risk(
    candidates: Sequence[Sequence[str]], utility: Utility, weights: Sequence[Sequence[float]] | None = None
) -> list[int]:
    """The index of each source's candidate of largest expected utility; of equal ones the first.

    The expectation is over all the other candidates of the source as references (Eikema & Aziz 2022, "Sampling-based
    approximations to minimum Bayes risk decoding for neural machine translation", their N-by-N): a text drawn m times counts
    m times, but its utilities are computed once. All pairs of a source are judged in one call.

    Args:
        candidates: the outputs of each source, usually samples.
        utility: for example sentence chrF; it need not be symmetric.
        weights: of each candidate as a reference, for example its share of probability; 0 or more, by default equal. A
            candidate that carries all the weight of its source is chosen.

    Raises:
        InputError: for a source without candidates, or weights that do not fit.
        RewardError: where the utility does not return one finite number per output.
    """
    return [_most_useful(group, utility, _weights(source, group, weights)) for source, group in enumerate(candidates)]


def _most_useful(candidates: Sequence[str], utility: Utility, weights: Sequence[float]) -> int:
    copies = Counter(candidates)
    pairs = [(one, other) for one in copies for other in copies if one != other or copies[one] > 1]
    values = [float(value) for value in utility([one for one, _ in pairs], [[other] for _, other in pairs])] if pairs else []
    if len(values) != len(pairs):
        raise RewardError(
            f"returned {len(values)} scores for {len(pairs)} outputs", where="utility", cure="return one per output"
        )
    _check_finite(values, "utility")
    table = dict(zip(pairs, values, strict=True))
    expected = []
    for index, one in enumerate(candidates):
        others = [(table[one, other], weights[j]) for j, other in enumerate(candidates) if j != index]
        total = math.fsum(weight for _, weight in others)
        expected.append(math.fsum(value * weight for value, weight in others) / total if total else math.inf)
    return expected.index(max(expected))


def _weights(source: int, candidates: Sequence[str], weights: Sequence[Sequence[float]] | None) -> Sequence[float]:
    count = _count(source, candidates)
    if weights is None:
        return [1.0] * count
    own = weights[source] if source < len(weights) else []
    if len(own) != count or not all(0.0 <= weight < math.inf for weight in own) or not any(own):
        raise InputError(
            f"weights {list(own)} for {count} candidates",
            where=f"source {source}",
            cure="give one number per candidate, 0 or more, not all 0",
        )
    return own


def _count(source: int, candidates: Sequence[object]) -> int:
    if not candidates:
        raise InputError(
            "there are no candidates to choose from", where=f"source {source}", cure="pass at least one per source"
        )
    return len(candidates)


def _check_finite(values: Sequence[float], where: str) -> None:
    for index, value in enumerate(values):
        if not math.isfinite(value):
            raise RewardError(f"score {index} is {value}", where=where, cure="a score must be a finite number")
