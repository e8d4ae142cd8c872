"""Every estimator as the stage computes it: its first gradient against loops over single tokens, written out here."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_runs import EXAMPLES, REWARD, count_e, generator
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding import LengthLimit
from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.rewards.weighting import ConstraintOptions, ScheduleOptions
from guerdon.stages.reinforce import Reinforce, reinforce, trainee_of
from guerdon.training.estimators import ValueOptions
from guerdon.training.holding import EntropyController, EntropyOptions, KlOptions, move_anchor
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions


@pytest.fixture(params=[1, 3], ids=["one thread", "rows dealt to three"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is computed does not depend on who computes it."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    monkeypatch.setattr("guerdon.models.together._LEAST", 4)
    yield
    torch.set_num_threads(before)


LIMIT = LengthLimit(absolute=7)
BETA, TEMPERATURE = 0.25, 0.8
GROUPS = ("reinforce", "rloo", "grpo", "dr_grpo", "minimum_risk", "self_critical", "remax", "ppo")


def config(**changes: Any) -> ReinforceConfig:
    base = ReinforceConfig(
        steps=10,
        sources_per_step=4,
        samples_per_source=3,
        temperature=TEMPERATURE,
        limit=LIMIT,
        normalisation=NormaliserOptions("none"),
        kl=KlOptions(0.0),
        optimiser=OptimiserOptions(learning_rate=1e-2, warmup_steps=1, schedule="constant", weight_decay=0.0),
        loop=LoopOptions(validate_every=5, checkpoint_every=5, criterion="reward", higher_is_better=True, average_best=0),
    )
    return replace(base, **changes)


def trainee(chosen: ReinforceConfig, moved: bool = True) -> Reinforce:
    """On a float64 policy that has left its anchor, so that the KL is not 0."""
    made = trainee_of(generator(), REWARD, EXAMPLES[:16], chosen, EXAMPLES[16:], seed=5)
    if moved:
        drawn = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in made.generator.policy.parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=drawn, dtype=torch.float64))
    return made


def policy_parameters(made: Reinforce) -> list[torch.nn.Parameter]:
    return list(made.generator.policy.parameters())


def gradient(made: Reinforce, value: Tensor) -> Tensor:
    parts = torch.autograd.grad(value, policy_parameters(made), allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def first_gradient(made: Reinforce) -> Tensor:
    return gradient(made, sum(next(made.updates(1))))  # type: ignore[call-overload,arg-type]


# --- the same by hand


class Output:
    """One drawn output, seen one token at a time: log-probabilities (with a gradient), the anchor's, the reward."""

    def __init__(self, made: Reinforce, row: int) -> None:
        rollout = made._rollout
        assert rollout is not None
        self.ids = rollout.samples.tokens.to_lists()[row]
        self.group = int(rollout.groups[row])
        source = Padded.from_lists([made.prompts.ids[rollout.numbers[row]]])
        target = Padded.from_lists([self.ids])
        self.log_prob = self._tokens(made.generator.policy.logits(source, target))
        with torch.no_grad():
            self.anchor = self._tokens(made.anchor.logits(source, target))
        (self.reward,) = count_e([], [rollout.texts[row]], [])
        tokenizer = made.generator.tokenizer
        self.potentials = count_e([], [tokenizer.decode_batch([self.ids[:t]])[0] for t in range(len(self.ids))], [])

    def _tokens(self, logits: Tensor) -> list[Tensor]:
        found = []
        for position, token in enumerate(self.ids):
            weights = (logits[position] / TEMPERATURE).exp()
            found.append((weights[token] / weights.sum()).log())
        return found

    def penalties(self, beta: float) -> list[float]:
        return [beta * (p - q).item() for p, q in zip(self.log_prob, self.anchor, strict=True)]


def outputs_of(made: Reinforce) -> list[Output]:
    assert made._rollout is not None
    return [Output(made, row) for row in range(len(made._rollout.texts))]


