"""The state of a running decode.

Axes: r rows (outputs being written), s sources, h heads, n source positions, d width of a head, m of the model, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from guerdon.models.attention import CrossAttention
from guerdon.models.cache import Layout, SelfCache
from guerdon.models.lanes import LaneCache, Lanes
from guerdon.models.layers import EncoderLayer
from guerdon.models.precision import Precision
from guerdon.models.stepping import LayerStep


@dataclass(frozen=True)
class Parts:
    """What a decode computes with.

    Attributes:
        encoder: the encoder's layers, with packed linear layers where that is possible.
        cross: the attention to the source of each decoder layer, which makes keys and values of it, likewise.
        decoder: the decoder's layers, likewise.
        project: hidden states [r, m] to logits [r, v], likewise.
        autocast: the precision that is left to autocast: that of the decode, but where packed layers have it themselves.
    """

    encoder: Sequence[EncoderLayer]
    cross: Sequence[CrossAttention]
    decoder: Sequence[LayerStep]
    project: Callable[[Tensor], Tensor]
    autocast: Precision


@dataclass
class DecoderState:
    """The rows of a running decode; every row stands at the same position.

    Attributes:
        position: how many tokens each row has been fed.
        caches: own keys and values per decoder layer.
        memory: keys and values of the sources per decoder layer, each [s, h, n, d].
        bias: [s, 1, 1, n], 0 at a source's own positions, else -inf; None where no source is padded.
        layout: which source each row reads.
        parts: what the decode computes with.
        lanes: where the rows' pasts lie, once a beam search has reordered them; None while every row has a cache of its own.
    """

    position: int
    caches: Sequence[SelfCache | LaneCache]
    memory: list[tuple[Tensor, Tensor]]
    bias: Tensor | None
    layout: Layout
    parts: Parts
    lanes: Lanes | None = None

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.layout.source)

    def select(self, rows: Tensor) -> DecoderState:
        """Keeps the rows named (int64 [new rows]; may drop, repeat, permute). Consumes the state: use what it returns."""
        grid = self._reordered(rows)
        if grid is not None:
            return self._reorder(grid)
        if self.lanes is not None:
            self.caches, self.lanes = [cache.apart() for cache in self.caches if isinstance(cache, LaneCache)], None
        self.layout, left = self.layout.select(rows)
        for cache in self.caches:
            assert isinstance(cache, SelfCache)
            cache.select(rows)
        self._leave(left)
        return self

    def begin_step(self) -> None:
        """To be called before the layers of each step."""
        if self.lanes is not None:
            self.lanes.grow(self.memory[0][0])

    def _reordered(self, rows: Tensor) -> Tensor | None:
        """The rows as [new s, k], where a beam search reorders hypotheses within their sources; else None."""
        lanes = self.layout.width
        regular = lanes > 1 and self.layout.slot is None and len(rows) > 0 and len(rows) % lanes == 0
        if not regular or self.caches[0].pairs.requires_grad:
            return None
        grid = rows.view(-1, lanes)
        source = grid // lanes
        within = bool((source == source[:, :1]).all()) and bool((source[1:, 0] > source[:-1, 0]).all())
        apart = bool((grid[:, 1:] > grid[:, :-1]).all())  # rows that stay as they are need no lanes
        if not within or (apart and self.lanes is None):
            return None
        return grid

    def _reorder(self, grid: Tensor) -> DecoderState:
        sources, lanes = self.layout.sources, self.layout.width
        if self.lanes is None:
            self.lanes = Lanes.of(sources, lanes, self.position, grid.device)
            self.caches = [LaneCache.of(cache, self.lanes) for cache in self.caches if isinstance(cache, SelfCache)]
        kept = grid[:, 0] // lanes
        self.lanes = self.lanes.select(kept, grid % lanes)
        left = None if len(kept) == sources else kept
        for cache in self.caches:
            assert isinstance(cache, LaneCache)
            cache.select(left, self.lanes)
        if left is not None:
            self.layout = Layout.regular(len(kept), lanes, grid.device)
        self._leave(left)
        return self

    def _leave(self, left: Tensor | None) -> None:
        """Only the sources ``left`` are read from now on; None: all."""
        if left is not None:
            self.memory = [(key.index_select(0, left), value.index_select(0, left)) for key, value in self.memory]
            self.bias = None if self.bias is None else self.bias.index_select(0, left)
