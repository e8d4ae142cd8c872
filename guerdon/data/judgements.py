"""Comparisons and ratings, read from files and checked one by one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.fields import OnError, Skipped, id_of, missing, number_of, read_checked, text_of, texts_of
from guerdon.data.lines import Row, place
from guerdon.data.rows import kind_of_value
from guerdon.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class ComparisonFields:
    """The names that the fields of a `Comparison` have in a file.

    A row holds either ``chosen`` and ``rejected``, a text each, or ``outputs`` and ``ranks``, a list each.

    Attributes:
        source: the field of the source.
        chosen: that of the better output of a pair.
        rejected: that of the worse one.
        outputs: that of a list of outputs.
        ranks: that of a list of their ranks.
        weight: the field of the weight or of the votes for this order; a record without it weighs 1.
        against: a field of the votes for the opposite order, if any: a record with some gives a second comparison, turned
            round, with them as its weight; ``weight`` may then be 0.
        aspect, annotator, references: their fields; a record may lack them.
    """

    source: str = "source"
    chosen: str = "chosen"
    rejected: str = "rejected"
    outputs: str = "outputs"
    ranks: str = "ranks"
    weight: str = "weight"
    against: str | None = None
    aspect: str = "aspect"
    annotator: str = "annotator"
    references: str = "references"

    def __post_init__(self) -> None:
        _check_names(self)

    def used(self) -> set[str]:
        """The fields of a file that are no ``meta``."""
        return {name for name in vars(self).values() if name is not None}


@dataclass(frozen=True)
class RatingFields:
    """The names that the fields of a `Rating` have in a file; a record may lack ``aspect`` and ``annotator``."""

    source: str = "source"
    output: str = "output"
    score: str = "score"
    aspect: str = "aspect"
    annotator: str = "annotator"

    def __post_init__(self) -> None:
        _check_names(self)


def _check_names(fields: ComparisonFields | RatingFields) -> None:
    names = [name for name in vars(fields).values() if name is not None]
    if not all(names):
        raise ConfigurationError("a field has an empty name", where="fields", cure="name a field of the file")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ConfigurationError(
            f"the field {twice[0]!r} is named twice", where="fields", cure="name another for one of the two"
        )


@dataclass(frozen=True)
class Comparisons:
    """What a file holds: its comparisons in order, and the records that were left out."""

    comparisons: list[Comparison]
    skipped: list[Skipped]


@dataclass(frozen=True)
class Ratings:
    """What a file holds: its ratings in order, and the records that were left out."""

    ratings: list[Rating]
    skipped: list[Skipped]


def read_comparisons(
    path: str | os.PathLike[str],
    fields: ComparisonFields | None = None,
    on_error: OnError = "stop",
    limit: int | None = None,
    empty_outputs: bool = False,
) -> Comparisons:
    """Reads and checks the comparisons of a .jsonl, .csv, .tsv (each also .gz) or .parquet file.

    Args:
        path: the file.
        fields: how the file names its fields; by default as `ComparisonFields` does.
        on_error: "stop" raises at the first bad record; "skip" leaves it out and keeps it in ``skipped``.
        limit: reads no further than this many comparisons.
        empty_outputs: whether an output may be blank, as one that a model wrote may; otherwise that is a bad record.

    Raises:
        DataError: a bad record, or, whatever ``on_error`` says, a file that cannot be read or holds no good record.
        ConfigurationError: an unknown ``on_error``, or a limit below 1.
        MissingExtraError: a Parquet file without pyarrow.
    """
    names = fields or ComparisonFields()
    return Comparisons(
        *read_checked(
            Path(path), lambda row: list(_comparisons(_Cells(row, Path(path)), names, empty_outputs)), on_error, limit
        )
    )


def read_ratings(
    path: str | os.PathLike[str],
    fields: RatingFields | None = None,
    on_error: OnError = "stop",
    limit: int | None = None,
    empty_outputs: bool = False,
) -> Ratings:
    """Reads and checks the ratings of a file; arguments and errors as in `read_comparisons`."""
    names = fields or RatingFields()

    def parse(row: Row) -> list[Rating]:
        return [_rating(_Cells(row, Path(path)), names, empty_outputs)]

    return Ratings(*read_checked(Path(path), parse, on_error, limit))


class _Cells:
    """The fields of one row, each checked as it is read."""

    def __init__(self, row: Row, path: Path) -> None:
        self.fields, self.path, self.line = row.fields, path, row.line
        self.place = place(path, row.line)

    def where(self, name: str) -> str:
        return place(self.path, self.line, name)

    def needed(self, name: str) -> Any:
        if name not in self.fields:
            raise missing(name, self.fields, self.place)
        return self.fields[name]

    def text(self, name: str, noun: str) -> str:
        return text_of(self.needed(name), self.where(name), noun)

    def name(self, name: str) -> str | None:
        return id_of(self.fields.get(name), self.where(name)) or None

    def number(self, name: str, noun: str, default: float) -> float:
        value = self.fields.get(name)
        blank = value is None or (isinstance(value, str) and not value.strip())
        return default if blank else number_of(value, self.where(name), noun)

    def output(self, value: Any, where: str, may_be_empty: bool) -> str:
        blank = isinstance(value, str) and not value.strip()
        return str(value) if blank and may_be_empty else text_of(value, where, "output")

    def list(self, name: str) -> list[Any]:
        if not isinstance(value := self.needed(name), list):
            what = f"{kind_of_value(value)} where a list is needed"
            raise DataError(what, where=self.where(name), cure="make it a list, or give chosen and rejected")
        return value


def _comparisons(cells: _Cells, fields: ComparisonFields, empty: bool) -> Iterator[Comparison]:
    source = cells.text(fields.source, "source")
    outputs, ranks = _ranked(cells, fields, empty)
    votes = [(cells.number(fields.weight, "weight", 1.0), ranks)]
    if fields.against is not None:
        votes.append((cells.number(fields.against, "weight", 0.0), tuple(-rank for rank in ranks)))
        votes = [vote for vote in votes if vote[0]] or votes
    others: dict[str, Any] = {
        "aspect": cells.name(fields.aspect),
        "annotator": cells.name(fields.annotator),
        "references": tuple(texts_of(cells.fields.get(fields.references), cells.where(fields.references), "reference")),
        "meta": {name: value for name, value in cells.fields.items() if name not in fields.used()},
    }
    for weight, order in votes:
        try:
            yield Comparison(source, outputs, order, weight=weight, **others)
        except DataError as error:
            raise DataError(error.what, where=cells.place, cure=error.cure) from error


def _ranked(cells: _Cells, fields: ComparisonFields, empty: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The outputs of a row and their ranks, in whichever of the two forms it has."""
    pair = [name for name in (fields.chosen, fields.rejected) if name in cells.fields]
    several = [name for name in (fields.outputs, fields.ranks) if name in cells.fields]
    if pair and several:
        what = f"both {pair[0]!r} and {several[0]!r}, which are two forms of one comparison"
        raise DataError(what, where=cells.place, cure="take one out, or map the fields of the form that counts")
    if not several:
        chosen, rejected = (
            cells.output(cells.needed(name), cells.where(name), empty) for name in (fields.chosen, fields.rejected)
        )
        return (chosen, rejected), (1, 2)
    texts, ranks = cells.list(fields.outputs), cells.list(fields.ranks)
    place_of = f"{cells.where(fields.outputs)}, entry"
    return (
        tuple(cells.output(text, f"{place_of} {number}", empty) for number, text in enumerate(texts, 1)),
        tuple(_rank(rank, f"{cells.where(fields.ranks)}, entry {number}") for number, rank in enumerate(ranks, 1)),
    )


def _rank(value: Any, where: str) -> int:
    number = number_of(value, where, "rank")
    if not number.is_integer():
        raise DataError(
            f"{value} where a whole number is needed", where=where, cure="give ranks 1, 2, ...; equal ones are a tie"
        )
    return int(number)


def _rating(cells: _Cells, fields: RatingFields, empty: bool) -> Rating:
    used = set(vars(fields).values())
    return Rating(
        cells.text(fields.source, "source"),
        cells.output(cells.needed(fields.output), cells.where(fields.output), empty),
        number_of(cells.needed(fields.score), cells.where(fields.score), "score"),
        cells.name(fields.aspect),
        cells.name(fields.annotator),
        {name: value for name, value in cells.fields.items() if name not in used},
    )
