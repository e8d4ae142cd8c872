"""Dropout (Srivastava et al. 2014), fast on the CPU too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16
_of_thread = threading.local()  # generator: what the thread draws from instead of torch's global generator


class Dropout(nn.Module):
    """Zeroes each element with probability ``share`` while training, and scales the others by 1 / (1 - share).

    On the CPU, torch draws one float per element; here each 64-bit draw decides four elements, with ``share`` rounded to a
    multiple of 2⁻¹⁶, and the scale is that of the rounded share.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, hidden: Tensor) -> Tensor:
        """The same shape."""
        if not self.training or self.share == 0.0:
            return hidden
        if hidden.device.type != "cpu":
            return functional.dropout(hidden, self.share)
        dropped = min(round(self.share * _LEVELS), _LEVELS - 1)
        if dropped == 0:
            return hidden
        return hidden * _kept(hidden.shape, dropped).to(hidden.dtype).mul_(_LEVELS / (_LEVELS - dropped))


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """On the CPU, dropout in this thread draws from a generator of its own."""
    _of_thread.generator = torch.Generator().manual_seed(seed)
    try:
        yield
    finally:
        _of_thread.generator = None


def _kept(shape: torch.Size, dropped: int) -> Tensor:
    """int16 of this shape, 0 with probability dropped / 2¹⁶, else 1; from the thread's generator, or else torch's global one.

    Counted, not compared: making truth values and reading them takes torch five times as long.
    """
    count, source = shape.numel(), getattr(_of_thread, "generator", None)
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=source)
    highest = dropped - _LEVELS // 2  # at least this: kept
    return words.view(torch.int16)[:count].clamp_(highest - 1, highest).sub_(highest - 1).view(shape)
