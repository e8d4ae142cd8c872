"""Label smoothing against torch's own in float64, and against a loop over the formula where tokens are disallowed."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError
from guerdon.objectives.likelihood import label_smoothed_nll, linear_label_smoothed_nll

TARGETS = Padded.from_lists([[3, 4, 2], [5, 2], [2]], pad=0)


def random_logits(targets: Padded, vocabulary: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(targets.tokens(), vocabulary, generator=generator, dtype=torch.float64) * 3


def loop(logits: torch.Tensor, targets: list[int], smoothing: float) -> float:
    """The formula term by term: -sum_k q'(k) log p(k) over the allowed tokens."""
    total = 0.0
    for row, target in zip(logits.tolist(), targets, strict=True):
        allowed = [k for k, logit in enumerate(row) if logit != -math.inf]
        log_sum = math.log(math.fsum(math.exp(row[k]) for k in allowed))
        for k in allowed:
            share = (1 - smoothing) * (k == target) + smoothing / len(allowed)
            total -= share * (row[k] - log_sum)
    return total


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_equals_torch_where_every_token_is_allowed(smoothing):
    logits = random_logits(TARGETS).requires_grad_()
    sums = label_smoothed_nll(logits, TARGETS, smoothing)
    ids = torch.tensor([3, 4, 2, 5, 2, 2])
    expected = functional.cross_entropy(logits, ids, reduction="sum", label_smoothing=smoothing)
    assert sums.loss.item() == pytest.approx(expected.item(), rel=1e-13)
    assert sums.nll.item() == pytest.approx(functional.cross_entropy(logits, ids, reduction="sum").item(), rel=1e-13)
    assert sums.tokens == 6
    assert not sums.nll.requires_grad
    (mine,), (theirs,) = torch.autograd.grad(sums.loss, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("tokens", [63, 64, 65, 150])
def test_many_rows_and_a_scaled_loss(tokens):
    """Rows are worked on in portions, and a step divides the sum: neither may show in the gradient."""
    ids = torch.randint(7, (tokens,), generator=torch.Generator().manual_seed(tokens))
    targets = Padded.from_lists([[i] for i in ids.tolist()])
    logits = random_logits(targets).requires_grad_()
    mine = label_smoothed_nll(logits, targets, 0.1).loss / tokens
    theirs = functional.cross_entropy(logits, ids, label_smoothing=0.1)
    assert mine.item() == pytest.approx(theirs.item(), rel=1e-13)
    (found,), (wanted,) = torch.autograd.grad(mine, logits), torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-15)


