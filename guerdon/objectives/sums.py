"""What the losses and estimators share: sums over groups, and the number that a loss is divided by."""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.errors import TrainingError


def group_sums(values: Tensor, groups: Tensor) -> Tensor:
    """The sum of each group: values [n], groups int64 [n] numbered from 0 -> [groups]."""
    size = int(groups.max()) + 1 if len(groups) else 0
    return torch.zeros(size, dtype=values.dtype, device=values.device).index_add(0, groups, values)


def positive(samples: int) -> int:
    """The number of scored samples of an optimiser step, which must not be 0.

    Raises:
        TrainingError: when it is.
    """
    if samples < 1:
        raise TrainingError(
            "no scored sample is left in this step",
            cure="skip the step, or look in the run's samples for why every output was dropped",
        )
    return samples
