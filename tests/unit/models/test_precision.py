"""The rounded weights that automatic precision keeps, which all threads share."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from guerdon.models.precision import autocast

CPU = torch.device("cpu")


def leave_one_elsewhere() -> None:
    def work() -> None:
        with autocast(CPU, "float32"):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@pytest.mark.parametrize("cached", [True, False])
def test_a_gradient_depends_on_other_threads_where_weights_are_kept(cached: bool) -> None:
    """A weight that is used twice; in between, another thread ends its own automatic precision, or does not."""
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=drawn).requires_grad_()
    hidden = torch.randn(8, 64, generator=drawn)

    def gradient(disturbed: bool) -> Tensor:
        with autocast(CPU, "bfloat16", cached):
            once = linear(hidden, weight)
            if disturbed:
                leave_one_elsewhere()
            twice = linear(once, weight)
        return torch.autograd.grad(twice.float().sum(), weight)[0]

    assert torch.equal(gradient(False), gradient(True)) is not cached
    assert torch.equal(gradient(False), gradient(False))
