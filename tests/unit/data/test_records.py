"""Records: what a good file gives, and one clear line for every bad one."""

import contextlib
import csv
import gzip
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from guerdon.data import Example, FieldMap, Skipped, read_examples, read_texts
from guerdon.errors import ConfigurationError, DataError

Write = Callable[[str, str | bytes], Path]
GOOD = '{"source": "a", "references": ["b"]}\n'


def table(separator: str) -> str:
    return f"id{separator}source{separator}references{separator}area\n1{separator}name[Ä]{separator}A pub.{separator}\n"


def test_jsonl(write: Write) -> None:
    rows = [
        {"id": 7, "source": " a b ", "references": ["x", "x", "y"], "area": {"deep": [1, None]}},
        {"source": "日本語 👍", "references": "one"},
    ]
    path = write("a.jsonl", "\n\n".join(json.dumps(row) for row in rows) + "\n \n")
    assert read_examples(path).examples == [
        Example(" a b ", ("x", "x", "y"), "7", {"area": {"deep": [1, None]}}),
        Example("日本語 👍", ("one",)),
    ]


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t"), ("A.CSV", ",")])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_tables(write: Write, name: str, separator: str, mark: bytes, compressed: bool, line_end: str) -> None:
    content = mark + table(separator).replace("\n", line_end).encode()
    path = write(f"{name}.gz", gzip.compress(content)) if compressed else write(name, content)
    assert read_examples(path).examples == [Example("name[Ä]", ("A pub.",), "1", {"area": ""})]


def test_csv_of_the_standard_library(write: Write, tmp_path: Path) -> None:
    """Separators, quotation marks and line ends inside of fields, and the line at which each row starts."""
    texts = ["a,b", 'say "go"', "two\nlines", "\r\n", "日本", "x" * 300_000]
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["source", "kept"])
        writer.writerows([f"s{text}", text] for text in texts)
    before = csv.field_size_limit(1000)
    examples = read_examples(tmp_path / "a.csv").examples
    assert [example.meta["kept"] for example in examples] == texts
    assert csv.field_size_limit(before) == 1000


def test_tsv_takes_quotation_marks_as_they_stand(write: Write) -> None:
    path = write("a.tsv", 'source\treferences\n"open\tclosed"\n5" disk\t""\n')
    assert [(e.source, e.references) for e in read_examples(path).examples] == [('"open', ('closed"',)), ('5" disk', ('""',))]


def test_parquet(tmp_path: Path) -> None:
    rows = {
        "source": ["a", "b"],
        "references": [["x", "y"], []],
        "when": pyarrow.array([0, 86_400_000], pyarrow.timestamp("ms")),
        "id": [3, None],
    }
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    assert read_examples(tmp_path / "a.parquet").examples == [
        Example("a", ("x", "y"), "3", {"when": "1970-01-01T00:00:00"}),
        Example("b", (), None, {"when": "1970-01-02T00:00:00"}),
    ]


def test_the_same_records_from_every_kind(write: Write, tmp_path: Path) -> None:
    rows = [{"source": f"s{i}", "references": f"r{i}", "id": str(i), "area": "x"} for i in range(3000)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    write("a.csv", "".join(",".join(line) + "\n" for line in lines))
    write("a.tsv", "".join("\t".join(line) + "\n" for line in lines))
    read = [read_examples(tmp_path / f"a.{kind}").examples for kind in ("jsonl", "csv", "tsv", "parquet")]
    assert read[0] == [Example(row["source"], (row["references"],), row["id"], {"area": "x"}) for row in rows]
    assert read[1:] == read[:1] * 3


def test_fields_are_mapped(write: Write) -> None:
    path = write("a.csv", "mr,ref1,ref2,key\nx,one,,k\ny,,two,\n")
    fields = FieldMap(source="mr", references=("ref2", "ref1"), id="key")
    assert read_examples(path, fields, needs_references=True).examples == [
        Example("x", ("one",), "k"),
        Example("y", ("two",), ""),
    ]
    path = write("b.jsonl", '{"source": "x", "a": ["1", "2"], "b": "3", "references": "kept"}')
    assert read_examples(path, FieldMap(references=("a", "b"))).examples == [
        Example("x", ("1", "2", "3"), None, {"references": "kept"})
    ]


@pytest.mark.parametrize("fields", [{"source": ""}, {"references": ()}, {"references": ""}, {"references": ("a", "")}])
def test_empty_names_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="empty name"):
        FieldMap(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "absent", ["", ', "references": null', ', "references": []', ', "references": ""', ', "references": " "']
)
def test_references_are_optional_where_nothing_needs_them(write: Write, absent: str) -> None:
    path = write("a.jsonl", f'{{"source": "x"{absent}}}\n')
    assert read_examples(path).examples == [Example("x")]
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: .*references"):
        read_examples(path, needs_references=True)


