"""What a person sees while a stage works: a bar on a terminal, plain lines elsewhere, nothing where a machine reads."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_PLAIN_SECONDS = 10.0  # between two plain lines


class Progressing(Protocol):
    """Is told how far a piece of long work has come."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A piece of work of ``total`` steps begins, ``done`` of them done earlier."""
        ...

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        """``done`` steps are done; ``values`` are worth a glance."""
        ...

    def end(self, note: str = "") -> None:
        """The piece of work has ended."""
        ...

    def say(self, line: str) -> None:
        """One line for the reader."""
        ...


class Silent:
    """Shows nothing."""

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """See `Progressing`."""

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        """See `Progressing`."""

    def end(self, note: str = "") -> None:
        """See `Progressing`."""

    def say(self, line: str) -> None:
        """See `Progressing`."""


class Plain:
    """Prints a line now and then; for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self._what, self._total, self._begun, self._printed = "", 0, 0.0, 0.0

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """See `Progressing`."""
        self._what, self._total, self._begun, self._printed = what, total, time.monotonic(), time.monotonic()
        self.say(f"{what}: {total - done} steps to do")

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        """See `Progressing`."""
        now = time.monotonic()
        if now - self._printed >= _PLAIN_SECONDS:
            self._printed = now
            self.say(f"{self._what}: {done}/{self._total} {glance(values)}")

    def end(self, note: str = "") -> None:
        """See `Progressing`."""
        self.say(f"{self._what}: done in {time.monotonic() - self._begun:.0f} s {note}".rstrip())

    def say(self, line: str) -> None:
        """See `Progressing`."""
        print(line, file=self.stream, flush=True)


class Bars:
    """Bars on a terminal (rich); a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[glance]}"),
            console=self.console,
        )
        self._task: int | None = None

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """See `Progressing`."""
        self._task = self._bars.add_task(what, total=total, completed=done, glance="")

    def advance(self, done: int, values: Mapping[str, float]) -> None:
        """See `Progressing`."""
        if self._task is not None:
            self._bars.update(self._bars.task_ids[self._task], completed=done, glance=glance(values))

    def end(self, note: str = "") -> None:
        """See `Progressing`."""
        if self._task is not None:
            task = self._bars.tasks[self._task]
            self._bars.update(task.id, completed=task.total, glance=note or task.fields["glance"])
            self._task = None

    def say(self, line: str) -> None:
        """See `Progressing`."""
        self._bars.console.print(line, highlight=False, markup=False)


def glance(values: Mapping[str, float]) -> str:
    """A few values on one line."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
