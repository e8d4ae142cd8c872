from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.errors import CheckpointError, ConfigurationError, RewardError
from guerdon.rewards.base import Judgement, Part
from guerdon.rewards.normalise import Moments, Normaliser, NormaliserOptions

FINITE = st.floats(-1e4, 1e4, width=32)


def judgement(*columns, weights=None, applies=None):
    """One part per column of scores, called a, b, ..."""
    weights, applies = weights or [1.0] * len(columns), applies or [[True] * len(column) for column in columns]
    parts = [
        Part(torch.tensor(column, dtype=torch.float32), torch.tensor(mask), weight)
        for column, weight, mask in zip(columns, weights, applies, strict=True)
    ]
    return Judgement(dict(zip("abcdef", parts, strict=False)))


def groups_of(*numbers):
    return torch.tensor(numbers, dtype=torch.int64)


def standard(values, moments_of=None):
    """(r - μ) / σ in float64 numpy; 0 where σ is 0."""
    values = np.asarray(values, dtype=np.float32).astype(np.float64)
    base = values if moments_of is None else np.asarray(moments_of, dtype=np.float32).astype(np.float64)
    return np.zeros_like(values) if base.std() == 0 else (values - base.mean()) / base.std()


def apply(kind, judged, groups, order="each"):
    rewards, kept = Normaliser(NormaliserOptions(kind, order)).apply(judged, groups)
    assert rewards.dtype == torch.float32
    return rewards.tolist(), kept.tolist()


def test_none_is_the_weighted_sum():
    judged = judgement([1.0, 2.0], [3.0, 5.0], weights=[2.0, -1.0])
    assert apply("none", judged, groups_of(0, 1)) == ([-1.0, -1.0], [True, True])


def test_batch_normalises_each_part_then_sums():
    a, b = [1.0, 2.0, 4.0, 7.0], [100.0, -50.0, 30.0, 0.0]
    rewards, kept = apply("batch", judgement(a, b, weights=[0.5, 2.0]), groups_of(0, 0, 1, 1))
    assert rewards == pytest.approx((0.5 * standard(a) + 2.0 * standard(b)).tolist(), abs=1e-6)
    assert all(kept)


def test_or_the_weighted_sum():
    a, b = np.array([1.0, 2.0, 4.0, 7.0]), np.array([100.0, -50.0, 30.0, 0.0])
    rewards, _ = apply("batch", judgement(a.tolist(), b.tolist(), weights=[0.5, 2.0]), groups_of(0, 0, 1, 1), "sum")
    assert rewards == pytest.approx(standard(0.5 * a + 2.0 * b).tolist(), abs=1e-6)


def test_group_takes_the_moments_of_each_source():
    values = [1.0, 10.0, 3.0, 30.0, 8.0, 5.0]
    rewards, _ = apply("group", judgement(values), groups_of(0, 1, 0, 1, 0, 2))
    expected = np.zeros(6)
    for rows in ([0, 2, 4], [1, 3], [5]):
        expected[rows] = standard(np.array(values)[rows])
    assert rewards == pytest.approx(expected.tolist(), abs=1e-6)
    assert rewards[5] == 0.0  # a group of one has no spread


@given(st.lists(st.tuples(FINITE, st.integers(0, 3)), min_size=1, max_size=20))
def test_rewards_of_a_group_have_mean_zero_and_deviation_one_or_zero(rows):
    values, groups = [value for value, _ in rows], [group for _, group in rows]
    rewards = np.array(apply("group", judgement(values), groups_of(*groups))[0])
    assert np.isfinite(rewards).all()
    for group in set(groups):
        own = rewards[np.array(groups) == group]
        assert own.mean() == pytest.approx(0.0, abs=1e-5)
        assert own.std() == pytest.approx(1.0, abs=1e-5) or (own == 0).all()


@pytest.mark.parametrize("kind", ["batch", "group", "running"])
@pytest.mark.parametrize("order", ["each", "sum"])
@pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e-30, 12345.678])
def test_no_spread_gives_zero(kind, order, value):
    normaliser = Normaliser(NormaliserOptions(kind, order))
    for _ in range(3):
        rewards, kept = normaliser.apply(judgement([value] * 7), groups_of(0, 0, 0, 1, 1, 1, 1))
        assert rewards.tolist() == [0.0] * 7
        assert kept.all()


