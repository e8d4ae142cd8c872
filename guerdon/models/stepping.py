"""A decoder layer over one new position at a time.

A step is some dozen small operations a layer, of which each costs the time to call it: the layer's parts lie ready, residual
sums are left to the products that can add, and nothing is looked up, split or turned that need not be.

Axes: r rows (outputs being written), s sources, h heads, n source positions, d width of a head, m of the model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from guerdon.models.cache import Layout, SelfCache
from guerdon.models.lanes import LaneCache
from guerdon.models.layers import DecoderLayer, Residual
from guerdon.models.packed import PACKED


class LayerStep:
    """What `guerdon.models.layers.DecoderLayer` computes, for the next position of each row.

    It reads the layer's weights as they are at each call (packed ones: as they were when they were packed).
    """

    def __init__(self, layer: DecoderLayer) -> None:
        self.query_and_pair, self.project_in = layer.attention.query_and_pair, straight(layer.attention.project_in)
        self.project_query, self.inner = straight(layer.cross.project_query), layer.feed_forward.inner
        self.around_attention = _Around(layer.around_attention, layer.attention.project_out)
        self.around_cross = _Around(layer.around_cross, layer.cross.project_out)
        self.around_feed_forward = _Around(layer.around_feed_forward, layer.feed_forward.project_out)

    def __call__(
        self,
        hidden: Tensor,
        cache: SelfCache | LaneCache,
        memory: tuple[Tensor, Tensor],
        bias: Tensor | None,
        layout: Layout,
        rotation: Tensor | None,
    ) -> Tensor:
        """[r, m] to [r, m]; the memory [s, h, n, d] and its bias [s, 1, 1, n] are the sources' own, read through ``layout``."""
        joined = self.project_in(self.around_attention.enter(hidden))
        hidden = self.around_attention.leave(cache.attend(*self.query_and_pair(joined, rotation)), hidden)
        query = self.project_query(self.around_cross.enter(hidden))
        hidden = self.around_cross.leave(layout.attend(query, *memory, bias), hidden)
        inner = self.inner(self.around_feed_forward.enter(hidden))
        return self.around_feed_forward.leave(inner, hidden)


def straight(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """What the module computes, without the detours of a module's call where it is of a known kind."""
    if isinstance(module, PACKED):
        return module.forward
    if type(module) is nn.LayerNorm:
        shape, weight, bias, eps = module.normalized_shape, module.weight, module.bias, module.eps
        return lambda hidden: torch.layer_norm(hidden, shape, weight, bias, eps)
    return module


class _Around:
    """What `guerdon.models.layers.Residual` does before a sub-layer, and behind it with the sub-layer's last product."""

    def __init__(self, residual: Residual, last: nn.Module) -> None:
        self.pre, self.norm = residual.pre, straight(residual.norm)
        silent = not residual.dropout.training or residual.dropout.share == 0.0
        self.add: Callable[[Tensor, Tensor], Tensor]
        if silent and isinstance(last, PACKED):
            self.add = last.added
        else:
            self.add = lambda inner, hidden: hidden + residual.dropout(last(inner))

    def enter(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden) if self.pre else hidden

    def leave(self, inner: Tensor, hidden: Tensor) -> Tensor:
        total = self.add(inner, hidden)
        return total if self.pre else self.norm(total)
