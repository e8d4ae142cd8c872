"""Reinforcement whose next outputs are drawn and judged during the update, against loops over tokens written out here."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.data.records import Example
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit, SamplingOptions, sample
from guerdon.errors import CheckpointError, ConfigurationError, RewardError
from guerdon.generator import Generator
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.stages.gradient_noise import gradient_noise
from guerdon.stages.reinforce import Reinforce, reinforce, trainee_of
from guerdon.training.estimators import ValueOptions
from guerdon.training.holding import KlOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

WORDS = ("red", "blue", "pub", "cafe", "near", "river", "old", "cheap")
EXAMPLES = [Example(f"{a} {b} {c}", [f"{c} {a}"]) for a in WORDS[:4] for b in WORDS[2:6] for c in WORDS[5:7]]
LIMIT, BETA, LOW, HIGH, COPIES = 7, 0.25, 0.05, 0.1, 3


def count_e(sources: Sequence[str], outputs: Sequence[str], references: Any = None) -> list[float]:
    """Whole numbers, so that float32 rewards are exact."""
    return [float(output.count("e") * 4 + output.count(" ") * 2 - len(output)) for output in outputs]


REWARD = FunctionReward(count_e, name="wanted", scores_prefixes=True)


def generator(double: bool = True) -> Generator:
    tokenizer = Tokenizer.train([e.source for e in EXAMPLES] * 3, 280)
    torch.manual_seed(3)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 32, dropout=0.1, max_source=32, max_target=16)
    policy = Transformer(options).eval()
    return Generator(policy.double() if double else policy, tokenizer)


def config(**changes: Any) -> ReinforceConfig:
    base = ReinforceConfig(
        steps=6,
        sources_per_step=4,
        samples_per_source=COPIES,
        limit=LengthLimit(absolute=LIMIT),
        normalisation=NormaliserOptions("none"),
        kl=KlOptions(0.0),
        clip_low=LOW,
        clip_high=HIGH,
        overlap=True,
        optimiser=OptimiserOptions(learning_rate=1e-2, warmup_steps=1, schedule="constant", weight_decay=0.0),
        loop=LoopOptions(validate_every=3, checkpoint_every=1, criterion="reward", higher_is_better=True, average_best=0),
    )
    return replace(base, **changes)


def trainee(chosen: ReinforceConfig, reward: FunctionReward = REWARD) -> Reinforce:
    """On a float64 policy that has left its anchor."""
    made = trainee_of(generator(), reward, EXAMPLES[:16], chosen, EXAMPLES[16:], seed=5)
    move(made, 1, 0.05)
    return made


def move(made: Reinforce, seed: int, far: float) -> None:
    """An update of the weights."""
    drawn = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.generator.policy.parameters():
            parameter.add_(far * torch.randn(parameter.shape, generator=drawn, dtype=torch.float64))


def gradient(made: Reinforce, losses: Any) -> Tensor:
    parameters = list(made.generator.policy.parameters())
    parts = torch.autograd.grad(sum(losses), parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


# --- one step by hand


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


def greedy_rewards(made: Reinforce, policy: Transformer) -> list[float]:
    """Found by steps."""
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
    return count_e([], texts)


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
        rollout = made._rollout
        assert rollout is not None
        sources = made.prompts.padded(rollout.numbers[::COPIES], made.generator)
        keys = row_keys(5, "rollout", 2, rollout.numbers, torch.arange(COPIES).repeat(len(sources)))
        limits = LengthLimit(absolute=LIMIT).of(sources, before)
        drawn = sample(before, sources, limits, SamplingOptions(), keys, COPIES)
        assert rollout.samples.tokens.to_lists() == drawn.tokens.to_lists()
        outputs, greedy = [Output(made, before, row) for row in range(len(rollout.texts))], greedy_rewards(made, before)
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


def test_the_metrics_say_how_far_off_it_is() -> None:
    made = trainee(config(estimator="rloo", updates_per_rollout=2))
    before = copy.deepcopy(made.generator.policy)
    with closing(made):
        for far, step in ((0.02, 1), (0.0, 2)):
            for losses in made.updates(step):
                list(losses)
                move(made, 8, far / 2)
        outputs = [Output(made, before, row) for row in range(made.config.sources_per_step * COPIES)]
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


# --- what goes on at the same time


def test_the_update_does_not_wait_for_the_reward() -> None:
    """The reward of the second step answers only when the first one's update is done; else nobody would get there."""
    updated, threads, calls = threading.Event(), set[int](), [0]

    def slow(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        threads.add(threading.get_ident())
        calls[0] += 1
        assert calls[0] == 1 or updated.wait(60)
        return count_e(sources, outputs)

    made = trainee(config(steps=2), FunctionReward(slow, name="slow"))
    with closing(made):
        updates = made.updates(1)
        gradient(made, next(updates))
        assert calls[0] <= 2
        updated.set()
        assert list(updates) == []
        assert calls[0] == 2
        assert len(threads) == 2
        for losses in made.updates(2):
            gradient(made, losses)
    assert calls[0] == 2  # nothing is drawn that no step would learn from


def run(folder: Path, chosen: ReinforceConfig, reward: Any = count_e, made: Generator | None = None) -> dict[str, Tensor]:
    made = made or generator(double=False)
    reinforce(
        made,
        FunctionReward(reward, "wanted", scores_prefixes=True),
        EXAMPLES[:16],
        chosen,
        EXAMPLES[16:],
        folder=folder,
        seed=5,
    )
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]
    return dict(made.policy.state_dict())