def greedy_rewards(made: Reinforce) -> list[float]:
    """Found by steps."""
    rollout, policy = made._rollout, made.generator.policy
    assert rollout is not None
    found = []
    for number in dict.fromkeys(rollout.numbers):
        with torch.no_grad():
            state, token = policy.start(Padded.from_lists([made.prompts.ids[number]]))
            ids: list[int] = []
            while len(ids) < 7 and policy.end_id not in ids:
                token = policy.step(state, token).argmax(-1)
                ids.append(int(token))
        found += count_e([], made.generator.tokenizer.decode_batch([[i for i in ids if i != policy.end_id]]), [])
    return found


def by_hand(made: Reinforce, estimator: str, beta: float) -> Tensor:
    """The loss of one step, each estimator by its own formula."""
    outputs = outputs_of(made)
    n = len(outputs)
    whole = [o.reward - sum(o.penalties(beta)) for o in outputs]
    peers = [[i for i, other in enumerate(outputs) if other.group == o.group] for o in outputs]
    total = torch.zeros((), dtype=torch.float64)
    if estimator == "minimum_risk":
        return risk_by_hand(outputs, whole)
    greedy = greedy_rewards(made) if estimator in ("self_critical", "remax") else []
    for i, o in enumerate(outputs):
        of_group = [whole[j] for j in peers[i]]
        mean = sum(of_group) / len(of_group)
        spread = math.sqrt(sum((r - mean) ** 2 for r in of_group) / (len(of_group) - 1))
        others = [whole[j] for j in peers[i] if j != i]
        if estimator in ("rloo", "reinforce"):
            total = total + (whole[i] - sum(others) / len(others)) * sum(o.log_prob)
        elif estimator == "dr_grpo":
            total = total + (whole[i] - mean) * sum(o.log_prob)
        elif estimator == "grpo":
            scaled = (whole[i] - mean) / spread if spread else 0.0
            total = total + scaled * sum(o.log_prob) / len(o.ids)
        elif estimator == "self_critical":
            total = total + (whole[i] - greedy[o.group]) * sum(o.log_prob)
        else:  # remax, and ppo with values of 0 and a trace of 1: the return from each token on
            for t, log_prob in enumerate(o.log_prob):
                to_go = o.reward - sum(o.penalties(beta)[t:])
                total = total + (to_go - (greedy[o.group] if estimator == "remax" else 0.0)) * log_prob
    return -total / n


def risk_by_hand(outputs: list[Output], whole: list[float]) -> Tensor:
    total, sets = torch.zeros((), dtype=torch.float64), 0
    for group in sorted({o.group for o in outputs}):
        texts: dict[tuple[int, ...], int] = {}
        for i, o in enumerate(outputs):
            if o.group == group:
                texts.setdefault(tuple(o.ids), i)
        if len(texts) < 2:
            continue
        sets += 1
        powers = {i: (0.005 * sum(outputs[i].log_prob)).exp() for i in texts.values()}
        for i, power in powers.items():
            total = total - whole[i] * power / sum(powers.values())
    return total / sets


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("estimator", GROUPS)
@pytest.mark.parametrize("beta", [0.0, BETA])
def test_the_first_gradient(estimator: str, beta: float) -> None:
    value = ValueOptions(trace=1.0) if estimator == "ppo" else None
    made = trainee(config(estimator=estimator, value=value, kl=KlOptions(beta), micro_batch_tokens=40))
    found = first_gradient(made)
    wanted = gradient(made, by_hand(made, estimator, beta))
    assert wanted.norm() > 1e-4
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("estimator", ["rloo", "reinforce", "ppo"])
def test_shaping_by_prefix(estimator: str) -> None:
    """A token is paid what the reward rises from the prefix before it to the end, less the others' at the same position."""
    value = ValueOptions(trace=1.0) if estimator == "ppo" else None
    baseline = "none" if estimator == "reinforce" else None
    made = trainee(config(estimator=estimator, baseline=baseline, value=value, shaping="prefix", kl=KlOptions(BETA)))
    found = first_gradient(made)
    outputs = outputs_of(made)

    def to_go(o: Output, t: int) -> float:
        return o.reward - o.potentials[t] - sum(o.penalties(BETA)[t:]) if t < len(o.ids) else 0.0

    total = torch.zeros((), dtype=torch.float64)
    for i, o in enumerate(outputs):
        others = [other for j, other in enumerate(outputs) if other.group == o.group and j != i]
        for t, log_prob in enumerate(o.log_prob):
            baseline_here = sum(to_go(other, t) for other in others) / len(others) if estimator == "rloo" else 0.0
            total = total - (to_go(o, t) - baseline_here) * log_prob / len(outputs)
    wanted = gradient(made, total)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", ["k2", "k3", "exact"])
