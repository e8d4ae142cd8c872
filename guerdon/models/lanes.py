"""A cache that the hypotheses of one source share: a beam search that reorders them copies nothing.

Every source has k lanes, and row source * k + lane writes into its own. What was written stays where it is; a table says in
which lane each position of a row's past lies, and attention reads all lanes of the source under a mask. A source's keys are
read once for its k queries, where separate caches would be read, and copied, k times. Inference engines call such a table
cache indirection.

Axes: r rows (r = s * k), s sources, k lanes, h heads, t positions, d width of a head, m of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from guerdon.models.attention import as_bias, attend_next
from guerdon.models.cache import SelfCache, grown


class Lanes:
    """In which lane each position of each row's past lies; one for all layers.

    Attributes:
        ancestors: int64 [s, k, t].
        bias: [s, 1, k, t * k], 0 where a row may look, else -inf: position t of lane j is column t * k + j.
    """

    def __init__(self, ancestors: Tensor) -> None:
        self.ancestors = ancestors
        self.own = torch.arange(ancestors.shape[1], device=ancestors.device)

    @classmethod
    def of(cls, sources: int, lanes: int, positions: int, device: torch.device) -> Lanes:
        """Those of rows that have not been reordered yet: every row's past is its own."""
        own = torch.arange(lanes, device=device)
        return cls(own[:, None].expand(sources, lanes, positions))

    def grow(self, like: Tensor) -> None:
        """One more position, which each row writes into its own lane; the bias is of the kind of ``like``."""
        sources, lanes, _ = self.ancestors.shape
        self.ancestors = torch.cat([self.ancestors, self.own[:, None].expand(sources, lanes, 1)], dim=2)
        self.bias = as_bias((self.ancestors[..., None] == self.own).flatten(2)[:, None], like)

    def select(self, left: Tensor, parents: Tensor) -> Lanes:
        """Of the sources ``left`` (int64 [new s]), with the pasts of the lanes ``parents`` (int64 [new s, k])."""
        return Lanes(self.ancestors[left[:, None], parents])


@dataclass
class LaneCache:
    """Preallocated keys and values of one layer, [2, s, h, capacity, k, d]; the first ``length`` positions are filled."""

    pairs: Tensor
    length: int
    lanes: Lanes

    @classmethod
    def of(cls, cache: SelfCache, lanes: Lanes) -> LaneCache:
        """That of rows which have had caches of their own."""
        count = lanes.ancestors.shape[1]
        return cls(cache.pairs.unflatten(1, (-1, count)).permute(0, 1, 3, 4, 2, 5).contiguous(), cache.length, lanes)

    def attend(self, query: Tensor, pair: Tensor) -> Tensor:
        """As `guerdon.models.cache.SelfCache.attend`: a row attends to its own past, the new position included."""
        _, sources, heads, capacity, lanes, width = self.pairs.shape
        if self.length == capacity:
            self.pairs = grown(self.pairs)
        self.pairs.select(3, self.length).copy_(pair.view(sources, lanes, 2, heads, width).permute(2, 0, 3, 1, 4))
        self.length += 1
        keys, values = self.pairs.narrow(3, 0, self.length).flatten(3, 4).unbind()
        mixed = attend_next(query.view(sources, lanes, heads, width).transpose(1, 2), keys, values, self.lanes.bias)
        return mixed.transpose(1, 2).reshape(len(query), heads * width)

    def select(self, left: Tensor | None, lanes: Lanes) -> None:
        """Keeps the sources ``left`` (None: all), whose pasts are told by ``lanes``."""
        self.lanes = lanes
        if left is not None:
            self.pairs = self.pairs.index_select(1, left)

    def apart(self) -> SelfCache:
        """A cache of its own for each row."""
        sources, lanes, filled = self.lanes.ancestors.shape
        place = self.lanes.ancestors[None, :, None, :, :, None]
        heads, width = self.pairs.shape[2], self.pairs.shape[5]
        past = self.pairs.narrow(3, 0, filled).transpose(3, 4)  # [2, s, h, k, t, d]
        past = past.gather(3, place.expand(2, sources, heads, lanes, filled, width))
        return SelfCache(grown(past.transpose(2, 3).flatten(1, 2)), self.length)
