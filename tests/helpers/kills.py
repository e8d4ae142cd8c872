"""Runs of a recipe that are killed and taken up again, until what they leave can be compared with a run that nobody killed.

Each attempt is a process of its own that does what ``guerdon run`` does, and each kill is a SIGKILL to it: the kernel ends it,
and nothing of it (handlers, ``finally``, buffers, exit functions) runs again. To be cheap the processes are forked from a
server that has imported torch but computed nothing and started no thread; from the fork on they share nothing with it.

An instant is either a time, at which the process is killed from outside, or a file operation of the run, before which it kills
itself: Python tells an audit hook of every file that is opened, renamed or removed, and guerdon does not know of it.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import yaml

from guerdon.data.files import write_jsonl
from guerdon.quickstart.corpus import build
from guerdon.quickstart.judge import comparisons

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("pretrain", "finetune", "reward_model", "judge", "prefer", "reinforce")  # in the order in which they run
LOGS = ("metrics.jsonl", "samples.jsonl", "alarms.jsonl", "timings.jsonl")
# The kinds of file operations that `Operations` tells apart in a stage, in the order in which a stage comes by them.
WRITE, RENAME, BEST, LOG, CUT, REMOVE, SWAP, STORE = "write", "rename", "best", "log", "cut", "remove", "swap", "store"
PHASES = (WRITE, RENAME, BEST, LOG, CUT, REMOVE, SWAP, STORE)
ALARM = "alarm"  # a log of its own, opened at every step and seldom written to
# Durations, the page that shows them, an empty file, and versions: a commit while a soak goes on is no difference.
DIFFERS = {"timings.jsonl", "report.html", ".lock", "environment.json", "audit/audit.json", "audit/audit.html"}
PATIENCE = 120.0  # seconds after which an attempt is given up


def write_recipe(folder: Path) -> Path:
    """A tiny recipe of all stages with its records, in ``folder``; every stage keeps something beside its weights."""
    for (name, size), examples in zip({"train": 40, "validation": 6}.items(), build(1), strict=False):
        rows = ({"source": e.source, "references": list(e.references)} for e in examples[:size])
        write_jsonl(folder / f"{name}.jsonl", rows)
    write_jsonl(folder / "pairs.jsonl", comparisons(1, "train")[:40])
    loop = {"validate_every": 4, "checkpoint_every": 2, "average_best": 2}
    accuracy = {**loop, "criterion": "accuracy", "higher_is_better": True}
    fields = {"weight": "votes_for", "against": "votes_against"}
    judged = {"judgements": ["pairs.jsonl"], "fields": fields, "held_out": 0.25, "steps": 10, "loop": accuracy}
    recipe: dict[str, Any] = {
        "name": "killed",
        "data": {"train": "train.jsonl", "validation": "validation.jsonl"},
        "tokenizer": {"vocabulary_size": 400},
        "model": {
            "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 24, "dropout": 0.2,
            "max_source": 128, "max_target": 96,
        },
        "pretrain": {"references": True, "steps": 10, "batch": {"max_tokens": 600}, "max_length": 40, "loop": loop},
        "finetune": {"steps": 10, "batch": {"max_tokens": 600}, "accumulation": 2, "loop": loop},
        "reward_model": {
            **judged, "batch": {"max_tokens": 600}, "model": {"pooling": ["last"], "max_output": 96}, "members": 2,
        },
        "judge": {**judged, "model": {"kind": "linear", "ngrams": {"buckets": 99}}},
        "prefer": {
            "comparisons": "pairs.jsonl", "validation_share": 0.25, "fields": fields, "steps": 10,
            "batch": {"max_tokens": 900}, "loop": accuracy, "too_long": "skip",
        },
        "reward": [{"type": "chrf"}, {"type": "repetition", "weight": 0.5}, {"type": "learned", "from": "reward_model"}],
        "audit": {"sources": 4, "bootstrap": 100},
        "reinforce": {
            "steps": 10, "sources_per_step": 6, "samples_per_source": 2, "limit": {"absolute": 8}, "mle_weight": 0.1,
            "baseline": "running_mean", "normalisation": {"kind": "running"},
            "monitors": {"window": 2, "length_drift": 0.01, "entropy_collapse": 0.99, "clear": 0.99},  # they often fire
            "loop": {**loop, "criterion": "reward", "higher_is_better": True},
        },
        "decoding": {"method": "greedy", "limit": {"absolute": 8}},
        "evaluation": {"bootstrap": 100},
        "controls": {"run": []},
        "tensorboard": False,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


@dataclass(frozen=True)
class Operation:
    """The ``number``-th file operation of one kind that a process makes; ``stage`` may be "begin" or "evaluation" too."""

    stage: str
    phase: str
    number: int = 1


@dataclass(frozen=True)
class Instant:
    """When to kill.

    Attributes:
        seconds: from outside, so long after the start, or after ``operation`` is begun; None: the process kills itself there.
        operation: the file operation before which, or after which, it is killed.
        torn: where ``operation`` is the opening of a log, half a line is left in it, as by a kill amid its writing.
    """

    seconds: float | None = None
    operation: Operation | None = None
    torn: bool = False


@dataclass(frozen=True)
class Hit:
    """A kill that came in time: what the process was at."""

    stage: str
    phase: str


class Operations:
    """Tells what a run is at, by the file operations that its process is about to make."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stage = folder, "begin"
        self._emptied: Any = None  # the folder that `shutil.rmtree` is at: it names what it removes relative to that
        self._moved: set[str] = set()

    def of(self, event: str, arguments: tuple[Any, ...]) -> tuple[str, str] | None:
        """Stage and phase of an audit event; None for what is no file operation of the run."""
        if event not in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
            return None
        path = arguments[0]
        if event == "shutil.rmtree":
            self._emptied = path
        elif event in ("os.remove", "os.rmdir") and arguments[1] >= 0:
            path = self._emptied
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        try:
            parts = Path(os.fsdecode(path)).relative_to(self.folder).parts
        except ValueError:
            return None
        phase = self._phase(event, parts, arguments) if parts else None
        return None if phase is None else (self.stage, phase)

    def _phase(self, event: str, parts: tuple[str, ...], arguments: tuple[Any, ...]) -> str | None:
        first, last = parts[0], parts[-1]
        if first in LOGS:
            mode = arguments[1] if event == "open" else None
            if mode == "a":
                return ALARM if first == "alarms.jsonl" else LOG
            return CUT if mode == "r+" else None
        if first == "checkpoints":
            return self._of_checkpoint(event, parts)
        stage = first.removeprefix(".").removesuffix(".partial")
        if first == f".{stage}.partial":
            self.stage = stage if stage in STAGES else self.stage
            return STORE
        if first == "outputs" or (event == "os.rename" and last.startswith(".evaluation.json")):
            self.stage = "evaluation"
            return WRITE
        return WRITE if last.endswith(".tmp") and self.stage == "begin" else None

    def _of_checkpoint(self, event: str, parts: tuple[str, ...]) -> str | None:
        if len(parts) < 3 or (event == "open" and parts[2] == "begun.json"):  # every stage's is read when a run begins
            return None
        self.stage, leaf = parts[1], parts[2]
        step = f"{self.stage} {leaf.strip('.').split('.')[0]}"
        if leaf == "best":
            return BEST
        if leaf.startswith("step-"):
            self._moved |= {step} if event == "os.rename" else set()
            return REMOVE if event == "os.rename" else None
        if leaf.endswith((".removed", ".replaced")):
            return REMOVE
        if event == "os.rename" and leaf.endswith(".partial"):
            return SWAP if step in self._moved else RENAME  # SWAP: the old one is away, the new one not yet there
        return WRITE if leaf.endswith(".partial") and len(parts) > 3 else None  # a file of a checkpoint


