"""What every kind of record shares: reading a file row by row, stopping at or skipping a bad one, and checking its fields."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from guerdon.data.lines import BadRow, Row
from guerdon.data.rows import kind_of_value, scan_rows
from guerdon.errors import ConfigurationError, DataError

OnError = Literal["stop", "skip"]
_Record = TypeVar("_Record")


@dataclass(frozen=True)
class Skipped:
    """A record that was left out: its line, why, and its text."""

    line: int
    reason: str
    text: str


def read_checked(
    path: Path, parse: Callable[[Row], Sequence[_Record]], on_error: OnError, limit: int | None
) -> tuple[list[_Record], list[Skipped]]:
    """The records of a file in order, and the rows that were left out.

    Args:
        path: the file.
        parse: the records of a row, of which there is mostly one; raises `DataError` for a bad row.
        on_error: "stop" raises at the first bad row; "skip" leaves it out and keeps it.
        limit: reads no further than this many records.

    Raises:
        DataError: a bad row, or, whatever ``on_error`` says, a file that cannot be read or holds no good record.
        ConfigurationError: an unknown ``on_error``, or a limit below 1.
        MissingExtraError: a Parquet file without pyarrow.
    """
    if on_error not in ("stop", "skip"):
        raise ConfigurationError(f"unknown value {on_error!r}", where="on_error", cure="choose stop or skip")
    check_limit(limit)
    records, skipped = list[_Record](), list[Skipped]()
    for row in scan_rows(path):
        try:
            if isinstance(row, BadRow):
                raise row.error
            records.extend(parse(row))
        except DataError as error:
            if on_error == "stop":
                raise
            skipped.append(Skipped(row.line, str(error), _shown(row)))
        if limit is not None and len(records) >= limit:
            break
    if not records:
        what = f"none of the {len(skipped)} records can be used; the first: {skipped[0].reason}"
        raise DataError(what, where=str(path), cure="correct the file or the names of the fields")
    return records[:limit], skipped


def _shown(row: Row | BadRow) -> str:
    return row.text if isinstance(row, BadRow) else json.dumps(row.fields, ensure_ascii=False)


def check_limit(limit: int | None) -> None:
    """Refuses, as a `ConfigurationError`, a limit below 1."""
    if limit is not None and limit < 1:
        raise ConfigurationError(f"{limit} is below 1", where="limit", cure="leave it out to read everything")


def missing(name: str, fields: Mapping[str, Any], where: str) -> DataError:
    """What is said of a row that lacks the field ``name``."""
    near = difflib.get_close_matches(name, fields, 1)
    there = ", ".join(repr(other) for other in list(fields)[:12]) + (", ..." if len(fields) > 12 else "")
    cure = f"did you mean {near[0]!r}? Map it in the fields" if near else "map the fields to these names"
    return DataError(f"no field {name!r}; it has {there or 'no fields'}", where=where, cure=cure)


def text_of(value: Any, where: str, noun: str) -> str:
    """A text that is one: a string with something in it and no NUL."""
    if not isinstance(value, str):
        raise DataError(f"{kind_of_value(value)} where a text is needed", where=where, cure="make it a text")
    if not value.strip():
        raise DataError(f"the {noun} is {'blank' if value else 'empty'}", where=where, cure="fill it in or take the record out")
    if "\0" in value:
        raise DataError(f"a NUL character at character {value.index(chr(0)) + 1}", where=where, cure="take it out")
    return value


def id_of(value: Any, where: str) -> str | None:
    """A name: a text, or a whole number as one; None where there is none."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{kind_of_value(value)} where an id is needed", where=where, cure="make it a text or a whole number")


def texts_of(value: Any, where: str, noun: str) -> list[str]:
    """The texts of a field that holds one or a list; none where it is null, blank or an empty list."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, list):
        return [text_of(entry, f"{where}, entry {number}", noun) for number, entry in enumerate(value, 1)]
    return [text_of(value, where, noun)]


def number_of(value: Any, where: str, noun: str) -> float:
    """A finite number; tables hold numbers as texts."""
    shown, cure = kind_of_value(value), f"give the {noun} as a number"
    if isinstance(value, str):
        try:
            value, shown = float(value), repr(value[:40])
        except ValueError as error:
            raise DataError(f"{value[:40]!r} where a number is needed", where=where, cure=cure) from error
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{shown} where a finite number is needed", where=where, cure=cure)
    return float(value)
