"""The state of a running decode.

Axes: r rows (outputs being written), s sources, h heads, n source positions, d width of a head, m of the model, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from guerdon.models.cache import Layout, SelfCache
from guerdon.models.layers import DecoderLayer, EncoderLayer
from guerdon.models.precision import Precision


@dataclass(frozen=True)
class Parts:
    """What a decode computes with.

    Attributes:
        encoder: the encoder's layers, with packed linear layers where that is possible.
        decoder: the decoder's layers, likewise.
        project: hidden states [r, m] to logits [r, v], likewise.
        autocast: the precision that is left to autocast: that of the decode, but where packed layers have it themselves.
    """

    encoder: Sequence[EncoderLayer]
    decoder: Sequence[DecoderLayer]
    project: Callable[[Tensor], Tensor]
    autocast: Precision


@dataclass
class DecoderState:
    """The rows of a running decode; every row stands at the same position.

    Attributes:
        position: how many tokens each row has been fed.
        layers: one cache of own keys and values per decoder layer.
        memory: keys and values of the sources per decoder layer, each [s, h, n, d].
        mask: bool [s, 1, 1, n], True at a source's own positions; None where no source is padded.
        layout: which source each row reads.
        parts: what the decode computes with.
    """

    position: int
    layers: list[SelfCache]
    memory: list[tuple[Tensor, Tensor]]
    mask: Tensor | None
    layout: Layout
    parts: Parts

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return len(self.layout.source)

    def select(self, rows: Tensor) -> DecoderState:
        """Keeps the rows named (int64 [new rows]; may drop, repeat, permute). Consumes the state: use what it returns."""
        self.layout, left = self.layout.select(rows)
        for layer in self.layers:
            layer.select(rows)
        if left is not None:
            self.memory = [(key.index_select(0, left), value.index_select(0, left)) for key, value in self.memory]
            self.mask = None if self.mask is None else self.mask.index_select(0, left)
        return self
