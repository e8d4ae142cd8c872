"""Scaled dot-product and multi-head attention (Vaswani et al. 2017, section 3.2), and positions.

Axes: b rows, h heads, q queries, k keys, d width of a head, m width of the model (m = h * d). Masks are True where a key
may be attended to, and broadcast to [b, h, q, k].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from guerdon.models.filled import Filled

_FEW = 8  # rows
_WIDE = 16  # float32 numbers that a processor works on at once: torch's softmax of fewer takes them one by one
_FUSED = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_MANY = 1024  # numbers from which on that costs more than to lengthen rows


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """softmax(query keyᵀ / √d) value: [b, h, q, d] from query [b, h, q, d] and key, value [b, h, k, d] (eq. 1).

    ``causal`` lets query i see keys up to i; it goes without a mask and needs q = k.
    """
    if query.device.type != "cpu":
        return _fused(query, key, value, mask, causal)
    # torch's fused kernel for the CPU takes four times as long in bfloat16, and elsewhere no less (benchmarks/attention.py)
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:  # added: filling by truth values takes several times as long, and again in the backward pass
        scores = scores + as_bias(mask, scores)
    return torch.matmul(softmax(scores).to(value.dtype), value)


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool = False) -> Tensor:
    """torch's fused attention, but for cuDNN's: it makes a plan for each new shape, which takes tens of milliseconds."""
    if query.device.type == "cpu":
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    with sdpa_kernel(_FUSED):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def softmax(scores: Tensor) -> Tensor:
    """Over the last dimension; for short rows on a CPU by way of longer ones, which takes a fifth of the time."""
    length = scores.shape[-1]
    if length >= _WIDE or scores.numel() < _MANY or scores.device.type != "cpu":
        return torch.softmax(scores, dim=-1)
    return torch.softmax(functional.pad(scores, (0, _WIDE - length), value=-torch.inf), dim=-1)[..., :length]


def attend_next(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `attend`, without gradients in mind: for the few queries [b, h, q, d] of a decode's next position, or short texts.

    ``bias`` is added to the scores, [b, 1, q or 1, k]: 0 where a key may be attended to, else -inf.
    """
    rows, heads, queries, width = query.shape
    if query.device.type != "cpu" or rows <= _FEW:  # the fused kernel is one operation instead of six
        return _fused(query, key, value, bias)
    keys = key.shape[2]
    flat, none = query.reshape(rows * heads, queries, width), query.new_empty(1, 1, 1)
    scores = torch.baddbmm(none, flat, key.reshape(rows * heads, keys, width).transpose(1, 2), beta=0.0, alpha=width**-0.5)
    if bias is not None:
        scores.view(rows, heads, queries, keys).add_(bias)
    chances = softmax(scores).to(value.dtype)
    return torch.bmm(chances, value.reshape(rows * heads, keys, width)).view(query.shape)


def as_bias(mask: Tensor, like: Tensor) -> Tensor:
    """What `attend_next` adds to scores so that only keys where the mask is True count, of the kind of ``like``."""
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(~mask, -torch.inf)


def split_heads(hidden: Tensor, heads: int) -> Tensor:
    """[b, length, m] to [b, h, length, d], as a view."""
    return hidden.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(hidden: Tensor) -> Tensor:
    """[b, h, length, d] to [b, length, m]: Concat(z⁽¹⁾ … z⁽ʰ⁾)."""
    return hidden.transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """MultiHead(x) = Concat(z⁽¹⁾ … z⁽ʰ⁾) W_O with queries, keys and values from x.

    W_Q, W_K and W_V are one matrix, in this order.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def queries_keys_values(
        self, hidden: Tensor, rotation: Tensor | None, filled: Filled | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Three times [b, h, length, d]; queries and keys are rotated to their positions where there is a rotation."""
        joined = self.project_in(hidden) if filled is None else filled.spread(self.project_in(hidden))
        query, key, value = (split_heads(part, self.heads) for part in joined.chunk(3, dim=-1))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        return query, key, value

    def query_and_pair(self, joined: Tensor, rotation: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same for one position: the query [b, 1, h, d], and key and value as [b, 2, h, d], of ``project_in``'s [b, 3m]."""
        parts = joined.view(len(joined), 3, self.heads, joined.shape[1] // (3 * self.heads))
        if rotation is not None:
            parts = torch.cat([rotate(parts[:, :2], rotation), parts[:, 2:]], dim=1)
        query, pair = parts.split_with_sizes((1, 2), dim=1)
        return query, pair

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        rotation: Tensor | None = None,
        filled: Filled | None = None,
    ) -> Tensor:
        """[b, length, m] to [b, length, m]; with ``filled``, [n, m] to [n, m]."""
        mixed = merge_heads(attend(*self.queries_keys_values(hidden, rotation, filled), mask, causal))
        return self.project_out(mixed if filled is None else filled.collect(mixed))


class CrossAttention(nn.Module):
    """Attention from the decoder's positions to a source's memory; W_K and W_V are one matrix, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_query = nn.Linear(width, width)
        self.project_memory = nn.Linear(width, 2 * width)
        self.project_out = nn.Linear(width, width)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of an encoded source, each [b, h, source length, d]: computed once per source."""
        key, value = (split_heads(part, self.heads).contiguous() for part in self.project_memory(memory).chunk(2, dim=-1))
        return key, value

    def forward(self, hidden: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, filled: Filled | None = None) -> Tensor:
        """[b, length, m] to [b, length, m], over keys and values from `keys_values`; with ``filled``, [n, m] to [n, m]."""
        query = self.project_query(hidden) if filled is None else filled.spread(self.project_query(hidden))
        mixed = merge_heads(attend(split_heads(query, self.heads), key, value, mask))
        out: Tensor = self.project_out(mixed if filled is None else filled.collect(mixed))
        return out


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions, float32 [length, width] (Vaswani et al. 2017, section 3.5): even columns sine, odd ones cosine."""
    angles = _angles(length, width)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :width].float()


def rotations(length: int, width: int) -> Tensor:
    """Rotary positions, float32 [length, 2, width / 2]: cosines and sines of m θ_i (Su et al. 2021, eq. 15)."""
    angles = _angles(length, width)
    return torch.stack([angles.cos(), angles.sin()], dim=1).float()


def rotate(heads: Tensor, rotation: Tensor) -> Tensor:
    """Turns each pair of columns (2i, 2i + 1) of [b, h, length, d] by its position's angle (Su et al. 2021, eq. 34)."""
    cosine, sine = rotation.to(heads.dtype).unbind(1)
    even, odd = heads[..., 0::2], heads[..., 1::2]
    return torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1).flatten(-2)


def _angles(length: int, width: int) -> Tensor:
    """position / 10000^(2i / width), float64 [length, ceil(width / 2)]."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000.0) / width))
    return torch.arange(length, dtype=torch.float64)[:, None] * rates
