"""Forward and backward passes on several cores at once: each takes some rows and computes with one thread.

On the CPU, the threads that torch computes with meet after every operation, and what is between operations, and some operations
themselves, is done by one of them. Threads with rows of their own meet twice in a step. What they compute depends on how
the rows are dealt out, which depends on the number of threads (`torch.get_num_threads`), and on nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from guerdon.models.dropout import drawing_from
from guerdon.models.policy import Policy

_LEAST = 512  # target tokens of a share: fewer are done sooner by all threads together

Work = Callable[[], Sequence[Tensor]]


def deal(policy: nn.Module | Policy, lengths: Tensor) -> list[Tensor]:
    """The numbers of the rows that each core takes, int64, ascending; together every row once.

    Rows are dealt out by length, so that all cores have about equally much to do. There is one share where the policy does
    not say that several threads may ask it at once (``parallel``), where it recomputes its layers (random numbers are drawn
    again then, which torch knows how to do for its global generator only), where it is not on the CPU, and for few tokens.

    Args:
        policy: what the rows are asked of.
        lengths: int64 [rows], target tokens of each.
    """
    alone = (
        not getattr(policy, "parallel", False)
        or bool(getattr(policy, "recompute", False))
        or lengths.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")  # each thread has its own setting
    )
    count = 1 if alone else max(1, min(torch.get_num_threads(), len(lengths), int(lengths.sum()) // _LEAST))
    longest_first = torch.argsort(lengths, descending=True, stable=True)
    return [longest_first[first::count].sort().values for first in range(count)]


def together(module: nn.Module | Policy, works: Sequence[Work]) -> list[tuple[Tensor, ...]]:
    """What each work returns, each done by a thread of its own; differentiable with respect to the module's parameters.

    Gradients are summed in the order of ``works``. Dropout within a work draws from a generator of its own, seeded from torch's
    global one. A single work is done by the caller with all of its threads.

    Args:
        module: has the parameters that the works' tensors depend on.
        works: may set a precision of their own; that of the caller does not reach them.
    """
    if len(works) == 1:
        return [tuple(works[0]())]
    gradients, threads = torch.is_grad_enabled(), torch.get_num_threads()

    def do(work: Work, seed: int) -> tuple[Tensor, ...]:
        torch.set_num_threads(threads // len(works))
        with torch.set_grad_enabled(gradients), drawing_from(seed):
            return tuple(work())

    seeds = torch.randint(2**62, (len(works),)).tolist()
    found = list(_pool(len(works)).map(do, works, seeds))
    torch.set_num_threads(threads)  # the last number set anywhere is what a thread begins with
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad] if gradients else []
    if not parameters:
        return found
    graphs = [[tensor for tensor in tensors if tensor.requires_grad] for tensors in found]
    joined = iter(_Joined.apply(graphs, *parameters))  # type: ignore[no-untyped-call]
    return [tuple(next(joined) if tensor.requires_grad else tensor for tensor in tensors) for tensors in found]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "guerdon-rows")


class _Joined(torch.autograd.Function):
    """The tensors of several graphs over the same parameters, whose backward passes are made at once."""

    @staticmethod
    def forward(ctx: Any, graphs: list[list[Tensor]], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.graphs, ctx.parameters = graphs, parameters
        ctx.set_materialize_grads(False)
        return tuple(tensor.detach() for tensors in graphs for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:
        given, threads, each = iter(slopes), torch.get_num_threads(), torch.get_num_threads() // len(ctx.graphs)
        asked = [[(tensor, slope) for tensor in tensors if (slope := next(given)) is not None] for tensors in ctx.graphs]

        def derive(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor | None, ...]:
            torch.set_num_threads(each)
            outputs, of_outputs = zip(*pairs, strict=True)
            return torch.autograd.grad(outputs, ctx.parameters, of_outputs, allow_unused=True)

        parts = list(_pool(len(ctx.graphs)).map(derive, [pairs for pairs in asked if pairs]))
        torch.set_num_threads(threads)
        return None, *(functools.reduce(_sum, of_one) for of_one in zip(*parts, strict=True))


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """Of two gradients; a new tensor, since torch may give one and the same tensor for two parameters."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
