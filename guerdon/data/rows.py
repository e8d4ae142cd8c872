"""Rows of JSON lines, CSV, TSV and Parquet files, one at a time, each with its line.

A fault of one row (broken JSON, a ragged CSV row, invalid UTF-8) is a `BadRow`, and reading goes on behind it; a fault of
the file (missing, empty, unknown kind, duplicate column names, broken Parquet) is raised.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from guerdon.data.files import JSON_LINES, to_json
from guerdon.data.lines import BadRow, Line, Row, check_columns, check_file, kind_of, place, read_lines
from guerdon.data.tables import csv_rows, tsv_rows
from guerdon.errors import DataError, MissingExtraError


def read_rows(path: str | os.PathLike[str]) -> Iterator[Row]:
    """The rows of a .jsonl, .csv, .tsv (each also .gz) or .parquet file.

    Raises:
        DataError: at the first row, or the file, that cannot be read; it names file, line, field and cure.
        MissingExtraError: a Parquet file without pyarrow.
    """
    for row in scan_rows(path):
        if isinstance(row, BadRow):
            raise row.error
        yield row


def scan_rows(path: str | os.PathLike[str]) -> Iterator[Row | BadRow]:
    """As `read_rows`, but a row that cannot be read is handed over as a `BadRow`.

    Raises:
        DataError: the file as a whole cannot be read, or has no rows.
        MissingExtraError: a Parquet file without pyarrow.
    """
    path = check_file(path)
    kind = kind_of(path)
    if kind not in _READERS:
        raise DataError(
            f"unknown kind of file {kind or '(no suffix)'!r}",
            where=str(path),
            cure=f"known are {', '.join(sorted(_READERS))}, and .gz of the text kinds",
        )
    count = 0
    for count, row in enumerate(_READERS[kind](path), 1):  # noqa: B007 - read after the loop
        yield row
    if not count:
        raise DataError("the file has no rows", where=str(path))


def _json_rows(path: Path) -> Iterator[Row | BadRow]:
    for line in read_lines(path):
        if not line.text.strip():
            continue
        try:
            yield Row(line.number, _json_fields(line, place(path, line.number)))
        except DataError as error:
            yield BadRow(line.number, error, line.text.rstrip("\r\n"))


def _json_fields(line: Line, where: str) -> dict[str, Any]:
    if line.problem:
        raise DataError(line.problem, where=where, cure="save the file as UTF-8 text")
    try:
        value = json.loads(line.text, object_pairs_hook=_fields_once, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        cure = "write one whole JSON object per line"
        raise DataError(f"broken JSON: {error.msg} at character {error.pos + 1}", where=where, cure=cure) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"broken JSON: {error}", where=where) from error
    if not isinstance(value, dict):
        raise DataError(f"{kind_of_value(value)} where a JSON object is needed", where=where, cure='write {"source": ...}')
    if "\\ud" in line.text.lower():  # only an escape can bring half a surrogate pair into decoded UTF-8
        _check_surrogates(value, where)
    return value


def _fields_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return fields


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"{number} is not a finite number")


def _finite(number: str) -> float:
    value = float(number)
    return value if math.isfinite(value) else _refuse(number)


def _check_surrogates(fields: dict[str, Any], where: str) -> None:
    for name, value in fields.items():
        try:
            json.dumps({name: value}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            raise DataError(
                f"field {name!a} holds {half}, half a surrogate pair", where=where, cure="write both halves"
            ) from error


def kind_of_value(value: Any) -> str:
    """What a value of a row is, in words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, int | float):
        return f"a number ({value})"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"


def _parquet_rows(path: Path) -> Iterator[Row | BadRow]:
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", "reading Parquet files") from error
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_columns(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=1024):
                for fields in batch.to_pylist():
                    number += 1
                    yield _parquet_row(number, fields, path)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        what = f"broken Parquet: {error}" if not number else f"broken Parquet behind row {number}: {error}"
        raise DataError(what, where=str(path), cure="write the file again") from error


def _parquet_row(number: int, fields: dict[str, Any], path: Path) -> Row | BadRow:
    try:
        return Row(number, json.loads(to_json(fields)))
    except DataError as error:
        return BadRow(number, DataError(error.what, where=place(path, number), cure=error.cure), repr(fields))


_READERS: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    **dict.fromkeys(JSON_LINES, _json_rows),
    ".csv": csv_rows,
    ".tsv": tsv_rows,
    ".parquet": _parquet_rows,
}
