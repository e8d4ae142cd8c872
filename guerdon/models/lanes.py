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

from guerdon.models.attention import attend
from guerdon.models.cache import BLOCK, SelfCache


class Lanes:
    """In which lane each position of each row's past lies; one for all layers.

    Attributes:
        ancestors: int64 [s, k, t].
        mask: bool [s, 1, k, t * k], True where a row may look: position t of lane j is column t * k + j.
    """

    def __init__(self, ancestors: Tensor) -> None:
        self.ancestors = ancestors
        self.own = torch.arange(ancestors.shape[1], device=ancestors.device)

    @classmethod
    def of(cls, sources: int, lanes: int, positions: int, device: torch.device) -> Lanes:
        """Those of rows that have not been reordered yet: every row's past is its own."""
        own = torch.arange(lanes, device=device)
        return cls(own[:, None].expand(sources, lanes, positions))

    def grow(self) -> None:
        """One more position, which each row writes into its own lane."""
        sources, lanes, _ = self.ancestors.shape
        self.ancestors = torch.cat([self.ancestors, self.own[:, None].expand(sources, lanes, 1)], dim=2)
        self.mask = (self.ancestors[..., None] == self.own).flatten(2)[:, None]

    def select(self, left: Tensor, parents: Tensor) -> Lanes:
        """Of the sources ``left`` (int64 [new s]), with the pasts of the lanes ``parents`` (int64 [new s, k])."""
        return Lanes(self.ancestors[left[:, None], parents])


@dataclass
class LaneCache:
    """Preallocated keys and values of one layer, each [s, h, capacity, k, d]; the first ``length`` positions are filled."""

    keys: Tensor
    values: Tensor
    length: int
    lanes: Lanes

    @classmethod
    def of(cls, cache: SelfCache, lanes: Lanes) -> LaneCache:
        """That of rows which have had caches of their own."""
        count = lanes.ancestors.shape[1]
        keys, values = (_laned(old, count) for old in (cache.keys, cache.values))
        return cls(keys, values, cache.length, lanes)

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Adds one position and attends to each row's past, that position included: [r, m] from three times [r, h, d]."""
        sources, heads, capacity, lanes, width = self.keys.shape
        if self.length == capacity:
            self.keys, self.values = (
                torch.cat([old, old.new_empty(sources, heads, BLOCK, lanes, width)], dim=2) for old in (self.keys, self.values)
            )
        grid = (sources, lanes, heads, width)
        self.keys.select(2, self.length).copy_(key.view(grid).transpose(1, 2))
        self.values.select(2, self.length).copy_(value.view(grid).transpose(1, 2))
        self.length += 1
        past_keys, past_values = (whole.narrow(2, 0, self.length).flatten(2, 3) for whole in (self.keys, self.values))
        mixed = attend(query.view(grid).transpose(1, 2), past_keys, past_values, self.lanes.mask)
        return mixed.transpose(1, 2).reshape(len(query), heads * width)

    def select(self, left: Tensor | None, lanes: Lanes) -> None:
        """Keeps the sources ``left`` (None: all), whose pasts are told by ``lanes``."""
        self.lanes = lanes
        if left is not None:
            self.keys, self.values = self.keys.index_select(0, left), self.values.index_select(0, left)

    def apart(self) -> SelfCache:
        """A cache of its own for each row."""
        return SelfCache(self._rows(self.keys), self._rows(self.values), self.length)

    def _rows(self, whole: Tensor) -> Tensor:
        """[r, h, t, d], with room for the next position or more."""
        sources, lanes, filled = self.lanes.ancestors.shape
        place = self.lanes.ancestors[:, None, :, :, None].expand(sources, whole.shape[1], lanes, filled, whole.shape[4])
        past = whole[:, :, :filled].transpose(2, 3).gather(2, place)  # [s, h, k, t, d]
        room = past.new_empty(sources * lanes, whole.shape[1], filled + BLOCK, whole.shape[4])
        room[:, :, :filled] = past.transpose(1, 2).flatten(0, 1)
        return room


def _laned(old: Tensor, lanes: int) -> Tensor:
    """[s, h, capacity, k, d] from [r, h, capacity, d]."""
    return old.unflatten(0, (-1, lanes)).permute(0, 2, 3, 1, 4).contiguous()
