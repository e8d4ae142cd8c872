"""Log-probabilities, entropy and the exact KL against a loop in float64, and their gradients against finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.tiny_policies import random_rows, tiny_policy

from guerdon.data.padded import Padded
from guerdon.models.evaluation import evaluate_logits

TARGETS = Padded.from_lists([[4, 5, 2], [6, 2], [2]])
DISALLOWED = [0, 1, 3]


def logits(seed: int, dtype: torch.dtype = torch.float64, disallowed: list[int] = DISALLOWED) -> torch.Tensor:
    drawn = torch.randn(TARGETS.tokens(), 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    drawn[:, disallowed] = -math.inf
    return drawn.to(dtype)


def loop(row: list[float], temperature: float) -> dict[int, float]:
    """The log-probability of each allowed token."""
    scaled = {k: logit / temperature for k, logit in enumerate(row) if logit != -math.inf}
    total = math.log(math.fsum(math.exp(logit) for logit in scaled.values()))
    return {k: logit - total for k, logit in scaled.items()}


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_equals_a_loop(temperature: float) -> None:
    own, anchor = logits(0), logits(1)
    seen = evaluate_logits(own, anchor, TARGETS, temperature)
    places = [(row, t) for row, length in enumerate([3, 2, 1]) for t in range(length)]
    assert seen.mask.tolist() == [[True, True, True], [True, True, False], [True, False, False]]
    for (row, t), mine, other in zip(places, own.tolist(), anchor.tolist(), strict=True):
        target = TARGETS.to_lists()[row][t]
        p, q = loop(mine, temperature), loop(other, temperature)
        assert seen.log_prob[row, t].item() == pytest.approx(p[target], rel=1e-13)
        assert seen.anchor_log_prob[row, t].item() == pytest.approx(q[target], rel=1e-13)
        assert seen.entropy[row, t].item() == pytest.approx(-math.fsum(math.exp(v) * v for v in p.values()), rel=1e-12)
        assert seen.kl[row, t].item() == pytest.approx(math.fsum(math.exp(p[k]) * (p[k] - q[k]) for k in p), rel=1e-12)
    for field in (seen.log_prob, seen.entropy, seen.kl, seen.anchor_log_prob):
        assert field.shape == (3, 3)
        assert not field[~seen.mask].any()


def test_without_an_anchor_there_is_no_divergence() -> None:
    seen = evaluate_logits(logits(0), None, TARGETS)
    assert seen.kl is None
    assert seen.anchor_log_prob is None


def test_no_divergence_from_itself() -> None:
    seen = evaluate_logits(logits(0), logits(0), TARGETS)
    torch.testing.assert_close(seen.kl, torch.zeros(3, 3, dtype=torch.float64), rtol=0, atol=1e-15)


@pytest.mark.parametrize("field", ["log_prob", "entropy", "kl"])
def test_gradients_are_those_of_finite_differences(field: str) -> None:
    free = logits(0)[:, [2, 4, 5, 6, 7]].requires_grad_()

    def total(values: torch.Tensor) -> torch.Tensor:
        own = values.new_full((TARGETS.tokens(), 8), -math.inf)
        own = own.index_copy(1, torch.tensor([2, 4, 5, 6, 7]), values)
        weights = torch.arange(9, dtype=torch.float64).view(3, 3) + 1
        return (weights * getattr(evaluate_logits(own, logits(1), TARGETS, 0.7), field)).sum()

    assert torch.autograd.gradcheck(total, (free,), atol=1e-7)


def test_no_gradient_reaches_the_anchor_and_none_is_nan() -> None:
    policy, anchor = tiny_policy(), tiny_policy(seed=3)
    sources = random_rows([3, 5])
    seen = policy.evaluate(sources, Padded.from_lists([[5, 6, 2], [7, 2]]), anchor)
    seen.kl.sum().backward()
    assert all(parameter.grad is None for parameter in anchor.parameters())
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])
    assert bool(torch.isfinite(gradient).all())
    assert gradient.norm() > 1e-3


def test_a_token_that_only_the_anchor_disallows_makes_the_divergence_infinite() -> None:
    """0 would hide it: the policy puts mass where the anchor puts none."""
    seen = evaluate_logits(logits(0), logits(1, disallowed=[0, 1, 3, 7]), TARGETS)
    assert bool((seen.kl[seen.mask] == math.inf).all())


def test_a_token_that_only_the_policy_disallows_does_no_harm() -> None:
    seen = evaluate_logits(logits(0, disallowed=[0, 1, 3, 7]), logits(1), TARGETS)
    assert bool(torch.isfinite(seen.kl).all())
    assert bool((seen.kl[seen.mask] > 0).all())


def test_half_precision_logits_are_summed_in_float32() -> None:
    rough = logits(0, torch.bfloat16)
    seen = evaluate_logits(rough, logits(1, torch.bfloat16), TARGETS)
    assert seen.log_prob.dtype == seen.kl.dtype == seen.entropy.dtype == torch.float32
    exact = evaluate_logits(rough.double(), logits(1, torch.bfloat16).double(), TARGETS)
    torch.testing.assert_close(seen.entropy.double(), exact.entropy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen.kl.double(), exact.kl, rtol=1e-5, atol=1e-6)


def test_probabilities_of_all_outputs_sum_to_1() -> None:
    """Every output of at most two tokens, its end or its cut included, for three allowed tokens."""
    policy = tiny_policy(vocabulary=6)
    written = [[2]] + [[a, b] for a in (4, 5) for b in (2, 4, 5)]
    sources = random_rows([3], vocabulary=6).select(torch.zeros(len(written), dtype=torch.int64))
    log_prob = policy.evaluate(sources, Padded.from_lists(written)).log_prob
    assert log_prob.sum(1).exp().sum().item() == pytest.approx(1.0, rel=1e-12)
