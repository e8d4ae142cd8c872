"""Preference losses: their gradients, how they add up, what they say of a pair, and numbers at the edge."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError
from guerdon.objectives.preference import (
    PreferenceSums,
    dpo_loss,
    ipo_loss,
    log1mexp,
    log_odds,
    orpo_loss,
    sequence_log_prob,
)

Loss = Callable[[Tensor, Tensor, Tensor], PreferenceSums]
COUNT = 9


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CHOSEN, REJECTED, A_CHOSEN, A_REJECTED = (-6 + 2 * draw(seed, COUNT) for seed in range(4))
WEIGHT = draw(4, COUNT).abs() + 0.1
LENGTHS = torch.arange(1, COUNT + 1), torch.arange(COUNT, 0, -1)
LOSSES: dict[str, Loss] = {
    "dpo": lambda c, r, w: dpo_loss(c, r, A_CHOSEN[: len(c)], A_REJECTED[: len(c)], 0.3, weight=w),
    "smoothed": lambda c, r, w: dpo_loss(c, r, A_CHOSEN[: len(c)], A_REJECTED[: len(c)], 0.3, 0.2, w),
    "ipo": lambda c, r, w: ipo_loss(c, r, A_CHOSEN[: len(c)], A_REJECTED[: len(c)], 0.25, w),
    "orpo": lambda c, r, w: orpo_loss(c, r, LENGTHS[0][: len(c)], LENGTHS[1][: len(c)], 0.6, w),
}


def by_its_formula(name: str, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Each loss written once more as its paper has it: probabilities, not logarithms, wherever the paper has them."""
    if name == "orpo":
        p, q = (chosen / LENGTHS[0]).exp(), (rejected / LENGTHS[1]).exp()
        ratio = (p / (1 - p)) / (q / (1 - q))
        return (WEIGHT * (-p.log() - 0.6 * (ratio / (1 + ratio)).log())).sum()
    ratio = (chosen.exp() / A_CHOSEN.exp()) / (rejected.exp() / A_REJECTED.exp())
    if name == "ipo":
        return (WEIGHT * (ratio.log() - 1 / (2 * 0.25)) ** 2).sum()
    agreed, share = ratio**0.3 / (1 + ratio**0.3), 0.2 if name == "smoothed" else 0.0
    return -(WEIGHT * ((1 - share) * agreed.log() + share * (1 - agreed).log())).sum()


@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradient_are_those_of_the_formula(name: str) -> None:
    leaves = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    ours = LOSSES[name](*leaves, WEIGHT).loss
    found = torch.autograd.grad(ours, leaves)
    theirs = by_its_formula(name, *leaves)
    expected = torch.autograd.grad(theirs, leaves)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
        assert float(one.abs().min()) > 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_a_better_chosen_output_lowers_the_loss(name: str) -> None:
    before = LOSSES[name](CHOSEN, REJECTED, WEIGHT)
    after = LOSSES[name](CHOSEN + 0.01, REJECTED, WEIGHT)
    assert float((after.margin - before.margin).min()) > 0
    pulled = (
        before.margin < math.log(4) - 0.1 if name == "smoothed" else before.margin < 0.4
    )  # above it the pair is pulled back
    single = [LOSSES[name](c + d, r, w).loss for d in (0.0, 0.01) for c, r, w in [(CHOSEN, REJECTED, pulled.double())]]
    assert float(single[1]) < float(single[0])


@pytest.mark.parametrize("name", LOSSES)
@given(data=st.data())
def test_any_cut_adds_up_to_the_same(name: str, data: st.DataObject) -> None:
    order = torch.tensor(data.draw(st.permutations(range(COUNT))))
    cut = data.draw(st.integers(1, COUNT - 1))
    functions: dict[str, Callable[[Tensor], PreferenceSums]] = {
        "dpo": lambda i: dpo_loss(CHOSEN[i], REJECTED[i], A_CHOSEN[i], A_REJECTED[i], 0.3, weight=WEIGHT[i]),
        "smoothed": lambda i: dpo_loss(CHOSEN[i], REJECTED[i], A_CHOSEN[i], A_REJECTED[i], 0.3, 0.2, WEIGHT[i]),
        "ipo": lambda i: ipo_loss(CHOSEN[i], REJECTED[i], A_CHOSEN[i], A_REJECTED[i], 0.25, WEIGHT[i]),
        "orpo": lambda i: orpo_loss(CHOSEN[i], REJECTED[i], LENGTHS[0][i], LENGTHS[1][i], 0.6, WEIGHT[i]),
    }
    whole, parts = functions[name](order), [functions[name](order[:cut]), functions[name](order[cut:])]
    assert float(sum(part.loss for part in parts)) == pytest.approx(float(whole.loss), rel=1e-12)
    assert torch.equal(torch.cat([part.margin for part in parts]), whole.margin)


