"""Runs of reinforcement whose next outputs are drawn during the update: what may go on at once, and what goes wrong."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.letters import huggingface
from helpers.overlap import config, gradient, trainee
from helpers.tiny_models import tiny_bart, tiny_t5
from helpers.tiny_runs import EXAMPLES, count_e, generator
from torch import Tensor

from guerdon.errors import CheckpointError, RewardError
from guerdon.generator import Generator
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.stages.reinforce import reinforce, trainee_of
from guerdon.training.holding import KlOptions
from guerdon.training.reinforcement import ReinforceConfig

BETA = 0.25


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


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A process that was started in the background may ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


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


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2])
def test_bits_do_not_depend_on_how_long_anything_takes(count: int, threads: Callable[[int], None]) -> None:
    """Layers are used twice in a pass: whether gradients of both uses are added in bfloat16 is up to a cache of all threads."""
    threads(count)  # with two, outputs are drawn in two shares
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
        chosen = config(precision="bfloat16", mle_weight=0.1, sources_per_step=12, samples_per_source=4)
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
    assert torch.get_num_threads() == count
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
@pytest.mark.usefixtures("interruptible")
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


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart])
def test_a_model_of_hugging_face(make: Callable[[], Any], tmp_path: Path) -> None:
    """It learns, its outputs are one update old, and a run that was cut in the fourth step ends as one that was not."""
    calls = 0

    def letter_g(sources: Sequence[str], outputs: Sequence[str], references: Any) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise RuntimeError("cut")
        return [float(output.count("g")) for output in outputs]

    chosen = config(steps=8, sources_per_step=8)
    with pytest.raises(RewardError):
        run(tmp_path / "cut", chosen, letter_g, huggingface(make))
    found = [run(tmp_path / name, chosen, letter_g, huggingface(make)) for name in ("cut", "whole")]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())
    assert log(tmp_path / "cut") == log(tmp_path / "whole")
    steps = [row for row in lines(tmp_path / "whole") if row["kind"] == "train"]
    assert sum(row["reward"] for row in steps[-3:]) > sum(row["reward"] for row in steps[:3])
    assert steps[0]["mismatch"] < 1e-5 < 1e-3 < min(row["mismatch"] for row in steps[1:])


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
