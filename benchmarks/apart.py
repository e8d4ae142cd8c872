"""An engine in a process of its own: idle threads of one do not take part of what another gains, nor its memory's habits.

`Apart` makes an engine in a new process, beside whatever else goes on, and answers calls of its methods, one at a time; between
its turns it sleeps. What a method raises is raised here.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from multiprocessing.connection import Connection
from typing import Any, TypeVar

_Found = TypeVar("_Found")
_REST = "rest"


class Apart:
    """An engine made by ``make(*arguments)`` in a new process; ``make`` is a function of a module."""

    def __init__(self, make: Callable[..., Any], *arguments: Any, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        # The number of threads is read when a library is loaded, which in the new process is before the first call.
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = str(threads)
        try:
            self._process = context.Process(target=_serve, args=(there, make, arguments, threads), daemon=True)
            self._process.start()
        finally:
            _restore("OMP_NUM_THREADS", before)
        there.close()
        self._made = False

    def wait(self) -> None:
        """Until it is made: several are made at a time, and none is to be timed meanwhile."""
        if not self._made:
            self._answer()
            self._made = True

    def call(self, method: str, *arguments: Any) -> Any:
        """What the engine's ``method`` returns."""
        self.wait()
        self._here.send((method, arguments))
        return self._answer()

    def rest(self) -> None:
        """Gives back the memory that it does not use: engines of large models need what the others leave."""
        self.call(_REST)

    def close(self) -> None:
        """Ends the process."""
        self._here.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()

    def _answer(self) -> Any:
        try:
            result, trouble = self._here.recv()
        except EOFError:
            self._process.join(10)
            raise RuntimeError(f"the engine's process ended by itself (exit code {self._process.exitcode})") from None
        if trouble:
            raise RuntimeError(f"the engine raised\n{trouble}")
        return result


def in_turn(names: Collection[str], repetitions: int, ask: Callable[[str, int], _Found]) -> dict[str, list[_Found]]:
    """What ``ask`` gets, given an engine's name and a repetition; the engines take turns."""
    found: dict[str, list[_Found]] = {name: [] for name in names}
    for repetition in range(repetitions):
        for name in names:
            began = time.perf_counter()
            found[name].append(ask(name, repetition))
            print(f"{repetition + 1}/{repetitions} {name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return found


def all_made(engines: Mapping[str, Apart]) -> None:
    """Waits for all of them."""
    for engine in engines.values():
        engine.wait()


def _restore(name: str, value: str | None) -> None:
    if value is None:
        del os.environ[name]
    else:
        os.environ[name] = value


def _give_back_memory() -> None:
    gc.collect()
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if give_back is not None:
        give_back(0)


def _serve(calls: Connection, make: Callable[..., Any], arguments: tuple[Any, ...], threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    engine = None
    method: str | None = None
    while True:
        try:
            if method is None:
                engine, result = make(*arguments), None
            elif method == _REST:
                result = _give_back_memory()
            else:
                result = getattr(engine, method)(*arguments)
            answer = (result, "")
        except Exception:
            answer = (None, traceback.format_exc())
        calls.send(answer)
        try:
            method, arguments = calls.recv()
        except EOFError:  # the owner has what it wanted
            return
