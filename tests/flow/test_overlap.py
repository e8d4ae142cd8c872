"""One step of reinforcement on outputs that were drawn before the last update, against loops over tokens written out here."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.overlap import COPIES, HIGH, LIMIT, LOW, config, gradient, move, trainee
from helpers.tiny_runs import count_e
from torch import Tensor

from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.decoding import LengthLimit, SamplingOptions, sample
from guerdon.errors import ConfigurationError
from guerdon.models.transformer import Transformer
from guerdon.rewards.function import FunctionReward
from guerdon.stages.gradient_noise import gradient_noise
from guerdon.stages.reinforce import Reinforce
from guerdon.training.engines import EngineOptions
from guerdon.training.estimators import ValueOptions
from guerdon.training.holding import KlOptions

BETA = 0.25


class Output:
    """One output, token by token: log-probabilities of the present policy (with a gradient), the one that drew, the anchor."""

    def __init__(self, made: Reinforce, before: Transformer, row: int) -> None:
        rollout = made._rollout
        assert rollout is not None
        self.ids, self.group = rollout.samples.tokens.to_lists()[row], int(rollout.groups[row])
        source, target = Padded.from_lists([made.prompts.ids[rollout.numbers[row]]]), Padded.from_lists([self.ids])
        self.now = self._tokens(made.generator.policy.logits(source, target))
        with torch.no_grad():
            self.then, self.anchor = (self._tokens(policy.logits(source, target)) for policy in (before, made.anchor))
        decode = made.generator.tokenizer.decode_batch
        (self.reward,) = count_e([], [rollout.texts[row]])
        self.potentials = count_e([], [decode([self.ids[:t]])[0] for t in range(len(self.ids))])

    def _tokens(self, logits: Tensor) -> list[Tensor]:
        weights = [row.exp() for row in logits]
        return [(row[token] / row.sum()).log() for row, token in zip(weights, self.ids, strict=True)]

    def still_to_pay(self, beta: float, t: int = 0) -> float:
        """The k1 penalties from a token on, of the policy that drew."""
        return beta * sum(float(p - q) for p, q in zip(self.then[t:], self.anchor[t:], strict=True))


def outputs_of(made: Reinforce, before: Transformer) -> list[Output]:
    assert made._rollout is not None
    return [Output(made, before, row) for row in range(len(made._rollout.texts))]


def drawn(made: Reinforce, policy: Transformer, step: int) -> list[list[int]]:
    """What a policy draws for the sources of the step that was made last."""
    assert made._rollout is not None
    numbers = made._rollout.numbers
    sources = made.prompts.padded(numbers[::COPIES], made.generator)
    keys = row_keys(5, "rollout", step, numbers, torch.arange(COPIES).repeat(len(sources)))
    limits = LengthLimit(absolute=LIMIT).of(sources, policy)
    return sample(policy, sources, limits, SamplingOptions(), keys, COPIES).tokens.to_lists()


def advantages(o: Output, outputs: list[Output], greedy: Sequence[float], estimator: str, beta: float) -> list[float]:
    """Of each token, by the estimator's own formula."""
    own, steps = o.reward - o.still_to_pay(beta), range(len(o.ids))
    others = [other.reward - other.still_to_pay(beta) for other in outputs if other.group == o.group and other is not o]
    every = [own, *others]
    mean = sum(every) / len(every)
    spread = (sum((r - mean) ** 2 for r in every) / (len(every) - 1)) ** 0.5
    if estimator == "grpo":
        return [(own - mean) / spread / len(o.ids) if spread else 0.0] * len(o.ids)
    if estimator in ("remax", "ppo"):
        return [o.reward - o.still_to_pay(beta, t) - (greedy[o.group] if estimator == "remax" else 0.0) for t in steps]
    if estimator == "shaped":
        return [o.reward - o.potentials[t] - o.still_to_pay(beta, t) for t in steps]
    baseline = {"rloo": sum(others) / len(others), "dr_grpo": mean, "self_critical": greedy[o.group]}
    return [own - baseline[estimator]] * len(o.ids)


def greedy_outputs(made: Reinforce, policy: Transformer) -> list[str]:
    """Of the step that was made last; found by steps."""
    assert made._rollout is not None
    texts = []
    for number in dict.fromkeys(made._rollout.numbers):
        with torch.no_grad():
            state, token = policy.start(Padded.from_lists([made.prompts.ids[number]]))
            ids: list[int] = []
            while len(ids) < LIMIT and policy.end_id not in ids:
                token = policy.step(state, token).argmax(-1)
                ids.append(int(token))
        texts += made.generator.tokenizer.decode_batch([[i for i in ids if i != policy.end_id]])
    return texts


CHOSEN: dict[str, dict[str, Any]] = {
    "rloo": {},
    "grpo": {},
    "dr_grpo": {},
    "self_critical": {},
    "remax": {},
    "ppo": {"value": ValueOptions(trace=1.0)},
    "shaped": {"estimator": "reinforce", "baseline": "none", "shaping": "prefix"},
}


