"""Which records are trained on, and which are held out: repeats dropped and counted, and no source on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from guerdon.data.comparisons import Comparison, pairs_of
from guerdon.data.draws import key as draw_key
from guerdon.errors import ConfigurationError, DataError, InputError


class _HasSource(Protocol):
    """A record with a source: an example, a comparison, a rating."""

    @property
    def source(self) -> str:
        """What goes into the model."""
        ...


_Sourced = TypeVar("_Sourced", bound=_HasSource)


@dataclass(frozen=True)
class Pair:
    """Two outputs for one source, of which the first is better.

    Attributes:
        source: what they were written for.
        chosen, rejected: the better and the worse output, never the same text.
        weight: how much the pair counts, e.g. its votes.
    """

    source: str
    chosen: str
    rejected: str
    weight: float


@dataclass(frozen=True)
class Kept:
    """The pairs to work with, in order, and how many comparisons or pairs were dropped, by reason."""

    pairs: list[Pair]
    dropped: Mapping[str, int]


REPEATED = "repeated comparison"
ONLY_TIES = "nothing but ties"
SAME_TEXT = "two outputs that are the same text"


def pairs_to_train(comparisons: Sequence[Comparison]) -> Kept:
    """The pairs of all comparisons, without what teaches nothing.

    Dropped and counted: a comparison that repeats an earlier one in everything, ``meta`` included, but the order of its
    outputs (the same judgement by another annotator, or under another id, is a vote, and stays); a comparison of nothing
    but ties; a pair of twice the same text.
    """
    kept, dropped = distinct(comparisons)
    pairs = list[Pair]()
    for comparison in kept:
        found = pairs_of(comparison)
        dropped[ONLY_TIES] += not found
        for chosen, rejected, weight in found:
            if chosen == rejected:
                dropped[SAME_TEXT] += 1
            else:
                pairs.append(Pair(comparison.source, chosen, rejected, weight))
    return Kept(pairs, {reason: count for reason, count in dropped.items() if count})


def distinct(comparisons: Sequence[Comparison]) -> tuple[list[Comparison], Counter[str]]:
    """The comparisons without those that repeat an earlier one, as in `pairs_to_train`, and how many these were."""
    kept, dropped, seen = list[Comparison](), Counter[str](), set[Hashable]()
    for comparison in comparisons:
        if (judged := _judgement(comparison)) in seen:
            dropped[REPEATED] += 1
        else:
            seen.add(judged)
            kept.append(comparison)
    return kept, dropped


def _judgement(comparison: Comparison) -> Hashable:
    """Equal for two records that say the same; ranks 1, 2 say what 1, 3 say."""
    places = {rank: place for place, rank in enumerate(sorted(set(comparison.ranks)))}
    order = sorted((places[rank], text) for rank, text in zip(comparison.ranks, comparison.outputs, strict=True))
    others = repr(sorted(comparison.meta.items()))
    return comparison.source, tuple(order), comparison.aspect, comparison.annotator, comparison.weight, others


def split_by_source(
    records: Sequence[_Sourced], share: float, seed: int, key: Callable[[_Sourced], str] | None = None
) -> tuple[list[_Sourced], list[_Sourced]]:
    """Holds out the records of a share of the *sources*, so that no source stands on both sides; each side keeps its order.

    Which sources are held out depends on ``seed`` and the sources alone, not on their order or their number of records.

    Args:
        records: examples, comparisons or ratings.
        share: of the sources to hold out, between 0 and 1; at least one source is, and at least one is not.
        seed: of the run.
        key: what counts as the same source; by default the source itself. For dialogues, whose sources are one another's
            beginnings, give the first turn.

    Returns:
        What is left, and what is held out.

    Raises:
        ConfigurationError: a share that is not between 0 and 1.
        DataError: fewer than two sources.
    """
    if not 0 < share < 1:
        raise ConfigurationError(f"{share} is no share", where="share", cure="give a number between 0 and 1")
    keys = [record.source if key is None else key(record) for record in records]
    ordered = sorted(set(keys), key=lambda source: (draw_key(seed, f"held out {source}"), source))
    if len(ordered) < 2:
        raise DataError(f"{len(ordered)} sources cannot be split", cure="give records of at least two sources")
    held = set(ordered[: min(max(1, round(share * len(ordered))), len(ordered) - 1)])
    left = [record for record, source in zip(records, keys, strict=True) if source not in held]
    return left, [record for record, source in zip(records, keys, strict=True) if source in held]


def folds_of(sources: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, [n]: a source stands in one alone, and the folds have as many sources, up to one.

    Which sources come together depends on the seed and the sources, not on their order.

    Raises:
        InputError: for fewer sources than folds, or fewer than two folds.
    """
    ordered = sorted(set(sources), key=lambda source: (draw_key(seed, f"fold {source}"), source))
    if not 2 <= folds <= len(ordered):
        raise InputError(
            f"{len(ordered)} sources cannot be cut into {folds} folds",
            where="folds",
            cure="give at least 2 folds, and pairs of at least as many sources",
        )
    fold = {source: place % folds for place, source in enumerate(ordered)}
    return np.array([fold[source] for source in sources], dtype=np.int64)