# --- in the process that is killed


def work(arguments: list[str], folder: Path, complaints: Path, instant: Instant | None, told: Connection | None) -> None:
    """What an attempt's process does: ``guerdon run``, its messages in a file.

    Args:
        arguments: of the command line.
        folder: the run folder.
        complaints: takes what it prints.
        instant: at whose operation it kills itself, or tells of it.
        told: is told of the operation instead; at the end, of the operations that there were.
    """
    import guerdon

    assert Path(str(guerdon.__file__)).is_relative_to(ROOT), f"another guerdon was imported: start in {ROOT}"
    from guerdon.cli.main import answer

    with complaints.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    torch.set_num_threads(1)
    operations, counts = Operations(folder), Counter[tuple[str, str]]()
    awaited = None if instant is None else instant.operation

    def watch(event: str, given: tuple[Any, ...]) -> None:
        found = operations.of(event, given)
        if found is None:
            return
        counts[found] += 1
        if awaited is not None and Operation(*found, counts[found]) == awaited:
            if told is not None:
                told.send(None)
                return
            if instant is not None and instant.torn:
                os.write(os.open(given[0], os.O_WRONLY | os.O_APPEND | os.O_CREAT), b'{"stage": "torn", "val')
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    code = answer(arguments)
    if told is not None:
        told.send(counts)
    sys.exit(code)


