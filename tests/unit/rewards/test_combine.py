from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, InputError, RewardError
from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.combine import Combined, NamedPart


class Constant(Reward):
    def __init__(self, value, name="constant", needs_references=False, applies=True):
        self.value, self.name, self.needs_references, self.everywhere = value, name, needs_references, applies

    def score(self, judged):
        return [self.value] * len(judged)

    def applies(self, judged):
        return [self.everywhere] * len(judged)


class TwoParts(Reward):
    """A user's reward that judges by several parts of its own."""

    name = "pair"

    def score(self, judged):
        return self.judge(judged).total()

    def judge(self, judged):
        every = torch.ones(len(judged), dtype=torch.bool)
        halves = {"left": 0.5, "right": 2.0}
        return Judgement({name: Part(torch.full((len(judged),), 10.0), every, weight) for name, weight in halves.items()})


def value_of(reward, n=1):
    return reward(["source"] * n, ["output"] * n, [["reference"]] * n).tolist()


def test_arithmetic():
    a, b = Constant(3.0, "a"), Constant(5.0, "b")
    assert value_of(0.5 * a + 0.5 * b) == [4.0]
    assert value_of(a * 2 - b) == [1.0]
    assert value_of(-(a + b) * 0.25) == [-2.0]
    assert value_of(a + b, 3) == [8.0] * 3


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5), st.floats(-4, 4, width=16))
def test_a_sum_of_sums_is_flat_and_scaling_distributes(weights, factor):
    parts = [weight * Constant(i + 1.0, f"r{i}") for i, weight in enumerate(weights)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    scaled = factor * total
    assert [part.name for part in scaled.parts] == [f"r{i}" for i in range(len(weights))]
    assert not any(isinstance(part.reward, Combined) for part in scaled.parts)
    expected = sum(factor * weight * (i + 1.0) for i, weight in enumerate(weights))
    assert value_of(scaled)[0] == pytest.approx(expected, rel=1e-5, abs=1e-4)


def test_raw_scores_stand_beside_their_weights():
    parts = (0.25 * Constant(8.0, "a") + 3 * Constant(-1.0, "b")).judge(Judged.of(["s"], ["o"])).parts
    assert {name: (part.scores.tolist(), part.weight) for name, part in parts.items()} == {
        "a": ([8.0], 0.25),
        "b": ([-1.0], 3.0),
    }


def test_repeated_names_get_numbers_that_are_free():
    rewards = [Constant(float(i), name) for i, name in enumerate(["x", "x", "x_2", "x"])]
    combined = Combined(NamedPart(reward.name, 1.0, reward) for reward in rewards)
    assert [part.name for part in combined.parts] == ["x", "x_2", "x_2_2", "x_3"]
    assert list(combined.judge(Judged.of(["s"], ["o"])).parts) == ["x", "x_2", "x_2_2", "x_3"]
    assert value_of(combined) == [6.0]


def test_a_reward_of_several_parts_keeps_them():
    parts = (3.0 * TwoParts() + Constant(1.0)).judge(Judged.of(["s"], ["o"])).parts
    assert {name: part.weight for name, part in parts.items()} == {"pair.left": 1.5, "pair.right": 6.0, "constant": 1.0}
    assert value_of(3.0 * TwoParts()) == [75.0]


def test_references_are_needed_when_any_part_needs_them():
    needing = Constant(1.0, "b", needs_references=True)
    assert not (Constant(1.0) + Constant(2.0)).needs_references
    assert (Constant(1.0) + needing).needs_references
    with pytest.raises(InputError, match="reward 'b': sample 0"):
        (Constant(1.0) + needing)(["s"], ["o"])


def test_a_partial_part_can_be_judged_but_not_summed_raw():
    combined = Constant(1.0, "whole") + Constant(1.0, "partial", applies=False)
    assert not combined.judge(Judged.of(["s"], ["o"])).parts["partial"].applies.any()
    with pytest.raises(RewardError, match="part 'partial' does not apply to sample 0"):
        value_of(combined)


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(weight):
    with pytest.raises(ConfigurationError, match="reward 'constant': its weight is"):
        weight * Constant(1.0)


def test_other_operands_are_refused():
    with pytest.raises(TypeError):
        Constant(1.0) + 3
    with pytest.raises(ConfigurationError, match="at least one part"):
        Combined([])


def test_sums_are_picklable():
    combined = 0.5 * Constant(3.0, "a") + Constant(5.0, "b")
    assert value_of(pickle.loads(pickle.dumps(combined))) == value_of(combined) == [6.5]
