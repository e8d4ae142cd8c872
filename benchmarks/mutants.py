"""A mutation run: does a test go red when a line of the objectives, the decoding or the rewards is wrong?

    python benchmarks/mutants.py --count 100 --seed 1 --output mutants.json
    python benchmarks/mutants.py --count 100 --seed 1 --output mutants.json --jobs 2     # goes on where it was cut

Of all the mutants that cosmic-ray's operators make of the three rooms, a sample is drawn by the seed, from each file in
proportion to its mutants. Left out are those in annotations, which are never computed with (mypy reads them), and those that
are no Python. Each is applied in a copy of the tree, and the tests that concern it run there, nearest first, until one is
red. A mutant that no test notices has survived, whether a test could have noticed it or not. Tests that run half a minute
longer than four times what they took on the unchanged tree are stopped: a mutant that hangs is noticed, and counted apart.

Every result is appended to a journal beside the output (``.jsonl``) at once. A later call takes from it what is still true:
killed mutants of files that have not changed since, and survivors, unless a file under ``tests`` has changed.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import hashlib
import json
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

from guerdon.data.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("objectives", "decoding", "rewards")
# They compare the code with itself, killed and not: slow, and blind to a mutant.
BLIND = ("tests/oracle/test_resume.py", "tests/flow/test_resume.py")
SLACK = 30.0  # seconds
RED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the ``occurrence``-th place where an operator of cosmic-ray applies."""

    path: str
    operator: str
    occurrence: int
    line: int

    def applied(self) -> str | None:
        """The changed source; None where it is no Python."""
        code: str = mutate_code((ROOT / self.path).read_text("utf-8"), get_operator(self.operator)(), self.occurrence)
        try:
            compile(code, self.path, "exec")
        except (SyntaxError, ValueError):
            return None
        return code

    def key(self) -> str:
        """It names the same change for as long as the file is the same."""
        return f"{self.path} {digest([ROOT / self.path])} {self.operator} {self.occurrence}"

    def diff(self) -> list[str]:
        """The changed lines, before and after."""
        before = (ROOT / self.path).read_text("utf-8").splitlines()
        after = (self.applied() or "").splitlines()
        return [line for line in difflib.unified_diff(before, after, lineterm="", n=0) if line[:2] not in ("--", "++", "@@")]


def digest(paths: Sequence[Path]) -> str:
    """A short checksum of some files."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(f"{path.relative_to(ROOT).as_posix()}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


# --- which mutants


def left_out(tree: Any) -> Iterator[Any]:
    """The nodes of a module that are annotations, or the bare star between parameters (an operator only by its looks)."""
    for node in ast_nodes(tree):
        if node.type == "operator" and node.parent.type in ("parameters", "lambdef"):
            yield node
        if node.type == "annassign":
            yield node.children[1]
        elif node.type == "tfpdef":
            yield node.children[2]
        elif node.type == "funcdef" and node.annotation is not None:
            yield node.annotation


def mutants_of(path: str) -> list[Mutant]:
    """All mutants of a file, but for `left_out`."""
    tree = get_ast((ROOT / path).read_text("utf-8"))
    spans = [(node.start_pos, node.end_pos) for node in left_out(tree)]
    found = []
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():  # the two of variables: they want to be told which
            continue
        places = (place for node in ast_nodes(tree) for place in operator().mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            if not any(low <= start < high for low, high in spans):
                found.append(Mutant(path, name, occurrence, start[0]))
    return found


def sample(count: int, seed: int) -> list[Mutant]:
    """``count`` mutants, of each file in proportion to its mutants (largest remainders), in a mixed order."""
    files = sorted(path.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / "guerdon" / room).glob("*.py"))
    every = {path: mutants_of(path) for path in files}
    total = sum(map(len, every.values()))
    shares = {path: count * len(found) / total for path, found in every.items()}
    allotted = {path: int(share) for path, share in shares.items()}
    for path in sorted(files, key=lambda path: allotted[path] - shares[path])[: count - sum(allotted.values())]:
        allotted[path] += 1
    chosen = []
    for path, found in every.items():
        mixed = random.Random(f"{seed} {path}").sample(found, len(found))
        usable = (mutant for mutant in mixed if mutant.applied() is not None)
        chosen += [mutant for mutant, _ in zip(usable, range(allotted[path]), strict=False)]
    random.Random(seed).shuffle(chosen)
    print(f"{total} mutants in {len(files)} files; {len(chosen)} are drawn", flush=True)
    return chosen


# --- which tests


@cache
def imported(path: Path) -> frozenset[Path]:
    """The files of guerdon and of the tests that a file imports itself, wherever the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    places = [root / name.replace(".", "/") for root in (ROOT, ROOT / "tests") for name in names]
    found = {file for place in places for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()}
    shared = [folder / "conftest.py" for folder in path.parents if folder.is_relative_to(ROOT / "tests")]
    return frozenset(found | ({file for file in shared if file.is_file()} if path.name.startswith("test_") else set()))


