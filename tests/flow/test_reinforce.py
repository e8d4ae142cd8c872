"""Reinforcement of tiny real policies, own and Hugging Face ones, against what is known of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from helpers.letters import huggingface
from helpers.tiny_models import tiny_bart, tiny_t5

from guerdon.data.records import Example
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit
from guerdon.errors import DataError, RewardError
from guerdon.generator import Generator
from guerdon.models import Transformer, TransformerOptions
from guerdon.rewards import FunctionReward, Reward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.stages.reinforce import reinforce
from guerdon.training.holding import KlOptions
from guerdon.training.monitors import MonitorOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

WORDS = ["red", "blue", "green", "pub", "cafe", "near", "river", "city", "cheap", "good"]
EXAMPLES = [Example(f"{a} {b}", (f"{b} {a}",), f"{a}-{b}") for a in WORDS[:5] for b in WORDS[5:]]
LIMIT = LengthLimit(absolute=8)


def own() -> Generator:
    tokenizer = Tokenizer.train([e.source for e in EXAMPLES] * 3, 280)
    torch.manual_seed(3)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 32, dropout=0.1, max_source=32, max_target=16)
    return Generator(Transformer(options).eval(), tokenizer)


POLICIES: dict[str, Callable[[], Generator]] = {
    "own": own,
    "t5": lambda: huggingface(tiny_t5),
    "bart": lambda: huggingface(tiny_bart),
}


def brevity(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
    return [-float(len(output)) for output in outputs]


def letter_g(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
    return [output.count("g") / max(1, len(output)) for output in outputs]


def config(**changes: Any) -> ReinforceConfig:
    base = ReinforceConfig(
        steps=12,
        sources_per_step=8,
        samples_per_source=4,
        limit=LIMIT,
        normalisation=NormaliserOptions("batch"),
        kl=KlOptions(0.0),
        optimiser=OptimiserOptions(learning_rate=1e-2, warmup_steps=1, schedule="constant", weight_decay=0.0),
        loop=LoopOptions(validate_every=6, checkpoint_every=6, criterion="reward", higher_is_better=True, average_best=0),
    )
    return replace(base, **changes)


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def weights(generator: Generator) -> dict[str, torch.Tensor]:
    return copy.deepcopy(generator.policy.state_dict())


@pytest.mark.parametrize("kind", POLICIES)
def test_the_reward_rises_on_every_kind_of_policy(kind: str, tmp_path: Path) -> None:
    generator, reward = POLICIES[kind](), FunctionReward(brevity if kind == "own" else letter_g, name="wanted")
    reinforce(generator, reward, EXAMPLES[:16], config(), EXAMPLES[16:], folder=tmp_path, seed=5)
    steps = lines(tmp_path, "train")
    before, after = (sum(row["reward"] for row in part) / 3 for part in (steps[:3], steps[-3:]))
    assert after > before + (0.5 if kind == "own" else 0.1)
    assert {"reward", "reward/wanted", "kl", "entropy", "length", "finished", "grad_norm", "advantage_std"} <= steps[0].keys()
    assert steps[0]["kl"] == pytest.approx(0.0, abs=1e-3)  # the policy is its own anchor before the first update
    assert steps[-1]["kl"] > 0.01
    validations = lines(tmp_path, "validation")
    assert [row["step"] for row in validations] == [0, 6, 12]
    assert validations[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {(row["kind"], row["step"]) for row in samples} >= {("train", step) for step in range(1, 13)} | {("validation", 12)}
    assert all(row["parts"].keys() == {"wanted"} for row in samples)


@pytest.mark.parametrize("kind", POLICIES)
def test_one_step_moves_weights_by_the_gradient_alone(kind: str, tmp_path: Path) -> None:
    """With a reward that is the same for all outputs, a centred advantage is 0: nothing may move."""
    generator = POLICIES[kind]()
    before = weights(generator)
    flat = FunctionReward(lambda sources, outputs, references: [3.0] * len(outputs), name="flat")
    reinforce(generator, flat, EXAMPLES[:16], config(steps=2), EXAMPLES[16:], folder=tmp_path, seed=5)
    for name, tensor in weights(generator).items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("baseline", ["none", "running_mean", "batch_mean", "leave_one_out", "self_critical"])
@pytest.mark.parametrize("normalisation", ["none", "running", "group"])
def test_every_baseline_and_normalisation_trains(baseline: Any, normalisation: Any, tmp_path: Path) -> None:
    generator = own()
    before = weights(generator)
    chosen = config(steps=2, baseline=baseline, normalisation=NormaliserOptions(normalisation), mle_weight=0.1)
    chosen = replace(chosen, kl=KlOptions(0.1, "loss"))
    outcome = reinforce(generator, FunctionReward(brevity), EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path, seed=5)
    assert outcome.skipped == 0
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(generator).items())


def test_a_policy_that_becomes_sure_raises_an_alarm_and_a_resumed_one_the_same(tmp_path: Path) -> None:
    """The reward pays for brevity; the run is cut in the step in which the alarm would come, and goes on."""
    chosen = config(steps=40, monitors=MonitorOptions(window=4, entropy_collapse=0.85))
    reinforce(own(), FunctionReward(brevity), EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path / "whole", seed=5)
    alarms = alarms_of(tmp_path / "whole")
    first = next(row for row in alarms if row["monitor"] == "entropy_collapse")
    levels = [row["entropy"] for row in lines(tmp_path / "whole", "train")]
    now, begin = median(levels[first["step"] - 4 : first["step"]]), median(levels[:4])
    assert f"now {now:.3g} nats per token, {begin:.3g} at the beginning" in first["sentence"]
    assert now / begin < 0.85 <= median(levels[first["step"] - 5 : first["step"] - 1]) / begin

    calls = [0]

    def cut(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
        calls[0] += 1
        if calls[0] == first["step"] + 1:
            raise RuntimeError("cut")
        return brevity(sources, outputs, references)

    with pytest.raises(RewardError, match="cut"):
        reinforce(own(), FunctionReward(cut, "brevity"), EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path / "cut", seed=5)
    reinforce(own(), FunctionReward(brevity), EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path / "cut", seed=5)
    assert alarms_of(tmp_path / "cut") == alarms


def alarms_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "alarms.jsonl").read_text().splitlines()]


def falling() -> Callable[[Generator], dict[str, float]]:
    """A held-out figure that gets worse from one validation to the next."""
    calls = iter(range(100))
    return lambda generator: {"bleu": 60.0 - 5 * next(calls)}


def test_a_run_stops_where_the_held_out_figure_falls_and_keeps_the_best_by_it(tmp_path: Path) -> None:
    """What it began with is best on the held-out figure, and is kept, though the reward rose."""
    loop = LoopOptions(validate_every=6, checkpoint_every=6, criterion="bleu", higher_is_better=True)
    chosen = config(steps=60, loop=loop, monitors=MonitorOptions(held_out="bleu", held_out_smoothing=1, stop=True))
    generator = POLICIES["t5"]()
    before = weights(generator)
    outcome = reinforce(
        generator, FunctionReward(letter_g), EXAMPLES[:16], chosen, EXAMPLES[16:], falling(), folder=tmp_path, seed=5
    )
    rewards = {row["step"]: row["reward"] for row in lines(tmp_path, "validation")}
    assert "bleu, which is held out, gets worse" in outcome.reason
    assert outcome.steps == next(step for step, reward in rewards.items() if step and reward > rewards[0]) < 60
    assert [row["monitor"] for row in alarms_of(tmp_path) if row["step"] == outcome.steps] == ["held_out_fall"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(generator).items())


def test_controls_differ_in_the_reward_only(tmp_path: Path) -> None:
    """The first step draws the same outputs for the run and for its controls; what the samples earn is permuted or constant."""
    first = {}
    for control in ("none", "shuffled", "constant"):
        chosen = config(steps=1, control=control, normalisation=NormaliserOptions("none"), baseline="batch_mean")
        folder = tmp_path / control
        reinforce(own(), FunctionReward(brevity), EXAMPLES[:16], chosen, EXAMPLES[16:], folder=folder, seed=5)
        first[control] = lines(folder, "train")[0]
    for name in ("reward", "length", "finished", "entropy"):
        assert first["none"][name] == first["shuffled"][name] == first["constant"][name]
    assert first["shuffled"]["advantage_std"] == pytest.approx(first["none"]["advantage_std"])
    assert first["shuffled"]["loss"] != first["none"]["loss"]
    assert (first["constant"]["advantage_mean"], first["constant"]["advantage_std"]) == (1.0, 0.0)
    assert first["none"]["stage"] == "reinforce"
    assert first["shuffled"]["stage"] == "reinforce-shuffled"


def test_a_strong_kl_holds_the_policy(tmp_path: Path) -> None:
    moved = {}
    for place in ("reward", "loss"):
        for coefficient in (0.0, 20.0):
            folder = tmp_path / f"{place}{coefficient}"
            chosen = config(kl=KlOptions(coefficient, place))
            reinforce(own(), FunctionReward(brevity), EXAMPLES[:16], chosen, EXAMPLES[16:], folder=folder, seed=5)
            moved[place, coefficient] = lines(folder, "validation")[-1]["kl"]
    assert moved["reward", 20.0] < 0.5 * moved["reward", 0.0]
    assert moved["loss", 20.0] < 0.5 * moved["loss", 0.0]


def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    found = []
    for tokens in (8192, 40):
        generator = own()
        generator.policy.double()
        chosen = config(steps=2, micro_batch_tokens=tokens, kl=KlOptions(0.1, "loss"))
        reinforce(
            generator, FunctionReward(brevity), EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path / str(tokens), seed=5
        )
        found.append((lines(tmp_path / str(tokens), "train"), weights(generator)))
    (one, first), (many, second) = found
    assert one[0]["grad_norm"] == pytest.approx(many[0]["grad_norm"], rel=1e-12)
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=0, atol=1e-9)


def test_convergence_stops_early(tmp_path: Path) -> None:
    flat = FunctionReward(lambda sources, outputs, references: [1.0] * len(outputs), name="flat")
    loop = LoopOptions(validate_every=2, checkpoint_every=2, criterion="reward", higher_is_better=True, patience=2)
    outcome = reinforce(own(), flat, EXAMPLES[:16], config(steps=50, loop=loop), EXAMPLES[16:], folder=tmp_path, seed=5)
    assert outcome.steps == 4
    assert "no longer improves" in outcome.reason


def test_what_cannot_be_is_refused() -> None:
    class NeedsReferences(Reward):
        name, needs_references = "needy", True

        def score(self, judged: Any) -> list[float]:
            return [0.0] * len(judged)

    bare = [Example("red pub"), Example("blue pub")]
    with pytest.raises(DataError, match="no references"):
        reinforce(own(), NeedsReferences(), bare, config(), bare)
    with pytest.raises(DataError, match="no references"):
        reinforce(own(), FunctionReward(brevity), bare, config(mle_weight=1.0), bare)
    with pytest.raises(DataError, match="validation"):
        reinforce(own(), FunctionReward(brevity), EXAMPLES, config(), [])
    nan = FunctionReward(lambda sources, outputs, references: [float("nan")] * len(outputs), name="broken")
    with pytest.raises(RewardError, match="broken"):
        reinforce(own(), nan, EXAMPLES[:16], config(), EXAMPLES[16:])
