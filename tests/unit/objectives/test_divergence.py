"""Estimates of the divergence by hand, and the controller; expectations and their gradients are checked in tests/oracle."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import CheckpointError, ConfigurationError, TrainingError
from guerdon.objectives.divergence import KlController, kl_estimate, sequence_kl

LOG_P = torch.tensor([[0.5, 0.25, 0.125]], dtype=torch.float64).log()
LOG_Q = torch.tensor([[0.25, 0.5, 0.125]], dtype=torch.float64).log()
LN2 = math.log(2)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("k1", [LN2, -LN2, 0.0]),
        ("k2", [LN2**2 / 2, LN2**2 / 2, 0.0]),
        ("k3", [0.5 - 1 + LN2, 2 - 1 - LN2, 0.0]),
    ],
)
def test_estimates_by_hand(kind, wanted):
    assert kl_estimate(kind, LOG_P, LOG_Q)[0].tolist() == pytest.approx(wanted, rel=1e-14)


@pytest.mark.parametrize(("kind", "slopes"), [("k1", [1, 1, 1]), ("k2", [LN2, -LN2, 0]), ("k3", [1 - 0.5, 1 - 2, 0])])
def test_slopes_by_hand(kind, slopes):
    """d k1 = 1, d k2 = log(p / q), d k3 = 1 - q / p, for each unit of log p."""
    log_p = LOG_P.clone().requires_grad_()
    kl_estimate(kind, log_p, LOG_Q).sum().backward()
    assert log_p.grad[0].tolist() == pytest.approx(slopes, rel=1e-14)


def test_the_exact_one_is_passed_through_with_its_gradient():
    exact = torch.rand(1, 3, dtype=torch.float64).requires_grad_()
    found = kl_estimate("exact", LOG_P, LOG_Q, exact)
    assert torch.equal(found, exact)
    assert found.requires_grad
    assert not torch.equal(kl_estimate("k1", LOG_P, LOG_Q, exact), exact)


def test_what_cannot_be_estimated_is_refused():
    with pytest.raises(ConfigurationError, match="exact divergence was not given"):
        kl_estimate("exact", LOG_P, LOG_Q)
    with pytest.raises(ConfigurationError, match=r"no estimate 'k4'.*k1, k2, k3, exact"):
        kl_estimate("k4", LOG_P, LOG_Q)


@given(st.lists(st.tuples(st.floats(-20, 0), st.floats(-20, 0)), min_size=1, max_size=6))
def test_k2_and_k3_are_never_negative_and_nothing_where_the_two_agree(pairs):
    log_p, log_q = torch.tensor(pairs, dtype=torch.float64).T
    for kind in ("k2", "k3"):
        assert (kl_estimate(kind, log_p, log_q) >= 0).all()
    for kind in ("k1", "k2", "k3"):
        assert (kl_estimate(kind, log_p, log_p) == 0).all()


@pytest.mark.parametrize("kind", ["k1", "k3"])
def test_its_mean_under_the_policy_is_the_exact_divergence(kind):
    logits, anchor = torch.randn(2, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    log_p = logits.log_softmax(-1)
    mean = (log_p.exp() * kl_estimate(kind, log_p, anchor.log_softmax(-1))).sum()
    exact = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits), torch.distributions.Categorical(logits=anchor)
    )
    assert mean.item() == pytest.approx(exact.item(), rel=1e-12)


def test_k3_of_near_policies_in_float32_keeps_its_digits():
    """x = log(p / q) = 1e-3: k3 = x²/2 - x³/6 + ..., which exp(-x) - 1 + x in float32 would drown in rounding."""
    log_p = torch.tensor([-0.5])
    log_q = log_p - torch.tensor([2.0**-10])
    x = 2.0**-10
    assert kl_estimate("k3", log_p, log_q).item() == pytest.approx(x**2 / 2 - x**3 / 6, rel=2e-4)


def test_sums_the_positions_that_count_and_has_no_gradient():
    per_token = torch.tensor([[0.5, -1.0, -3.0], [0.25, math.nan, math.inf]], requires_grad=True)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    total = sequence_kl(per_token, mask)
    assert total.tolist() == [0.5 - 1.0 - 3.0, 0.25]
    assert not total.requires_grad


# --- the controller


def test_the_coefficient_rises_and_falls_in_proportion_to_the_error():
    controller = KlController(0.2, target=6.0, horizon=1000)
    controller.update(6.6, samples=100)  # an error of 0.1, a tenth of the horizon
    assert controller.value == pytest.approx(0.2 * 1.01, rel=1e-12)
    controller.update(5.7, samples=50)  # -0.05, a twentieth
    assert controller.value == pytest.approx(0.2 * 1.01 * 0.9975, rel=1e-12)
    controller.update(6.0, samples=500)
    assert controller.value == pytest.approx(0.2 * 1.01 * 0.9975, rel=1e-12)


@pytest.mark.parametrize(("measured", "factor"), [(7.2, 1.02), (1e9, 1.02), (4.8, 0.98), (0.0, 0.98), (-50.0, 0.98)])
def test_the_error_is_clipped(measured, factor):
    controller = KlController(0.5, target=6.0, horizon=1000)
    controller.update(measured, samples=100)
    assert controller.value == pytest.approx(0.5 * factor, rel=1e-12)


def test_it_holds_a_divergence_that_answers_at_its_target():
    """A divergence that falls as β rises (here KL = 2 / β) settles where it should."""
    controller = KlController(0.05, target=4.0, horizon=500)
    for _ in range(600):
        controller.update(2.0 / controller.value, samples=64)
    assert 2.0 / controller.value == pytest.approx(4.0, rel=1e-3)


def test_without_a_target_it_is_constant():
    controller = KlController(0.07, target=None, horizon=10)
    for measured in (0.0, 100.0, math.nan):
        controller.update(measured, samples=1000)
    assert controller.value == 0.07


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((-0.1, None, 1), "coefficient is -0.1"),
        ((math.nan, None, 1), "coefficient is nan"),
        ((math.inf, None, 1), "coefficient is inf"),
        ((0.1, 0.0, 1), "target is 0"),
        ((0.1, -2.0, 1), "target is -2"),
        ((0.1, math.nan, 1), "target is nan"),
        ((0.1, math.inf, 1), "target is inf"),
        ((0.0, 6.0, 1), "the coefficient is 0"),
        ((0.1, 6.0, 0), "horizon is 0"),
        ((0.1, 6.0, math.inf), "horizon is inf"),
        ((0.1, None, math.nan), "horizon is nan"),
    ],
)
def test_impossible_controllers_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        KlController(*settings)


def test_a_coefficient_of_0_only_measures():
    assert KlController(0.0, None, 1).value == 0.0


def test_a_step_too_large_for_the_horizon_is_refused_whatever_the_divergence():
    """At 5 horizons of samples in a step, the lowest factor would be 1 - 0.2 * 5 = 0."""
    controller = KlController(0.1, target=6.0, horizon=100)
    with pytest.raises(ConfigurationError, match=r"500 samples.*horizon is 100"):
        controller.update(9.0, samples=500)
    controller.update(0.0, samples=499)
    assert 0 < controller.value < 0.1


def test_a_divergence_that_is_not_finite_changes_nothing():
    controller = KlController(0.1, target=6.0, horizon=100)
    for measured in (math.nan, math.inf):
        with pytest.raises(TrainingError, match="measured KL is"):
            controller.update(measured, samples=10)
    assert controller.value == 0.1


def test_a_coefficient_beyond_bounds_is_reported():
    controller = KlController(1.7e308, target=6.0, horizon=100)
    with pytest.raises(TrainingError, match="beyond bounds"):
        controller.update(60.0, samples=100)
    assert controller.value == 1.7e308


def test_it_goes_on_exactly_after_a_round_trip_through_json():
    one, other = KlController(0.1, 6.0, 333), KlController(0.1, 6.0, 333)
    one.update(7.1, samples=10)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    for controller in (one, other):
        controller.update(3.3, samples=10)
    assert one.value == other.value != 0.1


@pytest.mark.parametrize(
    "state", [{}, {"coefficient": "0.1"}, {"coefficient": None}, {"coefficient": True}, {"coefficient": math.nan},
              {"coefficient": math.inf}, {"coefficient": -0.1}, [0.1], None]
)  # fmt: skip
def test_damaged_state_is_refused(state):
    controller = KlController(0.1, 6.0, 100)
    with pytest.raises(CheckpointError, match="controller"):
        controller.load_state_dict(state)
    assert controller.value == 0.1
