"""What the rows of a running decode have written."""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding.constraints import not_finite
from guerdon.decoding.outputs import Samples
from guerdon.models.policy import Policy


class Book:
    """What the rows of a running decode have written; ``held`` are the places of those that the state still holds.

    Attributes:
        rows: int64, the number of each row among those of all shares: row = source * copies + copy.
    """

    def __init__(self, policy: Policy, limits: Tensor, rows: Tensor, copies: int) -> None:
        self.rows, self.copies = rows, copies
        self.limits = limits[rows // copies]
        shape = (len(rows), int(self.limits.max()))
        self.end_id, self.pad_id = policy.end_id, policy.pad_id
        self.tokens = rows.new_full(shape, policy.pad_id)
        self.log_prob = torch.zeros(shape, dtype=torch.float64, device=rows.device)
        self.lengths = torch.zeros_like(rows)
        self.finished = torch.zeros_like(rows, dtype=torch.bool)
        self.filled, self.added = 0, list[tuple[Tensor, Tensor, Tensor]]()
        self.hold(torch.arange(len(rows), device=rows.device))

    def hold(self, places: Tensor) -> None:
        """The state now holds the rows at these places, all of them running."""
        self._write()
        self.held, self.held_limits, self.least_limit = places, self.limits[places], int(self.limits[places].min())
        self.running = torch.ones_like(places, dtype=torch.bool)

    @property
    def held_rows(self) -> Tensor:
        """The numbers of the held rows."""
        return self.rows[self.held]

    @property
    def sources(self) -> Tensor:
        """The numbers of the held rows' sources."""
        return self.held_rows // self.copies

    def written(self, position: int) -> Tensor:
        """What the held rows wrote before this position: int64 [r, t]."""
        self._write()
        return self.tokens[self.held, :position]

    def add(self, position: int, tokens: Tensor, log_prob: Tensor) -> int:
        """Takes one token for each running row and returns how many rows still run."""
        self.added.append((tokens, log_prob, self.running))
        self.running = self.running & (tokens != self.end_id)
        if position + 1 >= self.least_limit:
            self.running = self.running & (position + 1 < self.held_limits)
        return sum(self.running.tolist())

    def _write(self) -> None:
        """Enters what was taken since the last time: many positions at once cost as little as one."""
        if self.added:
            tokens, log_prob, running = (torch.stack(parts, dim=1) for parts in zip(*self.added, strict=True))
            positions = slice(self.filled, self.filled + len(self.added))
            self.tokens[self.held, positions] = torch.where(running, tokens, self.pad_id)
            self.log_prob[self.held, positions] = torch.where(running, log_prob, 0.0).double()
            self.lengths[self.held] += running.sum(1)
            self.finished[self.held] |= (running & (tokens == self.end_id)).any(1)
            self.filled, self.added = positions.stop, []

    def close(self, dtype: torch.dtype) -> Samples:
        """The whole of it, cut to the longest row."""
        self._write()
        broken = (~torch.isfinite(self.log_prob)).any(1).nonzero()[:, 0].tolist()
        if broken:
            raise not_finite(f"output {int(self.rows[broken[0]])}")
        width = int(self.lengths.max())
        return Samples(Padded(self.tokens[:, :width], self.lengths), self.finished, self.log_prob[:, :width].to(dtype))
