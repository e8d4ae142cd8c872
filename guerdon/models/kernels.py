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

_BLOCK = 32  # positions read at once


@triton.jit  # type: ignore[misc]
def _attend_kernel(  # type: ignore[no-untyped-def]
    query, cache, out, running, lengths, position, rotation, copies, row_stride, capacity, half_of_cache, scale,
    heads: tl.constexpr, width: tl.constexpr, half_block: tl.constexpr, block: tl.constexpr,
    append: tl.constexpr, rotate: tl.constexpr,
):  # fmt: skip
    """One row and head. A head's columns are taken in two halves: the even and the odd ones where they are rotated."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half = tl.arange(0, half_block)
    inside = half < width // 2
    base = query + row * row_stride + head * width
    first, second = half, half + width // 2
    if rotate:
        first, second = 2 * half, 2 * half + 1
    q0 = tl.load(base + first, mask=inside, other=0.0).to(tl.float32) * scale
    q1 = tl.load(base + second, mask=inside, other=0.0).to(tl.float32) * scale
    start = cache + ((row // copies) * heads + head) * capacity * width
    most = tl.full([], float("-inf"), tl.float32)
    total = tl.full([], 0.0, tl.float32)
    sum0, sum1 = tl.zeros([half_block], tl.float32), tl.zeros([half_block], tl.float32)
    if append:
        length = tl.load(position)
        k0 = tl.load(base + heads * width + first, mask=inside, other=0.0).to(tl.float32)
        k1 = tl.load(base + heads * width + second, mask=inside, other=0.0).to(tl.float32)
        if rotate:
            cosine = tl.load(rotation + length * width + half, mask=inside, other=0.0)
            sine = tl.load(rotation + length * width + width // 2 + half, mask=inside, other=0.0)
            q0, q1 = q0 * cosine - q1 * sine, q0 * sine + q1 * cosine
            k0, k1 = k0 * cosine - k1 * sine, k0 * sine + k1 * cosine
        v0 = tl.load(base + 2 * heads * width + half, mask=inside, other=0.0)
        v1 = tl.load(base + 2 * heads * width + width // 2 + half, mask=inside, other=0.0)
        place = start + length * width
        own0, own1 = k0.to(v0.dtype), k1.to(v0.dtype)
        tl.store(place + half, own0, mask=inside)
        tl.store(place + width // 2 + half, own1, mask=inside)
        tl.store(place + half_of_cache + half, v0, mask=inside)
        tl.store(place + half_of_cache + width // 2 + half, v1, mask=inside)
        most = tl.sum(q0 * own0.to(tl.float32) + q1 * own1.to(tl.float32), 0)
        total += 1.0
        sum0, sum1 = v0.to(tl.float32), v1.to(tl.float32)
    else:
        length = tl.load(lengths + row // copies)
    length = tl.where(tl.load(running + row), length, 0)
    for begin in range(0, length, block):
        at = begin + tl.arange(0, block)
        places = start + at[:, None] * width + half[None, :]
        counts = (at < length)[:, None] & inside[None, :]
        keys0 = tl.load(places, mask=counts, other=0.0).to(tl.float32)
        keys1 = tl.load(places + width // 2, mask=counts, other=0.0).to(tl.float32)
        values0 = tl.load(places + half_of_cache, mask=counts, other=0.0).to(tl.float32)
        values1 = tl.load(places + half_of_cache + width // 2, mask=counts, other=0.0).to(tl.float32)
        scores = tl.sum(keys0 * q0[None, :] + keys1 * q1[None, :], 1)
        scores = tl.where(at < length, scores, float("-inf"))
        largest = tl.maximum(most, tl.max(scores, 0))
        shrunk, chances = tl.exp(most - largest), tl.exp(scores - largest)
        total = total * shrunk + tl.sum(chances, 0)
        sum0 = sum0 * shrunk + tl.sum(chances[:, None] * values0, 0)
        sum1 = sum1 * shrunk + tl.sum(chances[:, None] * values1, 0)
        most = largest
    total = tl.where(total > 0.0, total, 1.0)  # a row that reads nothing gets zeros
    to = out + (row * heads + head) * width
    tl.store(to + half, (sum0 / total).to(out.dtype.element_ty), mask=inside)
    tl.store(to + width // 2 + half, (sum1 / total).to(out.dtype.element_ty), mask=inside)


@triton.jit
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


def attend_own(joined: Tensor, cache: Tensor, position: Tensor, running: Tensor, rotation: Tensor | None) -> Tensor:
    """Adds one position to the cache and attends to all so far: [r, m], of the kind of ``joined``.

    Args:
        joined: queries, keys and values, [r, 3m].
        cache: [2, r, h, t, d], keys (rotated ones with their even columns first) and values; written into.
        position: int64 scalar, how many positions have been written.
        running: bool [r]; what other rows get has no meaning, but is finite.
        rotation: float32 [positions, 2, d / 2] (`guerdon.models.attention.rotations`), or None.
    """
    return _attend(joined, cache, running, position, position, rotation, 1, True)


def attend_source(query: Tensor, memory: Tensor, lengths: Tensor, running: Tensor, copies: int) -> Tensor:
    """Attention to a source: [r, m], of the kind of ``query`` [r, m]; row = source * copies + copy.

    Args:
        memory: [2, s, h, t, d], keys and values.
        lengths: int64 [s], how many positions each source has.
        running: bool [r]; other rows get zeros.
    """
    return _attend(query, memory, running, lengths, lengths, None, copies, False)


def _attend(
    query: Tensor, cache: Tensor, running: Tensor, lengths: Tensor, position: Tensor, rotation: Tensor | None, copies: int,
    append: bool,
) -> Tensor:  # fmt: skip
    _, _, heads, capacity, width = cache.shape
    out = query.new_empty(len(query), heads * width)
    launch: Any = _attend_kernel[(len(query), heads)]
    launch(
        query, cache, out, running, lengths, position, query if rotation is None else rotation, copies, query.stride(0),
        capacity, cache.stride(0), width**-0.5, heads=heads, width=width, half_block=triton.next_power_of_2(max(2, width // 2)),
        block=_BLOCK, append=append, rotate=rotation is not None, num_warps=2,
    )  # fmt: skip
    return out


def add_norm(hidden: Tensor, addend: Tensor, norm: torch.nn.LayerNorm, after: bool, kind: torch.dtype) -> Tensor:
    """norm(hidden + addend), [r, m] of the given kind. ``hidden``, float32, becomes the sum, or with ``after`` its norm."""
    out, width = torch.empty_like(hidden, dtype=kind), hidden.shape[1]
    launch: Any = _add_norm_kernel[(len(hidden),)]
    block = triton.next_power_of_2(width)
    launch(hidden, addend, norm.weight, norm.bias, out, width, norm.eps, block=block, after=after, num_warps=4)
    return out