def test_margins_and_accuracy() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    sums = dpo_loss(torch.tensor([-1.0, -3.0, -2.0]).double(), torch.full((3,), -2.0).double(), zero, zero, beta=0.5)
    assert sums.margin.tolist() == [0.5, -0.5, 0.0]
    assert sums.correct.tolist() == [1.0, 0.0, 0.5]  # at the anchor itself every pair is undecided
    assert not sums.margin.requires_grad
    assert ipo_loss(zero - 1, zero - 2, zero, zero, tau=0.1).margin.tolist() == [0.1] * 3


def test_no_gradient_reaches_the_anchor() -> None:
    anchor = A_CHOSEN.clone().requires_grad_()
    dpo_loss(CHOSEN.clone().requires_grad_(), REJECTED, anchor, A_REJECTED, 0.3).loss.backward()  # type: ignore[no-untyped-call]
    assert anchor.grad is None


@pytest.mark.parametrize("x", [-1e-30, -1e-12, -1e-6, -0.1, -0.6931, -0.6932, -1.0, -5.0, -40.0, -700.0])
def test_log1mexp_against_fifty_digits(x: float) -> None:
    with localcontext() as context:
        context.prec = 400
        exact = float((1 - Decimal(x).exp()).ln())
    given_x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    found = log1mexp(given_x)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(exact, rel=1e-14)
    assert given_x.grad is not None
    assert float(given_x.grad) == pytest.approx(-1 / math.expm1(-x), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_orpo_is_finite_wherever_a_probability_can_be(dtype: torch.dtype) -> None:
    values = [0.0, -1e-30, -1e-8, -1e-3, -1.0, -100.0, -1e4]
    chosen, rejected = torch.cartesian_prod(*[torch.tensor(values, dtype=dtype)] * 2).T
    chosen, rejected = chosen.clone().requires_grad_(), rejected.clone().requires_grad_()
    ones = torch.ones_like(chosen)
    sums = orpo_loss(chosen, rejected, ones, ones, 1.0)
    gradients = torch.autograd.grad(sums.loss, (chosen, rejected))
    for tensor in (sums.loss, sums.margin, *gradients):
        assert bool(torch.isfinite(tensor).all())
    assert torch.equal(sums.margin.reshape(7, 7), -sums.margin.reshape(7, 7).T)
    assert float(log_odds(torch.tensor(math.log(0.5), dtype=dtype))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("margin", [-1e4, -200.0, 200.0, 1e4])
def test_dpo_is_finite_far_from_the_anchor(margin: float) -> None:
    chosen = torch.tensor([margin], requires_grad=True)
    zero = torch.zeros(1)
    loss = dpo_loss(chosen, zero, zero, zero, 1.0, label_smoothing=0.1).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(abs(margin) * (0.1 if margin > 0 else 0.9), rel=1e-6)
    assert chosen.grad is not None
    assert bool(torch.isfinite(chosen.grad).all())


def test_sequence_log_prob_sums_the_tokens_that_count() -> None:
    targets = Padded.from_lists([[2, 0, 1], [1], [0, 0]], pad=2)
    logits = draw(7, 6, 3)
    logits[4, 2] = -torch.inf
    found = sequence_log_prob(logits, targets)
    tokens, expected = iter(torch.softmax(logits, -1)), []
    for row in ([2, 0, 1], [1], [0, 0]):
        expected.append(sum(math.log(float(next(tokens)[token])) for token in row))
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert sequence_log_prob(logits.bfloat16(), targets).dtype == torch.float32


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_factors_out_of_range_are_refused(value: float) -> None:
    for make in (
        lambda: dpo_loss(CHOSEN, REJECTED, A_CHOSEN, A_REJECTED, value),
        lambda: ipo_loss(CHOSEN, REJECTED, A_CHOSEN, A_REJECTED, value),
        lambda: orpo_loss(CHOSEN, REJECTED, *LENGTHS, value),
    ):
        with pytest.raises(ConfigurationError, match="give a finite number above 0"):
            make()
    if value:
        with pytest.raises(ConfigurationError, match="label_smoothing"):
            dpo_loss(CHOSEN, REJECTED, A_CHOSEN, A_REJECTED, 1.0, label_smoothing=value)
