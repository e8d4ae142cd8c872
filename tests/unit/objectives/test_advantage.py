"""Baselines against plain loops, and what each must hold: who is counted, what is never read, what stays the same."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.objectives.advantage import (
    RunningMean,
    batch_mean,
    check_baseline,
    constant,
    estimate,
    group_mean,
    group_scaled,
    leave_one_out,
    no_baseline,
    self_critical,
    shuffle_within_groups,
)

REWARDS = torch.tensor([1.0, 2.0, 6.0, -3.0, 5.0, 0.5, 8.0], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 0, 1, 1, 2, 3])
KEPT = torch.tensor([True, True, True, True, False, True, False])

batches = st.lists(
    st.tuples(st.floats(-100, 100), st.integers(0, 4), st.booleans()),
    min_size=1,
    max_size=12,
).map(
    lambda rows: (
        torch.tensor([row[0] for row in rows], dtype=torch.float64),
        torch.tensor([row[2] for row in rows]),
        torch.tensor([row[1] for row in rows]),
    )
)


def test_none_is_the_reward_of_those_kept():
    made = no_baseline(REWARDS, KEPT)
    assert made.values.tolist() == [1.0, 2.0, 6.0, -3.0, 0.0, 0.5, 0.0]
    assert made.counted.tolist() == KEPT.tolist()
    assert made.samples == 5


def test_batch_mean_is_over_those_kept():
    made = batch_mean(REWARDS, KEPT)
    assert made.values.tolist() == pytest.approx([-0.3, 0.7, 4.7, -4.3, 0.0, -0.8, 0.0])
    assert made.values.sum().item() == pytest.approx(0.0, abs=1e-12)
    assert made.samples == 5


def test_leave_one_out_by_hand():
    made = leave_one_out(REWARDS, KEPT, GROUPS)
    # Group 0: 1 - (2 + 6) / 2, 2 - (1 + 6) / 2, 6 - (1 + 2) / 2. Groups 1 and 2 hold one kept sample each, group 3 none.
    assert made.values.tolist() == [-3.0, -1.5, 4.5, 0.0, 0.0, 0.0, 0.0]
    assert made.counted.tolist() == [True, True, True, False, False, False, False]
    assert made.samples == 3


@given(batches)
@settings(max_examples=60, deadline=None)
def test_leave_one_out_equals_the_loop(batch):
    rewards, kept, groups = batch
    made = leave_one_out(rewards, kept, groups)
    for i in range(len(rewards)):
        others = [rewards[j].item() for j in range(len(rewards)) if j != i and kept[j] and groups[j] == groups[i]]
        wanted = rewards[i].item() - math.fsum(others) / len(others) if kept[i] and others else 0.0
        assert made.values[i].item() == pytest.approx(wanted, abs=1e-10)
        assert made.counted[i].item() == (kept[i].item() and bool(others))


def test_group_mean_by_hand():
    made = group_mean(REWARDS, KEPT, GROUPS)
    assert made.values.tolist() == [-2.0, -1.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    assert made.counted.tolist() == [True, True, True, False, False, False, False]
    assert made.samples == 3


def test_group_scaled_by_hand():
    made = group_scaled(REWARDS, KEPT, GROUPS)
    # Group 0: squares 4 + 1 + 9, over 3 - 1.
    assert made.values.tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5, 0.0, 0.0, 0.0, 0.0])
    assert made.counted.tolist() == [True, True, True, False, False, False, False]


@given(batches)
@settings(max_examples=60, deadline=None)
def test_group_advantages_equal_the_loop(batch):
    rewards, kept, groups = batch
    mean, scaled = group_mean(rewards, kept, groups), group_scaled(rewards, kept, groups)
    for i in range(len(rewards)):
        group = [rewards[j].item() for j in range(len(rewards)) if kept[j] and groups[j] == groups[i]]
        counted = kept[i].item() and len(group) > 1
        assert mean.counted[i].item() == scaled.counted[i].item() == counted
        gap = rewards[i].item() - statistics.fmean(group) if counted else 0.0
        assert mean.values[i].item() == pytest.approx(gap, abs=1e-10)
        deviation = statistics.stdev(group) if counted else 0.0
        if deviation > max(1e-150, 1e-5 * max(map(abs, group), default=0.0)):  # below it, squares are 0 in float64
            assert scaled.values[i].item() == pytest.approx(gap / deviation, rel=1e-6, abs=1e-9)
        elif deviation < 1e-7 * max(map(abs, group), default=0.0) or not deviation:
            assert scaled.values[i].item() == 0.0


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3e4, 1e-20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_without_spread_is_counted_with_advantage_0(value, dtype):
    rewards = torch.tensor([value] * 7 + [1.0, 2.0], dtype=dtype)
    made = group_scaled(rewards, torch.ones(9, dtype=torch.bool), torch.tensor([0] * 7 + [1, 1]))
    assert made.values[:7].tolist() == [0.0] * 7
    assert made.values[7:].tolist() == pytest.approx([-(0.5**0.5), 0.5**0.5])
    assert made.values.dtype == dtype
    assert made.samples == 9


def test_the_rounding_of_float32_is_no_spread_but_little_more_is():
    everyone, one_group = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.int64)
    rounding = torch.tensor([0.7, 0.7 + 1e-7, 0.7])
    assert rounding.unique().numel() == 2
    assert group_scaled(rounding, everyone, one_group).values.tolist() == [0.0, 0.0, 0.0]
    little = torch.tensor([0.7, 0.7 + 1e-5, 0.7])
    assert group_scaled(little, everyone, one_group).values.abs().min() > 0.5


@given(batches, st.floats(0.1, 10), st.floats(-10, 10))
@settings(max_examples=40, deadline=None)
def test_group_scaled_knows_no_unit(batch, factor, shift):
    rewards, kept, groups = batch
    rewards = rewards.round(decimals=2)  # a spread that is either none or well above rounding
    one, other = group_scaled(rewards, kept, groups), group_scaled(rewards * factor + shift, kept, groups)
    torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-9)


@given(batches, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_samples_does_not_matter(batch, random):
    rewards, kept, groups = batch
    order = list(range(len(rewards)))
    random.shuffle(order)
    rows = torch.tensor(order)
    for estimator in (leave_one_out, group_mean, group_scaled):
        whole, moved = estimator(rewards, kept, groups), estimator(rewards[rows], kept[rows], groups[rows])
        torch.testing.assert_close(whole.values[rows], moved.values, rtol=0, atol=1e-9)
        assert torch.equal(whole.counted[rows], moved.counted)


@pytest.mark.parametrize("estimator", [group_mean, group_scaled])
def test_group_advantages_never_read_the_reward_of_a_dropped_sample(estimator):
    spoilt = REWARDS.masked_fill(~KEPT, math.nan)
    assert torch.equal(estimator(spoilt, KEPT, GROUPS).values, estimator(REWARDS, KEPT, GROUPS).values)


@pytest.mark.parametrize("estimator", [group_mean, group_scaled])
def test_a_kept_reward_that_is_not_finite_is_not_hidden(estimator):
    rewards = REWARDS.clone()
    rewards[1] = math.nan
    assert estimator(rewards, KEPT, GROUPS).values[:3].isnan().all()


def test_self_critical_takes_off_the_greedy_reward_of_the_same_source():
    greedy = torch.tensor([0.5, 1.0, 2.0, 9.0], dtype=torch.float64)
    made = self_critical(REWARDS, KEPT, GROUPS, greedy)
    assert made.values.tolist() == [0.5, 1.5, 5.5, -4.0, 0.0, -1.5, 0.0]
    assert made.samples == 5


def test_constant_is_one_for_those_kept():
    assert constant(REWARDS, KEPT).values.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("baseline", ["none", "running_mean", "batch_mean", "leave_one_out", "self_critical"])
def test_the_reward_of_a_dropped_sample_is_never_read(baseline):
    spoilt = REWARDS.masked_fill(~KEPT, math.nan)
    given_ = {"running_mean": RunningMean(), "greedy_rewards": torch.zeros(4, dtype=torch.float64)}
    one, other = (estimate(baseline, rewards, KEPT, GROUPS, **given_) for rewards in (REWARDS, spoilt))
    assert one.values.tolist() == other.values.tolist()
    assert (one.values[~one.counted] == 0).all()
    running = RunningMean()
    running.update(spoilt, KEPT)
    assert running.value == pytest.approx(1.3)


@given(batches, st.floats(-10, 10))
@settings(max_examples=40, deadline=None)
def test_a_constant_added_to_every_reward_changes_no_centred_advantage(batch, shift):
    rewards, kept, groups = batch
    for one, other in [
        (batch_mean(rewards, kept), batch_mean(rewards + shift, kept)),
        (leave_one_out(rewards, kept, groups), leave_one_out(rewards + shift, kept, groups)),
        (group_mean(rewards, kept, groups), group_mean(rewards + shift, kept, groups)),
    ]:
        torch.testing.assert_close(one.values, other.values, rtol=0, atol=1e-10)


def test_an_empty_batch_counts_nobody():
    nothing = torch.zeros(3, dtype=torch.bool)
    for made in (
        no_baseline(REWARDS[:3], nothing),
        batch_mean(REWARDS[:3], nothing),
        leave_one_out(REWARDS[:3], nothing, GROUPS[:3]),
        group_mean(REWARDS[:3], nothing, GROUPS[:3]),
        group_scaled(REWARDS[:3], nothing, GROUPS[:3]),
    ):
        assert made.samples == 0
        assert made.values.tolist() == [0.0, 0.0, 0.0]


def test_running_mean_knows_earlier_batches_only():
    running, everyone = RunningMean(decay=1.0), torch.ones(2, dtype=torch.bool)
    first = torch.tensor([4.0, 6.0])
    assert running.advantages(first, everyone).values.tolist() == [4.0, 6.0]
    running.update(first, everyone)
    assert running.advantages(torch.tensor([1.0, 5.0]), everyone).values.tolist() == [-4.0, 0.0]
    running.update(torch.tensor([1.0, 7.0]), torch.tensor([True, False]))
    assert running.value == pytest.approx(11 / 3)


def test_running_mean_weighs_samples_by_the_age_of_their_batch():
    running = RunningMean(decay=0.5)
    for rewards in ([8.0, 0.0], [2.0], [1.0, 1.0, 4.0]):
        running.update(torch.tensor(rewards), torch.ones(len(rewards), dtype=torch.bool))
    assert running.value == pytest.approx((0.25 * 8 + 0.5 * 2 + 6) / (0.25 * 2 + 0.5 + 3))


def test_running_mean_goes_on_exactly_after_a_round_trip_through_json():
    running = RunningMean()
    running.update(torch.rand(5, generator=torch.Generator().manual_seed(1)), torch.ones(5, dtype=torch.bool))
    restored = RunningMean()
    restored.load_state_dict(json.loads(json.dumps(running.state_dict())))
    for one in (running, restored):
        one.update(torch.tensor([0.1, 0.2]), torch.ones(2, dtype=torch.bool))
    assert restored.value == running.value


def test_running_mean_refuses_what_cannot_be():
    with pytest.raises(CheckpointError, match="weight"):
        RunningMean().load_state_dict({"total": 1.0})
    for decay in (0.0, 1.5, math.nan):
        with pytest.raises(ConfigurationError, match="decay"):
            RunningMean(decay)


def test_check_baseline():
    with pytest.raises(ConfigurationError, match="no baseline 'median'"):
        check_baseline("median", 4)
    with pytest.raises(ConfigurationError, match="samples_per_source is 1"):
        check_baseline("leave_one_out", 1)
    check_baseline("leave_one_out", 2)
    check_baseline("self_critical", 1)


def test_estimate_refuses_to_guess_what_it_was_not_given():
    for baseline in ("running_mean", "self_critical"):
        with pytest.raises(ConfigurationError, match=baseline):
            estimate(baseline, REWARDS, KEPT, GROUPS)
    with pytest.raises(ConfigurationError, match="median"):
        estimate("median", REWARDS, KEPT, GROUPS)


def test_estimate_chooses_the_function_named():
    running, greedy = RunningMean(), torch.tensor([0.5, 1.0, 2.0, 9.0], dtype=torch.float64)
    running.update(torch.tensor([2.0]), torch.tensor([True]))
    wanted = {
        "none": no_baseline(REWARDS, KEPT),
        "running_mean": no_baseline(REWARDS - 2.0, KEPT),
        "batch_mean": batch_mean(REWARDS, KEPT),
        "leave_one_out": leave_one_out(REWARDS, KEPT, GROUPS),
        "self_critical": self_critical(REWARDS, KEPT, GROUPS, greedy),
    }
    for baseline, made in wanted.items():
        assert estimate(baseline, REWARDS, KEPT, GROUPS, running, greedy).values.tolist() == made.values.tolist()


def multisets(rewards, kept, buckets):
    found: dict[int, list[float]] = {}
    for reward, keep, bucket in zip(rewards.tolist(), kept.tolist(), buckets, strict=True):
        if keep:
            found.setdefault(bucket, []).append(reward)
    return {bucket: sorted(values) for bucket, values in found.items()}


@given(batches, st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_shuffling_permutes_within_groups_and_leaves_the_dropped_alone(batch, seed):
    rewards, kept, groups = batch
    before = rewards.clone()
    shuffled = shuffle_within_groups(rewards, kept, groups, torch.Generator().manual_seed(seed))
    assert torch.equal(rewards, before)
    assert torch.equal(shuffled[~kept], rewards[~kept])
    sizes = {
        group: sum(1 for g, k in zip(groups.tolist(), kept.tolist(), strict=True) if k and g == group) for group in range(5)
    }
    buckets = [group if sizes[group] > 1 else -1 for group in groups.tolist()]
    assert multisets(rewards, kept, buckets) == multisets(shuffled, kept, buckets)


@pytest.mark.parametrize("groups", [torch.zeros(3, dtype=torch.int64), torch.arange(3)])
def test_every_permutation_is_equally_likely(groups):
    rewards, kept, generator = torch.tensor([1.0, 2.0, 3.0]), torch.ones(3, dtype=torch.bool), torch.Generator().manual_seed(0)
    counts: dict[tuple[float, ...], int] = {}
    for _ in range(3000):
        drawn = tuple(shuffle_within_groups(rewards, kept, groups, generator).tolist())
        counts[drawn] = counts.get(drawn, 0) + 1
    assert len(counts) == 6
    # Five standard deviations of a binomial count: sqrt(3000 * 1/6 * 5/6) is 20.4.
    assert all(abs(count - 500) < 102 for count in counts.values())


def test_the_same_generator_state_shuffles_alike():
    one, other = (shuffle_within_groups(REWARDS, KEPT, GROUPS, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, other)
