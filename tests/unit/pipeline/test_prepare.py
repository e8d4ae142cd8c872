"""What is refused before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from guerdon.data.records import Records
from guerdon.errors import ConfigurationError, DataError, InputError, RewardError
from guerdon.generator import Generator
from guerdon.metrics.slots import SlotPatterns
from guerdon.pipeline.prepare import (
    check_lengths,
    check_records,
    measured_split,
    new_generator,
    new_tokenizer,
    read_records,
    read_reward,
    skips_long,
    split_files,
    try_reward,
)
from guerdon.pipeline.recipe import Recipe, read_recipe
from guerdon.rewards import FunctionReward, Length

ROWS = [{"source": f"kind[pub], number[{i}]", "references": [f"A pub, number {i}.", "A pub."]} for i in range(6)]
Rows = list[dict[str, Any]]
Make = Callable[..., tuple[Recipe, dict[str, Records]]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A recipe over ``splits`` and its records."""

    def made(splits: dict[str, Rows] | None = None, **changes: Any) -> tuple[Recipe, dict[str, Records]]:
        rows = {"train": ROWS, "validation": ROWS[:3], "test": ROWS[3:], **(splits or {})}
        for name, own in rows.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
        model = {"width": 8, "heads": 2, "encoder_layers": 1, "decoder_layers": 1, "feed_forward": 8, "max_source": 40}
        values = {
            "name": "x",
            "data": {name: f"{name}.jsonl" for name in rows},
            "tokenizer": {"vocabulary_size": 300},
            "model": {**model, "max_target": 30},
            "finetune": {"epochs": 2, "batch": {"max_tokens": 200}},
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        recipe = read_recipe(path)
        return recipe, read_records(recipe)

    return made


def generator(recipe: Recipe, records: dict[str, Records]) -> Generator:
    return new_generator(recipe, lambda: new_tokenizer(recipe, records["train"].examples))


REINFORCED = {"reward": [{"type": "repetition"}], "reinforce": {"sources_per_step": 6}}


def test_the_last_split_is_measured_on(make: Make) -> None:
    recipe, _ = make()
    assert (list(split_files(recipe)), measured_split(recipe)) == (["train", "validation", "test"], "test")
    untested = recipe.model_copy(update={"data": type(recipe.data)(train="train.jsonl", validation="validation.jsonl")})
    assert measured_split(untested) == "validation"
    assert split_files(untested)["validation"] == split_files(recipe)["validation"]


def test_a_limit_is_one_of_training_records_alone(make: Make) -> None:
    data = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    _, records = make(data={**data, "limit": 2})
    assert {split: len(found.examples) for split, found in records.items()} == {"train": 2, "validation": 3, "test": 3}


def test_good_records_pass(make: Make) -> None:
    recipe, records = make(**REINFORCED)
    check_records(recipe, records, read_reward(recipe, records), SlotPatterns({"kind": {}}))


@pytest.mark.parametrize(
    ("splits", "changes", "words"),
    [
        ({"test": ROWS[:1]}, {}, ["test.jsonl", "one record"]),
        ({}, {**REINFORCED, "reinforce": {"sources_per_step": 7}}, ["reinforce.sources_per_step", "7", "6"]),
        ({"test": [ROWS[0], {"source": "x"}]}, {**REINFORCED, "finetune": None}, ["test.jsonl, record 2", "other records"]),
        (
            {"validation": [ROWS[0], {"source": "x"}]},
            {**REINFORCED, "finetune": None, "reward": [{"type": "chrf"}]},
            ["validation.jsonl, record 2", "chrf"],
        ),
        (
            {"train": [*ROWS[1:], {"source": "x"}]},
            {**REINFORCED, "finetune": None, "reinforce": {"sources_per_step": 2, "mle_weight": 0.5}},
            ["train.jsonl, record 6", "mle_weight"],
        ),
        ({"test": [ROWS[0], {**ROWS[1], "source": "kind[pub"}]}, {}, ["kind[pub"]),
    ],
)
def test_records_that_a_later_stage_would_stop_at(
    splits: dict[str, Rows], changes: dict[str, Any], words: list[str], make: Make
) -> None:
    recipe, records = make(splits, **changes)
    with pytest.raises(InputError) as raised:
        check_records(recipe, records, read_reward(recipe, records), SlotPatterns({"kind": {}}))
    assert raised.value.cure
    for word in words:
        assert word in str(raised.value)


def test_a_reward_that_needs_no_references_gets_none(make: Make) -> None:
    recipe, records = make(
        {split: [{"source": "x"}] * 6 for split in ("train", "validation", "test")}, **REINFORCED, finetune=None
    )
    check_records(recipe, records, read_reward(recipe, records), None)


LONG = {"source": "kind[pub], " * 30, "references": ["A pub."]}
LONG_TARGET = {"source": "kind[pub]", "references": ["A pub is a pub is a pub. " * 20]}


@pytest.mark.parametrize(
    ("splits", "changes", "words"),
    [
        ({"train": [*ROWS, LONG]}, {}, ["train.jsonl, source", "max_source"]),
        ({"train": [*ROWS, LONG_TARGET]}, {}, ["train.jsonl, target", "max_target"]),
        ({"validation": [*ROWS, LONG]}, {}, ["validation.jsonl, source 7", "max_source"]),
        ({"test": [*ROWS, LONG]}, {}, ["test.jsonl, source 7", "max_source"]),
        ({"train": [*ROWS, LONG]}, {**REINFORCED, "finetune": None}, ["train.jsonl, source 7", "max_source"]),
        ({}, {"finetune": {"epochs": 1, "batch": {"max_tokens": 12}}}, ["train.jsonl", "max_tokens"]),
        ({"train": [LONG, LONG]}, {"finetune": {"epochs": 1, "too_long": "skip"}}, ["train.jsonl", "every pair"]),
    ],
)
def test_texts_that_do_not_fit(splits: dict[str, Rows], changes: dict[str, Any], words: list[str], make: Make) -> None:
    recipe, records = make(splits, **changes)
    with pytest.raises(DataError) as raised:
        check_lengths(recipe, records, generator(recipe, records))
    assert raised.value.cure
    for word in words:
        assert word in str(raised.value)


def test_what_training_works_on_is_counted(make: Make) -> None:
    recipe, records = make({"train": [*ROWS, LONG]}, finetune={"steps": 7, "too_long": "skip"}, **REINFORCED)
    made = generator(recipe, records)
    facts = check_lengths(recipe, records, made)
    assert skips_long(recipe)
    assert facts["training pairs"] == 12
    assert facts["fine-tuning steps"] == 7
    assert facts["parameters"] == sum(p.numel() for p in made.policy.parameters())


def test_the_first_weights_depend_on_the_seed_alone(make: Make) -> None:
    recipe, records = make()
    first, again = (generator(recipe, records).policy.state_dict() for _ in range(2))
    other = generator(recipe.model_copy(update={"seed": 2}), records).policy.state_dict()
    assert all(bool((tensor == again[name]).all()) for name, tensor in first.items())
    assert not bool((first["embedding.weight"] == other["embedding.weight"]).all())


def test_a_reward_is_tried_on_first_references(make: Make) -> None:
    _, records = make()
    examples = records["validation"].examples
    assert try_reward(Length(1, 3), examples) == {"length": pytest.approx((1.0 + 1.0 + 1.0) / 3, abs=0.2)}

    def faulty(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
        assert outputs == [found[0] for found in references]
        return [float("nan")] * len(outputs)

    with pytest.raises(RewardError, match="'faulty': returned nan"):
        try_reward(FunctionReward(faulty), examples)


def test_a_misspelt_option_of_a_reward_is_refused_with_the_records(make: Make) -> None:
    recipe, records = make(reward=[{"type": "length", "minimun": 3}])
    with pytest.raises(ConfigurationError, match="minimun"):
        read_reward(recipe, records)
