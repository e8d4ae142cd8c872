import datetime
import decimal
import json
import os
import stat
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data import write_jsonl
from guerdon.data.files import remove_temporaries, to_json, write_atomically
from guerdon.errors import ConfigurationError, DataError, InputError

ROOT = Path(__file__).parents[3]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_every_json_object_is_one_line_that_comes_back(fields: dict[str, Any]) -> None:
    line = to_json(fields)
    assert json.loads(line.encode()) == fields
    assert "\n" not in line


def test_dates_decimals_and_uuids_become_text() -> None:
    values = [datetime.date(2020, 2, 29), datetime.datetime(2020, 1, 2, 3), datetime.time(4, 5), decimal.Decimal("1.10")]
    fields = {"values": [*values, uuid.UUID(int=1)]}
    expected = ["2020-02-29", "2020-01-02T03:00:00", "04:05:00", "1.10", "00000000-0000-0000-0000-000000000001"]
    assert json.loads(to_json(fields)) == {"values": expected}


@pytest.mark.parametrize("value", [float("nan"), [1, -float("inf")], {"x": "\ud800"}, b"bytes", {1, 2}, object()])
def test_what_cannot_be_json_is_named(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with pytest.raises(DataError, match=r"row 2 for .*out\.jsonl: field 'bad' cannot be JSON") as caught:
        write_jsonl(path, [{"good": 1}, {"good": 1, "bad": value}])
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_value_that_holds_itself_is_named() -> None:
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(DataError, match="field 'loop'"):
        to_json({"loop": loop})


def test_rows_are_counted_and_written(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "a.jsonl", ({"n": n, "ä": "日本"} for n in range(3))) == 3
    assert (tmp_path / "a.jsonl").read_text(encoding="utf-8") == "".join(f'{{"n": {n}, "ä": "日本"}}\n' for n in range(3))
    assert write_jsonl(tmp_path / "a.jsonl", []) == 0
    assert (tmp_path / "a.jsonl").read_bytes() == b""
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("old")

    def rows() -> Iterator[dict[str, int]]:
        yield {"n": 1}
        assert path.read_text() == "old"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(path, rows())
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_link_is_followed_and_the_usual_rights_given(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    write_jsonl(tmp_path / "link.jsonl", [{"n": 1}])
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_text() == '{"n": 1}\n'
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE((tmp_path / "real.jsonl").stat().st_mode) == 0o666 & ~mask


def test_names_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "nowhere" / "a.jsonl", tmp_path / "file" / "a.jsonl"):
        with pytest.raises(InputError, match=r"a\.jsonl: cannot be written: .*; check that .* is a folder"):
            write_jsonl(path, [])
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        write_jsonl(tmp_path / "folder.jsonl", [])
    for name in ("a.csv", "a.jsonl.gz", "a"):
        with pytest.raises(ConfigurationError, match="only JSON lines"):
            write_jsonl(tmp_path / name, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.jsonl"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize("rows", [2, 100_000])
def test_a_full_disk_is_one_clear_line(tmp_path: Path, rows: int) -> None:
    """A process may here write 40 bytes a file: the system then refuses at the flush, or in the middle of the rows."""
    (tmp_path / "a.jsonl").write_text("old")
    code = f"""
        import resource
        from guerdon.data.files import write_jsonl
        from guerdon.errors import GuerdonError, InputError
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, 40))
        try:
            write_jsonl("a.jsonl", ({{"number": n, "text": "x" * 20}} for n in range({rows})))
        except GuerdonError as error:
            print(error, error.exit_code)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith("free some space and start again; nothing was left behind 1")
    assert done.stdout.startswith(f"{tmp_path.resolve() / 'a.jsonl'}: cannot be written: ")
    assert done.stdout.count("\n") == 1
    assert (tmp_path / "a.jsonl").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_bytes_are_written_as_they_are(tmp_path: Path) -> None:
    write_atomically(tmp_path / ("n" * 240), [b"\0\xff", b"", b"\r\n"])
    assert (tmp_path / ("n" * 240)).read_bytes() == b"\0\xff\r\n"


def test_what_a_kill_amid_writing_leaves_is_removed_and_nothing_else(tmp_path: Path) -> None:
    code = """
    import os, signal
    from guerdon.data.files import write_atomically
    def chunks():
        yield b"half"
        os.kill(os.getpid(), signal.SIGKILL)
    write_atomically("inner/a.txt", chunks())
    """
    (tmp_path / "inner").mkdir()
    kept = [tmp_path / name for name in (".notes.tmp", "a.0123abcd.tmp", "inner/.a.0123abcd", "inner/.0123abcd.tmp")]
    for path in kept:
        path.write_text("mine")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == -9
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(kept) + 1
    remove_temporaries(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(kept)
