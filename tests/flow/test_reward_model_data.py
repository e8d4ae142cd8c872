"""Real human judgements: what is read of them, and that a small reward model beats the length of the texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from guerdon.data.batches import BatchOptions
from guerdon.data.comparisons import Comparison
from guerdon.data.judgements import ComparisonFields, read_comparisons
from guerdon.errors import ConfigurationError
from guerdon.models.reward_options import NgramOptions, RewardModelOptions
from guerdon.rewards.learned import LearnedOptions, LearnedReward
from guerdon.stages.reward_model import train_reward_model
from guerdon.training.judged import Collector, SelectionOptions
from guerdon.training.reward_training import RewardModelConfig
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

FIELDS = ComparisonFields(source="prompt", weight="votes_for", against="votes_against")
ASPECTS = ("naturalness", "quality")


@pytest.fixture(scope="module")
def folder(data_folder: Path) -> Path:
    found = data_folder / "e2e_human"
    if not found.is_dir():
        pytest.skip("the human judgements of E2E are absent")
    return found


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    names = [folder / f"pairs_{aspect}.jsonl" for aspect in ASPECTS]
    return [json.loads(line) for name in names for line in name.read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def comparisons(folder: Path) -> list[Comparison]:
    return [c for aspect in ASPECTS for c in read_comparisons(folder / f"pairs_{aspect}.jsonl", FIELDS).comparisons]


def test_votes_against_are_comparisons_of_their_own(rows: list[dict[str, Any]], comparisons: list[Comparison]) -> None:
    assert len(comparisons) == sum(1 + (row["votes_against"] > 0) for row in rows)
    assert sum(c.weight for c in comparisons) == sum(row["votes_for"] + row["votes_against"] for row in rows)


def test_unanimous_pairs_are_those_that_nobody_contradicts(rows: list[dict[str, Any]], comparisons: list[Comparison]) -> None:
    select = SelectionOptions(unanimous=True, least_weight=2)
    kept = Collector(ASPECTS, select).comparisons(comparisons, ties=False, rankings=False)

    # A pair of texts may have been judged in several units: it is contested where any vote is against any other.
    orders: dict[tuple[str, frozenset[str], str], set[str]] = {}
    for row in rows:
        key = (row["prompt"], frozenset((row["chosen"], row["rejected"])), row["aspect"])
        orders.setdefault(key, set()).add(row["chosen"])
        if row["votes_against"]:
            orders[key].add(row["rejected"])
    expected = [
        (row["aspect"], row["prompt"], row["chosen"], row["rejected"])
        for row in rows
        if row["votes_for"] >= 2 and len(orders[row["prompt"], frozenset((row["chosen"], row["rejected"])), row["aspect"]]) == 1
    ]
    found = [
        (ASPECTS[item.head], kept.pairs[item.outputs[0]][0], *(kept.pairs[i][1] for i in item.outputs)) for item in kept.items
    ]
    assert found == expected
    assert len(found) > 4500
    assert len(comparisons) == len(found) + sum(kept.dropped.values())


def test_what_is_doubtful_counts_for_less(rows: list[dict[str, Any]], comparisons: list[Comparison]) -> None:
    firm = SelectionOptions(unanimous=True, least_weight=2)
    soft = SelectionOptions(unanimous=True, least_weight=2, doubtful=0.25)
    sure, every = (Collector(ASPECTS, select).comparisons(comparisons, ties=False, rankings=False) for select in (firm, soft))
    assert len(every) == len(comparisons) - sum(every.dropped.values())
    assert set(every.dropped) < set(sure.dropped)
    found = []
    for judged in (every, sure):
        items: dict[tuple[object, ...], list[float]] = {}
        for item in judged.items:
            texts = (judged.pairs[item.outputs[0]][0], *(judged.pairs[i][1] for i in item.outputs))
            items.setdefault((*texts, item.head), []).append(item.weight)
        found.append({key: weights[0] for key, weights in items.items() if len(weights) == 1})  # judged in one unit alone
    votes = found[0]
    certain = {key: weight for key, weight in found[1].items() if key in votes}
    assert len(certain) > 4000
    scale = next(votes[key] / weight for key, weight in certain.items())
    assert all(votes[key] == pytest.approx(scale * weight) for key, weight in certain.items())
    given = {(c.source, *c.outputs, ASPECTS.index(str(c.aspect))): c.weight for c in comparisons if c.ranks == (1, 2)}
    key = next(key for key, weight in given.items() if key in votes and weight == 1)  # a single vote: less than two
    two = next(key for key, weight in given.items() if key in certain and weight == 2)
    assert votes[key] / votes[two] == pytest.approx(0.25 * 1 / 2)


def test_doubt_needs_something_to_doubt() -> None:
    for wrong in ({"doubtful": 0.5}, {"doubtful": 1.5, "unanimous": True}, {"doubtful": -0.1, "least_weight": 2}):
        with pytest.raises(ConfigurationError, match=r"select\.doubtful: is .* give 0 to 1, with unanimous or least_weight"):
            SelectionOptions(**wrong)


def test_a_small_linear_model_beats_length(comparisons: list[Comparison]) -> None:
    training = [c for c in comparisons if c.meta["split"] == "train"]
    contested = {(c.source, frozenset(c.outputs), c.aspect) for c in comparisons if c.ranks != (1, 2)}
    unanimous = [
        c
        for c in comparisons
        if c.meta["split"] == "valid" and c.weight >= 2 and (c.source, frozenset(c.outputs), c.aspect) not in contested
    ]
    config = RewardModelConfig(
        steps=60,
        model=RewardModelOptions("linear", delexicalise=("name", "near"), ngrams=NgramOptions(longest=2, buckets=16384)),
        select=SelectionOptions(unanimous=True, least_weight=2),
        batch=BatchOptions(16000),
        optimiser=OptimiserOptions(learning_rate=5e-3, warmup_steps=5, schedule="linear", weight_decay=0.1),
        loop=LoopOptions(validate_every=30, checkpoint_every=60, criterion="accuracy", higher_is_better=True),
    )
    trained = train_reward_model(training, config, seed=1)
    assert trained.scorers[0].heads == ASPECTS
    for aspect, sign, bound in (("naturalness", -1, 0.74), ("quality", 1, 0.8)):
        held = [c for c in unanimous if c.aspect == aspect]
        reward = LearnedReward(trained.scorers, LearnedOptions({aspect: 1.0}))
        better, worse = (reward([c.source for c in held], [c.outputs[i] for c in held]) for i in (0, 1))
        accuracy = float((better > worse).float().mean())
        lengths = [sign * (len(c.outputs[0]) - len(c.outputs[1])) for c in held]
        by_length = sum(0.5 if d == 0 else float(d > 0) for d in lengths) / len(held)
        assert accuracy > max(bound, by_length + 0.05), (aspect, accuracy, by_length)
