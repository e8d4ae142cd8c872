"""Decoding on several cores: each takes a share of the sources, and computes with one thread.

On the CPU, the threads that torch computes with meet after every one of the small operations that a step consists of. Shares
never wait for each other: first they are decoded by threads of this process, and once that has gone on for some seconds by
worker processes, where Python's lock is not in the way either (`guerdon.decoding.workers`). A share is decoded to the same bits
wherever that happens (`benchmarks/decoding.py` has what it is worth).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding import workers
from guerdon.decoding.outputs import Samples
from guerdon.errors import InputError
from guerdon.models.cache import rows_of
from guerdon.models.packed import unchanged
from guerdon.models.policy import Policy

_LEAST = 24  # rows of a share: fewer are done sooner by all threads together

_Found = TypeVar("_Found")
Decode = Callable[[Policy, Tensor], _Found]
"""What decodes the sources of a share (their numbers, int64); it can be pickled."""


def shares_of(policy: Policy, sources: Padded, copies: int, batch_size: int | None = None) -> list[Tensor]:
    """The numbers of the sources that each core decodes, int64, the longest first; together every source once.

    Long sources, whose outputs are long as a rule, are dealt out evenly. There is one share, of all in their order, where the
    policy does not say that it may be asked by several threads at once (``parallel``) and where it is not on the CPU; for few
    rows, of all sources or of so many as make a batch, there is one, too.

    Raises:
        InputError: for a batch of no source.
    """
    if batch_size is not None and batch_size < 1:
        raise InputError(f"{batch_size} sources are no batch", where="batch_size", cure="give at least 1, or None for all")
    alone = (
        not getattr(policy, "parallel", False)
        or sources.ids.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")  # each thread has its own setting
    )
    if alone:
        return [torch.arange(len(sources), device=sources.ids.device)]
    held = len(sources) if batch_size is None else min(len(sources), batch_size)
    count = max(1, min(torch.get_num_threads(), held, held * copies // _LEAST))
    longest_first = torch.argsort(sources.lengths, descending=True, stable=True)
    return [longest_first[first::count] for first in range(count)]


def decode_shares(policy: Policy, shares: Sequence[Tensor], decode: Decode[_Found]) -> list[_Found]:
    """What ``decode`` returns for each share; without gradients.

    Raises:
        ConfigurationError: where ``GUERDON_WORKERS`` is no number; before anything is decoded, and for one share too.
    """
    workers.most()
    with unchanged(policy):
        return _decoded(policy, shares, decode)


def _decoded(policy: Policy, shares: Sequence[Tensor], decode: Decode[_Found]) -> list[_Found]:
    if len(shares) == 1:
        return [decode(policy, shares[0])]
    threads, began = torch.get_num_threads(), time.perf_counter()
    each = threads // len(shares)
    pool = workers.pool(policy, len(shares) - 1, each)
    try:
        if pool is not None:
            torch.set_num_threads(each)
            return pool.decode(policy, shares, decode)
        return _in_threads(policy, shares, decode, each)
    finally:
        torch.set_num_threads(threads)  # the last number set anywhere is what a thread begins with
        workers.note(time.perf_counter() - began)


def _in_threads(policy: Policy, shares: Sequence[Tensor], decode: Decode[_Found], each: int) -> list[_Found]:
    def without_gradients(share: Tensor) -> _Found:
        with torch.no_grad():  # each thread has its own setting
            return decode(policy, share)

    with ThreadPoolExecutor(len(shares), initializer=torch.set_num_threads, initargs=(each,)) as threads:
        return list(threads.map(without_gradients, shares))


def places_of(shares: Sequence[Tensor], batch_size: int | None) -> int:
    """How many sources of its share each core decodes at a time, where all together take so many (None: all)."""
    longest = max(len(share) for share in shares)
    return longest if batch_size is None else min(longest, max(1, batch_size // len(shares)))


def joined(parts: Sequence[Samples], shares: Sequence[Tensor], copies: int, pad_id: int) -> Samples:
    """The samples of all shares, in the order of their sources."""
    if len(parts) == 1 and bool((shares[0] == torch.arange(len(shares[0]), device=shares[0].device)).all()):
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
