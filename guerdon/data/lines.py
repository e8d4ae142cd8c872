"""Lines of text files, plain or gzip, and where a row of a file stands.

Text files are UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import difflib
import gzip
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guerdon.data.files import JSON_LINES
from guerdon.errors import DataError

ROW_KINDS = (*JSON_LINES, ".csv", ".tsv", ".parquet")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Row:
    """One row: its line in the file (1-based; in Parquet the number of the row) and its fields, plain JSON values."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be read: its line, the error to raise for it, and its text as far as it can be shown."""

    line: int
    error: DataError
    text: str


@dataclass(frozen=True)
class Line:
    """One line of a text file, its end included. Where ``problem`` is set, bytes that are no UTF-8 stand as ``\\xff``."""

    number: int
    text: str
    problem: str | None = None


def kind_of(path: Path) -> str:
    """The suffix that tells how a file is read: that before ``.gz``, in lower case."""
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    kind = name.suffix.lower()
    return f"{kind}.gz" if name != path and kind == ".parquet" else kind


def check_file(path: str | os.PathLike[str]) -> Path:
    """The path of an existing file that is not empty.

    Raises:
        DataError: there is none; it suggests the nearest name.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if kind_of(entry) in ROW_KINDS)[:5]
        cure = f"name a file in it, such as {', '.join(inside)}" if inside else "name a file"
        raise DataError("is a folder, not a file", where=str(path), cure=cure)
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 1) if path.parent.is_dir() else []
        cure = f"did you mean {near[0]}?" if near else "check the path"
        raise DataError("no such file", where=str(path), cure=cure)
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=str(path), cure="write it again, or name another")
    return path


def place(path: Path, line: int, field: str | None = None) -> str:
    """Where a row stands, for a message."""
    unit = "row" if kind_of(path) == ".parquet" else "line"
    return f"{path}, {unit} {line}" + (f", field {field!r}" if field is not None else "")


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a text file, plain or gzip.

    Raises:
        DataError: the file cannot be read, or is UTF-16.
    """
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as stream:
            for number, raw in enumerate(stream, 1):
                if number == 1 and raw.startswith(_UTF16_MARKS):
                    raise DataError("the text is UTF-16", where=str(path), cure="save it as UTF-8")
                yield _decoded(number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"cannot be read: {error}", where=str(path)) from error


def _decoded(number: int, raw: bytes) -> Line:
    try:
        text, problem = raw.decode(), None
    except UnicodeDecodeError as error:
        text = raw.decode(errors="backslashreplace")
        problem = f"invalid UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
    nul = raw.find(b"\0")
    if nul >= 0 and problem is None:
        problem = f"NUL byte at byte {nul + 1} of the line"
    return Line(number, text, problem)


def check_columns(names: list[str], where: str) -> list[str]:
    """The names of a file's columns, each of which may stand once."""
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"two columns are named {name!r}", where=where, cure="rename one of them")
    return names