def test_limit_reads_no_further(write: Write) -> None:
    path = write("a.jsonl", GOOD * 3 + "broken\n")
    assert len(read_examples(path, limit=3).examples) == 3
    with pytest.raises(ConfigurationError, match="limit"):
        read_examples(path, limit=0)


def test_a_source_of_100000_words_is_a_record(write: Write) -> None:
    text = " ".join(f"word{i}" for i in range(100_000))
    assert read_examples(write("a.jsonl", json.dumps({"source": text}))).examples[0].source == text
    assert read_examples(write("a.csv", f"source\n{text}\n")).examples[0].source == text


def test_examples_can_be_pickled_and_hashed() -> None:
    example = Example("a", ("b",), "1", {"x": [1]})
    assert pickle.loads(pickle.dumps(example)) == example
    assert len({example, Example("a", ("b",), "1", {"x": [1]})}) == 1
    assert example != Example("a", ("b",), "1", {"x": [2]})


# (name, content, what the message must say); every message is one line that begins with the file.
BAD_LINES = [
    ("a.jsonl", GOOD * 6 + '{"source": "a"\n' + GOOD, ["line 7", "broken JSON", "character"]),
    ("a.jsonl", GOOD + "[1]\n", ["line 2", "a list where a JSON object is needed"]),
    ("a.jsonl", '"text"\n' + GOOD, ["line 1", "a text where a JSON object"]),
    (
        "a.jsonl",
        GOOD + '{"sorce": "a", "ref": "b"}\n',
        ["line 2", "no field 'source'; it has 'sorce', 'ref'; did you mean 'sorce'"],
    ),
    ("a.jsonl", GOOD + "{}\n", ["line 2", "no field 'source'", "no fields"]),
    ("a.jsonl", GOOD + '{"source": 12, "references": "b"}\n', ["line 2", "field 'source'", "a number (12) where a text"]),
    ("a.jsonl", GOOD + '{"source": true, "references": "b"}\n', ["line 2", "a truth value where a text"]),
    ("a.jsonl", GOOD + '{"source": null, "references": "b"}\n', ["line 2", "field 'source'", "null where a text"]),
    ("a.jsonl", GOOD + '{"source": ["a"], "references": "b"}\n', ["line 2", "a list where a text"]),
    ("a.jsonl", GOOD + '{"source": "", "references": "b"}\n', ["line 2", "field 'source'", "source is empty"]),
    ("a.jsonl", GOOD + '{"source": " \\t\\u3000", "references": "b"}\n', ["line 2", "field 'source'", "source is blank"]),
    ("a.jsonl", GOOD + '{"source": "a", "references": [""]}\n', ["line 2", "'references', entry 1", "reference is empty"]),
    ("a.jsonl", GOOD + '{"source": "a", "references": ["b", 3]}\n', ["line 2", "entry 2", "a number (3)"]),
    ("a.jsonl", GOOD + '{"source": "a", "references": {"x": 1}}\n', ["line 2", "'references'", "an object where a text"]),
    ("a.jsonl", GOOD + '{"source": "a", "references": []}\n', ["line 2", "no references in 'references'", "take it out"]),
    ("a.jsonl", GOOD + '{"source": "a", "reference": "b"}\n', ["line 2", "'references'", "did you mean 'reference'"]),
    ("a.jsonl", GOOD + '{"source": "a", "references": "b", "id": [1]}\n', ["line 2", "field 'id'", "a list where an id"]),
    ("a.jsonl", GOOD + '{"source": "a\0b", "references": "b"}\n', ["line 2", "NUL byte at byte 14"]),
    (
        "a.jsonl",
        GOOD + '{"source": "a\\u0000b", "references": "b"}\n',
        ["line 2", "'source'", "NUL character at character 2"],
    ),
    ("a.jsonl", GOOD.encode() + b'{"source": "caf\xe9"}\n', ["line 2", "invalid UTF-8", "0xe9 at byte 16", "UTF-8"]),
    ("a.jsonl", GOOD + '{"source": "\\ud83d", "references": "b"}\n', ["line 2", "'source'", "\\ud83d, half a surrogate pair"]),
    (
        "a.jsonl",
        GOOD + '{"source": "a", "references": "b", "x": ["\\uDE00"]}\n',
        ["line 2", "'x'", "half a surrogate pair"],
    ),
    ("a.jsonl", GOOD + '{"source": "a", "source": "b", "references": "b"}\n', ["line 2", "'source' stands twice"]),
    ("a.jsonl", GOOD + '{"source": "a", "references": "b", "x": NaN}\n', ["line 2", "NaN is not a finite number"]),
    ("a.jsonl", GOOD + '{"source": "a", "references": "b", "x": 1e999}\n', ["line 2", "1e999 is not a finite number"]),
    ("a.jsonl", GOOD + "[" * 100_000 + "\n", ["line 2", "broken JSON"]),
    ("a.csv", "source,references\na,b\na,b,c\n", ["line 3", "3 fields where the header has 2", "quote"]),
    ("a.csv", "source,references\na,b\na\n", ["line 3", "1 fields where the header has 2"]),
    ("a.csv", 'source,references\n"a\n1",b\n"c"d,e\n', ["line 4", "expected after"]),
    ("a.csv", "source,references\n,b\na,b\n", ["line 2", "field 'source'", "empty"]),
    ("a.csv", b'source,references\na,b\n"two\nlines \xff",b\n', ["line 3", "invalid UTF-8", "0xff at byte 7"]),
    ("a.csv", "source,references\na,b\nx\0,b\n", ["line 3", "NUL byte at byte 2"]),
    ("a.tsv", "source\treferences\na\tb\na\n", ["line 3", "1 fields where the header has 2"]),
    ("a.tsv", "source\treferences\na\tb\na\rc\tb\n", ["line 3", "new-line character"]),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD_LINES, ids=lambda value: str(value)[-40:])