def test_the_rounding_of_float32_is_no_spread():
    value = np.float32(0.7)
    noisy = [float(value), float(np.nextafter(value, np.float32(1))), float(np.nextafter(value, np.float32(0)))]
    assert apply("batch", judgement(noisy), groups_of(0, 0, 0))[0] == [0.0, 0.0, 0.0]


def test_running_uses_earlier_batches_only():
    batches = [[1.0, 2.0, 6.0], [4.0, -3.0], [100.0, 0.0, 7.0, 7.0]]
    normaliser, seen = Normaliser(NormaliserOptions("running")), []
    for number, batch in enumerate(batches):
        rewards, _ = normaliser.apply(judgement(batch), torch.arange(len(batch)))
        expected = standard(batch, batch if number == 0 else seen)  # the first batch has no earlier one
        assert rewards.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
        seen += batch


@settings(deadline=None)
@given(st.lists(st.lists(FINITE, max_size=9), min_size=1, max_size=6))
def test_running_moments_are_numpys_over_the_concatenation(batches):
    moments = Moments()
    for batch in batches:
        moments.update(torch.tensor(batch, dtype=torch.float32))
    every = np.array([value for batch in batches for value in batch], dtype=np.float64)
    assert moments.count == len(every)
    if len(every):
        assert moments.mean == pytest.approx(every.mean(), rel=1e-12, abs=1e-9)
        assert moments.deviation == pytest.approx(every.std(), rel=1e-9, abs=1e-7)


def test_running_moments_far_from_zero_keep_their_precision():
    """The mean of squares less the square of the mean would lose everything here."""
    values = 1e6 + np.arange(1000) / 8
    moments = Moments()
    for chunk in np.split(values, 10):
        moments.update(torch.from_numpy(chunk))
    assert moments.deviation == pytest.approx(values.std(), rel=1e-12)


def test_resuming_from_json_is_exact():
    batches = [judgement([0.1, 0.2, 0.7], [5.0, 1.0, 2.0]), judgement([0.3, 0.9, 0.4], [1.0, 1.0, 3.0])]
    whole, first = Normaliser(NormaliserOptions()), Normaliser(NormaliserOptions())
    groups = groups_of(0, 0, 1)
    for batch in batches:
        whole.apply(batch, groups)
    first.apply(batches[0], groups)
    resumed = Normaliser(NormaliserOptions())
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    resumed.apply(batches[1], groups)
    assert resumed.state_dict() == whole.state_dict()
    last = judgement([0.5, 0.6, 0.7], [0.0, 1.0, 1.0])
    assert resumed.apply(last, groups)[0].tolist() == whole.apply(last, groups)[0].tolist()


@pytest.mark.parametrize(
    "state", [{"a": [1, 2.0]}, {"a": 3}, {"a": ["x", 0.0, 0.0]}, {"a": [2, float("nan"), 1.0]}, {"a": [2, 0.0, -1.0]}, [1]]
)
def test_a_damaged_state_is_refused(state):
    with pytest.raises(CheckpointError, match="normaliser"):
        Normaliser(NormaliserOptions()).load_state_dict(state)


@pytest.mark.parametrize("kind", ["batch", "running"])
def test_a_part_that_does_not_apply_adds_nothing(kind):
    a, b = [1.0, 5.0, 3.0, 2.0], [4.0, 99.0, 8.0, 0.0]
    mask = [True, False, True, False]
    judged = judgement(a, b, weights=[1.0, 2.0], applies=[[True, True, True, False], mask])
    rewards, kept = apply(kind, judged, groups_of(0, 0, 1, 1))
    expected = np.zeros(4)
    expected[:3] = standard(a[:3])
    expected[[0, 2]] += 2.0 * standard([4.0, 8.0])
    assert rewards == pytest.approx(expected.tolist(), abs=1e-6)
    assert kept == [True, True, True, False]


def test_a_groups_moments_are_those_of_the_samples_that_a_part_applies_to():
    judged = judgement([1.0, 2.0, 9.0, 5.0, 6.0], applies=[[True, True, False, False, False]])
    rewards, kept = apply("group", judged, groups_of(0, 0, 0, 1, 1))
    assert rewards == [-1.0, 1.0, 0.0, 0.0, 0.0]
    assert kept == [True, True, False, False, False]


@pytest.mark.parametrize(("kind", "order"), [("none", "each"), ("batch", "sum"), ("running", "sum"), ("group", "sum")])
def test_a_partial_part_that_nothing_centres_is_refused(kind, order):
    judged = judgement([1.0, 2.0], applies=[[True, False]])
    with pytest.raises(RewardError, match="part 'a' does not apply to sample 1"):
        apply(kind, judged, groups_of(0, 0), order)


