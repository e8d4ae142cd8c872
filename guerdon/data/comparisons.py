"""Judgements of outputs: comparisons (which of several outputs is better) and ratings (how good one is)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guerdon.errors import DataError


@dataclass(frozen=True)
class Comparison:
    """Outputs for one source, ranked by somebody. A chosen and a rejected output are the common case: ranks 1 and 2.

    Attributes:
        source: what the outputs were written for; never empty.
        outputs: two or more texts; the empty text is one (a model may be silent).
        ranks: one whole number for each output; the lowest is the best, equal ones are a tie.
        aspect: what was judged, such as "naturalness".
        weight: how much the comparison counts, above 0; mostly a number of votes.
        annotator: who judged.
        references: gold texts of the source.
        meta: every other field of the record.

    Raises:
        DataError: fewer than two outputs, another number of ranks, an empty source, or a weight that is not above 0.
    """

    source: str
    outputs: tuple[str, ...]
    ranks: tuple[int, ...]
    aspect: str | None = None
    weight: float = 1.0
    annotator: str | None = None
    references: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise DataError("the source is empty", cure="fill it in or take the record out")
        if len(self.outputs) < 2:
            raise DataError(f"a comparison of {len(self.outputs)} outputs", cure="give at least two")
        if len(self.ranks) != len(self.outputs):
            raise DataError(f"{len(self.ranks)} ranks for {len(self.outputs)} outputs", cure="give one rank for each output")
        if not 0 < self.weight < math.inf:
            raise DataError(f"the weight is {self.weight}", cure="give a finite number above 0, or take the record out")

    @classmethod
    def of_pair(cls, source: str, chosen: str, rejected: str, **others: Any) -> Comparison:
        """One output that is better than another; ``others`` are the further attributes."""
        return cls(source, (chosen, rejected), (1, 2), **others)

    def fields(self) -> dict[str, Any]:
        """The record as `read_comparisons` reads it again, ``meta`` included."""
        named = {"aspect": self.aspect, "annotator": self.annotator, "references": list(self.references)}
        given = {name: value for name, value in named.items() if value}
        plain = {"source": self.source, "outputs": list(self.outputs), "ranks": list(self.ranks), "weight": self.weight}
        return {**self.meta, **plain, **given}


@dataclass(frozen=True)
class Rating:
    """One output and its score; what the numbers mean is the annotator's affair.

    Attributes:
        source: what the output was written for; never empty.
        output: the text that was judged.
        score: a finite number, higher is better.
        aspect, annotator, meta: as in `Comparison`.

    Raises:
        DataError: an empty source, or a score that is not finite.
    """

    source: str
    output: str
    score: float
    aspect: str | None = None
    annotator: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise DataError("the source is empty", cure="fill it in or take the record out")
        if not math.isfinite(self.score):
            raise DataError(f"the score is {self.score}", cure="give a finite number, or take the record out")


def pairs_of(comparison: Comparison) -> list[tuple[str, str, float]]:
    """Every (better, worse, weight) of a comparison, ties left out; the weight is the comparison's, undivided.

    >>> pairs_of(Comparison("s", ("a", "b", "c"), (2, 1, 2), weight=3))
    [('b', 'a', 3), ('b', 'c', 3)]
    """
    ranked = sorted(zip(comparison.ranks, comparison.outputs, strict=True), key=lambda entry: entry[0])
    return [(b, w, comparison.weight) for (x, b), (y, w) in itertools.combinations(ranked, 2) if x < y]
