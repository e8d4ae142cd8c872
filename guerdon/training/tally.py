"""What the updates of one step count up: how often the clip acted, and how far training's log-probabilities were off."""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.decoding import Samples
from guerdon.models.policy import Evaluation


class Tally:
    """Sums over the micro-batches and updates of one rollout.

    Args:
        samples: the outputs and their log-probabilities as they were drawn.
        updates: how many updates are made from them.
        stale: whether an earlier policy drew them than the one that the first update begins with.
    """

    def __init__(self, samples: Samples, updates: int, stale: bool = False) -> None:
        self._samples, self._updates, self.stale = samples, updates, stale
        self._log_prob = torch.zeros_like(samples.log_prob)
        self._clipped = self._entropy = 0.0
        self._value: float | None = None
        self._tokens = 0

    def keep(self, rows: Tensor, log_prob: Tensor) -> None:
        """The log-probabilities of some rows before the first update, [rows, length]."""
        self._log_prob[rows, : log_prob.shape[1]] = log_prob.detach().to(self._log_prob.dtype)

    def drawn(self, rows: Tensor, width: int) -> Tensor:
        """What ratios divide by: the log-probabilities that decoding drew stale outputs with, else what `keep` was given."""
        return (self._samples.log_prob if self.stale else self._log_prob)[rows, :width]

    def count(self, seen: Evaluation) -> None:
        """A micro-batch of an update."""
        self._entropy += float(seen.entropy.detach().double().sum())
        self._tokens += int(seen.mask.sum())

    def count_clipped(self, tokens: Tensor) -> None:
        """Tokens whose ratio was clipped."""
        self._clipped += float(tokens)

    def count_value(self, loss: Tensor) -> None:
        """A share of the value head's loss."""
        self._value = (self._value or 0.0) + float(loss.detach())

    def metrics(self) -> dict[str, float]:
        """Means over the tokens of all updates.

        ``mismatch`` is the mean difference, per token and without its sign, of the log-probabilities that decoding drew with
        and those of training's first pass; ``mismatch_max`` the largest; ``ratio`` the mean ratio of their probabilities,
        training's to decoding's. Without stale outputs all that is rounding.
        """
        mask = self._samples.tokens.mask
        gained = (self._log_prob.double() - self._samples.log_prob.double())[mask]
        off = gained.abs()
        tokens = max(1, self._tokens)
        return {
            "entropy": self._entropy / tokens,
            "clipped": self._clipped / tokens,
            "mismatch": float(off.mean()),
            "mismatch_max": float(off.max()),
            "ratio": float(gained.exp().mean()),
            **({} if self._value is None else {"value_loss": self._value / self._updates}),
        }