def log(folder: Path) -> bytes:
    return (folder / "metrics.jsonl").read_bytes() + (folder / "samples.jsonl").read_bytes()


def lines(folder: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]


def test_a_run_of_one_step_is_the_same_without(tmp_path: Path) -> None:
    found = [run(tmp_path / str(overlap), config(steps=1, overlap=overlap)) for overlap in (True, False)]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    assert log(tmp_path / "True") == log(tmp_path / "False")


def test_from_the_second_step_on_outputs_are_one_update_old(tmp_path: Path) -> None:
    run(tmp_path, config(clip_low=1.0, clip_high=1e6))
    steps = [row for row in lines(tmp_path) if row["kind"] == "train"]
    assert steps[0]["mismatch"] < 1e-5
    assert steps[0]["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert all(row["mismatch"] > 1e-3 for row in steps[1:])
    assert all(0.8 < row["ratio"] < 1.25 for row in steps[1:])


def test_bits_do_not_depend_on_how_long_anything_takes(tmp_path: Path) -> None:
    """Layers are used twice in a pass: whether gradients of both uses are added in bfloat16 is up to a cache of all threads."""
    waits = iter([0.0, 0.03, 0.0, 0.1] * 9)

    def late(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        until = time.monotonic() + next(waits)
        while time.monotonic() < until:
            with torch.autocast("cpu", dtype=torch.bfloat16):  # leaving it empties the cache
                pass
        return count_e(sources, outputs)

    found = []
    for name, reward in {"prompt": count_e, "late": late}.items():
        made = generator(double=False)
        made.policy.decoder.append(made.policy.decoder[0])
        made.policy.encoder.append(made.policy.encoder[0])
        chosen = config(precision="bfloat16", mle_weight=0.1)
        with closing(
            trainee_of(made, FunctionReward(reward, "wanted"), EXAMPLES[:16], chosen, EXAMPLES[16:], seed=5)
        ) as trained:
            optimiser = torch.optim.SGD(made.policy.parameters(), lr=0.01)
            for step in range(1, chosen.steps + 1):
                for losses in trained.updates(step):
                    optimiser.zero_grad()
                    for loss in losses:
                        loss.backward()
                    optimiser.step()
        found.append((name, copy.deepcopy(made.policy.state_dict())))
    (_, first), (_, second) = found
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_the_times_tell_what_it_hid(tmp_path: Path) -> None:
    def slow(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        time.sleep(0.05)
        return count_e(sources, outputs)

    run(tmp_path, config(steps=3), slow)
    first, second, last, whole = [row for row in lines(tmp_path, "timings") if row["stage"] == "reinforce"]
    assert {"rollout", "reward", "update", "waiting", "rollout_ahead", "reward_ahead"} <= first.keys()
    assert "reward" not in second
    assert second["reward_ahead"] >= 0.05
    assert "reward_ahead" not in last
    for row in (first, second, last):
        assert sum(row.get(part, 0.0) for part in ("rollout", "reward", "update", "waiting")) <= row["seconds"]
    assert whole["parts"]["reward_ahead"] == pytest.approx(first["reward_ahead"] + second["reward_ahead"])


# --- what goes wrong


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, dict[str, Tensor]]]:
    """A run of each kind that nothing went wrong with."""
    done: dict[str, tuple[Path, dict[str, Tensor]]] = {}

    def get(kind: str) -> tuple[Path, dict[str, Tensor]]:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            done[kind] = folder, run(folder, config(**KINDS[kind]))
        return done[kind]

    return get


KINDS: dict[str, dict[str, Any]] = {
    "grpo": {
        "estimator": "grpo",
        "normalisation": NormaliserOptions("running"),
        "kl": KlOptions(BETA, target=1.0, horizon=100),
    },
    "remax": {"estimator": "remax"},
    "shaped": {"estimator": "ppo", "shaping": "prefix", "updates_per_rollout": 2},
    "mixed": {
        "baseline": "running_mean",
        "mle_weight": 0.1,
        "kl": KlOptions(BETA, "loss", anchor="moving_average", anchor_decay=0.9),
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["error", "interrupt"])
def test_a_run_that_is_cut_ends_as_one_that_was_not(kind: str, how: str, whole: Any, tmp_path: Path) -> None:
    """What the reward raises, or a Ctrl-C while it judges, comes out of the stage; each time the run gets further."""
    folder, weights = whole(kind)
    calls, cuts, found = 0, 0, None

    def cut(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 3 + cuts:
            if how == "error":
                raise RuntimeError("cut")
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        return count_e(sources, outputs)

    while found is None:
        calls = 0
        try:
            found = run(tmp_path, config(**KINDS[kind]), cut)
        except (RewardError, KeyboardInterrupt):
            cuts += 1
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]
    assert cuts >= 2
    assert all(torch.equal(tensor, found[name]) for name, tensor in weights.items())
    assert log(tmp_path) == log(folder)


def test_an_error_beside_the_update_says_where_it_comes_from(tmp_path: Path) -> None:
    calls = [0]

    def broken(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        calls[0] += 1
        return [float("nan") if calls[0] == 3 else 0.0 for _ in outputs]  # the validation's, the first step's, the second's

    with pytest.raises(RewardError, match=r"reward 'wanted': returned nan for sample 0"):
        run(tmp_path, config(), broken)
    assert [row["step"] for row in lines(tmp_path)] == [0]
    assert calls[0] == 3


def test_a_failed_update_does_not_leave_the_reward_behind(tmp_path: Path) -> None:
    """The step's own error is the one that is raised, when the reward has answered; nothing further is judged."""
    calls = [0]

    def odd(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        calls[0] += 1
        return count_e(sources, outputs)

    made = trainee(config(estimator="remax"), FunctionReward(odd, name="odd"))

    def fail() -> None:
        with closing(made):
            for _ in made.updates(1):
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollout")]
    assert calls[0] in (2, 4)  # outputs and greedy outputs of the first step; and of the second, unless it was stopped before


def test_a_damaged_checkpoint_is_refused() -> None:
    made = trainee(config(steps=2))
    with closing(made):
        for losses in made.updates(1):
            list(losses)
        state = made.state()
    assert json.loads(json.dumps(state)) == state
    for changes in (
        {"ids": state["ahead"]["ids"][1:]},
        {"numbers": [0]},
        {"log_prob": []},
        {"judgement": None},
        {"precision": "int8"},
    ):
        with pytest.raises(CheckpointError, match="drawn ahead are damaged"):
            made.load_state({**state, "ahead": {**state["ahead"], **changes}})


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
