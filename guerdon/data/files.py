"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from guerdon.errors import ConfigurationError, DataError, GuerdonError, InputError

JSON_LINES = (".jsonl", ".jsonlines", ".ndjson")
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp", re.DOTALL)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: str | os.PathLike[str], chunks: Iterable[bytes]) -> None:
    """Writes ``chunks`` to a temporary file beside ``path``, syncs it and renames it to ``path``.

    Whatever goes wrong (an error of ``chunks`` included), ``path`` stays as it was and no temporary file is left.

    Raises:
        InputError: the folder does not exist, or may not be written, or ``path`` is a folder.
        GuerdonError: the disk is full, or failed.
    """
    path = Path(path).resolve()
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")
    if path.is_dir():
        raise InputError("is a folder, not a file", where=str(path), cure="name the file to write")
    with reported(path):
        stream = open(temporary, "xb")  # noqa: SIM115 - `_fill` closes it
    try:
        _fill(stream, chunks, path)
        with reported(path):
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporaries(folder: Path) -> None:
    """Removes what a `write_atomically` that was killed has left anywhere in a folder, where nobody else is writing.

    Raises:
        InputError, GuerdonError: as `write_atomically`.
    """
    for left in folder.rglob(".*.tmp"):
        if _TEMPORARY.fullmatch(left.name):
            with reported(left):
                left.unlink()


def _fill(stream: BinaryIO, chunks: Iterable[bytes], path: Path) -> None:
    try:
        for chunk in chunks:
            with reported(path):
                stream.write(chunk)
        with reported(path):
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        with reported(path):
            stream.close()


@contextmanager
def reported(path: Path) -> Iterator[None]:
    """Turns an `OSError` of writing ``path`` into one clear line: InputError where the path is at fault, else GuerdonError."""
    try:
        yield
    except OSError as error:
        what = f"cannot be written: {error.strerror}"
        if error.errno in _FULL:
            raise GuerdonError(
                what, where=str(path), cure="free some space and start again; nothing was left behind"
            ) from error
        if isinstance(error, FileNotFoundError | NotADirectoryError | FileExistsError | PermissionError):
            raise InputError(what, where=str(path), cure=f"check that {path.parent} is a folder and yours") from error
        raise GuerdonError(what, where=str(path), cure="mend that, or write to another place") from error


def _sync_folder(folder: Path) -> None:
    """The rename itself lasts only when the folder is synced; not every system can (Windows opens no folders)."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def to_json(fields: Mapping[str, Any]) -> str:
    """One line of strict JSON; dates become ISO 8601, decimals and UUIDs text.

    Raises:
        DataError: a value is nan, inf, half a surrogate pair, or of a type that JSON does not have; it names the field.
    """
    try:
        return _json(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"field {_culprit(fields)} cannot be JSON: {error}", cure="drop or convert it") from error


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_simple)
    text.encode()
    return text


def _simple(value: Any) -> str:
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    raise TypeError(f"it holds a value of type {type(value).__name__}")


def _culprit(fields: Mapping[str, Any]) -> str:
    for name, value in fields.items():
        try:
            _json({name: value})
        except (TypeError, ValueError, RecursionError):
            return repr(name)
    return "of the row"


def write_jsonl(path: str | os.PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Writes one JSON object a line, atomically (see `write_atomically`), and returns how many.

    Raises:
        ConfigurationError: the name does not end as JSON lines do.
        DataError: a row cannot be JSON; it names the row and the field.
    """
    if Path(path).suffix.lower() not in JSON_LINES:
        raise ConfigurationError("only JSON lines are written here", where=str(path), cure="let the file's name end in .jsonl")
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for row in rows:
            count += 1
            try:
                yield to_json(row).encode() + b"\n"
            except DataError as error:
                raise DataError(error.what, where=f"row {count} for {path}", cure=error.cure) from error

    write_atomically(path, lines())
    return count
