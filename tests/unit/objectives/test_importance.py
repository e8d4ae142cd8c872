"""Importance weights against sums over all outcomes, in plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guerdon.objectives.importance import importance

CHANCES = st.lists(st.tuples(st.floats(1e-6, 1.0), st.floats(1e-6, 1.0)), min_size=2, max_size=8)


def logs(values: list[float]) -> torch.Tensor:
    return torch.tensor([math.log(value) for value in values], dtype=torch.float64)


@given(CHANCES, st.floats(1.0, 50.0))
def test_the_expectation_over_q_is_that_over_p_as_far_as_the_cap_lets_it(
    chances: list[tuple[float, float]], cap: float
) -> None:
    """Of any f: f is 1 at one outcome, 0 at all others."""
    sums = [sum(column) for column in zip(*chances, strict=True)]
    p, q = ([chance / total for chance in column] for column, total in zip(zip(*chances, strict=True), sums, strict=True))
    free, capped = importance(logs(p), logs(q)), importance(logs(p), logs(q), cap)
    for number in range(len(p)):
        assert q[number] * float(free.weights[number]) == pytest.approx(p[number], rel=1e-9)
        assert q[number] * float(capped.weights[number]) == pytest.approx(min(p[number], cap * q[number]), rel=1e-9)
    assert free.capped == 0.0
    far = [a / b for a, b in zip(p, q, strict=True) if abs(a / b / cap - 1) > 1e-9]
    assert capped.capped * len(p) == pytest.approx(sum(ratio > cap for ratio in far), abs=len(p) - len(far) + 1e-9)


@given(CHANCES)
def test_the_effective_size_is_that_of_the_ratios(chances: list[tuple[float, float]]) -> None:
    ratios = [p / q for p, q in chances]
    wanted = sum(ratios) ** 2 / (len(ratios) * sum(ratio**2 for ratio in ratios))
    for cap in (1.0, math.inf):
        found = importance(logs([p for p, _ in chances]), logs([q for _, q in chances]), cap)
        assert found.effective == pytest.approx(wanted, rel=1e-9)
        assert 1 / len(ratios) - 1e-9 <= found.effective <= 1 + 1e-9


def test_equal_models_weigh_nothing() -> None:
    log_p = torch.tensor([-700.0, -3.0, -0.1])
    found = importance(log_p, log_p.double(), cap=1.0)
    assert found.weights.tolist() == [1.0, 1.0, 1.0]
    assert (found.effective, found.capped) == (pytest.approx(1.0), 0.0)


def test_one_output_that_q_hardly_draws_is_seen_in_the_effective_size_through_the_cap() -> None:
    log_q = torch.full((100,), -20.0)
    log_p = log_q.clone()
    log_p[7] += 12.0
    found = importance(log_p, log_q, cap=2.0)
    assert found.weights.tolist() == [1.0] * 7 + [2.0] + [1.0] * 92
    assert found.capped == 0.01
    assert found.effective == pytest.approx(0.01, rel=1e-2)


def test_ratios_beyond_any_float_are_no_trouble_to_the_cap() -> None:
    found = importance(torch.tensor([0.0, -2000.0, -5.0]), torch.tensor([-2000.0, 0.0, -5.0]), cap=3.0)
    assert found.weights.tolist() == [3.0, 0.0, 1.0]
    assert found.effective == pytest.approx(1 / 3)


def test_what_is_not_a_number_stays_none() -> None:
    found = importance(torch.tensor([math.nan, -1.0]), torch.tensor([-1.0, -1.0]), cap=2.0)
    assert math.isnan(found.effective)
    assert math.isnan(float(found.weights[0]))


def test_there_is_no_gradient_through_a_weight() -> None:
    log_p = torch.tensor([-1.0, -2.0], requires_grad=True)
    assert not importance(log_p, torch.tensor([-1.5, -1.5]), cap=2.0).weights.requires_grad
