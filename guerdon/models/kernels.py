"""Kernels of a decode's step on a GPU, in Triton: attention of one position over a cache, and a residual sum with its norm.

torch's fused attention reads a cache as far as it is told when it is launched. A step that is recorded once and replayed at
every position needs one that looks up on the GPU how much has been written; it then reads nothing else, and nothing at all for
rows that have ended. This module is imported where Triton is there (`available`).

Axes: r rows, s sources, h heads, t positions of a cache, d width of a head, m of the model.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK, _WARPS = 16, 1  # positions read at once, and by how many threads (a warp is 32)


@triton.jit  # type: ignore[untyped-decorator]
def _attend_kernel(  # type: ignore[no-untyped-def]
    query, cache, out, running, lengths, position, rotation, table, copies, row_stride, capacity, half_of_cache, scale,
    heads: tl.constexpr, width: tl.constexpr, columns: tl.constexpr, block: tl.constexpr,
    append: tl.constexpr, rotate: tl.constexpr, shared: tl.constexpr,
):  # fmt: skip
    """One row and head."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tl.arange(0, columns)
    inside = at < width
    base = query + row * row_stride + head * width
    start = cache + ((row // copies) * heads + head) * capacity * width
    most, total, mixed = tl.full([], float("-inf"), tl.float32), tl.full([], 0.0, tl.float32), tl.zeros([columns], tl.float32)
    length = tl.load(position + row) if append else tl.load(lengths + row // copies)
    if rotate:  # column i of the first half and column i of the second are a pair that turns by one angle
        pair, former = at % (width // 2), at < width // 2
        cosine = tl.load(rotation + length * width + pair, mask=inside, other=0.0)
        sine = tl.load(rotation + length * width + width // 2 + pair, mask=inside, other=0.0)
        even = tl.load(base + 2 * pair, mask=inside, other=0.0).to(tl.float32)
        odd = tl.load(base + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
        asked = tl.where(former, even * cosine - odd * sine, even * sine + odd * cosine)
        even = tl.load(base + heads * width + 2 * pair, mask=inside, other=0.0).to(tl.float32)
        odd = tl.load(base + heads * width + 2 * pair + 1, mask=inside, other=0.0).to(tl.float32)
        own = tl.where(former, even * cosine - odd * sine, even * sine + odd * cosine)
    else:
        asked = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
        own = asked
        if append:
            own = tl.load(base + heads * width + at, mask=inside, other=0.0).to(tl.float32)
    asked = asked * scale
    if append:
        value = tl.load(base + 2 * heads * width + at, mask=inside, other=0.0)
        key = own.to(value.dtype)
        tl.store(start + length * width + at, key, mask=inside)
        tl.store(start + half_of_cache + length * width + at, value, mask=inside)
        most = tl.sum(asked * key.to(tl.float32), 0)
        total += 1.0
        mixed = value.to(tl.float32)
    length = tl.where(tl.load(running + row), length, 0)
    for begin in range(0, length, block):
        rows = begin + tl.arange(0, block)
        counts = (rows < length)[:, None] & inside[None, :]
        places = start + rows[:, None] * width + at[None, :]
        if shared:  # each position lies where the row of that time wrote it
            lanes = tl.load(table + row * capacity + rows, mask=rows < length, other=0).to(tl.int64)
            places = cache + ((lanes * heads + head) * capacity + rows)[:, None] * width + at[None, :]
        keys = tl.load(places, mask=counts, other=0.0).to(tl.float32)
        values = tl.load(places + half_of_cache, mask=counts, other=0.0).to(tl.float32)
        scores = tl.where(rows < length, tl.sum(keys * asked[None, :], 1), float("-inf"))
        largest = tl.maximum(most, tl.max(scores, 0))
        shrunk, chances = tl.exp(most - largest), tl.exp(scores - largest)
        total = total * shrunk + tl.sum(chances, 0)
        mixed = mixed * shrunk + tl.sum(chances[:, None] * values, 0)
        most = largest
    total = tl.where(total > 0.0, total, 1.0)  # a row that reads nothing gets zeros
    tl.store(out + (row * heads + head) * width + at, (mixed / total).to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm_kernel(  # type: ignore[no-untyped-def]
    hidden, addend, weight, bias, out, width, eps, block: tl.constexpr, after: tl.constexpr,
):  # fmt: skip
    row, at = tl.program_id(0).to(tl.int64), tl.arange(0, block)
    inside = at < width
    total = tl.load(hidden + row * width + at, mask=inside, other=0.0)
    total += tl.load(addend + row * width + at, mask=inside, other=0.0).to(tl.float32)
    apart = tl.where(inside, total - tl.sum(total, 0) / width, 0.0)
    scaled = apart / tl.sqrt(tl.sum(apart * apart, 0) / width + eps)
    scaled = scaled * tl.load(weight + at, mask=inside, other=0.0) + tl.load(bias + at, mask=inside, other=0.0)
    tl.store(hidden + row * width + at, scaled if after else total, mask=inside)
    tl.store(out + row * width + at, scaled.to(out.dtype.element_ty), mask=inside)


def attend_own(
    joined: Tensor, cache: Tensor, position: Tensor, running: Tensor, rotation: Tensor | None, table: Tensor | None = None
) -> Tensor:
    """Adds one position of each row to the cache and attends to all so far: [r, m], of the kind of ``joined``.

    Args:
        joined: queries, keys and values, [r, 3m].
        cache: [2, r, h, t, d], keys (rotated ones with their even columns first) and values; written into.
        position: int64 [r], how many positions of each row have been written.
        running: bool [r]; what other rows get has no meaning, but is finite.
        rotation: float32 [positions, 2, d / 2] (`guerdon.models.attention.rotations`), or None.
        table: int32 [r, t], in which row of the cache each position of a row's past lies; None: in its own.
    """
    return _attend(joined, cache, running, position, position, rotation, table, 1, True)


def attend_source(query: Tensor, memory: Tensor, lengths: Tensor, running: Tensor, copies: int) -> Tensor:
    """Attention to a source: [r, m], of the kind of ``query`` [r, m]; row = source * copies + copy.

    Args:
        memory: [2, s, h, t, d], keys and values.
        lengths: int64 [s], how many positions each source has.
        running: bool [r]; other rows get zeros.
    """
    return _attend(query, memory, running, lengths, lengths, None, None, copies, False)


def _attend(
    query: Tensor, cache: Tensor, running: Tensor, lengths: Tensor, position: Tensor, rotation: Tensor | None,
    table: Tensor | None, copies: int, append: bool,
) -> Tensor:  # fmt: skip
    _, _, heads, capacity, width = cache.shape
    out = query.new_empty(len(query), heads * width)
    launch: Any = _attend_kernel[(len(query), heads)]
    launch(
        query, cache, out, running, lengths, position, query if rotation is None else rotation,
        query if table is None else table, copies, query.stride(0), capacity, cache.stride(0), width**-0.5,
        heads=heads, width=width, columns=triton.next_power_of_2(max(2, width)), block=_BLOCK, append=append,
        rotate=rotation is not None, shared=table is not None, num_warps=_WARPS,
    )  # fmt: skip
    return out


def add_norm(hidden: Tensor, addend: Tensor, norm: torch.nn.LayerNorm, after: bool, kind: torch.dtype) -> Tensor:
    """norm(hidden + addend), [r, m] of the given kind. ``hidden``, float32, becomes the sum, or with ``after`` its norm."""
    out, width = torch.empty_like(hidden, dtype=kind), hidden.shape[1]
    launch: Any = _add_norm_kernel[(len(hidden),)]
    block = triton.next_power_of_2(width)
    launch(hidden, addend, norm.weight, norm.bias, out, width, norm.eps, block=block, after=after, num_warps=4)
    return out
