"""Minimum risk against loops in plain numbers; its expectation over drawn sets is checked in tests/oracle."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import TrainingError
from guerdon.objectives.minimum_risk import distinct_rows, minimum_risk_loss

# Two sources: outputs of probabilities 0.5, 0.1, 0.5 (again the first), and 0.2, 0.4.
PROBABILITIES = torch.tensor([0.5, 0.1, 0.5, 0.2, 0.4], dtype=torch.float64)
LOG_PROB = torch.stack([PROBABILITIES.log() / 2, PROBABILITIES.log() / 2], dim=1)
MASK = torch.ones(5, 2, dtype=torch.bool)
REWARDS = torch.tensor([1.0, 3.0, 1.0, -2.0, 5.0], dtype=torch.float64)
GROUPS = torch.tensor([0, 0, 0, 1, 1])
DISTINCT = torch.tensor([True, True, False, True, True])


def loss_of(log_prob: torch.Tensor = LOG_PROB, alpha: float = 1.0, count: int = 2, distinct: torch.Tensor = DISTINCT):
    return minimum_risk_loss(log_prob, MASK, REWARDS, distinct, GROUPS, alpha, count)


def test_by_hand():
    # Q is 5/6 and 1/6 of the first source, 1/3 and 2/3 of the second.
    assert loss_of().item() == pytest.approx(-((5 + 3) / 6 + (-2 + 10) / 3) / 2, rel=1e-14)
    # α = 2: 25/26 and 1/26, 1/5 and 4/5.
    assert loss_of(alpha=2.0).item() == pytest.approx(-((25 + 3) / 26 + (-2 + 20) / 5) / 2, rel=1e-14)


def test_gradient_by_hand():
    """d / d log p_i of sum_j Q_j r_j is α Q_i (r_i - sum_j Q_j r_j), for every token alike."""
    log_prob = LOG_PROB.clone().requires_grad_()
    loss_of(log_prob, alpha=2.0).backward()
    q, expected = [25 / 26, 1 / 26, 0, 1 / 5, 4 / 5], [28 / 26] * 3 + [18 / 5] * 2
    wanted = [-2.0 * q[i] * (REWARDS[i].item() - expected[i]) / 2 for i in range(5)]
    for column in range(2):
        assert log_prob.grad[:, column].tolist() == pytest.approx(wanted, rel=1e-12)


def test_only_distinct_rows_and_counted_positions_are_read():
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, True], [True, False]])
    log_prob = torch.tensor([[-1.0, -2.0], [-0.5, math.nan], [math.nan, math.inf], [-3.0, -1.0], [-2.0, math.nan]])
    log_prob = log_prob.double().requires_grad_()
    rewards = torch.tensor([1.0, 3.0, math.nan, -2.0, 5.0], dtype=torch.float64)
    loss = minimum_risk_loss(log_prob, mask, rewards, DISTINCT, GROUPS, 1.0, 2)
    one, other = (1 * math.exp(-3) + 3 * math.exp(-0.5)), (-2 * math.exp(-4) + 5 * math.exp(-2))
    wanted = one / (math.exp(-3) + math.exp(-0.5)) + other / (math.exp(-4) + math.exp(-2))
    assert loss.item() == pytest.approx(-wanted / 2, rel=1e-12)
    loss.backward()
    assert (log_prob.grad[~mask] == 0).all()
    assert (log_prob.grad[2] == 0).all()


def test_a_group_with_one_distinct_output_adds_nothing():
    """Not even its reward, so that the loss is comparable between steps."""
    alone = torch.tensor([True, False, False, True, True])
    assert loss_of(distinct=alone, count=1).item() == pytest.approx(-(-2 + 10) / 3, rel=1e-14)
    log_prob = LOG_PROB.clone().requires_grad_()
    nothing = loss_of(log_prob, distinct=torch.tensor([True, False, False, True, False]), count=1)
    assert nothing.item() == 0.0
    nothing.backward()
    assert (log_prob.grad == 0).all()


def test_very_improbable_outputs_do_not_underflow():
    assert loss_of(LOG_PROB - 2000).item() == pytest.approx(loss_of().item(), rel=1e-12)
    assert loss_of((LOG_PROB - 200).float()).item() == pytest.approx(loss_of().item(), rel=1e-4)


def test_the_sharpness_at_its_ends():
    assert loss_of(alpha=1e-9).item() == pytest.approx(-(2.0 + 1.5) / 2, abs=1e-7)  # every output alike
    assert loss_of(alpha=1e3).item() == pytest.approx(-(1.0 + 5.0) / 2, abs=1e-12)  # the most probable alone


def test_rewards_have_no_gradient():
    rewards = REWARDS.clone().requires_grad_()
    log_prob = LOG_PROB.clone().requires_grad_()
    minimum_risk_loss(log_prob, MASK, rewards, DISTINCT, GROUPS, 1.0, 2).backward()
    assert rewards.grad is None


def test_a_step_without_sets_is_refused():
    with pytest.raises(TrainingError, match="no source has two distinct outputs"):
        loss_of(count=0)


sets = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 1), max_size=3), st.booleans(), st.floats(-5, 5), st.floats(-4, 0)),
    min_size=1,
    max_size=10,
)


def tensors(rows):
    """ids [n, 3] with noise beyond the lengths, lengths, kept, groups, rewards, log_prob [n, 3], mask."""
    noise = [7, 0, 1]
    ids = torch.tensor([[*row[1], *noise[: 3 - len(row[1])]] for row in rows])
    lengths = torch.tensor([len(row[1]) for row in rows])
    groups, kept = torch.tensor([row[0] for row in rows]), torch.tensor([row[2] for row in rows])
    rewards = torch.tensor([row[3] for row in rows], dtype=torch.float64)
    log_prob = torch.tensor([[row[4]] * 3 for row in rows], dtype=torch.float64)
    return ids, lengths, kept, groups, rewards, log_prob, torch.arange(3) < lengths[:, None]


@given(sets)
def test_distinct_rows_are_the_first_of_their_kind(rows):
    ids, lengths, kept, groups, *_ = tensors(rows)
    before = ids.clone()
    found = distinct_rows(ids, lengths, kept, groups)
    seen = set()
    for i, (group, output, keep, *_) in enumerate(rows):
        assert found[i].item() == (keep and (group, tuple(output)) not in seen)
        if keep:
            seen.add((group, tuple(output)))
    assert torch.equal(ids, before)


def test_an_output_cut_off_is_another_than_the_one_that_ended():
    ids = torch.tensor([[5, 2], [5, 0], [5, 9]])
    assert distinct_rows(ids, torch.tensor([2, 1, 1]), torch.ones(3, dtype=torch.bool), torch.zeros(3).long()).tolist() == [
        True,
        True,
        False,
    ]


def test_no_row_at_all():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert distinct_rows(nothing.view(0, 2), nothing, nothing.bool(), nothing).tolist() == []
    empty = torch.zeros(0, 2, dtype=torch.float64)
    assert minimum_risk_loss(empty, empty.bool(), empty[:, 0], nothing.bool(), nothing, 1.0, 3).item() == 0.0


@given(sets, st.floats(0.01, 3), st.randoms(use_true_random=False))
def test_the_loss_equals_the_loop_however_rows_are_ordered_and_groups_are_cut(rows, alpha, random):
    ids, lengths, kept, groups, rewards, log_prob, mask = tensors(rows)
    distinct = distinct_rows(ids, lengths, kept, groups)
    wanted, members = 0.0, {}
    for i in distinct.nonzero()[:, 0].tolist():
        members.setdefault(groups[i].item(), []).append(i)
    for group in members.values():
        weights = [math.exp(alpha * log_prob[i, 0].item() * lengths[i].item()) for i in group]
        if len(group) > 1:
            wanted -= math.fsum(w * rewards[i].item() for w, i in zip(weights, group, strict=True)) / math.fsum(weights)
    order = list(range(len(rows)))
    random.shuffle(order)
    for cut in ([[0, 1, 2, 3]], [[0, 2], [1, 3]], [[0], [1], [2], [3]]):
        found = 0.0
        for part in cut:
            rows_of = torch.tensor([i for i in order if rows[i][0] in part], dtype=torch.int64)
            given_ = [each[rows_of] for each in (log_prob, mask, rewards, distinct, groups)]
            found += minimum_risk_loss(*given_, alpha, 2).item()
        assert found == pytest.approx(wanted / 2, abs=1e-9)
