"""What a decoder keeps between steps: its own keys and values, and which source each row reads.

Axes: r rows (outputs being written), s sources, h heads, t positions, n source positions, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from guerdon.models.attention import attend_next

BLOCK = 6  # positions by which a cache grows at least: what is read at each step is to lie closely, which is worth the copies


@dataclass
class SelfCache:
    """Preallocated keys and values of one layer, [2, r, h, capacity, d]; the first ``length`` positions are filled."""

    pairs: Tensor
    length: int = 0

    @classmethod
    def empty(cls, rows: int, heads: int, width: int, like: Tensor) -> Self:
        """Room for one block of positions, of the kind and on the device of ``like``."""
        return cls(like.new_empty(2, rows, heads, BLOCK, width))

    def append(self, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one position, its key and value [r, 2, h, d], and returns all keys and values so far, as views."""
        if self.length == self.pairs.shape[3]:
            self.pairs = grown(self.pairs)
        self.pairs.select(3, self.length).copy_(pair.transpose(0, 1))
        self.length += 1
        keys, values = self.pairs.narrow(3, 0, self.length).unbind()
        return keys, values

    def attend(self, query: Tensor, pair: Tensor) -> Tensor:
        """Adds one position and attends to all so far: [r, m] from its query [r, 1, h, d] and pair [r, 2, h, d]."""
        rows, _, heads, width = query.shape
        return attend_next(query.transpose(1, 2), *self.append(pair)).reshape(rows, heads * width)

    def select(self, rows: Tensor) -> None:
        """Keeps the rows named, in this order; only the filled positions are copied."""
        old = self.pairs
        new, filled = old.new_empty((2, len(rows), *old.shape[2:])), old.narrow(3, 0, self.length)
        if old.requires_grad:  # what is written into cannot be derived
            new[:, :, :, : self.length] = filled.index_select(1, rows)
        else:
            torch.index_select(filled, 1, rows, out=new.narrow(3, 0, self.length))
        self.pairs = new


def grown(old: Tensor) -> Tensor:
    """[2, rows, h, capacity, ...] with room for more positions; each is copied a few times, however long the cache gets."""
    capacity = old.shape[3]
    new = old.new_empty((*old.shape[:3], capacity + max(BLOCK, capacity // 4), *old.shape[4:]))
    new.narrow(3, 0, capacity).copy_(old)
    return new


def rows_of(sources: Tensor, copies: int) -> Tensor:
    """The rows of these sources (int64 [s]), int64 [s * copies]: row = source * copies + copy."""
    return (sources[:, None] * copies + torch.arange(copies, device=sources.device)).flatten()


@dataclass(frozen=True)
class Layout:
    """Which source each row reads. All rows of a source attend to one copy of its memory, as the queries of one attention.

    Attributes:
        source: int64 [r], the source of each row.
        sources: how many sources there are.
        width: the most rows that any source has.
        slot: int64 [r], each row's place in a grid [sources * width]; None where the rows fill the grid in order.
    """

    source: Tensor
    sources: int
    width: int
    slot: Tensor | None = None

    @classmethod
    def regular(cls, sources: int, copies: int, device: torch.device) -> Self:
        """``copies`` rows for each source, row = source * copies + copy."""
        return cls(torch.arange(sources, device=device).repeat_interleave(copies), sources, copies)

    def select(self, rows: Tensor) -> tuple[Self, Tensor | None]:
        """The layout of the rows named, and the sources that are left (int64), or None where all are."""
        source = self.source[rows]
        left, source, counts = torch.unique(source, return_inverse=True, return_counts=True)
        width = int(counts.max()) if len(counts) else 0
        order = torch.argsort(source, stable=True)
        first = torch.cumsum(counts, 0) - counts
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device) - first[source[order]]
        slot = source * width + rank
        in_order = len(slot) == len(left) * width and bool((slot == torch.arange(len(slot), device=slot.device)).all())
        return type(self)(source, len(left), width, None if in_order else slot), None if len(left) == self.sources else left

    def attend(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Each row's query [r, m] over its source's memory, key and value [s, h, n, d], under the bias [s, 1, 1, n]: [r, m]."""
        if self.slot is None and self.width == 1:
            return attend_next(query.view(len(query), key.shape[1], 1, key.shape[3]), key, value, bias).reshape(query.shape)
        flat = query
        if self.slot is not None:
            flat = query.new_zeros(self.sources * self.width, query.shape[1])
            flat[self.slot] = query
        heads = flat.view(self.sources, self.width, *key.shape[1::2]).transpose(1, 2)
        mixed = attend_next(heads, key, value, bias).transpose(1, 2).reshape(flat.shape)
        return mixed if self.slot is None else mixed[self.slot]