def test_the_kl_in_the_loss(kind: Any) -> None:
    made = trainee(config(estimator="rloo", kl=KlOptions(BETA, "loss", kind)))
    found = first_gradient(made)
    total = by_hand(made, "rloo", 0.0)
    outputs = outputs_of(made)
    assert made._rollout is not None
    for row, o in enumerate(outputs):
        source = Padded.from_lists([made.prompts.ids[made._rollout.numbers[row]]])
        target = Padded.from_lists([o.ids])
        p = (made.generator.policy.logits(source, target) / TEMPERATURE).softmax(-1)
        q = (made.anchor.logits(source, target) / TEMPERATURE).softmax(-1).detach()
        for t in range(len(o.ids)):
            ratio = (o.anchor[t] - o.log_prob[t]).exp()
            allowed = made.generator.policy.allowed
            each = {
                "k2": 0.5 * (o.log_prob[t] - o.anchor[t]) ** 2,
                "k3": ratio - 1 + o.log_prob[t] - o.anchor[t],
                "exact": (p[t, allowed] * (p[t, allowed] / q[t, allowed]).log()).sum(),
            }[kind]
            total = total + BETA * each / len(outputs)
    wanted = gradient(made, total)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9


@pytest.mark.usefixtures("threads")
def test_the_exact_kl_in_the_reward() -> None:
    made = trainee(config(estimator="rloo", kl=KlOptions(BETA, "reward", "exact")))
    found = first_gradient(made)
    assert made._rollout is not None
    penalty, outputs = [], outputs_of(made)
    for row, o in enumerate(outputs):
        source, target = Padded.from_lists([made.prompts.ids[made._rollout.numbers[row]]]), Padded.from_lists([o.ids])
        allowed = made.generator.policy.allowed
        with torch.no_grad():
            p = (made.generator.policy.logits(source, target) / TEMPERATURE).softmax(-1)[:, allowed]
            q = (made.anchor.logits(source, target) / TEMPERATURE).softmax(-1)[:, allowed]
        penalty.append(BETA * float((p * (p / q).log()).sum()))
    total = torch.zeros((), dtype=torch.float64)
    for i, o in enumerate(outputs):
        others = [other.reward - penalty[j] for j, other in enumerate(outputs) if other.group == o.group and j != i]
        total = total - (o.reward - penalty[i] - sum(others) / 2) * sum(o.log_prob) / len(outputs)
    wanted = gradient(made, total)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9