# --- in the process that kills


class Ordeal:
    """One recipe, run whole once, and then killed again and again.

    Args:
        recipe: its file.
        place: an empty folder to work in.
        overrides: as given to ``--set``.
        prepared: a run folder to begin from, e.g. one with the earlier stages finished; None begins with nothing.

    Attributes:
        seconds: that the run which nobody kills took.
        counts: its file operations, by stage and phase.
        compared: how many killed runs have ended like it.
    """

    def __init__(self, recipe: Path, place: Path, overrides: Sequence[str] = (), prepared: Path | None = None) -> None:
        self.recipe, self.place, self.overrides, self.prepared = recipe, place.resolve(), list(overrides), prepared
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["guerdon.pipeline.execute", "guerdon.cli.main", "torch._dynamo"])
        first = self._context.Process(target=int)
        first.start()  # and with it the server, whose imports the first run shall not wait for
        first.join()
        first.close()
        self.counts: Mapping[tuple[str, str], int] = {}
        self.compared, self._begun = 0, False
        self.whole, self.folder = self.place / "whole", self.place / "cut"
        began = time.monotonic()
        self._attempt(self.whole, None)
        self.seconds = time.monotonic() - began

    def kill(self, instant: Instant) -> Hit | None:
        """Begins the run, or takes it up, and kills it; None where it ended before.

        A run that ended before is compared, and the next try begins with nothing: there, every operation that was counted
        is come by.
        """
        for _ in range(2):
            hit = self._attempt(self.folder, instant)
            if hit is not None:
                return hit
            self._compare()
        return None

    def finish(self) -> None:
        """Takes up the run that was killed last, lets it end, and compares."""
        if self._begun:
            self._attempt(self.folder, None)
            self._compare()

    def _attempt(self, folder: Path, instant: Instant | None) -> Hit | None:
        if self.prepared is not None and not folder.exists():
            shutil.copytree(self.prepared, folder)
        before = _files(folder)
        arguments = ["run", str(self.recipe), "--folder", str(folder), "--json"]
        arguments += [word for override in self.overrides for word in ("--set", override)]
        operation = None if instant is None else instant.operation
        hear, told = self._context.Pipe(duplex=False)
        tells = instant is None or instant.seconds is not None
        complaints = self.place / "complaints.txt"
        process = self._context.Process(target=work, args=(arguments, folder, complaints, instant, told if tells else None))
        process.start()
        told.close()
        self._begun = folder == self.folder
        if instant is None:
            counts = hear.recv() if hear.poll(PATIENCE) else {}
            self.counts = self.counts or counts
        elif instant.seconds is not None:
            if operation is not None and hear.poll(PATIENCE):
                _received(hear)
            process.join(instant.seconds)
            process.kill()
        process.join(PATIENCE)
        code = process.exitcode
        assert code in (0, -signal.SIGKILL), f"exit code {code}: {complaints.read_text('utf-8')}"
        assert code == 0 or instant is not None, "killed by somebody else"
        process.close()
        hear.close()
        if code == 0 or instant is None:
            return None
        if operation is not None and instant.seconds is None:
            return Hit(operation.stage, operation.phase)
        return _where(before, _files(folder))

    def _compare(self) -> None:
        """Every file, and every byte of it; what a kill has left lying about is a difference too."""
        whole, cut = (_contents(folder) for folder in (self.whole, self.folder))
        differing = sorted(name for name in whole.keys() | cut.keys() if whole.get(name) != cut.get(name))
        if differing:
            kept = self.folder.rename(self.place / f"different-{len([*self.place.iterdir()])}")
            raise AssertionError(f"{kept} differs from {self.whole} in {', '.join(differing)}")
        shutil.rmtree(self.folder)
        self.compared, self._begun = self.compared + 1, False