def reaches(path: Path, target: Path) -> bool:
    """Whether a file imports another, directly or not."""
    seen, waiting = set[Path](), [path]
    while waiting:
        file = waiting.pop()
        if file not in seen:
            seen.add(file)
            waiting += imported(file)
    return target in seen


@cache
def levels(path: str) -> list[list[str]]:
    """The test files that concern a file of guerdon, nearest first: its own, its room's, those that import it or reach it."""
    target, room = ROOT / path, Path(path).parent.name
    rooms = sorted((ROOT / "tests" / "unit" / room).glob("test_*.py"))
    public = target.parent / "__init__.py"
    others = [file for file in sorted((ROOT / "tests" / "unit").rglob("test_*.py")) if file not in rooms]
    direct = [file for file in others if {target, public} & imported(file)]
    oracles, flows = (
        [file for file in sorted((ROOT / "tests" / kind).glob("test_*.py")) if reaches(file, target)]
        for kind in ("oracle", "flow")
    )
    own = [file for file in rooms if target in imported(file) or target.stem in file.stem]
    found = [own, [file for file in rooms if file not in own], [*direct, *oracles], flows]
    named = [[file.relative_to(ROOT).as_posix() for file in level] for level in found]
    return [kept for level in named if (kept := [name for name in level if name not in BLIND])]


# --- running them


class Copies:
    """Copies of the tree to change and test in, and one that stays unchanged, to see how long each test file takes."""

    def __init__(self, place: Path, number: int, journal: Journal) -> None:
        self.journal, self._free, self._lock = journal, queue.SimpleQueue[Path](), threading.Lock()
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        self._unchanged, *changed = (place / str(copy) for copy in range(number + 1))
        for copy in (self._unchanged, *changed):
            for name in names:
                if (ROOT / name).is_file():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / name, copy / name)
        for copy in changed:
            self._free.put(copy)

    def tried(self, mutant: Mutant) -> dict[str, Any]:
        """Which test, if any, notices a mutant."""
        copy, original, began = self._free.get(), (ROOT / mutant.path).read_text("utf-8"), time.monotonic()
        (copy / mutant.path).write_text(mutant.applied() or "", encoding="utf-8")
        outcome: dict[str, Any] = {"verdict": "survived"}
        try:
            for level in levels(mutant.path):
                code, text = _tests(copy, level, SLACK + 4 * sum(map(self.seconds, level)))
                if code is None:
                    outcome = {"verdict": "timeout", "by": " ".join(level)}
                elif code:
                    outcome = {"verdict": "killed", "by": found[1] if (found := RED.search(text)) else f"exit code {code}"}
                if code != 0:
                    break
        finally:
            (copy / mutant.path).write_text(original, encoding="utf-8")
            self._free.put(copy)
        return {**outcome, "seconds": round(time.monotonic() - began, 1)}

    def seconds(self, test: str) -> float:
        """How long a test file takes on the unchanged tree, where it must be green."""
        with self._lock:
            known = self.journal.seconds.get(test)
            if known is not None:
                return known
            began = time.monotonic()
            code, text = _tests(self._unchanged, [test], 1800)
            if code != 0:
                raise SystemExit(f"error: {test} is not green on the unchanged tree: mend it first\n{text[-2000:]}")
            self.journal.took(test, time.monotonic() - began)
            return self.journal.seconds[test]


