"""Rows of CSV and TSV files.

CSV is RFC 4180 with a header. TSV is text/tab-separated-values of IANA: a header, and no quoting, so that a quotation mark
is a character like any other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from guerdon.data.lines import BadRow, Line, Row, check_columns, kind_of, place, read_lines
from guerdon.errors import DataError


class _Feed(Iterator[str]):
    """Hands lines to the csv module, and keeps those of the row at hand."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self.lines, self.row = lines, list[Line]()

    def __next__(self) -> str:
        line = next(self.lines)
        self.row.append(line)
        return line.text


def csv_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a CSV file."""
    feed = _Feed(read_lines(path))
    return _table_rows(path, feed, csv.reader(feed, strict=True))


def tsv_rows(path: Path) -> Iterator[Row | BadRow]:
    """The rows of a TSV file."""
    feed = _Feed(read_lines(path))
    return _table_rows(path, feed, csv.reader(feed, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None, strict=True))


def _table_rows(path: Path, feed: _Feed, reader: Iterator[list[str]]) -> Iterator[Row | BadRow]:
    names: list[str] | None = None
    while True:
        feed.row.clear()
        try:
            cells = _next_cells(reader)
        except csv.Error as error:
            cells, fault = [], str(error).split(" - ")[0]
            if fault == "unexpected end of data":  # the open quotation mark has swallowed the rest of the file
                fault, names = "a quotation mark opens here and never closes", None
        else:
            fault = ""
        if cells is None:
            return
        fault = next((line.problem for line in feed.row if line.problem), fault)
        if not fault and not cells:
            continue
        line = feed.row[0].number
        if names is None:
            if fault:
                raise DataError(fault, where=place(path, line), cure="correct the file")
            names = check_columns(cells, place(path, line))
            continue
        if not fault and len(cells) != len(names):
            fault = f"{len(cells)} fields where the header has {len(names)}"
        yield _table_row(names, cells, line, path, fault, feed.row)


def _table_row(names: list[str], cells: list[str], line: int, path: Path, fault: str, raw: list[Line]) -> Row | BadRow:
    if not fault:
        return Row(line, dict(zip(names, cells, strict=True)))
    cure = "quote a field that holds the separator, a quotation mark or a line end" if kind_of(path) == ".csv" else None
    return BadRow(line, DataError(fault, where=place(path, line), cure=cure), "".join(part.text for part in raw).rstrip("\r\n"))


def _next_cells(reader: Iterator[list[str]]) -> list[str] | None:
    """The next row. The csv module's limit on the size of a field is one for the process: lifted here, put back after."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        return next(reader, None)
    finally:
        csv.field_size_limit(limit)