def _received(hear: Connection) -> None:
    try:
        hear.recv()
    except EOFError:  # it has ended without coming by
        return


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    """Time of the last change and length of every file and folder in a run folder, by its path."""
    found = {}
    for path in folder.rglob("*"):
        stat = path.stat()
        found[path.relative_to(folder).as_posix()] = (stat.st_mtime_ns, stat.st_size)
    return found


def _contents(folder: Path) -> dict[str, bytes]:
    return {
        name: (folder / name).read_bytes() if (folder / name).is_file() else b""
        for name in _files(folder)
        if name not in DIFFERS
    }


def _where(before: Mapping[str, tuple[int, int]], after: Mapping[str, tuple[int, int]]) -> Hit:
    """What a process was at when it was killed from outside, by what it has left."""
    stage = next((stage for stage in STAGES if f"{stage}/done.json" not in after), "evaluation")
    new = {name for name, found in after.items() if before.get(name) != found}
    if stage not in STAGES or not any(name.startswith("checkpoints/") for name in after):
        return Hit(stage if stage not in STAGES else "begin", "work")
    marks = {
        WRITE: [name for name in new if name.startswith(f"checkpoints/{stage}/.step-") and ".partial" in name],
        REMOVE: [name for name in new if name.startswith(f"checkpoints/{stage}/.step-") and ".re" in name],
        BEST: [name for name in new if name == f"checkpoints/{stage}/best/.partial"],
        STORE: [name for name in new if name.startswith(f".{stage}.partial")],
        "work": [name for name in new if name.startswith("checkpoints/") or name in LOGS],
    }
    return Hit(stage, next((phase for phase, left in marks.items() if left), "start"))


# --- which instants


def at_each_phase(stages: Sequence[str] = STAGES, phases: Sequence[str] = PHASES) -> Iterator[Instant]:
    """Early in each stage and in each of its phases, in the order in which a run comes by them.

    Of the operations CUT the second one of a process that resumes is the cut of the second log, when the first is cut already;
    before the ninth operation WRITE the tensors of the second checkpoint are written, and its state is not.
    """
    numbers = {WRITE: 9, RENAME: 2, BEST: 2, LOG: 4, CUT: 2, REMOVE: 4, SWAP: 1, STORE: 3}
    for stage in stages:
        for phase in phases:
            yield Instant(operation=Operation(stage, phase, numbers[phase]), torn=phase == LOG)


def drawn(seed: int, ordeal: Ordeal) -> Iterator[Instant]:
    """Without end, in turn: any time of the run; any of its file operations; soon after one that writes a checkpoint."""
    source = random.Random(seed)
    kinds = sorted(ordeal.counts)
    while True:
        yield Instant(source.uniform(0.0, ordeal.seconds))
        stage, phase = source.choice(kinds)
        number = source.randint(1, ordeal.counts[stage, phase])
        yield Instant(operation=Operation(stage, phase, number), torn=phase in (LOG, ALARM) and source.random() < 0.5)
        stage = source.choice([stage for stage, phase in kinds if phase == WRITE])
        number = source.randint(1, ordeal.counts[stage, WRITE])
        yield Instant(source.uniform(0.0, 0.005), Operation(stage, WRITE, number))
