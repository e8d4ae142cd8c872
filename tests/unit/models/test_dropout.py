"""Dropout: the share that is zeroed, the scale of what stays, and which numbers decide it."""

from __future__ import annotations

import pytest
import torch

from guerdon.models.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_zeroes_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(0)
    found = Dropout(share)(torch.ones(1000, 203))
    zeroed = (found == 0).double()
    deviation = (share * (1 - share) / zeroed.numel()) ** 0.5
    assert zeroed.mean().item() == pytest.approx(share, abs=5 * deviation)
    kept = found[found != 0].unique()
    assert len(kept) == 1
    assert kept.item() == pytest.approx(1 / (1 - share), rel=2**-14 / (1 - share))


def test_elements_that_share_a_draw_are_independent() -> None:
    torch.manual_seed(1)
    kept = (Dropout(0.5)(torch.ones(100_000, 4)) != 0).double()
    correlation = torch.corrcoef(kept.T)
    assert (correlation - torch.eye(4)).abs().max() < 0.02


def test_evaluation_and_no_share_leave_everything_as_it_is() -> None:
    hidden = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(hidden), hidden)
    assert torch.equal(Dropout(0.0)(hidden), hidden)


def test_the_global_seed_decides_and_the_gradient_is_the_mask() -> None:
    hidden = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    first = Dropout(0.4)(hidden)
    torch.manual_seed(3)
    assert torch.equal(first, Dropout(0.4)(hidden))
    assert not torch.equal(first, Dropout(0.4)(hidden))
    first.sum().backward()
    torch.testing.assert_close(first, hidden * hidden.grad)
    assert first.dtype == torch.float64


def test_counts_what_a_comparison_would_keep() -> None:
    """The same words, compared: not one level more or less is dropped."""
    count, dropped = 400_000, round(0.3 * 2**16)
    torch.manual_seed(7)
    kept = Dropout(0.3)(torch.ones(count)) != 0
    torch.manual_seed(7)
    words = torch.empty(count // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16).int() + 2**15
    assert torch.equal(kept, words >= dropped)
    assert (words == dropped).any()
    assert (words == dropped - 1).any()