@pytest.mark.parametrize("beta", [0.0, BETA])
@pytest.mark.parametrize("estimator", CHOSEN)
def test_a_step_by_hand(estimator: str, beta: float) -> None:
    """Drawn and judged with the weights from before an update, weighed by clipped ratios to them, at the weights after it."""
    chosen = config(**{"estimator": estimator, "kl": KlOptions(beta), "micro_batch_tokens": 40, **CHOSEN[estimator]})
    made, alone = trainee(chosen), trainee(replace(chosen, overlap=False))
    before = copy.deepcopy(made.generator.policy)
    with closing(made):
        updates = made.updates(1)
        assert torch.equal(gradient(made, next(updates)), gradient(alone, next(alone.updates(1))))  # the first is on-policy
        move(made, 8, 0.02)
        assert list(updates) == []
        found = gradient(made, next(made.updates(2)))
        outputs, greedy = outputs_of(made, before), count_e([], greedy_outputs(made, before))
        assert [o.ids for o in outputs] == drawn(made, before, 2)
        total, clipped = torch.zeros((), dtype=torch.float64), 0
        for o in outputs:
            for now, then, a in zip(o.now, o.then, advantages(o, outputs, greedy, estimator, beta), strict=True):
                ratio = (now - then).exp()
                beyond = ratio.item() > 1 + HIGH if a > 0 else ratio.item() < 1 - LOW
                clipped += beyond and a != 0
                total = total - (0.0 if beyond else ratio * a) / len(outputs)
        wanted = gradient(made, [total])
    assert wanted.norm() > 1e-4
    assert float((found - wanted).norm() / wanted.norm()) < 1e-9
    assert clipped > 0


def test_outputs_are_one_update_old_at_every_step() -> None:
    made = trainee(config(estimator="rloo"))
    policies = []
    with closing(made):
        for step in range(1, 6):
            policies.append(copy.deepcopy(made.generator.policy))
            updates = made.updates(step)
            list(next(updates))
            move(made, step, 0.05)
            assert list(updates) == []
            assert made._rollout is not None
            own = made._rollout.samples.tokens.to_lists()
            assert [own == drawn(made, policy, step) for policy in policies].index(True) == max(0, step - 2)


def test_greedy_outputs_are_of_the_weights_that_drew() -> None:
    """They are written only when the weights have moved far: the reward of the outputs does not answer before."""
    moved, shown = threading.Event(), list[Sequence[str]]()

    def gated(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        shown.append(outputs)
        assert len(shown) < 3 or moved.wait(60)
        return count_e(sources, outputs)

    made = trainee(config(estimator="remax", steps=2), FunctionReward(gated, name="gated"))
    before = copy.deepcopy(made.generator.policy)
    with closing(made):
        updates = made.updates(1)
        list(next(updates))
        move(made, 8, 0.3)
        moved.set()
        assert list(updates) == []
        list(next(made.updates(2)))
    assert shown[3] == greedy_outputs(made, before) != greedy_outputs(made, made.generator.policy)


def test_the_metrics_say_how_far_off_it_is() -> None:
    made = trainee(config(estimator="rloo", updates_per_rollout=2))
    before = copy.deepcopy(made.generator.policy)
    with closing(made):
        for far, step in ((0.02, 1), (0.0, 2)):
            for losses in made.updates(step):
                list(losses)
                move(made, 8, far / 2)
        outputs = outputs_of(made, before)
    gains = torch.tensor(
        [(now - then).item() for o in outputs for now, then in zip(o.now, o.then, strict=True)], dtype=torch.float64
    )
    seen = made.metrics()
    assert seen["mismatch"] == pytest.approx(float(gains.abs().mean()), rel=1e-5)
    assert seen["mismatch_max"] == pytest.approx(float(gains.abs().max()), rel=1e-5)
    assert seen["ratio"] == pytest.approx(float(gains.exp().mean()), rel=1e-5)
    clipped = 0
    for o in outputs:
        others = [other.reward for other in outputs if other.group == o.group and other is not o]
        a = o.reward - sum(others) / len(others)
        ratios = [(now - then).exp().item() for now, then in zip(o.now, o.then, strict=True)]
        clipped += sum(a != 0 and (ratio > 1 + HIGH if a > 0 else ratio < 1 - LOW) for ratio in ratios)
    assert 0 < clipped == round(seen["clipped"] * len(gains))  # in both updates, whose weights are the same


def test_gradient_noise_can_be_measured_all_the_same() -> None:
    """Its steps are left after their first update; no weight moves, so that outputs are never old."""
    found = []
    for overlap in (True, False):
        with closing(trainee(config(steps=9, overlap=overlap))) as made:
            found.append(gradient_noise(made, 4, 1))
    assert found[0].covariance == pytest.approx(found[1].covariance, rel=1e-9)
    assert found[0].signal == pytest.approx(found[1].signal, rel=1e-9)


REFUSED: list[tuple[str, Callable[[], Any]]] = [
    ("minimum_risk weighs sets", lambda: config(estimator="minimum_risk")),
    ("engine's outputs", lambda: config(temperature=1.0, rollout_engine=EngineOptions("ctranslate2"))),
    ("top_p below 1", lambda: config(top_p=0.9)),
    ("k3 in the loss", lambda: config(kl=KlOptions(0.1, "loss", "k3"))),
    ("anchor that has moved", lambda: config(kl=KlOptions(0.1, anchor="refreshed", anchor_every=2))),
]


@pytest.mark.parametrize(("message", "make"), REFUSED, ids=[message for message, _ in REFUSED])
def test_what_cannot_be_corrected_is_refused(message: str, make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError, match=message) as found:
        make()
    assert "\n" not in str(found.value)
    config(kl=KlOptions(0.0, anchor="refreshed", anchor_every=2))  # which is only measured
