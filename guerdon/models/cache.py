"""What a decoder keeps between steps: its own keys and values, and which source each row reads.

Axes: r rows (outputs being written), s sources, h heads, t positions, n source positions, d width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from guerdon.models.attention import attend

BLOCK = 32  # positions by which the cache grows: few copies, little memory for outputs that end early


@dataclass
class SelfCache:
    """Preallocated keys and values of one layer, each [r, h, capacity, d]; the first ``length`` positions are filled."""

    keys: Tensor
    values: Tensor
    length: int = 0

    @classmethod
    def empty(cls, rows: int, heads: int, width: int, like: Tensor) -> Self:
        """Room for one block of positions, of the kind and on the device of ``like``."""
        shape = (rows, heads, BLOCK, width)
        return cls(like.new_empty(shape), like.new_empty(shape))

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds one position ([r, h, d]) and returns all keys and values so far, as views."""
        if self.length == self.keys.shape[2]:
            self.keys, self.values = _grown(self.keys), _grown(self.values)
        self.keys.select(2, self.length).copy_(key)
        self.values.select(2, self.length).copy_(value)
        self.length += 1
        return self.keys.narrow(2, 0, self.length), self.values.narrow(2, 0, self.length)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Adds one position and attends to all so far: [r, m] from three times [r, h, d]."""
        return attend(query[:, :, None], *self.append(key, value)).view(len(query), query.shape[1] * query.shape[2])

    def select(self, rows: Tensor) -> None:
        """Keeps the rows named, in this order; only the filled positions are copied."""
        self.keys, self.values = (self._selected(old, rows) for old in (self.keys, self.values))

    def _selected(self, old: Tensor, rows: Tensor) -> Tensor:
        new, filled = old.new_empty((len(rows), *old.shape[1:])), old[:, :, : self.length]
        if old.requires_grad:  # what is written into cannot be derived
            new[:, :, : self.length] = filled.index_select(0, rows)
        else:
            torch.index_select(filled, 0, rows, out=new[:, :, : self.length])
        return new


def _grown(old: Tensor) -> Tensor:
    new = old.new_empty((*old.shape[:2], old.shape[2] + BLOCK, old.shape[3]))
    new[:, :, : old.shape[2]] = old
    return new


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

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Each row's query [r, m] over its source's memory, key and value [s, h, n, d]: [r, m]."""
        flat = query
        if self.slot is not None:
            flat = query.new_zeros(self.sources * self.width, query.shape[1])
            flat[self.slot] = query
        heads = flat.view(self.sources, self.width, *key.shape[1::2]).transpose(1, 2)
        mixed = attend(heads, key, value, mask).transpose(1, 2).reshape(flat.shape)
        return mixed if self.slot is None else mixed[self.slot]
