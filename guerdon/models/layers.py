"""The encoder's and the decoder's layer: attention and feed-forward sub-layers with residual sums and layer norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from guerdon.models.attention import CrossAttention, SelfAttention
from guerdon.models.dropout import Dropout
from guerdon.models.filled import Filled
from guerdon.models.options import TransformerOptions
from guerdon.models.packed import PACKED


class Memory(NamedTuple):
    """A layer's keys and values of the sources, each [b, h, s, d], and the mask [b, 1, 1, s] of the positions that count."""

    key: Tensor
    value: Tensor
    mask: Tensor | None

    def select(self, rows: Tensor) -> Memory:
        """That of the sources named, int64 [b]."""
        return Memory(self.key[rows], self.value[rows], None if self.mask is None else self.mask[rows])


class FeedForward(nn.Module):
    """W₂ f(W₁ x) (Vaswani et al. 2017, eq. 2), or W₂ (silu(W₁ x) ∘ V x) for swiglu (Shazeer 2020, eq. 6)."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.gated = options.activation == "swiglu"
        self.name = options.activation
        self.activation: Callable[[Tensor], Tensor] = functional.gelu if options.activation == "gelu" else functional.relu
        self.project_in = nn.Linear(options.width, options.feed_forward * (2 if self.gated else 1))
        self.project_out = nn.Linear(options.feed_forward, options.width)

    def forward(self, hidden: Tensor) -> Tensor:
        """[b, length, m] to [b, length, m]."""
        found: Tensor = self.project_out(self.inner(hidden))
        return found

    def inner(self, hidden: Tensor) -> Tensor:
        """What W₂ is applied to."""
        return self.between(self.project_in(hidden))

    def between(self, inner: Tensor) -> Tensor:
        """The same of W₁ x."""
        if self.gated:
            gate, value = inner.chunk(2, dim=-1)
            return functional.silu(gate) * value
        return self.activation(inner)

    def fuse_packed(self) -> None:
        """See `guerdon.models.packed.pack`: the first product applies the activation, and keeps what the second reads."""
        inner, outer = self.project_in, self.project_out
        if not self.gated and isinstance(inner, PACKED) and isinstance(outer, PACKED):
            inner.activation, inner.keeps = self.name, True
            self.activation = lambda hidden: hidden


class Residual(nn.Module):
    """x + dropout(f(norm(x))) with the norm before (Xiong et al. 2020), or norm(x + dropout(f(x))) with the norm after."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.pre = options.norm == "pre"
        self.norm = nn.LayerNorm(options.width)
        self.dropout = Dropout(options.dropout)

    def forward(self, hidden: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """The sum around ``sublayer``, [b, length, m]."""
        if self.pre:
            return hidden + self.dropout(sublayer(self.norm(hidden)))
        return self.norm(hidden + self.dropout(sublayer(hidden)))


class EncoderLayer(nn.Module):
    """Self-attention over the source, then the feed-forward network."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.attention = SelfAttention(options.width, options.heads)
        self.feed_forward = FeedForward(options)
        self.around_attention, self.around_feed_forward = Residual(options), Residual(options)

    def forward(self, hidden: Tensor, mask: Tensor | None, rotation: Tensor | None, filled: Filled | None = None) -> Tensor:
        """[b, s, m] to [b, s, m], ``mask`` [b, 1, 1, s]; with ``filled``, [n, m] to [n, m]."""
        hidden = self.around_attention(hidden, lambda x: self.attention(x, mask, rotation=rotation, filled=filled))
        return self.around_feed_forward(hidden, self.feed_forward)


class DecoderLayer(nn.Module):
    """Causal self-attention over the target, attention to the source, then the feed-forward network."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.attention = SelfAttention(options.width, options.heads)
        self.cross = CrossAttention(options.width, options.heads)
        self.feed_forward = FeedForward(options)
        self.around_attention, self.around_cross = Residual(options), Residual(options)
        self.around_feed_forward = Residual(options)

    def forward(self, hidden: Tensor, memory: Memory, rotation: Tensor | None, filled: Filled | None = None) -> Tensor:
        """[b, t, m] to [b, t, m], all positions at once; with ``filled``, [n, m] to [n, m].

        Targets are padded on the right, where causality hides it.
        """
        hidden = self.around_attention(hidden, lambda x: self.attention(x, None, True, rotation, filled))
        hidden = self.around_cross(hidden, lambda x: self.cross(x, *memory, filled))
        return self.around_feed_forward(hidden, self.feed_forward)