def _tests(copy: Path, files: Sequence[str], limit: float) -> tuple[int | None, str]:
    """Exit code (None: stopped) and messages of pytest on some files of a copy; hypothesis draws the same every time."""
    data = Path(os.environ.get("GUERDON_DATA") or ROOT.parent / "shared" / "data").resolve()
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"GUERDON_DATA": str(data), **({"CI": "true"} if data.is_dir() else {})}
    command = [sys.executable, "-m", "pytest", "-x", "-rfE", "--tb=no", "-p", "no:cacheprovider"]
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [*command, f"--basetemp={scratch}/base", *files], cwd=copy, env=environment, stdout=said, stderr=said,
            start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # whatever it has started goes with it
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        said.seek(0)
        return code, said.read()


class Journal:
    """Results, one a line, appended as they come."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.tests = digest([*(ROOT / "tests").rglob("*.py")])
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
        self.seconds: dict[str, float] = {row["test"]: row["seconds"] for row in rows if "test" in row}
        self._known = {row["key"]: row for row in rows if "key" in row}

    def result(self, mutant: Mutant) -> dict[str, Any] | None:
        """What is known of a mutant and still true."""
        row = self._known.get(mutant.key())
        return None if row is None or (row["verdict"] == "survived" and row["tests"] != self.tests) else row

    def took(self, test: str, seconds: float) -> None:
        """Notes how long a test file takes."""
        self.seconds[test] = round(seconds, 1)
        self._append({"test": test, "seconds": self.seconds[test]})

    def note(self, mutant: Mutant, outcome: Mapping[str, Any]) -> None:
        """Notes what became of a mutant."""
        row = {"key": mutant.key(), "tests": self.tests, "where": f"{mutant.path}:{mutant.line}", **outcome}
        self._known[mutant.key()] = {**row, "operator": mutant.operator, "diff": mutant.diff()}
        self._append(self._known[mutant.key()])

    def _append(self, row: Mapping[str, Any]) -> None:
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts, also by room, and the survivors."""
    by_room: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        by_room[row["where"].split("/")[1]][row["verdict"]] += 1
    counts = sum(by_room.values(), Counter[str]())
    noticed = counts["killed"] + counts["timeout"]
    named = {verdict: counts[verdict] for verdict in ("killed", "timeout", "survived")}
    survivors = [
        {name: row[name] for name in ("where", "operator", "diff")}
        for row in sorted(rows, key=lambda row: row["where"])
        if row["verdict"] == "survived"
    ]
    rate = noticed / len(rows)
    return {"mutants": len(rows), **named, "noticed": rate, "by_room": by_room, "survivors": survivors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at a time")
    parser.add_argument("--output", type=Path, default=Path("mutants.json"))
    options = parser.parse_args()
    chosen, journal = sample(options.count, options.seed), Journal(options.output.with_suffix(".jsonl"))
    left = [mutant for mutant in chosen if journal.result(mutant) is None]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(options.jobs) as workers:
        copies = Copies(Path(place), options.jobs, journal)
        done = len(chosen) - len(left)
        for mutant, outcome in zip(left, workers.map(copies.tried, left), strict=True):
            journal.note(mutant, outcome)
            done += 1
            told = f"{outcome['verdict']}, {outcome['seconds']:.0f} s  {outcome.get('by', '')}"
            print(f"{done}/{len(chosen)} {mutant.path}:{mutant.line} {mutant.operator}: {told}", flush=True)
    found = summary([row for mutant in chosen if (row := journal.result(mutant)) is not None])
    write_atomically(options.output, [json.dumps({"seed": options.seed, **found}, indent=2).encode(), b"\n"])
    for survivor in found["survivors"]:
        print(f"\nsurvived: {survivor['where']} {survivor['operator']}", *survivor["diff"], sep="\n  ")
    print(f"\n{found['killed']} killed, {found['timeout']} timed out, {found['survived']} survived of {found['mutants']}")


if __name__ == "__main__":
    main()