def test_a_bad_record_stops_or_is_skipped(write: Write, name: str, content: str | bytes, said: list[str]) -> None:
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read_examples(path, needs_references=True)
    message = str(caught.value)
    assert message.startswith(f"{path}, line ")
    assert "\n" not in message
    assert len(message) < 400
    assert [part for part in said if part not in message] == []
    assert caught.value.exit_code == 2

    records = read_examples(path, needs_references=True, on_error="skip")
    assert [(skipped.line, skipped.reason) for skipped in records.skipped] == [(int(said[0].split()[1]), message)]
    assert records.examples
    json.dumps([skipped.text for skipped in records.skipped]).encode()


BAD_FILES = [
    ("a.jsonl", "", ["the file is empty"]),
    ("a.jsonl", "\n \n\n", ["no rows"]),
    ("a.csv", "source,references\n", ["no rows"]),
    ("a.jsonl.gz", gzip.compress(b""), ["no rows"]),
    ("a.jsonl.gz", gzip.compress(GOOD.encode() * 1000)[:-20], ["cannot be read"]),
    ("a.jsonl.gz", GOOD, ["cannot be read", "gzip"]),
    ("a.csv", "source,references,source\na,b,c\n", ["line 1", "two columns are named 'source'", "rename"]),
    ("a.csv", 'source,references\na,b\n"open,b\nc,d\n', ["line 3", "a quotation mark opens here and never closes"]),
    ("a.csv", b"sour\xffce,references\na,b\n", ["line 1", "invalid UTF-8"]),
    ("a.jsonl", GOOD.encode("utf-16"), ["UTF-16", "save it as UTF-8"]),
    ("a.json", GOOD, ["unknown kind of file '.json'", ".jsonl", ".parquet"]),
    ("a", GOOD, ["(no suffix)"]),
    ("a.parquet.gz", GOOD, ["unknown kind of file '.parquet.gz'"]),
    ("a.parquet", b"PAR1 is not all of it", ["broken Parquet"]),
    ("a.csv", "mr,ref\na,b\nc,d\n", ["none of the 2 records", "no field 'source'", "'mr', 'ref'"]),
]


