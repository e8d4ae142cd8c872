"""Bad inputs at the command line: each is one line that says what, where and how to cure it, and leaves nothing half-written.

Every case prepares its files in a folder of its own and names the command, the exit code and words of the message.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from flow.conftest import tiny_recipe, write_rows

from guerdon.cli.main import answer
from guerdon.models.load import load_tensors, save_tensors

ROOT = Path(__file__).parents[2]


class Bench:
    """Where one case works: a folder, the tiny model and the tiny records."""

    def __init__(self, folder: Path, model: Path, records: Path) -> None:
        self.folder, self.model, self.records = folder, model, records

    def file(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def rows(self, name: str, *rows: dict[str, Any]) -> str:
        return str(write_rows(self.folder / name, list(rows)))

    def copy_of_model(self) -> Path:
        return Path(shutil.copytree(self.model, self.folder / "model"))

    def recipe(self, **changes: Any) -> str:
        return self.file("recipe.yaml", yaml.safe_dump({**tiny_recipe(self.records), **changes}))

    def generate(self, source: str, model: str | Path | None = None, *more: str) -> list[str]:
        return ["generate", str(model or self.model), "-i", source, "-o", str(self.folder / "out.jsonl"), "--json", *more]

    def score(self, reward: str, source: str, *more: str) -> list[str]:
        return ["score", reward, "-i", source, "-o", str(self.folder / "out.jsonl"), "--json", *more]

    def run(self, recipe: str, *more: str) -> list[str]:
        return ["run", recipe, "--folder", str(self.folder / "run"), "--json", *more]

    def split(self, name: str, *rows: dict[str, Any]) -> dict[str, Any]:
        """The section data with one split of its own; its last row stands at the end of 8."""
        path = (
            self.rows(f"{name}.jsonl", *rows[:-1], *[GOOD] * (8 - len(rows)), rows[-1])
            if len(rows) > 1
            else self.rows(f"{name}.jsonl", *rows)
        )
        return {**tiny_recipe(self.records)["data"], name: path}


GOOD = {
    "source": "title[The Amber Tide], kind[lecture]",
    "references": ["The Amber Tide is a lecture."],
    "output": "A lecture.",
}
SCORED = {**GOOD, "outputs": ["A lecture.", "A talk."]}
Case = Callable[[Bench], list[str]]


def reward_module(body: str, verb: str = "score") -> Case:
    def case(bench: Bench) -> list[str]:
        module = f"reward_{abs(hash(body))}_{verb}"  # one process imports a module's name once
        bench.file(f"{module}.py", f"def reward(sources, outputs, references):\n    {body}\n")
        recipe = bench.recipe(reward=[{"type": "function", "function": f"{module}:reward"}])
        return bench.score(recipe, bench.rows("in.jsonl", SCORED)) if verb == "score" else bench.run(recipe)

    return case


def slots(content: str | None, part: str = "reward") -> Case:
    """A run with a file of slot patterns, in the reward or in the evaluation; None is a file that is not there."""

    def case(bench: Bench) -> list[str]:
        if content is not None:
            bench.file("slots.yaml", content)
        if part == "evaluation":
            return bench.run(bench.recipe(evaluation={"bootstrap": 100, "slots": "slots.yaml"}))
        return bench.run(bench.recipe(reward=[{"type": "required_content", "patterns": "slots.yaml"}]))

    return case


def data(split: str, *rows: dict[str, Any], **changes: Any) -> Case:
    """A run whose ``split`` has these rows."""
    return lambda bench: bench.run(bench.recipe(data=bench.split(split, *rows), **changes))


def untaught(split: str, *rows: dict[str, Any], **changes: Any) -> Case:
    """As `data`, with a loaded model and no fine-tuning, so that records may lack references."""

    def case(bench: Bench) -> list[str]:
        recipe = {**changes, "data": bench.split(split, *rows), "model": {"load": str(bench.model)}, "finetune": None}
        return bench.run(bench.recipe(**recipe))

    return case


def with_model(change: Callable[[Path], None]) -> Case:
    def case(bench: Bench) -> list[str]:
        folder = bench.copy_of_model()
        change(folder)
        return bench.generate(bench.rows("in.jsonl", GOOD), folder)

    return case


def truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:200]) and None


def other_dimensions(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["options"]["width"] = 32
    (folder / "config.json").write_text(json.dumps(config))


def nan_weights(folder: Path) -> None:
    tensors = load_tensors(folder / "model.safetensors")
    tensors["embedding.weight"][3, 3] = float("nan")
    save_tensors(tensors, folder / "model.safetensors")


def seven_lines(bench: Bench) -> str:
    lines = [json.dumps(GOOD)] * 9
    lines[6] = '{"source": "x", '
    return bench.file("in.jsonl", "\n".join(lines))


CASES: dict[str, tuple[Case, int, list[str]]] = {
    "missing file": (lambda b: b.generate(str(b.folder / "absent.jsonl")), 2, ["absent.jsonl"]),
    "a folder for a file": (lambda b: b.generate(str(b.records)), 2, ["folder"]),
    "empty file": (lambda b: b.generate(b.file("in.jsonl", "")), 2, ["in.jsonl", "empty"]),
    "wrong field": (lambda b: b.generate(b.rows("in.jsonl", {"sorce": "x"})), 2, ["source", "did you mean 'sorce'"]),
    "broken JSON on line 7": (lambda b: b.generate(seven_lines(b)), 2, ["line 7"]),
    "NUL bytes": (lambda b: b.generate(b.file("in.jsonl", b'{"source": "a\0b"}\n')), 2, ["line 1"]),
    "invalid UTF-8": (lambda b: b.generate(b.file("in.jsonl", b'{"source": "a\xff"}\n')), 2, ["UTF-8", "line 1"]),
    "JSON that is no object": (lambda b: b.generate(b.file("in.jsonl", "[1, 2]\n")), 2, ["line 1"]),
    "a number for a text": (lambda b: b.generate(b.rows("in.jsonl", {"source": 5})), 2, ["line 1", "source", "text"]),
    "a blank source": (lambda b: b.generate(b.rows("in.jsonl", GOOD, {"source": "  "})), 2, ["line 2", "blank"]),
    "ragged CSV": (lambda b: b.generate(b.file("in.csv", "source,x\na,b\nc\n")), 2, ["in.csv", "line 3"]),
    "unknown suffix": (lambda b: b.generate(b.file("in.xyz", "source\na\n")), 2, ["xyz", ".jsonl"]),
    "broken Parquet": (lambda b: b.generate(b.file("in.parquet", "PAR1 nothing")), 2, ["in.parquet"]),
    "a 100,000-word source": (
        lambda b: b.generate(b.rows("in.jsonl", {"source": "word " * 100_000})), 2, ["tokens", "at most 128"],
    ),
    "output folder absent": (
        lambda b: ["generate", str(b.model), "-i", b.rows("in.jsonl", GOOD), "-o", str(b.folder / "no/o.jsonl")], 2,
        ["no/o.jsonl", "there is no folder"],
    ),
    "output of another kind": (
        lambda b: ["generate", str(b.model), "-i", b.rows("in.jsonl", GOOD), "-o", str(b.folder / "out.csv")], 2, [".jsonl"],
    ),
    "no model there": (lambda b: b.generate(b.rows("in.jsonl", GOOD), b.folder), 2, ["config.json"]),
    "no such model": (lambda b: b.generate(b.rows("in.jsonl", GOOD), b.folder / "absent"), 2, ["no such folder"]),
    "unknown verb": (lambda b: ["generat"], 2, ["generat"]),
    "unknown option": (lambda b: b.generate(b.rows("in.jsonl", GOOD), None, "--beams", "3"), 2, ["--beams"]),
    "an option that is no number": (lambda b: b.generate(b.rows("in.jsonl", GOOD), None, "--seed", "x"), 2, ["--seed"]),
    "contradictory options": (
        lambda b: b.generate(b.rows("in.jsonl", GOOD), None, "--method", "greedy", "--beam-size", "3"), 2, ["beam_size"],
    ),
    "negative temperature": (
        lambda b: b.generate(b.rows("in.jsonl", GOOD), None, "--method", "sample", "--temperature", "-1"), 2, ["temperature"],
    ),
    "a field that is not there": (
        lambda b: b.generate(b.rows("in.jsonl", GOOD), None, "--prefix", "start"), 2, ["start", "line 1"],
    ),
    "truncated weights": (with_model(truncate("model.safetensors")), 1, ["model.safetensors", "damaged"]),
    "weights missing": (with_model(lambda f: (f / "model.safetensors").unlink()), 1, ["model.safetensors", "no such file"]),
    "weights with nan": (with_model(nan_weights), 1, ["embedding.weight", "nan"]),
    "other dimensions": (with_model(other_dimensions), 1, ["shape"]),
    "broken configuration": (with_model(truncate("config.json")), 1, ["config.json", "damaged"]),
    "damaged tokenizer": (with_model(truncate("tokenizer.json")), 1, ["tokenizer.json"]),
    "no such recipe": (lambda b: b.run(str(b.folder / "absent.yaml")), 2, ["no such recipe"]),
    "a recipe that is a folder": (lambda b: b.run(str(b.folder)), 2, ["recipe"]),
    "broken YAML": (lambda b: b.run(b.file("r.yaml", "name: [1")), 2, ["YAML"]),
    "an option that stands twice": (lambda b: b.run(b.file("r.yaml", "name: a\nname: b\n")), 2, ["'name' stands twice"]),
    "unknown option of a recipe": (lambda b: b.run(b.recipe(finetune={"epoch": 3})), 2, ["finetune.epoch", "'epochs'"]),
    "contradiction in a recipe": (lambda b: b.run(b.recipe(finetune={"epochs": 3, "steps": 3})), 2, ["epochs", "steps"]),
    "wrong type in a recipe": (lambda b: b.run(b.recipe(seed="first")), 2, ["seed", "'first'"]),
    "--set without value": (lambda b: b.run(b.recipe(), "--set", "seed"), 2, ["--set"]),
    "--set with broken YAML": (lambda b: b.run(b.recipe(), "--set", "seed=[1"), 2, ["--set seed=[1", "YAML"]),
    "--set of an unknown option": (lambda b: b.run(b.recipe(), "--set", "reinforce.step=3"), 2, ["reinforce.step", "'steps'"]),
    "--set twice in one value": (lambda b: b.run(b.recipe(), "--set", "data={train: a, train: b}"), 2, ["--set data"]),
    "a recipe of broken UTF-8": (lambda b: b.run(b.file("r.yaml", b"name: \xff\n")), 2, ["r.yaml", "YAML"]),
    "a recipe that is a list": (lambda b: b.run(b.file("r.yaml", "- name\n")), 2, ["r.yaml", "mapping"]),
    "an empty recipe": (lambda b: b.run(b.file("r.yaml", "")), 2, ["r.yaml", "mapping"]),
    "an option that only guerdon sets": (lambda b: b.run(b.recipe(path="x")), 2, ["path", "no such option"]),
    "a name that is a path": (lambda b: b.run(b.recipe(name="../x")), 2, ["name", "'../x'"]),
    "a wrong type of a model's option": (lambda b: b.run(b.recipe(model={"width": "wide"})), 2, ["model.width", "'wide'"]),
    "an unknown kind of a model's option": (lambda b: b.run(b.recipe(model={"norm": "mid"})), 2, ["model.norm", "'mid'"]),
    "an unknown option of a model": (lambda b: b.run(b.recipe(model={"widht": 8})), 2, ["model.widht", "'width'"]),
    "dimensions beside a loaded model": (
        lambda b: b.run(b.recipe(model={"load": str(b.model), "width": 8})), 2, ["model.load", "width"],
    ),
    "a loaded model that is not there": (lambda b: b.run(b.recipe(model={"load": "absent"})), 2, ["no such folder", "absent"]),
    "a run folder that is a file": (
        lambda b: ["run", b.recipe(), "--folder", b.file("file", "x"), "--json"], 2, ["file", "cannot be written"],
    ),
    "data folder absent": (lambda b: b.run(b.recipe(), "--set", "data.folder=/absent"), 2, ["/absent/train.jsonl"]),
    "more sources than there are": (
        lambda b: b.run(b.recipe(), "--set", "reinforce.sources_per_step=1000"), 2, ["sources_per_step", "48"],
    ),
    "unknown reward": (lambda b: b.run(b.recipe(reward=[{"type": "word_frequncy"}])), 2, ["did you mean 'word_frequency'"]),
    "unknown reward option": (lambda b: b.run(b.recipe(reward=[{"type": "chrf", "ordr": 2}])), 2, ["ordr"]),
    "slot patterns missing": (slots(None), 2, ["slots.yaml", "cannot be read"]),
    "slot patterns broken": (slots("kind: {pub: ['(']}"), 2, ["slots.yaml", "pub", "regular expression"]),
    "slot patterns that are no YAML": (slots("kind: ["), 2, ["slots.yaml", "YAML"]),
    "slot patterns of the evaluation missing": (slots(None, "evaluation"), 2, ["slots.yaml", "cannot be read"]),
    "a damaged meaning to count slots in": (
        lambda b: b.run(b.recipe(
            data=b.split("test", GOOD, {**GOOD, "source": "title[The Tide, kind"}),
            evaluation={"slots": b.file("slots.yaml", "kind: {}")},
        )), 2, ["title[The Tide", "slot[value]"],
    ),
    "a 100,000-word source to train on": (
        data("train", GOOD, {**GOOD, "source": "word " * 100_000}), 2, ["train.jsonl", "source 8", "tokens", "at most 128"],
    ),
    "a 100,000-word reference": (
        data("train", GOOD, {**GOOD, "references": ["word " * 100_000]}), 2, ["train.jsonl", "target 8", "tokens"],
    ),
    "a 100,000-word source to test on": (
        data("test", GOOD, {**GOOD, "source": "word " * 100_000}), 2, ["test.jsonl", "source 8", "tokens"],
    ),
    "a pair larger than a batch": (
        lambda b: b.run(b.recipe(), "--set", "finetune.batch.max_tokens=20"), 2, ["train.jsonl", "max_tokens"],
    ),
    "one record to test on": (data("test", GOOD), 2, ["test.jsonl", "interval"]),
    "validation without references": (
        data("validation", {"source": "kind[lecture]"}), 2, ["validation.jsonl", "line 1", "references"],
    ),
    "references missing for a reward of a run": (
        untaught("train", GOOD, {"source": "x"}, reinforce={"sources_per_step": 2}), 2,
        ["train.jsonl", "record 8", "references", "chrf"],
    ),
    "references missing for likelihood": (
        untaught(
            "train", GOOD, {"source": "x"}, reinforce={"sources_per_step": 2, "mle_weight": 0.1},
            reward=[{"type": "repetition"}],
        ), 2, ["train.jsonl", "record 8", "mle_weight"],
    ),
    "references of some test records only": (
        untaught("test", GOOD, {"source": "x"}, reward=[{"type": "repetition"}]), 2, ["test.jsonl", "record 8"],
    ),
    "references missing for a reward": (
        lambda b: b.score(b.recipe(), b.rows("in.jsonl", {"source": "x", "output": "y"})), 2, ["references", "chrf"],
    ),
    "no outputs to score": (lambda b: b.score(b.recipe(), b.rows("in.jsonl", {"source": "x"})), 2, ["outputs"]),
    "a reward that raises": (reward_module("raise KeyError('price')"), 1, ["reward", "KeyError", "price"]),
    "a reward that returns nan": (reward_module("return [float('nan')] * len(outputs)"), 1, ["reward", "nan", "sample 0"]),
    "a reward that returns inf": (reward_module("return [1.0, float('inf')]"), 1, ["reward", "inf", "sample 1"]),
    "a reward of the wrong length": (reward_module("return [1.0]"), 1, ["reward", "2 outputs"]),
    "a reward that returns a text": (reward_module("return 'good'"), 1, ["reward"]),
    "a run with a reward that raises": (reward_module("return 1 / 0", "run"), 1, ["reward", "ZeroDivisionError"]),
    "a run with a reward of nan": (reward_module("return [float('nan')] * len(outputs)", "run"), 1, ["nan", "sample 0"]),
    "a run with a reward of the wrong length": (reward_module("return [1.0]", "run"), 1, ["reward", "outputs"]),
    "a run with a reward that does not exist": (
        lambda b: b.run(b.recipe(reward=[{"type": "function", "function": "nowhere:f"}])), 2, ["nowhere"],
    ),
    "a reward module that does not exist": (lambda b: b.score("nowhere:f", b.rows("in.jsonl", SCORED)), 2, ["nowhere"]),
    "a reward function that does not exist": (lambda b: b.score("math:absent", b.rows("in.jsonl", SCORED)), 2, ["absent"]),
    "a reward that is neither": (lambda b: b.score("thing", b.rows("in.jsonl", SCORED)), 2, ["thing", "module:function"]),
    "a score written into a folder that is not there": (
        lambda b: ["score", "math:fsum", "-i", b.rows("in.jsonl", SCORED), "-o", str(b.folder / "no/o.jsonl")], 2,
        ["no/o.jsonl", "there is no folder"],
    ),
    "a recipe without a reward": (
        lambda b: b.score(b.recipe(reward=[], reinforce=None), b.rows("in.jsonl", SCORED)), 2, ["reward"],
    ),
    "outputs that are no texts": (lambda b: b.score(b.recipe(), b.rows("in.jsonl", {**GOOD, "outputs": [1]})), 2, ["line 1"]),
    "no outputs to evaluate": (lambda b: ["evaluate", b.rows("a.jsonl", {"source": "x"}), "--json"], 2, ["a.jsonl", "line 1"]),
    "references of some records only": (
        lambda b: ["evaluate", b.rows("a.jsonl", GOOD, {"source": "x", "output": "y"})], 2, ["references"],
    ),
    "an output compared with itself": (
        lambda b: ["evaluate", b.rows("a.jsonl", GOOD, GOOD), "--against", b.rows("a.jsonl", GOOD, GOOD)], 2, ["a.jsonl"],
    ),
    "too few resamples": (
        lambda b: ["evaluate", b.rows("a.jsonl", GOOD, GOOD), "--bootstrap", "-1"], 2, ["bootstrap"],
    ),
    "outputs of other sources": (
        lambda b: [
            "evaluate", b.rows("a.jsonl", GOOD, GOOD), "--against", b.rows("b.jsonl", {**GOOD, "source": "y"}, GOOD),
        ], 2, ["other sources"],
    ),
    "too few outputs to compare": (lambda b: ["evaluate", b.rows("a.jsonl", GOOD)], 2, ["1 sources"]),
    "a report of a folder that is no run": (lambda b: ["report", str(b.model)], 2, ["holds no run"]),
    "a report of nothing": (lambda b: ["report", str(b.folder / "absent")], 2, ["absent"]),
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(
    name: str, tmp_path: Path, model: Path, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case, code, words = CASES[name]
    bench = Bench(tmp_path, model, records)
    command = case(bench)
    before = contents(tmp_path)
    capsys.readouterr()
    assert answer(command) == code, capsys.readouterr().err
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    line = said.err
    assert line.startswith("error: ")
    assert "internal error" not in line
    assert ": " in line.removeprefix("error: "), "where is missing"
    assert "; " in line, "the cure is missing"
    for word in words:
        assert word in line
    after = {path: content for path, content in contents(tmp_path).items() if not path.endswith(".pyc")}
    assert after == before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "source"),
    [("only unknown characters", "\U0001f9ff\U0001fae0"), ("another script", "名前[東京], ราคา[ถูก], имя[Москва]")],
)
def test_any_text_is_a_source(name: str, source: str, tmp_path: Path, model: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [{"source": source, "kept": name}])
    assert answer(["generate", str(model), "-i", str(rows), "-o", str(tmp_path / "out.jsonl"), "--max-length", "4"]) == 0
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert (written["source"], written["kept"], len(written["outputs"])) == (source, name, 1)


PROCESSES = ["missing file", "unknown option", "truncated weights", "a run with a reward that raises", "broken YAML"]


@pytest.mark.parametrize("name", PROCESSES)
def test_a_real_process_says_the_same(name: str, tmp_path: Path, model: Path, records: Path) -> None:
    case, code, words = CASES[name]
    command = [sys.executable, "-m", "guerdon", *case(Bench(tmp_path, model, records))]
    debug = ["--debug"] if name == "truncated weights" else []
    done = subprocess.run([*command, *debug], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert done.stdout == ""
    *before, line = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words)
    assert bool(before) == bool(debug) == ("Traceback" in done.stderr)


# --- disks and permissions


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Callable[[], None]]:
    """Makes ``folder`` a disk of that size, and hands over what makes it large.

    Where nothing may be mounted, a limit on the size of files stands in for it: EFBIG in place of ENOSPC.
    """
    folder.mkdir()
    mount = shutil.which("mount") or "false"
    options = ["-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    if subprocess.run([mount, *options], capture_output=True, check=False).returncode == 0:
        try:
            yield lambda: subprocess.run([mount, "-o", "remount,size=64m", str(folder)], check=True) and None
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (min(20, kilobytes) * 1000, limits[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def half_written(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "partial" in path.name or path.name.endswith(".tmp")]


@pytest.mark.parametrize("kilobytes", [4, 16, 64, 400, 800])
def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(
    kilobytes: int, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", str(recipe), "--folder", str(tmp_path / "disk" / "run"), "--json"]
    with small_disk(tmp_path / "disk", kilobytes) as enlarge:
        assert answer(command) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path / 'disk' / 'run'}")
        assert "; free" in line
        assert half_written(tmp_path / "disk") == []
        enlarge()
        assert answer(command) == 0
        assert (tmp_path / "disk" / "run" / "report.html").is_file()


def test_outputs_that_do_not_fit_leave_no_file(
    model: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "disk" / "out.jsonl"
    with small_disk(tmp_path / "disk", 4):
        assert answer(["generate", str(model), "-i", str(records / "train.jsonl"), "-o", str(out), "--json"]) == 1
        assert "free" in capsys.readouterr().err
        assert list(out.parent.iterdir()) == []


@contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """A folder that nothing can be written into, not even by root."""
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
        return
    mount = shutil.which("mount") or "false"
    if subprocess.run([mount, "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("root may write everywhere, and nothing may be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("verb", ["run", "generate"])
def test_a_folder_that_may_not_be_written_is_one_line(
    verb: str, recipe: Path, model: Path, records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    commands = {
        "run": ["run", str(recipe), "--folder", str(locked / "run"), "--json"],
        "generate": ["generate", str(model), "-i", str(records / "test.jsonl"), "-o", str(locked / "o.jsonl"), "--json"],
    }
    with unwritable(locked):
        assert answer(commands[verb]) in (1, 2)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {locked}")
        assert "; " in line
        assert list(locked.iterdir()) == []


# --- run folders that are in use


@pytest.fixture
def used(recipe: Path, tmp_path: Path) -> list[str]:
    """A command that has been run once."""
    command = ["run", str(recipe), "--folder", str(tmp_path / "run"), "--json", "--set", "reinforce=null"]
    assert answer(command) == 0
    return command


BAD_CHANGES = {
    "other options": (["finetune.steps=3"], 1, "other options"),
    "another seed": (["seed=5"], 1, "other options"),
    "data that are not there": (["data.folder=/absent"], 2, "/absent/train.jsonl"),
    "an option that does not exist": (["finetune.step=3"], 2, "finetune.step"),
    "a reward that does not exist": (
        ["reward=[{type: function, function: 'nowhere:f'}]", "decoding.beam_size=3"],
        2,
        "nowhere",
    ),
}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("name", BAD_CHANGES)
def test_a_used_run_folder_stays_as_it_is(
    name: str, begun: bool, used: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where its stage was only begun, as after a kill."""
    changes, code, words = BAD_CHANGES[name]
    if begun:
        shutil.rmtree(tmp_path / "run" / "finetune")
    before = contents(tmp_path)
    capsys.readouterr()
    assert answer([*used, *(part for change in changes for part in ("--set", change))]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert "; " in line
    assert contents(tmp_path) == before


def test_data_that_changed_under_a_run_are_noticed(records: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = Path(shutil.copytree(records, tmp_path / "records"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**tiny_recipe(own), "reinforce": None}))
    command = ["run", str(path), "--folder", str(tmp_path / "run"), "--json"]
    assert answer(command) == 0
    with (own / "train.jsonl").open("a") as file:
        file.write(json.dumps(GOOD) + "\n")
    capsys.readouterr()
    assert answer(command) == 1
    assert "other data" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["state.json", "model.safetensors", "optimiser.safetensors"])
def test_a_damaged_checkpoint_is_named(
    damage: str, used: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.rmtree(folder / "finetune")
    newest = sorted((folder / "checkpoints" / "finetune").glob("step-*"))[-1]
    truncate(damage)(newest)
    capsys.readouterr()
    assert answer(used) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert damage in line
    assert "remove" in line
    shutil.rmtree(newest)
    assert answer(used) == 0


@pytest.mark.parametrize("name", ["tokenizer/done.json", "finetune/done.json", "run.json", "finetune/config.json"])
def test_a_damaged_file_of_a_run_is_named(
    name: str, used: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / "evaluation.json").unlink()
    (tmp_path / "run" / name).write_text("{")
    capsys.readouterr()
    assert answer(used) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line
    assert "; " in line
