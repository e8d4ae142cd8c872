"""Pairs of outputs of which people preferred one: what a reward should agree with."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guerdon.data.comparisons import Comparison
from guerdon.data.lines import Row, place
from guerdon.data.rows import read_rows
from guerdon.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class HumanPair:
    """Two outputs for one source.

    Attributes:
        source: what went in.
        chosen: the output that people preferred.
        rejected: the other.
        references: gold texts of the source, where the record has them.
        votes_for: how many preferred ``chosen``; None where votes were not counted.
        votes_against: how many preferred ``rejected``.
        votes_tie: how many preferred neither.
        systems: which wrote ``chosen`` and which ``rejected``, where the record says so.
    """

    source: str
    chosen: str
    rejected: str
    references: tuple[str, ...] = ()
    votes_for: int | None = None
    votes_against: int = 0
    votes_tie: int = 0
    systems: tuple[str, str] | None = None

    @property
    def unanimous(self) -> bool:
        """Whether at least two people preferred ``chosen`` and nobody the other."""
        return self.votes_for is not None and self.votes_for >= 2 and not self.votes_against


UNDECIDED = "as many votes for one output as for the other"
SAME_TEXT = "two outputs that are the same text"
REPEATED = "repeated comparison"


@dataclass(frozen=True)
class Voted:
    """The pairs that people decided, in order, and how many comparisons or pairs were left out, by reason."""

    pairs: list[HumanPair]
    dropped: Mapping[str, int]


def voted_pairs(comparisons: Sequence[Comparison]) -> Voted:
    """Every two outputs of each comparison with the votes for either: its weights, where these are whole numbers.

    Comparisons with an annotator are one vote each, or as many as they weigh, and those of the same texts are counted
    together. Without one they are records of votes, of which only those that agree in ``meta`` are counted together: a
    record and the same turned round. ``meta`` may say how many preferred neither (``votes_tie``), and which systems wrote
    the outputs (``chosen_system`` and ``rejected_system``, or the list ``systems``).

    Left out and counted: what repeats an earlier comparison in everything, twice the same text, and what as many preferred
    one way as the other.
    """
    tallies, dropped, seen = dict[Hashable, _Tally](), Counter[str](), set[Hashable]()
    for comparison in comparisons:
        judged = (*_record(comparison), comparison.outputs, comparison.ranks, comparison.annotator, comparison.weight)
        if judged in seen:
            dropped[REPEATED] += 1
            continue
        seen.add(judged)
        for first, second in itertools.combinations(range(len(comparison.outputs)), 2):
            texts = comparison.outputs[first], comparison.outputs[second]
            if texts[0] == texts[1]:
                dropped[SAME_TEXT] += 1
                continue
            tally = tallies.setdefault((*_record(comparison), frozenset(texts)), _Tally(comparison, (first, second)))
            tally.add(comparison, first, second)
    decided = [tally.pair() for tally in tallies.values() if tally.leading]
    dropped[UNDECIDED] = len(tallies) - len(decided)
    return Voted(decided, {reason: count for reason, count in dropped.items() if count})


def _record(comparison: Comparison) -> tuple[Hashable, ...]:
    """Equal for comparisons whose votes are counted together."""
    known = "" if comparison.annotator is not None else repr(sorted(comparison.meta.items()))
    return comparison.source, comparison.aspect, known


@dataclass
class _Tally:
    """Votes for the two outputs of a pair, as they are counted."""

    comparison: Comparison
    places: tuple[int, int]
    votes: dict[str, float] = field(default_factory=dict)
    ties: float = 0.0

    def add(self, comparison: Comparison, first: int, second: int) -> None:
        ranks, texts = comparison.ranks, comparison.outputs
        if ranks[first] == ranks[second]:
            self.ties += comparison.weight
            return
        better = texts[first if ranks[first] < ranks[second] else second]
        self.votes[better] = self.votes.get(better, 0.0) + comparison.weight

    @property
    def leading(self) -> int:
        """1 where the first output has more votes, -1 where the second has, 0 where neither."""
        first, second = (self.votes.get(self.comparison.outputs[place], 0.0) for place in self.places)
        return (first > second) - (first < second)

    def pair(self) -> HumanPair:
        chosen, rejected = self.places if self.leading > 0 else self.places[::-1]
        texts = self.comparison.outputs[chosen], self.comparison.outputs[rejected]
        votes = [self.votes.get(text, 0.0) for text in texts]
        counted = all(count.is_integer() for count in votes)
        told = self.comparison.meta.get("votes_tie")
        ties = self.ties + (told if isinstance(told, int) else 0)
        systems = _systems(self.comparison)
        return HumanPair(
            self.comparison.source,
            *texts,
            self.comparison.references,
            int(votes[0]) if counted else None,
            int(votes[1]) if counted else 0,
            int(ties),
            None if systems is None else (systems[chosen], systems[rejected]),
        )


def _systems(comparison: Comparison) -> Sequence[str] | None:
    """The system of each output, where ``meta`` names them."""
    named = comparison.meta.get("systems") or [comparison.meta.get(f"{place}_system") for place in ("chosen", "rejected")]
    whole = isinstance(named, list) and len(named) == len(comparison.outputs) and all(isinstance(n, str) and n for n in named)
    return named if whole else None


def read_human_pairs(path: Path, source: str = "source", limit: int | None = None) -> list[HumanPair]:
    """Reads ``chosen`` and ``rejected``, and, where they are there, ``references``, ``votes_for`` and ``votes_against``.

    Args:
        path: a .jsonl, .csv, .tsv (each also .gz) or .parquet file.
        source: the field that holds the source.
        limit: reads no further than this many pairs.

    Raises:
        DataError: for a file or a record that cannot be used.
        ConfigurationError: for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"{limit} is below 1", where="limit", cure="leave it out to read everything")
    pairs = list[HumanPair]()
    for row in read_rows(path):
        pairs.append(_pair(row, path, source))
        if len(pairs) == limit:
            break
    return pairs


def _pair(row: Row, path: Path, source: str) -> HumanPair:
    given = row.fields.get("references") or ()
    references = (given,) if isinstance(given, str) else given
    if not isinstance(references, tuple | list) or not all(isinstance(text, str) for text in references):
        raise DataError("holds no texts", where=place(path, row.line, "references"), cure="write a list of texts")
    text, chosen, rejected = (_text(row, name, path) for name in (source, "chosen", "rejected"))
    votes = [_votes(row, name, path) for name in ("votes_for", "votes_against")]
    if votes[0] is None and votes[1] is not None:
        raise DataError("there is no 'votes_for'", where=place(path, row.line), cure="give both counts of votes, or none")
    return HumanPair(text, chosen, rejected, tuple(references), votes[0], votes[1] or 0)


def _text(row: Row, name: str, path: Path) -> str:
    value: Any = row.fields.get(name)
    if not isinstance(value, str) or (name != "rejected" and not value.strip()):
        raise DataError(f"holds no text in {name!r}", where=place(path, row.line), cure="write source, chosen and rejected")
    return value


def _votes(row: Row, name: str, path: Path) -> int | None:
    value: Any = row.fields.get(name)
    if value is None or value == "":
        return None
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if count < 0 or isinstance(value, bool) or count != float(value):
        raise DataError(f"{value!r} is no count", where=place(path, row.line, name), cure="give a whole number of votes")
    return count