@pytest.mark.parametrize(("name", "content", "said"), BAD_FILES, ids=lambda value: str(value)[-40:])
def test_a_bad_file_always_stops(write: Write, name: str, content: str | bytes, said: list[str]) -> None:
    path = write(name, content)
    with pytest.raises(DataError) as caught:
        read_examples(path, on_error="skip")
    assert str(caught.value).startswith(str(path))
    assert [part for part in said if part not in str(caught.value)] == []
    if "none of" not in said[0]:
        with pytest.raises(DataError) as stopped:
            read_examples(path, on_error="stop")
        assert str(stopped.value) == str(caught.value)


def test_a_missing_file_names_its_neighbour(write: Write, tmp_path: Path) -> None:
    write("train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"trian\.jsonl: no such file; did you mean train\.jsonl\?"):
        read_examples(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match="no such file; check the path"):
        read_examples(tmp_path / "nowhere" / "a.jsonl")
    with pytest.raises(DataError, match=r"is a folder, not a file; name a file in it, such as train\.jsonl"):
        read_examples(tmp_path)


def parquet(path: Path, data: dict[str, list[object]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(data), path)
    return path


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"source": ["a", None]}, ["row 2", "field 'source'", "null"]),
        ({"source": ["a", "b"], "score": [1.0, float("nan")]}, ["row 2", "'score'", "cannot be JSON"]),
        ({"source": ["a", "b"], "image": [None, b"\x00"]}, ["row 2", "'image'", "bytes"]),
    ],
)
def test_bad_parquet_rows(tmp_path: Path, data: dict[str, list[object]], said: list[str]) -> None:
    path = parquet(tmp_path / "a.parquet", data)
    with pytest.raises(DataError) as caught:
        read_examples(path)
    assert [part for part in said if part not in str(caught.value)] == []
    assert [skipped.line for skipped in read_examples(path, on_error="skip").skipped] == [2]


def test_parquet_columns_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.parquet, row 1, field 'source': a number \(1\) where a text is needed"):
        read_examples(parquet(tmp_path / "a.parquet", {"source": [1, 2]}))


def test_parquet_with_the_same_column_twice(tmp_path: Path) -> None:
    twice = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["source", "source"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="two columns are named 'source'"):
        read_examples(tmp_path / "a.parquet", on_error="skip")


def test_skipped_records_keep_line_reason_and_text(write: Write) -> None:
    content = GOOD + "broken\r\n" + GOOD + '{"source": "", "x": "ä"}\n' + "\n" + '{"source": "b\0"}\n'
    records = read_examples(write("a.jsonl", content), on_error="skip")
    assert [example.source for example in records.examples] == ["a", "a"]
    assert [(skipped.line, skipped.text) for skipped in records.skipped] == [
        (2, "broken"),
        (4, '{"source": "", "x": "ä"}'),
        (6, '{"source": "b\0"}'),
    ]
    assert isinstance(records.skipped[0], Skipped)


