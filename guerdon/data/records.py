"""Records: what a model is trained and measured on, read from files and checked one by one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guerdon.data.fields import OnError, Skipped, check_limit, id_of, missing, read_checked, text_of, texts_of
from guerdon.data.lines import Row, check_file, kind_of, place, read_lines
from guerdon.data.rows import read_rows
from guerdon.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class Example:
    """One source with its gold texts.

    Attributes:
        source: what goes into the model; never empty.
        references: the gold texts, in the order of the file, repeats kept; empty where the record has none.
        id: the record's own name.
        meta: every other field of the record.
    """

    source: str
    references: tuple[str, ...] = ()
    id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class FieldMap:
    """The names that the fields of an `Example` have in a file.

    Attributes:
        source: the field of the source.
        references: the field of the references, which holds a text or a list of texts; or several fields, whose texts are
            joined in this order and of which some may be empty.
        id: the field of the id, a text or a whole number; a record without it has none.
    """

    source: str = "source"
    references: str | tuple[str, ...] = "references"
    id: str = "id"

    def __post_init__(self) -> None:
        if not self.source or not self.reference_fields or not all(self.reference_fields):
            raise ConfigurationError("a field has an empty name", where="fields", cure="name a field of the file")

    @property
    def reference_fields(self) -> tuple[str, ...]:
        """The fields of the references, one or several."""
        return (self.references,) if isinstance(self.references, str) else tuple(self.references)


@dataclass(frozen=True)
class Records:
    """What a file holds: its examples in order, and the records that were left out."""

    examples: list[Example]
    skipped: list[Skipped]


def read_examples(
    path: str | os.PathLike[str],
    fields: FieldMap | None = None,
    on_error: OnError = "stop",
    needs_references: bool = False,
    limit: int | None = None,
) -> Records:
    """Reads and checks the examples of a .jsonl, .csv, .tsv (each also .gz) or .parquet file.

    Args:
        path: the file.
        fields: how the file names its fields; by default as `Example` does.
        on_error: "stop" raises at the first bad record; "skip" leaves it out and keeps it in ``skipped``.
        needs_references: True where a record without references is a bad one. Otherwise a field that is absent, null,
            blank or an empty list means that there are none.
        limit: reads no further than this many examples.

    Raises:
        DataError: a bad record, or, whatever ``on_error`` says, a file that cannot be read or holds no good record.
        ConfigurationError: an unknown ``on_error``, or a limit below 1.
        MissingExtraError: a Parquet file without pyarrow.
    """
    names = fields or FieldMap()

    def parse(row: Row) -> list[Example]:
        return [_example(row, names, needs_references, Path(path))]

    return Records(*read_checked(Path(path), parse, on_error, limit))


def _example(row: Row, fields: FieldMap, needs_references: bool, path: Path) -> Example:
    def where(name: str) -> str:
        return place(path, row.line, name)

    if fields.source not in row.fields:
        raise missing(fields.source, row.fields, place(path, row.line))
    source = text_of(row.fields[fields.source], where(fields.source), "source")
    references = tuple(_references(row, fields, needs_references, path))
    used = {fields.source, fields.id, *fields.reference_fields}
    meta = {name: value for name, value in row.fields.items() if name not in used}
    return Example(source, references, id_of(row.fields.get(fields.id), where(fields.id)), meta)


def _references(row: Row, fields: FieldMap, needed: bool, path: Path) -> Iterator[str]:
    found = False
    for name in fields.reference_fields:
        if name not in row.fields and needed:
            raise missing(name, row.fields, place(path, row.line))
        for text in texts_of(row.fields.get(name), place(path, row.line, name), "reference"):
            found = True
            yield text
    if needed and not found:
        names = " and ".join(repr(name) for name in fields.reference_fields)
        cure = "give the record a reference or take it out"
        raise DataError(f"there are no references in {names}", where=place(path, row.line), cure=cure)


def read_texts(path: str | os.PathLike[str], field: str = "text", limit: int | None = None) -> list[str]:
    """Raw texts, for denoising and for training a tokenizer.

    Args:
        path: a .txt file (also .gz) with one text a line, blank lines left out; or a file as `read_examples` reads.
        field: the field of a record that holds a text or a list of texts; a blank one is left out.
        limit: reads no further than this many texts.

    Raises:
        DataError: a line or record that cannot be used, or no text in the whole file.
        ConfigurationError: a limit below 1.
        MissingExtraError: a Parquet file without pyarrow.
    """
    check_limit(limit)
    path = Path(path)
    read: Callable[[Path, str], Iterator[str]] = _plain_texts if kind_of(path) == ".txt" else _field_texts
    texts = list[str]()
    for text in read(check_file(path), field):
        texts.append(text)
        if len(texts) == limit:
            break
    if not texts:
        raise DataError("the file has no texts", where=str(path))
    return texts


def _plain_texts(path: Path, field: str) -> Iterator[str]:
    for line in read_lines(path):
        if line.problem:
            raise DataError(line.problem, where=place(path, line.number), cure="save the file as UTF-8 text")
        if line.text.strip():
            yield line.text.rstrip("\r\n")


def _field_texts(path: Path, field: str) -> Iterator[str]:
    for row in read_rows(path):
        if field not in row.fields:
            raise missing(field, row.fields, place(path, row.line))
        yield from texts_of(row.fields[field], place(path, row.line, field), "text")
