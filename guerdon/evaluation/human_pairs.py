"""Pairs of outputs of which people preferred one: what a reward should agree with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """

    source: str
    chosen: str
    rejected: str
    references: tuple[str, ...] = ()
    votes_for: int | None = None
    votes_against: int = 0

    @property
    def unanimous(self) -> bool:
        """Whether at least two people preferred ``chosen`` and nobody the other."""
        return self.votes_for is not None and self.votes_for >= 2 and not self.votes_against


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
