"""`reinforce.rollout_precision: auto`: what is chosen by measuring holds for the whole run, and measuring leaves no mark."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.resumable import TRAINING, VALIDATION, generator

from guerdon.decoding import LengthLimit
from guerdon.errors import ConfigurationError, RewardError
from guerdon.evaluation.runfolder import read_run
from guerdon.evaluation.tables import timings_table
from guerdon.generator import Generator
from guerdon.rewards import FunctionReward, Reward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.stages.reinforce import reinforce, trainee_of
from guerdon.training.holding import KlOptions
from guerdon.training.progress import Silent
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.trainee import LoopOptions

EXACT = ("metrics.jsonl", "samples.jsonl")


class Listening(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def config(precision: Any, **changes: Any) -> ReinforceConfig:
    loop = LoopOptions(validate_every=3, checkpoint_every=1, criterion="reward", higher_is_better=True)
    settings = {"steps": 4, "sources_per_step": 6, "samples_per_source": 2, "limit": LengthLimit(12), "loop": loop}
    normalisation = NormaliserOptions("running")
    return ReinforceConfig(**settings, normalisation=normalisation, rollout_precision=precision, **changes)


def brevity(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
    return [-float(len(output)) for output in outputs]


def broken(sources: list[str], outputs: list[str], references: list[list[str]]) -> list[float]:
    raise ValueError("not now")


def train(precision: Any, folder: Path, reward: Reward | None = None, listening: Listening | None = None) -> Generator:
    made = generator()
    chosen = reward or FunctionReward(brevity, name="wanted")
    reinforce(made, chosen, TRAINING, config(precision), VALIDATION, folder=folder, seed=3, progress=listening)
    return made


def assert_same(made: Generator, other: Generator, folders: tuple[Path, Path]) -> None:
    for name, tensor in made.policy.state_dict().items():
        assert torch.equal(tensor, other.policy.state_dict()[name]), name
    for name in EXACT:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def state_of(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / "reinforce" / f"step-{step:08d}" / "state.json"


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_run_keeps_to_its_choice_and_is_then_one_of_that_precision(chosen: str, tmp_path: Path) -> None:
    """The run is cut before step 1; whatever was measured, its checkpoint is made to say the other one once."""
    with pytest.raises(RewardError, match="not now"):
        train("auto", tmp_path / "auto", FunctionReward(broken, name="wanted"))
    path = state_of(tmp_path / "auto", 0)
    state = json.loads(path.read_text())
    assert set(state["trainee"]["decision"]["rates"]) == {"float32", "bfloat16"}
    assert all(rate > 0 for rate in state["trainee"]["decision"]["rates"].values())
    state["trainee"]["decision"]["chosen"] = chosen
    path.write_text(json.dumps(state))
    listening = Listening()
    made = train("auto", tmp_path / "auto", listening=listening)
    assert not any("measured" in line for line in listening.lines)  # it is not measured again
    assert json.loads(state_of(tmp_path / "auto", 4).read_text())["trainee"]["decision"]["chosen"] == chosen
    assert_same(made, train(chosen, tmp_path / "plain"), (tmp_path / "auto", tmp_path / "plain"))


def test_measuring_changes_no_bit_and_is_told(tmp_path: Path) -> None:
    listening = Listening()
    trainee = trainee_of(generator(), FunctionReward(brevity), TRAINING, config("auto"), VALIDATION, seed=3)
    random = torch.get_rng_state()
    assert trainee.decide() is not None
    assert torch.equal(torch.get_rng_state(), random)
    made = train("auto", tmp_path / "auto", listening=listening)
    (line,) = [line for line in listening.lines if "measured" in line]
    rows = [json.loads(text) for text in (tmp_path / "auto" / "timings.jsonl").read_text().splitlines()]
    (row,) = [row for row in rows if row.get("event") == "decided"]
    assert line == f"reinforce: {row['sentence']}"
    chosen = json.loads(state_of(tmp_path / "auto", 4).read_text())["trainee"]["decision"]["chosen"]
    assert f"drawn in {chosen}" in line
    assert_same(made, train(chosen, tmp_path / "plain"), (tmp_path / "auto", tmp_path / "plain"))
    ((_, steps, _, spent),) = timings_table(read_run(tmp_path / "auto"))
    assert steps == "4"
    assert row["sentence"] in spent


def test_without_the_loop_it_is_chosen_when_it_is_first_needed() -> None:
    trainee = trainee_of(generator(), FunctionReward(brevity), TRAINING, config("auto"), VALIDATION, seed=3)
    assert "decision" not in trainee.state()
    for _ in next(trainee.updates(1)):
        pass
    decision = trainee.state()["decision"]
    for _ in next(trainee.updates(2)):
        pass
    assert trainee.state()["decision"] == decision


def test_a_fixed_precision_measures_nothing(tmp_path: Path) -> None:
    listening = Listening()
    train("bfloat16", tmp_path, listening=listening)
    assert not any("measured" in line for line in listening.lines)
    assert "decision" not in json.loads(state_of(tmp_path, 4).read_text())["trainee"]


def test_there_is_no_other_precision() -> None:
    with pytest.raises(ConfigurationError, match="there is no 'fastest'"):
        config("fastest")


@pytest.mark.parametrize(("coefficient", "exact"), [(0.0, False), (1e-9, True)])
def test_an_anchor_that_acts_is_float32_and_one_that_is_only_measured_is_the_gradients(coefficient: float, exact: bool) -> None:
    chosen = replace(config("float32"), precision="bfloat16", kl=KlOptions(coefficient))
    made = trainee_of(generator(), FunctionReward(brevity, name="wanted"), TRAINING, chosen, VALIDATION, seed=3)
    _ = [list(losses) for losses in made.updates(1)]
    rollout = made._rollout
    assert rollout is not None
    with torch.no_grad():  # the anchor is the policy still, in the precision that outputs are drawn in
        found = made.updating.scan(rollout).anchor_log_prob
    off = (found - rollout.samples.log_prob).abs().max().item()
    assert off < 1e-5 if exact else 1e-4 < off < 0.1
