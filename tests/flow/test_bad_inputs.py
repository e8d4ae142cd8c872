"""Bad inputs at the command line: each is one line that says what, where and how to cure it, and leaves nothing half-written.

Every case prepares its files in a folder of its own and names the command, the exit code and words of the message.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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
        return ["generate", str(model or self.model), "-i", source, "-o", str(self.folder / "out.jsonl"), *more]

    def score(self, reward: str, source: str) -> list[str]:
        return ["score", reward, "-i", source, "-o", str(self.folder / "out.jsonl")]

    def run(self, recipe: str, *more: str) -> list[str]:
        return ["run", recipe, "--folder", str(self.folder / "run"), *more]


GOOD = {
    "source": "title[The Amber Tide], kind[lecture]",
    "references": ["The Amber Tide is a lecture."],
    "output": "A lecture.",
}
SCORED = {**GOOD, "outputs": ["A lecture.", "A talk."]}
Case = Callable[[Bench], list[str]]


def reward_module(body: str) -> Case:
    def case(bench: Bench) -> list[str]:
        module = f"reward_{abs(hash(body))}"  # one process imports a module's name once
        bench.file(f"{module}.py", f"def reward(sources, outputs, references):\n    {body}\n")
        part = {"type": "function", "function": f"{module}:reward"}
        return bench.score(bench.recipe(reward=[part]), bench.rows("in.jsonl", SCORED))

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
        lambda b: ["generate", str(b.model), "-i", b.rows("in.jsonl", GOOD), "-o", str(b.folder / "no/o.jsonl")], 2, ["no"],
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
    "data folder absent": (lambda b: b.run(b.recipe(), "--set", "data.folder=/absent"), 2, ["/absent/train.jsonl"]),
    "more sources than there are": (
        lambda b: b.run(b.recipe(), "--set", "reinforce.sources_per_step=1000"), 2, ["sources_per_step", "48"],
    ),
    "unknown reward": (lambda b: b.run(b.recipe(reward=[{"type": "word_frequncy"}])), 2, ["did you mean 'word_frequency'"]),
    "unknown reward option": (lambda b: b.run(b.recipe(reward=[{"type": "chrf", "ordr": 2}])), 2, ["ordr"]),
    "slot patterns missing": (
        lambda b: b.run(b.recipe(reward=[{"type": "required_content", "patterns": "none.yaml"}])), 2, ["none.yaml"],
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
    "a reward module that does not exist": (lambda b: b.score("nowhere:f", b.rows("in.jsonl", SCORED)), 2, ["nowhere"]),
    "a reward function that does not exist": (lambda b: b.score("math:absent", b.rows("in.jsonl", SCORED)), 2, ["absent"]),
    "a reward that is neither": (lambda b: b.score("thing", b.rows("in.jsonl", SCORED)), 2, ["thing", "module:function"]),
    "outputs of other sources": (
        lambda b: [
            "evaluate", b.rows("a.jsonl", GOOD, GOOD), "--against", b.rows("b.jsonl", {**GOOD, "source": "y"}, GOOD),
        ], 2, ["other sources"],
    ),
    "too few outputs to compare": (lambda b: ["evaluate", b.rows("a.jsonl", GOOD)], 2, ["1 sources"]),
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
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said.err
    assert "Traceback" not in said.err
    assert "internal error" not in said.err
    for word in words:
        assert word in errors[0]
    after = {path: content for path, content in contents(tmp_path).items() if not path.endswith(".pyc")}
    started = {path for path in after.keys() - before.keys() if path.startswith("run/")}
    assert {path: content for path, content in after.items() if path not in started} == before
    assert not any("partial" in path or ".tmp" in path for path in after)


@pytest.mark.parametrize(
    ("name", "source"),
    [("only unknown characters", "\U0001f9ff\U0001fae0"), ("another script", "名前[東京], ราคา[ถูก], имя[Москва]")],
)
def test_any_text_is_a_source(name: str, source: str, tmp_path: Path, model: Path) -> None:
    rows = write_rows(tmp_path / "in.jsonl", [{"source": source, "kept": name}])
    assert answer(["generate", str(model), "-i", str(rows), "-o", str(tmp_path / "out.jsonl"), "--max-length", "4"]) == 0
    written = json.loads((tmp_path / "out.jsonl").read_text())
    assert (written["source"], written["kept"], len(written["outputs"])) == (source, name, 1)


@pytest.mark.parametrize("name", ["missing file", "unknown option", "truncated weights", "a reward that raises", "broken YAML"])
def test_a_real_process_says_the_same(name: str, tmp_path: Path, model: Path, records: Path) -> None:
    case, code, words = CASES[name]
    command = [sys.executable, "-m", "guerdon.cli.main", *case(Bench(tmp_path, model, records))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    errors = done.stderr.strip().splitlines()
    assert errors[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    assert all(word in errors[-1] for word in words)
    debugged = subprocess.run([*command, "--debug"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert debugged.returncode == code
    assert "Traceback" in debugged.stderr


def test_a_full_disk_is_one_line_and_the_run_goes_on_afterwards(recipe: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the kernel answers EFBIG where it would answer ENOSPC."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "guerdon.cli.main", "run", str(recipe), "--folder", str(folder)]
    limited = (
        "import resource, signal, os, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)); os.execv(sys.argv[1], sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    full = subprocess.run(
        [sys.executable, "-c", limited, *command], cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    assert full.returncode == 1, full.stderr
    last = full.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "cannot" in last
    assert "Traceback" not in full.stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert (folder / "report.html").is_file()


def test_a_used_run_folder_refuses_other_options(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    quick = ["--folder", str(folder), "--set", "controls.run=[]", "--set", "reinforce=null"]
    assert answer(["run", str(recipe), *quick]) == 0
    before = contents(folder)
    capsys.readouterr()
    assert answer(["run", str(recipe), *quick, "--set", "finetune.steps=3"]) == 1
    assert "other options" in capsys.readouterr().err
    assert contents(folder) == before


@pytest.mark.parametrize("damage", ["state.json", "model.safetensors", "optimiser.safetensors"])
def test_a_damaged_checkpoint_is_named(damage: str, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    command = ["run", str(recipe), "--folder", str(folder), "--set", "controls.run=[]", "--set", "reinforce=null"]
    assert answer(command) == 0
    shutil.rmtree(folder / "finetune")
    newest = sorted((folder / "checkpoints" / "finetune").glob("step-*"))[-1]
    truncate(damage)(newest)
    capsys.readouterr()
    assert answer(command) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert damage in line
    assert "remove" in line
    shutil.rmtree(newest)
    assert answer(command) == 0
