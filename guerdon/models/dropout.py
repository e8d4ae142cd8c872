"""Dropout (Srivastava et al. 2014), fast on the CPU too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16


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
        dropped = round(self.share * _LEVELS)
        return hidden * (_kept(hidden.shape, dropped).to(hidden.dtype) * (_LEVELS / (_LEVELS - dropped)))


def _kept(shape: torch.Size, dropped: int) -> Tensor:
    """bool of this shape, False with probability dropped / 2¹⁶; from torch's global generator."""
    count = shape.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    return (words.view(torch.int16)[:count] >= dropped - _LEVELS // 2).view(shape)
