"""What decoding returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from guerdon.data.padded import Padded


@dataclass(frozen=True)
class Hypothesis:
    """One output that a search holds or returns.

    Attributes:
        tokens: its ids, without the end token.
        log_prob: natural logarithm of the policy's probability of it, summed over its tokens; the end token's is included
            where it finished, and so are those of a forced prefix.
        score: what the search ranks it by.
        finished: False where it was cut at the length limit before it ended.
    """

    tokens: tuple[int, ...]
    log_prob: float
    score: float
    finished: bool


@dataclass(frozen=True)
class Samples:
    """Sampled outputs, row = source * copies + copy.

    Attributes:
        tokens: the ids [rows, length], the end token included where the output finished: the targets that
            `guerdon.models.policy.Policy.evaluate` scores.
        finished: bool [rows], False where an output was cut at its limit before it ended.
        log_prob: [rows, length], natural logarithm of each token's probability in the distribution it was drawn from, 0
            beyond the row's length; float32, or float64 where the policy computes in float64. At the positions of a forced
            prefix it is the policy's own (at the sampling temperature, before the filters).
    """

    tokens: Padded
    finished: Tensor
    log_prob: Tensor

    def without_end(self) -> list[list[int]]:
        """Each row's ids without its end token, fit to be turned into text."""
        return [row[: len(row) - ended] for row, ended in zip(self.tokens.to_lists(), self.finished.tolist(), strict=True)]
