"""Decoding in several threads at once: each takes a share of the sources, and computes on one core.

On the CPU, the threads that torch computes with meet after every one of the small operations that a step consists of. Threads
that decode for themselves never wait for each other (`benchmarks/decoding.py` has what it is worth).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding.outputs import Samples
from guerdon.models.policy import Policy

_LEAST = 24  # rows of a share: fewer are done sooner by all threads together

T = TypeVar("T")


def shares_of(policy: Policy, sources: Padded, copies: int) -> list[Tensor]:
    """The numbers of the sources that each thread decodes, int64; together every source once.

    There is one share where the policy does not say that it may be asked by several threads at once (``parallel``), where it
    is not on the CPU, and for few rows.
    """
    alone = (
        not getattr(policy, "parallel", False)
        or sources.ids.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")  # each thread has its own setting
    )
    count = 1 if alone else max(1, min(torch.get_num_threads(), len(sources), len(sources) * copies // _LEAST))
    return [torch.arange(first, len(sources), count, device=sources.ids.device) for first in range(count)]


def in_threads(shares: Sequence[Tensor], run: Callable[[Tensor], T]) -> list[T]:
    """What ``run`` returns for each share, one thread a share; without gradients."""
    if len(shares) == 1:
        return [run(shares[0])]

    def without_gradients(share: Tensor) -> T:
        with torch.no_grad():  # each thread has its own setting
            return run(share)

    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(len(shares), initializer=torch.set_num_threads, initargs=(threads // len(shares),)) as pool:
            return list(pool.map(without_gradients, shares))
    finally:
        torch.set_num_threads(threads)  # the last number set anywhere is what a thread begins with


def rows_of(share: Tensor, copies: int) -> Tensor:
    """The rows of these sources, int64 [share * copies]: row = source * copies + copy."""
    return (share[:, None] * copies + torch.arange(copies, device=share.device)).flatten()


def joined(parts: Sequence[Samples], shares: Sequence[Tensor], copies: int, pad_id: int) -> Samples:
    """The samples of all shares, in the order of their sources."""
    if len(parts) == 1:
        return parts[0]
    count, width = sum(len(part.tokens) for part in parts), max(part.tokens.ids.shape[1] for part in parts)
    first = parts[0]
    ids, log_prob = first.tokens.ids.new_full((count, width), pad_id), first.log_prob.new_zeros(count, width)
    lengths, finished = first.tokens.lengths.new_zeros(count), first.finished.new_zeros(count)
    for part, share in zip(parts, shares, strict=True):
        rows, written = rows_of(share, copies), part.tokens.ids.shape[1]
        ids[rows, :written], log_prob[rows, :written] = part.tokens.ids, part.log_prob
        lengths[rows], finished[rows] = part.tokens.lengths, part.finished
    return Samples(Padded(ids, lengths), finished, log_prob)
