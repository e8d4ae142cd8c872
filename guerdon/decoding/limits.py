"""How long an output may become."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError
from guerdon.models.policy import Policy

_ROUNDING = 1e-9  # 1.1 * 50 is 55.00000000000001 in binary, and must not become 56


@dataclass(frozen=True)
class LengthLimit:
    """The most tokens of an output, its end token included: ``min(absolute, policy.max_target, ⌈ratio · n + offset⌉)``.

    n is the source's own length in tokens, never the padded one, so that a limit does not depend on the batch.

    Attributes:
        absolute: the limit of every output.
        ratio: tokens per source token; None for no relative limit.
        offset: added to the relative limit; only with ``ratio``.
    """

    absolute: int = 256
    ratio: float | None = None
    offset: int = 0

    def __post_init__(self) -> None:
        if self.absolute < 1:
            raise ConfigurationError(
                f"{self.absolute} leaves no room for an output", where="limit.absolute", cure="give at least 1"
            )
        if self.ratio is not None and not 0.0 < self.ratio < math.inf:
            raise ConfigurationError(
                f"{self.ratio} is not a ratio", where="limit.ratio", cure="give a number above 0, or leave it out"
            )
        if self.ratio is None and self.offset:
            raise ConfigurationError(
                "an offset needs a ratio to be added to", where="limit.offset", cure="give limit.ratio too"
            )

    def of(self, sources: Padded, policy: Policy) -> Tensor:
        """The limit of each source, at least 1: int64 [batch]."""
        limits = torch.full_like(sources.lengths, min(self.absolute, policy.max_target))
        if self.ratio is None:
            return limits
        relative = torch.ceil(self.ratio * sources.lengths.to(torch.float64) + (self.offset - _ROUNDING))
        return torch.minimum(limits, relative.clamp(1, self.absolute).to(torch.int64))
