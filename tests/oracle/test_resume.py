"""SIGKILL at any instant, then the same command again: every byte of the run equals that of a run that nobody killed.

Which instants are random differs from one machine and hour to the next, what comes out at the end must not.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.kills import (
    ALARM,
    BEST,
    LOG,
    PHASES,
    REMOVE,
    STAGES,
    SWAP,
    WRITE,
    Hit,
    Instant,
    Operation,
    Ordeal,
    at_each_phase,
    drawn,
    write_recipe,
)

RANDOM = 21  # kills

# Options of reinforcement that keep something else from step to step, or nothing, than those of the tiny recipe.
VARIANTS = {
    "ppo, adaptive kl, refreshed anchor": [
        "reinforce.estimator=ppo",
        "reinforce.baseline=null",
        "reinforce.updates_per_rollout=2",
        "reinforce.kl={target: 1.0, horizon: 100, anchor: refreshed, anchor_every: 3}",
    ],
    "overlap, greedy baseline": [
        "reinforce.overlap=true",
        "reinforce.estimator=remax",
        "reinforce.baseline=null",
    ],
    "moving anchor, adaptive entropy and weights": [
        "reinforce.kl={place: loss, anchor: moving_average, anchor_decay: 0.9}",
        "reinforce.entropy={target: 7.0}",  # above the logarithm of the vocabulary's size: the bonus grows at every step
        "reinforce.schedules={chrf: {to: 0.2, steps: 8}}",
        "reinforce.constraints={repetition: {at_least: 0.9}}",
    ],
    "rollouts by ctranslate2": ["reinforce.rollout_engine={kind: ctranslate2, compute_type: int8}"],
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipe"))


@pytest.fixture(scope="module")
def ordeal(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Ordeal:
    return Ordeal(recipe, tmp_path_factory.mktemp("ordeal"))


def show(hits: Counter[Hit]) -> None:
    print(f"{hits.total()} kills: " + ", ".join(f"{n} × {hit.stage}/{hit.phase}" for hit, n in sorted(hits.items(), key=repr)))


def test_a_run_that_is_killed_in_every_phase_of_every_stage_ends_as_one_that_was_not(ordeal: Ordeal) -> None:
    hits: Counter[Hit] = Counter()
    for instant in at_each_phase():
        assert instant.operation is not None
        assert ordeal.kill(instant) == Hit(instant.operation.stage, instant.operation.phase)
        hits[Hit(instant.operation.stage, instant.operation.phase)] += 1
        if instant.operation.phase == WRITE:
            (partial,) = (ordeal.folder / "checkpoints" / instant.operation.stage).glob(".step-*.partial")
            assert {path.name for path in partial.iterdir()} == {"model.safetensors", "optimiser.safetensors"}
    ordeal.finish()
    show(hits)
    assert set(hits) == {Hit(stage, phase) for stage in STAGES for phase in PHASES}


def test_a_run_that_is_killed_at_random_instants_ends_as_one_that_was_not(ordeal: Ordeal) -> None:
    hits: Counter[Hit] = Counter()
    before = ordeal.compared
    for number, instant in enumerate(drawn(1, ordeal)):
        hit = ordeal.kill(instant)
        hits += Counter([hit] if hit is not None else [])
        assert number < 5 * RANDOM, "the runs end before they can be killed"
        if hits.total() == RANDOM:
            break
    ordeal.finish()
    show(hits)
    assert ordeal.compared > before


@pytest.fixture(scope="module")
def prepared(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which all is done but reinforcement."""
    return Ordeal(recipe, tmp_path_factory.mktemp("prepared"), ["reinforce=null"]).whole


@pytest.fixture(scope="module")
def edge(recipe: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Ordeal:
    return Ordeal(recipe, tmp_path_factory.mktemp("edge"), prepared=prepared)


@pytest.mark.parametrize(
    "operation",
    [
        Operation("begin", WRITE, 2),  # a small file is written beside the one that it replaces
        Operation("reinforce", SWAP),  # the first checkpoint of all is away, and its successor not yet there
        Operation("reinforce", BEST, -1),
        Operation("reinforce", REMOVE, -1),  # after it no checkpoint is written that would clear up
        Operation("reinforce", ALARM, 1),
        Operation("evaluation", WRITE, -1),
    ],
    ids=lambda operation: f"{operation.stage} {operation.phase}",
)
def test_one_kill_at_the_edge_of_a_stage_leaves_no_mark(operation: Operation, edge: Ordeal) -> None:
    """Numbers below 0 count from the last operation of that kind."""
    number = operation.number % (edge.counts[operation.stage, operation.phase] + 1)
    assert edge.kill(Instant(operation=replace(operation, number=number), torn=operation.phase == ALARM)) is not None
    edge.finish()


@pytest.mark.parametrize("overrides", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_of_reinforcement_is_taken_up(overrides: list[str], recipe: Path, prepared: Path, tmp_path: Path) -> None:
    ordeal = Ordeal(recipe, tmp_path, overrides, prepared)
    for instant in at_each_phase(["reinforce"], [WRITE, LOG, SWAP]):
        assert ordeal.kill(instant) is not None
    ordeal.finish()
    assert ordeal.compared >= 1
