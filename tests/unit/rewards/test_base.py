from __future__ import annotations

import pytest
import torch

from guerdon.errors import InputError, RewardError
from guerdon.rewards.base import Judged, Judgement, Part, Reward


class Given(Reward):
    """Returns what it was made with."""

    name = "given"

    def __init__(self, scores, applies=None, needs_references=False):
        self.scores, self.mask, self.needs_references = scores, applies, needs_references

    def score(self, judged):
        return self.scores

    def applies(self, judged):
        return self.mask


class Raising(Reward):
    name = "raising"

    def score(self, judged):
        raise KeyError("colour")


def test_scores_are_float32_without_a_graph_and_on_the_cpu():
    weight = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    scores = Given(weight * 2)(["a", "b"], ["x", "y"])
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    assert scores.tolist() == [2.0, 4.0]


def test_lists_and_booleans_are_scores_too():
    assert Given([True, False])(["a", "b"], ["x", "y"]).tolist() == [1.0, 0.0]


def test_missing_fields_are_filled_in():
    judged = Judged.of(["a", "b"], ["x", "y"])
    assert len(judged) == 2
    assert (list(judged.references), list(judged.meta), list(judged.finished)) == ([(), ()], [{}, {}], [True, True])


@pytest.mark.parametrize("name", ["sources", "references", "meta", "finished"])
def test_lists_of_another_length_are_refused(name):
    given = {"sources": ["a", "b"], "outputs": ["x", "y"], name: [[]]}
    with pytest.raises(InputError, match=f"1 {name} for 2 outputs"):
        Judged.of(**given)


def test_missing_references_are_refused_by_the_rewards_that_read_them():
    assert Given([1.0])(["a"], ["x"], [[]]).tolist() == [1.0]
    with pytest.raises(InputError, match=r"reward 'given': sample 1 \(source 'b'\) has no references"):
        Given([1.0, 1.0], needs_references=True)(["a", "b"], ["x", "y"], [["r"], []])


@pytest.mark.parametrize(("bad", "shown"), [(float("nan"), "nan"), (float("inf"), "inf"), (-1e300, "-inf")])
def test_non_finite_scores_name_reward_and_sample(bad, shown):
    with pytest.raises(RewardError, match=rf"reward 'given': returned {shown} for sample 1 \(output 'y'\)") as caught:
        Given([0.0, bad])(["a", "b"], ["x", "y"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]], 1.0])
def test_another_number_of_scores_is_refused(scores):
    with pytest.raises(RewardError, match=r"reward 'given': returned scores of shape .* for 2 outputs"):
        Given(scores)(["a", "b"], ["x", "y"])


def test_what_a_reward_raises_is_reported_under_its_name():
    with pytest.raises(RewardError, match="reward 'raising': raised KeyError: 'colour'") as caught:
        Raising()(["a"], ["x"])
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.exit_code == 1


def test_where_a_reward_does_not_apply_its_score_is_never_read():
    part = (
        Given([1.0, float("nan"), 3.0], applies=[True, False, True]).judge(Judged.of(list("abc"), list("xyz"))).parts["given"]
    )
    assert part.scores.tolist() == [1.0, 0.0, 3.0]
    assert part.applies.tolist() == [True, False, True]
    assert part.weight == 1.0


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(RewardError, match=r"reward 'given': said of \[1\] samples whether it applies, for 2 outputs"):
        Given([1.0, 2.0], applies=[True])(["a", "b"], ["x", "y"])


def test_a_raw_sum_with_a_part_that_does_not_apply_is_refused():
    with pytest.raises(RewardError, match="part 'given' does not apply to sample 1"):
        Given([1.0, 2.0], applies=[True, False])(["a", "b"], ["x", "y"])


def test_total_is_the_weighted_sum():
    every = torch.ones(2, dtype=torch.bool)
    parts = {"p": Part(torch.tensor([1.0, 2.0]), every, 0.5), "q": Part(torch.tensor([4.0, -8.0]), every, -2.0)}
    assert Judgement(parts).total().tolist() == [-7.5, 17.0]
