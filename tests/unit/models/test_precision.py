"""The rounded weights that automatic precision keeps, which all threads share."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from guerdon.models.precision import autocast

CPU = torch.device("cpu")


def leave_one_elsewhere() -> None:
    def work() -> None:
        with torch.autocast("cpu", enabled=False):
            pass

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def gradient(settings: Any, disturbed: bool) -> Tensor:
    """Of a weight that is used twice; in between, another thread ends its own automatic precision, or does not."""
    drawn = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=drawn).requires_grad_()
    with settings:
        once = linear(torch.randn(8, 64, generator=drawn), weight)
        if disturbed:
            leave_one_elsewhere()
        twice = linear(once, weight)
    return torch.autograd.grad(twice.float().sum(), weight)[0]


def test_other_threads_do_not_reach_a_gradient() -> None:
    assert torch.equal(gradient(autocast(CPU, "bfloat16"), False), gradient(autocast(CPU, "bfloat16"), True))


def test_they_reach_it_where_rounded_weights_are_kept() -> None:
    kept = torch.autocast("cpu", dtype=torch.bfloat16)
    assert not torch.equal(gradient(kept, False), gradient(kept, True))