def test_a_part_that_first_applies_later_then_uses_its_own_moments():
    normaliser = Normaliser(NormaliserOptions("running"))
    normaliser.apply(judgement([1.0, 2.0], [0.0, 0.0], applies=[[True, True], [False, False]]), groups_of(0, 0))
    normaliser = _through_json(normaliser)
    rewards, _ = normaliser.apply(judgement([1.5, 1.5], [3.0, 7.0]), groups_of(0, 0))
    assert rewards.tolist() == [-1.0, 1.0]


def _through_json(normaliser):
    other = Normaliser(normaliser.options)
    other.load_state_dict(json.loads(json.dumps(normaliser.state_dict())))
    return other


@pytest.mark.parametrize("kind", ["batch", "running", "group", "none"])
def test_rescaling_uses_the_moments_that_the_step_used(kind):
    """Greedy outputs are put on the scale of their step's samples, and leave no trace."""
    normaliser = Normaliser(NormaliserOptions(kind))
    earlier, values, groups = [5.0, 5.5, 9.0, 1.0], [1.0, 3.0, 10.0, 50.0], groups_of(0, 0, 1, 1)
    normaliser.apply(judgement(earlier), groups)
    normaliser.apply(judgement(values), groups)
    state = normaliser.state_dict()
    greedy = [4.0, 20.0]
    found = normaliser.rescale(judgement(greedy), groups_of(0, 1))
    expected = {
        "none": greedy,
        "batch": standard(greedy, values),
        "running": standard(greedy, earlier),
        "group": [(4.0 - 2.0) / 1.0, (20.0 - 30.0) / 20.0],
    }[kind]
    assert found.tolist() == pytest.approx(list(expected), rel=1e-6)
    assert normaliser.state_dict() == state


@pytest.mark.parametrize("kind", ["batch", "running", "group", "none"])
@pytest.mark.parametrize("order", ["each", "sum"])
def test_potentials_of_parts_that_all_apply_are_rescaled(kind, order):
    normaliser = Normaliser(NormaliserOptions(kind, order))
    normaliser.apply(judgement([1.0, 3.0, 10.0], [0.0, 2.0, 2.0], weights=[1.0, 0.5]), groups_of(0, 0, 1))
    state, prefixes, groups = normaliser.state_dict(), judgement([2.0, 0.0], [1.0, 0.5], weights=[1.0, 0.5]), groups_of(0, 1)
    assert normaliser.potentials(prefixes, groups).tolist() == normaliser.rescale(prefixes, groups).tolist()
    assert normaliser.state_dict() == state


@pytest.mark.parametrize(
    ("kind", "order", "expected"),
    [
        ("none", "each", [4.0, -2.0]),
        ("none", "sum", [4.0, -2.0]),
        ("batch", "each", [0.0, -6.0]),
        ("batch", "sum", [-0.5, -2.0]),
    ],
)
def test_potentials_leave_out_a_part_that_applies_nowhere(kind, order, expected):
    """Samples 1 and 3 of a part of weight 2 (μ 2, σ 1), 0 and 4 of one without prefixes; the sums are 2 and 10 (μ 6, σ 4)."""
    normaliser, groups = Normaliser(NormaliserOptions(kind, order)), groups_of(0, 0)
    normaliser.apply(judgement([1.0, 3.0], [0.0, 4.0], weights=[2.0, 1.0]), groups)
    prefixes = judgement([2.0, -1.0], [0.0, 0.0], weights=[2.0, 1.0], applies=[[True, True], [False, False]])
    assert normaliser.potentials(prefixes, groups).tolist() == pytest.approx(expected)
    if kind == "none" or order == "sum":
        with pytest.raises(RewardError, match="part 'b' does not apply to sample 0"):
            normaliser.rescale(prefixes, groups)


def test_only_running_keeps_a_state():
    for kind in ("none", "batch", "group"):
        normaliser = Normaliser(NormaliserOptions(kind))
        normaliser.apply(judgement([1.0, 2.0]), groups_of(0, 0))
        assert normaliser.state_dict() == {}


def test_options_that_cannot_be():
    with pytest.raises(ConfigurationError, match=r"normalisation\.kind: there is no kind 'zscore'"):
        NormaliserOptions("zscore")
    with pytest.raises(ConfigurationError, match=r"normalisation\.order: there is no order 'first'"):
        NormaliserOptions(order="first")