def test_on_error_has_two_values(write: Write) -> None:
    with pytest.raises(ConfigurationError, match="on_error: unknown value 'ignore'; choose stop or skip"):
        read_examples(write("a.jsonl", GOOD), on_error="ignore")  # type: ignore[arg-type]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(content=st.binary(max_size=200), name=st.sampled_from(["a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.csv.gz"]))
def test_no_file_does_worse_than_a_data_error(write: Write, content: bytes, name: str) -> None:
    with contextlib.suppress(DataError):
        read_examples(write(name, content))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_every_text_comes_through_jsonl_and_csv(tmp_path: Path, rows: list[tuple[str, list[str]]]) -> None:
    lines = [json.dumps({"source": s, "references": r}, ensure_ascii=len(s) % 2 == 0) for s, r in rows]
    (tmp_path / "a.jsonl").write_bytes("\n".join(lines).encode())
    assert [(e.source, list(e.references)) for e in read_examples(tmp_path / "a.jsonl").examples] == rows
    with open(tmp_path / "a.csv", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("source", "references"), *((s, r[0]) for s, r in rows)])
    assert [(e.source, e.references[0]) for e in read_examples(tmp_path / "a.csv").examples] == [(s, r[0]) for s, r in rows]


def test_texts_of_every_kind(write: Write) -> None:
    assert read_texts(write("a.txt", "\ufeff one \n\n \r\ntwo\u2028still two\r\n")) == [" one ", "two\u2028still two"]
    assert read_texts(write("a.txt.gz", gzip.compress(b"one\ntwo"))) == ["one", "two"]
    path = write("a.jsonl", '{"text": "one"}\n{"text": ["two", "three"]}\n{"text": null}\n{"text": ""}\n')
    assert read_texts(path) == ["one", "two", "three"]
    assert read_texts(path, limit=2) == ["one", "two"]
    assert read_texts(write("a.csv", "line,body\n1,x\n"), field="body") == ["x"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"ok\n\xff", r"a\.txt, line 2: invalid UTF-8: byte 0xff at byte 1"),
        ("a.txt", "\n \n", "no texts"),
        ("a.txt", "", "empty"),
        ("a.jsonl", '{"txt": "a"}', r"line 1: no field 'text'; it has 'txt'; did you mean 'txt'\?"),
        ("a.jsonl", '{"text": "a"}\n{"text": 3}', "line 2, field 'text': a number"),
        ("a.jsonl", '{"text": "a"}\n{', "line 2: broken JSON"),
        ("a.jsonl", '{"text": ""}', "no texts"),
        ("a.pdf", "x", "unknown kind"),
    ],
)
def test_bad_texts(write: Write, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_texts(write(name, content))


def test_missing_texts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_texts(tmp_path / "a.txt")
    with pytest.raises(ConfigurationError, match="limit"):
        read_texts(tmp_path / "a.txt", limit=0)


@pytest.mark.parametrize(("file", "examples", "references"), [("train", 4862, 42061), ("dev", 547, 4672), ("test", 630, 4693)])
def test_e2e_has_its_published_counts(data_folder: Path, file: str, examples: int, references: int) -> None:
    records = read_examples(data_folder / "e2e" / f"{file}.jsonl", needs_references=True)
    assert (len(records.examples), sum(len(e.references) for e in records.examples)) == (examples, references)
    assert records.skipped == []
    assert records.examples[0].id == f"e2e-{file}-0"


def test_multi30k_turned_round(data_folder: Path) -> None:
    fields = FieldMap(source="reference", references="source")
    examples = read_examples(data_folder / "multi30k" / "val.jsonl", fields, needs_references=True).examples
    row = json.loads((data_folder / "multi30k" / "val.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert len(examples) == 1014
    assert (examples[0].source, examples[0].references, examples[0].meta["fr"]) == (
        row["reference"],
        (row["source"],),
        row["fr"],
    )


def test_raw_texts(data_folder: Path) -> None:
    assert len(read_texts(data_folder / "rawtext_en" / "valid.jsonl")) == 860
    assert len(read_texts(data_folder / "e2e" / "dev.jsonl", field="references")) == 4672