@pytest.mark.usefixtures("threads")
def test_the_entropy_bonus_and_the_nucleus() -> None:
    """With top_p, probabilities are those of the nucleus that was drawn from, written out here by sorting."""
    made = trainee(config(estimator="rloo", top_p=0.7, entropy=EntropyOptions(0.5)))
    found = first_gradient(made)
    rollout = made._rollout
    assert rollout is not None
    total, outputs = torch.zeros((), dtype=torch.float64), outputs_of(made)
    for row, o in enumerate(outputs):
        source = Padded.from_lists([made.prompts.ids[rollout.numbers[row]]])
        logits = made.generator.policy.logits(source, Padded.from_lists([o.ids])) / TEMPERATURE
        others = [other.reward for j, other in enumerate(outputs) if other.group == o.group and j != row]
        for t, token in enumerate(o.ids):
            full = logits[t].softmax(-1)
            kept: list[int] = []
            for candidate in full.argsort(descending=True).tolist():
                if sum(full[k].item() for k in kept) >= 0.7:
                    break
                kept.append(candidate)
            assert token in kept
            nucleus = full[kept] / full[kept].sum()
            log_prob = nucleus[kept.index(token)].log()
            assert log_prob.item() == pytest.approx(float(rollout.samples.log_prob[row, t]), abs=1e-9)
            total = total - (o.reward - sum(others) / 2) * log_prob + 0.5 * (nucleus * nucleus.log()).sum()
    wanted = gradient(made, total / len(outputs))
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9


@pytest.mark.usefixtures("threads")
def test_the_second_update_weighs_by_clipped_ratios() -> None:
    made = trainee(config(estimator="rloo", updates_per_rollout=2, clip_low=0.05, clip_high=0.1))
    updates = made.updates(1)
    gradient(made, sum(next(updates)))  # type: ignore[call-overload,arg-type]
    before = [[p.item() for p in o.log_prob] for o in outputs_of(made)]
    drawn = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in policy_parameters(made):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=drawn, dtype=torch.float64))
    found = gradient(made, sum(next(updates)))  # type: ignore[call-overload,arg-type]
    assert list(updates) == []
    total, clipped, outputs = torch.zeros((), dtype=torch.float64), 0, outputs_of(made)
    for i, o in enumerate(outputs):
        others = [other.reward for j, other in enumerate(outputs) if other.group == o.group and j != i]
        advantage = o.reward - sum(others) / len(others)
        for now, then in zip(o.log_prob, before[i], strict=True):
            ratio = (now - then).exp()
            bounded = min(max(ratio.item(), 0.95), 1.1)
            clipped += bounded * advantage < ratio.item() * advantage
            total = total - (ratio * advantage if ratio.item() * advantage <= bounded * advantage else 0.0)
    wanted = gradient(made, total / len(outputs))
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9
    tokens = 2 * sum(len(o.ids) for o in outputs)
    assert 0 < clipped == round(made.metrics()["clipped"] * tokens)


@pytest.mark.usefixtures("threads")
def test_the_value_head_learns_the_returns() -> None:
    made = trainee(
        config(estimator="ppo", value=ValueOptions(trace=1.0, weight=1.0, learning_rate_factor=1.0), kl=KlOptions(0.0))
    )
    head = made.updating.actor.value
    assert head is not None
    losses = sum(next(made.updates(1)))  # type: ignore[call-overload]
    (found,) = torch.autograd.grad(losses, [head.linear.bias])
    outputs = outputs_of(made)
    wanted = -sum(o.reward * len(o.ids) for o in outputs) / len(outputs)  # d/dV of ½ (V - R)² at V = 0
    assert float(found) == pytest.approx(wanted, rel=1e-5)


# --- runs


@pytest.mark.parametrize("estimator", GROUPS)
def test_the_reward_rises(estimator: str, tmp_path: Path) -> None:
    sharpness = 0.5 if estimator == "minimum_risk" else None
    chosen = config(
        estimator=estimator,
        sharpness=sharpness,
        steps=16,
        sources_per_step=8,
        samples_per_source=4,
        normalisation=NormaliserOptions("running"),
        updates_per_rollout=2 if estimator == "ppo" else 1,
    )
    made = generator(double=False)
    outcome = reinforce(made, REWARD, EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path, seed=5)
    assert outcome.skipped == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    before, after = (sum(row["reward"] for row in part) / 3 for part in (steps[:3], steps[-3:]))
    assert after > before + 0.5
    wanted = {"flat_groups", "spread/wanted", "mismatch", "mismatch_max", "kl_coefficient", "anchor_nll", "clipped"}
    assert wanted <= steps[0].keys()
    assert steps[0]["mismatch"] < 1e-4
    assert ("value_loss" in steps[0]) == (estimator == "ppo")


