"""Reinforcement with rollouts that CTranslate2 draws."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from flow.conftest import tiny_recipe
from helpers.resumable import TRAINING, VALIDATION, generator

from guerdon.cli.main import answer
from guerdon.decoding import LengthLimit
from guerdon.errors import CapabilityError, DataError, TrainingError
from guerdon.generator import Generator
from guerdon.rewards import FunctionReward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.stages.reinforce import reinforce, trainee_of
from guerdon.training.engines import EngineOptions
from guerdon.training.estimators import ValueOptions
from guerdon.training.holding import EntropyOptions, KlOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

pytest.importorskip("ctranslate2")

FIGURES = {"engine_mismatch", "effective_samples", "capped"}
INT8 = EngineOptions("ctranslate2", "int8")


def config(engine: EngineOptions, **changes: Any) -> ReinforceConfig:
    loop = LoopOptions(validate_every=3, checkpoint_every=1, criterion="reward", higher_is_better=True, average_best=0)
    settings = {"steps": 6, "sources_per_step": 8, "samples_per_source": 4, "limit": LengthLimit(8), "loop": loop}
    made = ReinforceConfig(**settings, normalisation=NormaliserOptions("batch"), rollout_engine=engine)
    return replace(made, **changes)


def brevity(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
    return [-float(len(output)) for output in outputs]


REWARD = FunctionReward(brevity, name="wanted")


def steps_of(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == "train"]


def weights(made: Generator) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in made.policy.state_dict().items()}


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_reward_rises_on_what_it_draws_from_the_weights_of_the_moment(kind: str, tmp_path: Path) -> None:
    optimiser = OptimiserOptions(learning_rate=1e-2, warmup_steps=1, schedule="constant", weight_decay=0.0)
    chosen = config(EngineOptions("ctranslate2", kind), steps=12, sources_per_step=12, optimiser=optimiser)
    outcome = reinforce(generator(), REWARD, TRAINING, chosen, VALIDATION, folder=tmp_path, seed=5)
    assert outcome.skipped == 0
    steps = steps_of(tmp_path)
    before, after = (sum(row["reward"] for row in part) / 3 for part in (steps[:3], steps[-3:]))
    assert after > before + 0.5
    assert all(row.keys() >= FIGURES for row in steps)
    assert all(row["mismatch"] < 1e-5 for row in steps)  # of the policy's own pass, which the outputs' log-probabilities are of
    if kind == "float32":
        assert all(row["engine_mismatch"] < 1e-5 and row["effective_samples"] > 0.9999 for row in steps)
        assert all(row["capped"] == 0.0 for row in steps)
    else:
        assert all(1e-5 < row["engine_mismatch"] < 0.1 and 0.8 < row["effective_samples"] < 1 for row in steps)
    assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the policy is its own anchor before the first update


def test_an_own_run_logs_nothing_of_it(tmp_path: Path) -> None:
    reinforce(generator(), REWARD, TRAINING, config(EngineOptions(), steps=1), VALIDATION, folder=tmp_path, seed=5)
    assert not FIGURES & steps_of(tmp_path)[0].keys()


@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": "ppo", "value": ValueOptions(), "updates_per_rollout": 2},
        {"estimator": "grpo", "kl": KlOptions(0.1, "loss"), "entropy": EntropyOptions(0.01)},
        {"estimator": "remax", "limit": LengthLimit(8, ratio=0.3)},
        {"control": "shuffled"},
    ],
    ids=lambda changes: " ".join(map(str, changes)),
)
def test_a_run_that_is_cut_and_taken_up_again_computes_the_same_bits(changes: dict[str, Any], tmp_path: Path) -> None:
    chosen, whole, cut = config(INT8, **changes), generator(), generator()
    reinforce(whole, REWARD, TRAINING, chosen, VALIDATION, folder=tmp_path / "whole", seed=5)
    calls = []

    def breaking(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
        calls.append(len(outputs))
        if len(calls) == 5:
            raise KeyboardInterrupt
        return brevity(sources, outputs, references)

    broken = FunctionReward(breaking, name="wanted")
    with pytest.raises(KeyboardInterrupt):
        reinforce(cut, broken, TRAINING, chosen, VALIDATION, folder=tmp_path / "cut", seed=5)
    resumed = generator()
    reinforce(resumed, REWARD, TRAINING, chosen, VALIDATION, folder=tmp_path / "cut", seed=5)
    assert all(torch.equal(tensor, weights(resumed)[name]) for name, tensor in weights(whole).items())
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_step_that_it_does_not_draw_well_enough_is_not_taken(tmp_path: Path) -> None:
    """The bound is above what int8 is worth; the run ends before anything of the step is written."""
    made = generator()
    before, strict = weights(made), EngineOptions("ctranslate2", "int8", least_effective=0.999999)
    with pytest.raises(TrainingError, match=r"rollout_engine: 32 outputs of CTranslate2 .* least_effective is 100\.0%"):
        reinforce(made, REWARD, TRAINING, config(strict), VALIDATION, folder=tmp_path, seed=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(made).items())
    assert steps_of(tmp_path) == []
    assert [path.name for path in (tmp_path / "checkpoints" / "reinforce").glob("step-*")] == ["step-00000000"]


def test_what_weights_do_to_a_step() -> None:
    """Of one step of the stage itself: advantages are those of the rewards alone, times min(p / q, cap); the KL is p's too."""
    found = []
    for cap in (1.0, 1.02):
        engine, bare = EngineOptions("ctranslate2", "int8", cap=cap), NormaliserOptions("none")
        chosen, made = config(engine, baseline="none", normalisation=bare, kl=KlOptions(0.0)), generator()
        trainee = trainee_of(made, REWARD, TRAINING, chosen, VALIDATION)
        with torch.no_grad():
            made.policy.embedding.weight.mul_(1.3)  # away from the anchor
        for loss in next(trainee.updates(1)):
            loss.backward()
        rollout = trainee._rollout
        assert rollout is not None
        assert rollout.weights is not None
        mean = sum(-len(text) * float(weight) for text, weight in zip(rollout.texts, rollout.weights, strict=True)) / 32
        assert trainee.metrics()["advantage_mean"] == pytest.approx(mean, rel=1e-6)
        with torch.no_grad():
            args = rollout.sources.select(rollout.groups), rollout.samples.tokens
            ratio = (made.policy.evaluate(*args).log_prob - trainee.anchor.evaluate(*args).log_prob).double().sum(1)
        assert trainee.metrics()["kl"] == pytest.approx(float((rollout.weights * ratio).mean()), rel=1e-3)
        assert abs(float((rollout.weights * ratio - ratio).mean())) > 1e-2 * abs(float(ratio.mean()))
        found.append(rollout.weights)
    assert float(found[0].max()) == 1.0
    assert float(found[1].max()) == 1.02
    assert torch.equal(torch.minimum(found[1], torch.tensor(1.0)), found[0])


def test_what_it_cannot_draw_is_refused_before_anything_is_begun(tmp_path: Path) -> None:
    made = generator()
    with pytest.raises(DataError, match="example 0 has an empty source"):
        reinforce(made, REWARD, [replace(TRAINING[0], source="")], config(INT8), VALIDATION, folder=tmp_path / "a", seed=5)
    made.policy.double()
    with pytest.raises(CapabilityError, match="float32 weights on the CPU"):
        reinforce(made, REWARD, TRAINING, config(INT8), VALIDATION, folder=tmp_path / "b", seed=5)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", ["check", "run"])
def test_an_engine_that_is_not_installed_is_told_before_anything_is_trained(
    verb: str, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_recipe(records)
    recipe["reinforce"]["rollout_engine"] = {"kind": "ctranslate2"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    where = [] if verb == "check" else ["--folder", str(tmp_path / "run")]
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert answer([verb, str(path), *where]) == 2
    *_, line = capsys.readouterr().err.splitlines()  # a run has said what it reads
    assert "reinforce.rollout_engine" in line
    assert "guerdon[ctranslate2]" in line
    assert sorted(tmp_path.iterdir()) == [path]
