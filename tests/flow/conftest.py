"""A tiny model, tiny records and a tiny recipe, shared by the tests of whole commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from guerdon.cli.main import answer
from guerdon.data.tokenizer import Tokenizer
from guerdon.generator import Generator
from guerdon.models import Transformer, TransformerOptions
from guerdon.quickstart.corpus import build

SIZES = {"train": 48, "validation": 8, "test": 10}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_recipe(folder: Path) -> dict[str, Any]:
    """A recipe that is valid and quick, over files in ``folder``."""
    loop = {"validate_every": 2, "checkpoint_every": 2}
    rising = {"criterion": "reward", "higher_is_better": True, "average_best": 0}  # the last weights, whatever they earn
    return {
        "name": "tiny",
        "data": {"folder": str(folder), "train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"},
        "tokenizer": {"vocabulary_size": 400},
        "model": {
            "width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 32, "max_source": 128,
            "max_target": 96,
        },
        "finetune": {"steps": 4, "batch": {"max_tokens": 1024}, "loop": loop},
        "reward": [{"type": "word_frequency", "weight": 0.5}, {"type": "chrf", "weight": 0.5}],
        "reinforce": {
            "steps": 4, "sources_per_step": 4, "samples_per_source": 3, "limit": {"absolute": 24}, "loop": {**loop, **rising},
        },
        "decoding": {"method": "beam", "beam_size": 2, "limit": {"absolute": 24}},
        "evaluation": {"bootstrap": 100},
        "controls": {"samples": 3},
        "tensorboard": False,
    }  # fmt: skip


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl, validation.jsonl and test.jsonl."""
    folder = tmp_path_factory.mktemp("records")
    for (name, size), examples in zip(SIZES.items(), build(1), strict=True):
        rows = [{"id": e.id, "source": e.source, "references": list(e.references)} for e in examples[:size]]
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


@pytest.fixture(scope="session")
def model(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model."""
    rows = [json.loads(line) for line in (records / "train.jsonl").read_text().splitlines()]
    tokenizer = Tokenizer.train([row["source"] for row in rows] + [row["references"][0] for row in rows], 400)
    torch.manual_seed(0)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 32, max_source=128, max_target=24)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    Generator(Transformer(options).eval(), tokenizer).save(folder)
    return folder


FRAGILE = '''
import os, signal

calls = 0

def words(sources, outputs, references):
    """Counts words. Where FRAGILE is set, the process that makes so many calls is killed in the middle of its work."""
    global calls
    calls += 1
    if calls == int(os.environ.get("FRAGILE", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(len(output.split())) for output in outputs]
'''


@pytest.fixture(scope="session")
def whole(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recipe with every control and slot patterns, and of its run; not to be written into."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "fragile.py").write_text(FRAGILE, encoding="utf-8")
    (folder / "slots.yaml").write_text("title: {}\nkind: {lecture: [lecture, talk]}\n", encoding="utf-8")
    values = tiny_recipe(records)
    values["reward"] = [
        *values["reward"],
        {"type": "function", "function": "fragile:words", "weight": -0.1},
        {"type": "required_content", "patterns": "slots.yaml"},
    ]
    values["evaluation"]["slots"] = "slots.yaml"
    values["controls"]["temperature"] = 0.7
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    assert answer(["run", str(folder / "recipe.yaml"), "--folder", str(folder / "run"), "--json"]) == 0
    return folder


@pytest.fixture
def recipe(records: Path, tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(records)), encoding="utf-8")
    return path