def test_rollouts_in_bfloat16(tmp_path: Path) -> None:
    """They are drawn with other probabilities than training's, and the metrics say so."""
    chosen = config(steps=3, rollout_precision="bfloat16")
    reinforce(generator(double=False), REWARD, EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path, seed=5)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(1e-4 < row["mismatch"] < 0.1 for row in rows if row["kind"] == "train")


def test_controllers_act_and_survive_a_checkpoint(tmp_path: Path) -> None:
    chosen = config(
        kl=KlOptions(0.05, target=1e-3, horizon=100, anchor="moving_average", anchor_decay=0.5),
        entropy=EntropyOptions(0.01, target=9.0, rate=0.001),
        schedules={"wanted": ScheduleOptions(to=3.0, steps=5)},
        steps=6,
    )
    reinforce(generator(double=False), REWARD, EXAMPLES[:16], chosen, EXAMPLES[16:], folder=tmp_path, seed=5)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["kind"] == "train"]
    assert steps[-1]["kl_coefficient"] > steps[0]["kl_coefficient"] == 0.05
    assert steps[-1]["entropy_coefficient"] > steps[0]["entropy_coefficient"] == 0.01
    assert steps[-1]["weight/wanted"] == 3.0


def test_a_constraint_outweighs_the_other_part() -> None:
    short = FunctionReward(lambda s, outputs, r: [-float(len(o)) for o in outputs], name="short")
    long = FunctionReward(lambda s, outputs, r: [float(len(o)) for o in outputs], name="long")
    chosen = config(constraints={"long": ConstraintOptions(at_least=1e6, rate=1.0, most=5.0)}, steps=8)
    made = generator(double=False)
    outcome = reinforce(made, short + long, EXAMPLES[:16], chosen, EXAMPLES[16:], seed=5)
    assert outcome.validation["reward/long"] > 5  # the bound cannot be reached: the multiplier pulls towards it all the same


def test_the_anchor_moves_before_a_step() -> None:
    kept, now = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    first, wanted = kept.weight.clone(), now.weight.clone()
    options = KlOptions(anchor="moving_average", anchor_decay=0.75)
    move_anchor(options, kept, now, 1)
    assert torch.equal(kept.weight, first)
    move_anchor(options, kept, now, 2)
    torch.testing.assert_close(kept.weight, 0.75 * first + 0.25 * wanted)
    often = KlOptions(anchor="refreshed", anchor_every=3)
    for step, moved in ((2, False), (3, False), (4, True)):
        kept.weight.data.copy_(first)
        move_anchor(often, kept, now, step)
        assert torch.equal(kept.weight, wanted if moved else first)
    move_anchor(KlOptions(), now, kept, 4)
    assert torch.equal(now.weight, wanted)


@pytest.mark.parametrize(("share", "sources"), [(1.0, 4), (0.5, 2), (0.3, 2), (0.01, 1)])
@pytest.mark.parametrize("estimator", ["rloo", "ppo"])
def test_a_kl_that_holds_nothing_is_measured_on_a_share_of_the_sources(estimator: Any, share: float, sources: int) -> None:
    """By hand, along the outputs of the first sources; the gradient is the same to the bit, however few they are."""
    made, whole = (
        trainee(config(estimator=estimator, normalisation=NormaliserOptions("none"), kl=KlOptions(0.0, measured=measured)))
        for measured in (share, 1.0)
    )
    assert torch.equal(first_gradient(made), first_gradient(whole))
    outputs = outputs_of(made)[: 3 * sources]
    assert made.metrics()["kl"] == pytest.approx(sum(sum(o.penalties(1.0)) for o in outputs) / len(outputs), rel=1e-6)
    anchor = [float(log_prob) for o in outputs for log_prob in o.anchor]
    assert made.metrics()["anchor_nll"] == pytest.approx(-sum(anchor) / len(anchor), rel=1e-6)


