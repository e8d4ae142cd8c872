"""The softmax of short rows, which goes by way of longer ones, against exponentials in float64."""

import pytest
import torch

from guerdon.models.attention import softmax


@pytest.mark.parametrize("length", [1, 2, 7, 15, 16, 17, 40])
@pytest.mark.parametrize("rows", [3, 2000])
def test_it_is_the_softmax_and_so_is_its_gradient(rows: int, length: int) -> None:
    scores = 4 * torch.randn(rows, 2, length, generator=torch.Generator().manual_seed(length))
    scores[1, :, 1:] = -torch.inf
    scores.requires_grad_()
    slope = torch.randn(rows, 2, length)
    found = softmax(scores)
    exponentials = scores.detach().double().exp()
    expected = exponentials / exponentials.sum(-1, keepdim=True)
    assert found.shape == scores.shape
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(found, scores, slope)
    inner = (expected * slope.double()).sum(-1, keepdim=True)
    torch.testing.assert_close(gradient.double(), expected * (slope.double() - inner), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [3, 2000])
def test_a_row_in_which_nothing_counts_is_no_number(rows: int) -> None:
    scores = torch.zeros(rows, 5)
    scores[1] = -torch.inf
    assert softmax(scores).isnan().any(-1).nonzero().tolist() == [[1]]
