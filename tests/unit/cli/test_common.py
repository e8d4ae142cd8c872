"""Exit codes, the one line of an error, and what a person or a machine is shown."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer

from guerdon.cli.common import answer, progress, run_command, table
from guerdon.cli.main import answer as answer_arguments
from guerdon.errors import CheckpointError, ConfigurationError, RewardError
from guerdon.training.progress import Bars, Plain, Silent

ROOT = Path(__file__).parents[3]


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigurationError("is odd", where="option", cure="make it even"), 2, "error: option: is odd; make it even"),
        (RewardError("raised", where="reward"), 1, "error: reward: raised"),
        (CheckpointError("two\nlines"), 1, "error: two lines"),
        (MemoryError(), 1, "error: out of memory; use smaller batches"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to"), 1, "error: out of memory; use smaller batches"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate"), 1, "error: out of memory; use smaller batches"),
        (KeyboardInterrupt(), 130, "interrupted; a run goes on where it stopped when the command is given again"),
        (typer.Abort(), 130, "interrupted; a run goes on where it stopped when the command is given again"),
    ],
)
def test_an_error_is_one_line_and_a_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(raising(error)) == code
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", line + "\n")


def test_a_fault_of_guerdon_itself_says_where_and_how_to_see_more(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(raising(ValueError("odd\nthing"))) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: internal error: ValueError: odd thing (command, line ")
    assert line.endswith("--debug shows the traceback")


@pytest.mark.parametrize("error", [ConfigurationError("is odd"), ValueError("odd")])
def test_debug_adds_the_traceback(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(raising(error), debug=True)
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("error: ")


def test_debug_may_stand_anywhere_or_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["--debug", "report", "absent"], ["report", "absent", "--debug"]):
        assert answer_arguments(arguments) == 2
        assert "Traceback" in capsys.readouterr().err
    assert answer_arguments(["report", "absent"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("GUERDON_DEBUG", "1")
    assert answer_arguments(["report", "absent"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_good_work_and_an_early_exit() -> None:
    assert run_command(lambda: None) == 0
    assert run_command(raising(typer.Exit(0))) == 0
    assert run_command(raising(typer.Exit(3))) == 3


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    """As in ``guerdon evaluate ... | head -0``."""
    code = (
        "import sys; from guerdon.cli.common import run_command; sys.exit(run_command(lambda: print('x' * 10**6, flush=True)))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    said = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 1
    assert said == b""


def test_progress_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress(json_output=True) as shown:
        assert isinstance(shown, Silent)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with progress(json_output=False) as shown:
        assert isinstance(shown, Plain)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(json_output=False) as shown:
        assert isinstance(shown, Bars)


def test_an_answer_is_one_json_object_or_lines(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"records": 3, "name": "é\n"}
    answer(values, json_output=True)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert json.loads(said) == values
    answer({"records": 3, "skipped": 0}, json_output=False)
    assert capsys.readouterr().out == "records: 3\nskipped: 0\n"
    answer(values, json_output=False, lines=["three records"])
    assert capsys.readouterr().out == "three records\n"


def test_a_table_keeps_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets are no markup, and what is piped is not cut to the width of a terminal."""
    columns = ["measure", "/a/rather/long/path/of/outputs[1].jsonl", "/another/path/as/long/as/that/outputs[2].jsonl"]
    rows = [["BLEU", "12.345 [11.111, 13.333]", "23.456 [22.222, 24.444]"], ["[bold]chrF", "4", "5"]]
    table("a [title]", columns, rows)
    said = capsys.readouterr().out
    for text in ("a [title]", *columns, *rows[0], *rows[1]):
        assert text in said