def test_the_entropy_controller() -> None:
    controller = EntropyController(EntropyOptions(0.01, target=2.0, rate=0.1, most=0.05))
    controller.update(1.9)
    assert controller.value == pytest.approx(0.02)
    controller.update(-50.0)
    assert controller.value == 0.05
    again = EntropyController(controller.options)
    again.load_state_dict(json.loads(json.dumps(controller.state_dict())))
    assert again.value == controller.value
    controller.update(90.0)
    assert controller.value == 0.0
    for damaged in ({}, {"value": "x"}, {"value": -1.0}):
        with pytest.raises(CheckpointError):
            controller.load_state_dict(damaged)  # type: ignore[arg-type]


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("there is no 'a2c'", lambda: config(estimator="a2c")),
    ("compares the outputs of a source", lambda: config(estimator="grpo", samples_per_source=1)),
    ("compares the outputs of a source", lambda: config(estimator="minimum_risk", samples_per_source=1)),
    ("reads the other samples", lambda: config(samples_per_source=1)),
    ("baseline belongs to", lambda: config(estimator="ppo", baseline="none")),
    ("value belongs to", lambda: config(estimator="rloo", value=ValueOptions())),
    ("sharpness belongs to", lambda: config(sharpness=0.1)),
    ("no exponent", lambda: config(estimator="minimum_risk", sharpness=0.0)),
    ("never learn", lambda: ValueOptions(weight=0.0)),
    ("discount must be", lambda: ValueOptions(discount=0.0)),
    ("lets no value move", lambda: ValueOptions(clip=0.0)),
    ("one advantage for a whole output", lambda: config(estimator="grpo", shaping="prefix")),
    ("there is no 'suffix'", lambda: config(shaping="suffix")),
    ("no range of ratios", lambda: config(clip_low=0.0)),
    ("too few", lambda: config(updates_per_rollout=0)),
    ("which is 0", lambda: KlOptions(0.0, target=3.0)),
    ("must be above 0", lambda: KlOptions(target=-1.0)),
    ("horizon is 2", lambda: config(kl=KlOptions(target=3.0, horizon=2))),
    ("holds nothing", lambda: KlOptions(place="loss", estimator="k1")),
    ("there is no 'k4'", lambda: KlOptions(estimator="k4")),  # type: ignore[arg-type]
    ("there is no 'frozen'", lambda: KlOptions(anchor="frozen")),  # type: ignore[arg-type]
    ("anchor_every is None", lambda: KlOptions(anchor="refreshed")),
    ("anchor_decay is 0.9 and anchor is fixed", lambda: KlOptions(anchor_decay=0.9)),
    ("0.5 of the outputs, with a coefficient of 0.05", lambda: KlOptions(measured=0.5)),
    ("0.0 of the outputs", lambda: KlOptions(0.0, measured=0.0)),
    ("no coefficient", lambda: EntropyOptions(-1.0)),
    ("nats", lambda: EntropyOptions(target=0.0)),
    ("at least the coefficient", lambda: EntropyOptions(0.5, target=1.0, most=0.1)),
]


@pytest.mark.parametrize(("message", "make"), REFUSED, ids=[message for message, _ in REFUSED])
def test_contradictions_are_refused_in_one_line(message: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match=message) as found:
        make()
    assert "\n" not in str(found.value)


def test_shaping_needs_a_part_that_scores_prefixes() -> None:
    plain = FunctionReward(count_e, name="plain")
    with pytest.raises(ConfigurationError, match="no part of the reward scores prefixes"):
        trainee_of(generator(), plain, EXAMPLES[:16], config(shaping="prefix"), EXAMPLES[16:])
