"""Token ids of several sequences as one rectangle, with their lengths beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padded:
    """Sequences of ids padded on the right.

    Attributes:
        ids: int64 [rows, length]. What stands beyond a row's length is never read.
        lengths: int64 [rows]. A length is carried, never inferred from padding or from end tokens.
    """

    ids: Tensor
    lengths: Tensor

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]], pad: int = 0, device: torch.device | str = "cpu") -> Padded:
        """Pads ``rows`` to the longest of them (at least one column)."""
        width = max([1, *map(len, rows)])
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], dtype=torch.int64).reshape(len(rows), width)
        return cls(ids.to(device), torch.tensor([len(row) for row in rows], dtype=torch.int64, device=device))

    @property
    def mask(self) -> Tensor:
        """bool [rows, length], True where a position counts."""
        return torch.arange(self.ids.shape[1], device=self.ids.device) < self.lengths[:, None]

    def __len__(self) -> int:
        return len(self.lengths)

    def tokens(self) -> int:
        """The number of positions that count."""
        return int(self.lengths.sum())

    def to_lists(self) -> list[list[int]]:
        """The rows without their padding."""
        return [row[:n] for row, n in zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def select(self, rows: Tensor) -> Padded:
        """The named rows, cut to the longest of them."""
        lengths = self.lengths[rows]
        width = max(1, int(lengths.max()) if len(lengths) else 1)
        return Padded(self.ids[rows, :width], lengths)

    def to(self, device: torch.device | str) -> Padded:
        """The same on another device."""
        return Padded(self.ids.to(device), self.lengths.to(device))
