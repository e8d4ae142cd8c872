"""The positions of a rectangle that count, as rows of a matrix: what a layer need not compute for padding.

Linear layers, norms and dropout see each position by itself, so that they run over the n positions that count; only attention,
which mixes positions, sees the rectangle. Outputs drawn from a policy fill a rectangle by little more than half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guerdon.data.padded import Padded

_LEAST = 8  # sequences of a span
_SHORTER = 0.85  # where lengths fall below such a share of the span's longest, another begins
_WORTH = 0.9  # a rectangle that is filled by more is left as it is: taking it apart costs copies


@dataclass(frozen=True)
class Filled:
    """Where the positions lie that count.

    Attributes:
        places: int64 [n], in the rectangle read row by row, ascending.
        shape: of the rectangle, (b, length).
    """

    places: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, rows: Padded) -> Filled | None:
        """That of some sequences; None where so little is padding that it may as well be computed."""
        size = rows.ids.numel()
        if size == 0 or rows.tokens() > _WORTH * size:
            return None
        return cls(rows.mask.flatten().nonzero()[:, 0], (rows.ids.shape[0], rows.ids.shape[1]))

    def spread(self, values: Tensor) -> Tensor:
        """[n, k] to [b, length, k], 0 at padding."""
        rows, length = self.shape
        spread: Tensor = _Spread.apply(values, self.places, rows * length)  # type: ignore[no-untyped-call]
        return spread.view(rows, length, -1)

    def collect(self, values: Tensor) -> Tensor:
        """[b, length, k] to [n, k]."""
        collected: Tensor = _Collect.apply(values.reshape(-1, values.shape[-1]), self.places)  # type: ignore[no-untyped-call]
        return collected


def spans(lengths: Tensor) -> list[tuple[int, int, int]]:
    """Cuts sequences of these lengths, int64 [s], into neighbours of like length, so that each rectangle is well filled.

    Returns:
        The first of each span, the one behind its last, and the length of its longest. Sorted sequences have short padding.
    """
    found, first, longest = list[tuple[int, int, int]](), 0, 0
    every = lengths.tolist()
    for place, length in enumerate(every):
        if place - first >= _LEAST and length < _SHORTER * longest and len(every) - place >= _LEAST:
            found.append((first, place, longest))
            first, longest = place, 0
        longest = max(longest, length)
    return [*found, (first, len(every), max(1, longest))]


# Each is the other's adjoint. torch's own derivative of an index adds, row by row, as if one could be named twice.
class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, places: Tensor, size: int) -> Tensor:
        context.save_for_backward(places)
        return values.new_zeros(size, values.shape[1]).index_copy_(0, places, values)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (places,) = context.saved_tensors
        return gradient.index_select(0, places), None, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, places: Tensor) -> Tensor:
        context.save_for_backward(places)
        context.size = len(values)
        return values.index_select(0, places)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (places,) = context.saved_tensors
        return gradient.new_zeros(context.size, gradient.shape[1]).index_copy_(0, places, gradient), None
