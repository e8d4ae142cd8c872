"""What a reward has to beat: length, frequency and overlap alone, each turned the way that agrees with people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guerdon.data.selection import folds_of
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.evaluation.judged_pairs import KnownPair, order_of
from guerdon.evaluation.probes import words_of
from guerdon.metrics.base import FloatArray
from guerdon.rewards.frequency import WordFrequency
from guerdon.rewards.overlap import SentenceChrf


def simple_orders(
    known: Sequence[KnownPair], texts: Sequence[str], folds: int, seed: int
) -> dict[str, tuple[str, NDArray[np.int64]]]:
    """Of each baseline its label and its sign for each pair, [n].

    Args:
        known: pairs; overlap is with their references where all have some, else with their sources.
        texts: that word frequencies are counted in.
        folds, seed: see `turned`.
    """
    pairs = [entry.pair for entry in known]
    overlap, with_what = _overlap(pairs)
    given = {
        "length": ("length only", lengths(pairs)),
        "frequency": ("word frequency only", _frequency(pairs, texts)),
        "overlap": (f"overlap with the {with_what} only (chrF)", overlap),
    }
    sources = [pair.source for pair in pairs]
    return {name: (label, turned(order_of(scores), sources, folds, seed)) for name, (label, scores) in given.items()}


def lengths(pairs: Sequence[HumanPair]) -> FloatArray:
    """Words of the chosen outputs, then of the rejected ones, [2n]."""
    return np.array([float(len(words_of(text)[0])) for text in _outputs(pairs)])


def turned(order: NDArray[np.int64], sources: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """Each pair's sign the way round that agrees with people on the pairs of the other folds of sources; raises as `folds_of`.

    Which way round is right is so learnt from other sources, as a model would have to.
    """
    fold = folds_of(sources, folds, seed)
    ways = [1 if order[fold != number].sum() >= 0 else -1 for number in range(folds)]
    return np.asarray(np.array(ways)[fold] * order, dtype=np.int64)


def _outputs(pairs: Sequence[HumanPair]) -> list[str]:
    return [*(pair.chosen for pair in pairs), *(pair.rejected for pair in pairs)]


def _frequency(pairs: Sequence[HumanPair], texts: Sequence[str]) -> FloatArray:
    reward = WordFrequency.from_texts(texts, reduction="mean")
    return reward([pair.source for pair in pairs] * 2, _outputs(pairs)).double().numpy()


def _overlap(pairs: Sequence[HumanPair]) -> tuple[FloatArray, str]:
    sources, whole = [pair.source for pair in pairs] * 2, all(pair.references for pair in pairs)
    gold = [pair.references if whole else (pair.source,) for pair in pairs] * 2
    return SentenceChrf()(sources, _outputs(pairs), gold).double().numpy(), "references" if whole else "source"