@given(
    smoothing=st.sampled_from([0.0, 0.05, 0.3, 0.9]),
    disallowed=st.lists(st.lists(st.sampled_from([0, 1, 6]), max_size=3), min_size=6, max_size=6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_spreads_its_mass_over_the_allowed_tokens_of_each_position(smoothing, disallowed, seed):
    logits = random_logits(TARGETS, seed=seed)
    for row, tokens in enumerate(disallowed):
        logits[row, tokens] = -math.inf
    loss = label_smoothed_nll(logits, TARGETS, smoothing).loss
    assert loss.item() == pytest.approx(loop(logits, [3, 4, 2, 5, 2, 2], smoothing), rel=1e-12)


def test_gradient_is_softmax_less_the_smoothed_target():
    logits = random_logits(TARGETS)
    logits[:, [0, 1]] = -math.inf
    logits[2, 6] = -math.inf
    logits.requires_grad_()
    label_smoothed_nll(logits, TARGETS, 0.2).loss.backward()
    allowed = logits.detach() != -math.inf
    wanted = allowed.double() / allowed.sum(-1, keepdim=True) * 0.2
    wanted[torch.arange(6), torch.tensor([3, 4, 2, 5, 2, 2])] += 0.8
    torch.testing.assert_close(logits.grad, torch.softmax(logits.detach(), -1) - wanted, rtol=1e-12, atol=1e-14)
    assert (logits.grad[~allowed] == 0).all()


def test_the_smallest_loss_is_the_entropy_of_the_smoothed_target():
    targets = Padded.from_lists([[1]])
    smoothed = torch.tensor([[0.05, 0.85, 0.05, 0.05]], dtype=torch.float64)
    loss = label_smoothed_nll(smoothed.log(), targets, 0.2).loss
    assert loss.item() == pytest.approx(-(smoothed * smoothed.log()).sum().item(), rel=1e-12)


def test_any_cut_adds_up_to_the_same_sums():
    logits = random_logits(TARGETS)
    whole = label_smoothed_nll(logits, TARGETS, 0.1)
    parts = [
        label_smoothed_nll(logits[first:last], TARGETS.select(torch.tensor(rows)), 0.1)
        for first, last, rows in [(0, 3, [0]), (3, 6, [1, 2])]
    ]
    assert sum(part.loss.item() for part in parts) == pytest.approx(whole.loss.item(), rel=1e-13)
    assert sum(part.nll.item() for part in parts) == pytest.approx(whole.nll.item(), rel=1e-13)
    assert sum(part.tokens for part in parts) == whole.tokens


def test_what_stands_in_the_padding_is_not_read():
    ids = torch.tensor([[3, 4, 2], [5, 2, -100], [2, 99999, -1]])
    targets = Padded(ids, torch.tensor([3, 2, 1]))
    logits = random_logits(TARGETS)
    assert label_smoothed_nll(logits, targets, 0.1).loss == label_smoothed_nll(logits, TARGETS, 0.1).loss


def test_half_precision_is_summed_in_float32():
    targets = Padded.from_lists([[1] * 500])
    logits = random_logits(targets, vocabulary=300).to(torch.bfloat16)
    sums = label_smoothed_nll(logits, targets, 0.1)
    assert sums.loss.dtype == torch.float32
    assert sums.loss.item() == pytest.approx(loop(logits.double(), [1] * 500, 0.1), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_disallowed_target_does_not_pass_as_a_finite_loss(smoothing):
    logits = random_logits(TARGETS)
    logits[1, 4] = -math.inf
    assert not label_smoothed_nll(logits, TARGETS, smoothing).loss.isfinite()


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan])
def test_refuses_a_smoothing_that_is_no_share(smoothing):
    with pytest.raises(ConfigurationError, match="label smoothing"):
        label_smoothed_nll(random_logits(TARGETS), TARGETS, smoothing)


def factors(tokens: int, vocabulary: int = 7, width: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (tokens, vocabulary))
    return hidden.requires_grad_(), weight.requires_grad_()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tokens", [6, 511, 512, 513, 1100])
def test_of_a_product_equals_torch_on_the_allowed_columns(tokens: int, smoothing: float) -> None:
    ids = torch.randint(1, 7, (tokens,), generator=torch.Generator().manual_seed(tokens))
    ids[ids == 4] = 5
    allowed = torch.tensor([False, True, True, True, False, True, True])
    hidden, weight = factors(tokens)
    sums = linear_label_smoothed_nll(hidden, weight, allowed, Padded.from_lists([[i] for i in ids.tolist()]), smoothing)
    columns = torch.arange(7)[allowed]
    kept = torch.searchsorted(columns, ids)
    logits = (hidden @ weight.T)[:, columns]
    expected = functional.cross_entropy(logits, kept, reduction="sum", label_smoothing=smoothing)
    assert sums.loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert sums.nll.item() == pytest.approx(functional.cross_entropy(logits, kept, reduction="sum").item(), rel=1e-12)
    assert sums.tokens == tokens
    found = torch.autograd.grad(sums.loss / 3, [hidden, weight])
    for mine, theirs in zip(found, torch.autograd.grad(expected / 3, [hidden, weight]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_of_a_product_in_the_precision_of_the_autocast_around_it() -> None:
    ids = torch.randint(7, (600,), generator=torch.Generator().manual_seed(0))
    targets, allowed = Padded.from_lists([[i] for i in ids.tolist()]), torch.ones(7, dtype=torch.bool)
    hidden, weight = (factor.detach().float().requires_grad_() for factor in factors(600))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = linear_label_smoothed_nll(hidden, weight, allowed, targets, 0.1)
    rounded = hidden.bfloat16() @ weight.bfloat16().T
    assert half.loss.dtype == torch.float32
    assert half.loss.item() == pytest.approx(loop(rounded.double(), ids.tolist(), 0.1), rel=1e-5)
    whole = linear_label_smoothed_nll(hidden, weight, allowed, targets, 0.1)
    assert half.loss.item() != whole.loss.item()
    for mine, theirs in zip(*(torch.autograd.grad(sums.loss, [hidden, weight]) for sums in (half, whole)), strict=True):
        assert mine.dtype == torch.float32
        assert ((mine - theirs).norm() / theirs.norm()).item() < 0.02


def test_of_a_product_without_gradients_and_with_a_disallowed_target() -> None:
    targets = Padded.from_lists([[3, 1]])
    hidden, weight = factors(2)
    allowed = torch.tensor([True, False, True, True, True, True, True])
    with torch.no_grad():
        assert not linear_label_smoothed_nll(hidden, weight, allowed, targets).loss.isfinite()
        assert linear_label_smoothed_nll(hidden, weight, allowed | True, targets).loss.isfinite()
    with pytest.raises(ConfigurationError, match="label smoothing"):
        linear_label_smoothed_nll(hidden, weight, allowed, targets, 1.0)
