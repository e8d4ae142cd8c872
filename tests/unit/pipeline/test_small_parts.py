"""Environment, labels of decoding, measures that a reward optimises, files of a run."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from guerdon.decoding import DecodingOptions
from guerdon.errors import CheckpointError, ConfigurationError, GuerdonError, InputError
from guerdon.pipeline.environment import environment
from guerdon.pipeline.execute import optimised
from guerdon.pipeline.files import check_output, open_reward
from guerdon.pipeline.folder import RunFiles
from guerdon.pipeline.recipe import Recipe, read_recipe
from guerdon.pipeline.systems import describe
from guerdon.rewards import Combined, FunctionReward
from guerdon.rewards.base import Part
from guerdon.rewards.normalise import joined


def recipe(tmp_path: Path, **changes: Any) -> Recipe:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"source": "x", "references": ["y"]}\n', encoding="utf-8")
    values = {"name": "x", "data": {"train": "a.jsonl", "validation": "b.jsonl"}, "finetune": {"epochs": 1}, **changes}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return read_recipe(path)


def test_the_environment_names_versions_and_device() -> None:
    found = environment()
    assert found["python"] == platform.python_version()
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"system", "machine", "device", "threads", "tokenizers", "sacrebleu"} <= found.keys()
    assert re.fullmatch(r"[0-9a-f]{40}", found.get("commit", "0" * 40))
    assert all(isinstance(value, str) for value in found.values())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "greedy"}, "greedy"),
        ({"method": "beam"}, "beam, size 5"),
        ({"method": "beam", "beam_size": 3, "length_penalty": 0.6}, "beam, size 3, length penalty 0.6"),
        ({"method": "sample", "temperature": 0.5, "returned": 4}, "sample, temperature 0.5"),
    ],
)
def test_decoding_in_words(options: dict[str, Any], words: str) -> None:
    assert describe(DecodingOptions(**options)) == words


def test_parts_of_successive_samples_are_one() -> None:
    one = Part(torch.tensor([1.0, 2.0]), torch.tensor([True, False]), 0.5)
    other = Part(torch.tensor([3.0]), torch.tensor([True]), 0.5)
    whole = joined([one, other])
    assert (whole.scores.tolist(), whole.applies.tolist(), whole.weight) == ([1.0, 2.0, 3.0], [True, False, True], 0.5)


def test_a_reward_that_contains_a_metric_optimises_it(tmp_path: Path) -> None:
    parts = [{"type": "chrf"}, {"type": "length", "minimum": 1, "maximum": 3}, {"type": "required_content", "field": "f"}]
    assert optimised(recipe(tmp_path, reward=parts)) == {"chrf", "slot_errors"}
    assert optimised(recipe(tmp_path)) == set()


# --- files


@pytest.mark.parametrize(
    ("name", "words"), [("a.csv", ".jsonl"), ("no/a.jsonl", "there is no folder"), ("folder.jsonl", "is a folder")]
)
def test_an_output_that_could_not_be_written_is_refused_before_the_work(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        check_output(tmp_path / name)
    check_output(tmp_path / "new.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.jsonl"]


def test_a_reward_is_a_recipes_or_a_function(tmp_path: Path) -> None:
    recipe(tmp_path, reward=[{"type": "word_frequency"}])
    assert isinstance(open_reward(str(tmp_path / "recipe.yaml")), Combined)
    changed = open_reward(str(tmp_path / "recipe.yaml"), ["reward=[{type: length, minimum: 1, maximum: 2}]"])
    assert isinstance(changed, Combined)
    assert [part.name for part in changed.parts] == ["length"]
    assert isinstance(open_reward("guerdon.data.draws:key"), FunctionReward)
    for name, words in (("thing", "is no reward"), ("thing.txt", "is no reward")):
        with pytest.raises(ConfigurationError, match=words):
            open_reward(name)
    recipe(tmp_path)
    with pytest.raises(ConfigurationError, match="has no reward"):
        open_reward(str(tmp_path / "recipe.yaml"))


# --- the run folder


def test_nothing_is_written_before_it_is_asked_for(tmp_path: Path) -> None:
    RunFiles(recipe(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_stage_is_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    files = RunFiles(recipe(tmp_path), tmp_path / "run")

    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(GuerdonError, match="No space left"):
        files.store("finetune", fails, {})
    assert list((tmp_path / "run").iterdir()) == []
    assert not files.finished("finetune")
    files.store("finetune", lambda folder: (folder / "model").write_text("x") and None, {"steps": 3})
    assert files.finished("finetune")
    done = json.loads((tmp_path / "run" / "finetune" / "done.json").read_text())
    assert done["steps"] == 3


@pytest.mark.parametrize(
    ("stage", "changes", "refused"),
    [
        ("tokenizer", {"tokenizer": {"vocabulary_size": 400}}, True),
        ("tokenizer", {"finetune": {"epochs": 2}}, False),
        ("finetune", {"finetune": {"epochs": 2}}, True),
        ("finetune", {"seed": 2}, True),
        ("finetune", {"model": {"width": 8, "heads": 2}}, True),
        ("finetune", {"reward": [{"type": "chrf"}]}, False),
        ("finetune", {"decoding": {"method": "greedy"}, "controls": {"run": []}, "tensorboard": False}, False),
        ("reinforce-constant", {"reward": [{"type": "chrf"}]}, True),
        ("reinforce-constant", {"finetune": {"epochs": 2}}, True),
    ],
)
@pytest.mark.parametrize("begun", [False, True])
def test_a_stage_belongs_to_the_options_it_depends_on(
    stage: str, changes: dict[str, Any], refused: bool, begun: bool, tmp_path: Path
) -> None:
    files = RunFiles(recipe(tmp_path), tmp_path / "run")
    if begun:
        files.mark_begun(stage)
    else:
        files.store(stage, lambda folder: None, {})
    RunFiles(recipe(tmp_path), tmp_path / "run")
    changed = recipe(tmp_path, **changes)
    if not refused:
        RunFiles(changed, tmp_path / "run")
        return
    with pytest.raises(CheckpointError, match="other options") as raised:
        RunFiles(changed, tmp_path / "run")
    assert stage in str(raised.value)


def test_a_stage_belongs_to_its_data(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("one\n", encoding="utf-8")
    stages = {"texts": ["texts.txt"], "validation_texts": ["texts.txt"], "epochs": 1}
    own = recipe(tmp_path, pretrain=stages)
    RunFiles(own, tmp_path / "run").store("pretrain", lambda folder: None, {})
    RunFiles(own, tmp_path / "run")
    texts.write_text("two\n", encoding="utf-8")
    with pytest.raises(CheckpointError, match="other data"):
        RunFiles(own, tmp_path / "run")
    texts.unlink()
    with pytest.raises(InputError, match=r"texts\.txt: no such file"):
        RunFiles(own, tmp_path / "run")


def test_an_evaluation_belongs_to_what_it_was_made_from(tmp_path: Path) -> None:
    own, folder = recipe(tmp_path), tmp_path / "run"
    files = RunFiles(own, folder)
    assert not files.evaluated()
    files.store("finetune", lambda path: None, {})
    files.write("evaluation.json", "{}")
    files.write("run.json", '{"counts": {"train records": 1}}')
    assert not files.evaluated()
    files.mark_evaluated()
    assert files.evaluated()
    assert json.loads((folder / "run.json").read_text())["counts"] == {"train records": 1}
    assert not RunFiles(recipe(tmp_path, decoding={"method": "greedy"}), folder).evaluated()
    assert RunFiles(recipe(tmp_path), folder).evaluated()
    (folder / "finetune" / "done.json").unlink()
    assert not files.evaluated()
    (folder / "run.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"run\.json: is damaged"):
        files.evaluated()
