"""Minimum risk training: the expected reward over a sampled set of outputs, renormalised within the set.

Shen et al. 2016 (Minimum risk training for neural machine translation), eq. 9-11, with reward in the place of -risk.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.errors import TrainingError
from guerdon.objectives.sums import group_sums


def minimum_risk_loss(
    log_prob: Tensor,
    mask: Tensor,
    rewards: Tensor,
    distinct: Tensor,
    groups: Tensor,
    alpha: float,
    count: int,
) -> Tensor:
    """-(1 / count) sum_g sum_i Q_i r_i over the distinct outputs i of each group g, with Q_i = p_i^α / sum_j p_j^α.

    The set depends on the policy that drew it, and no gradient flows through that: its expectation is the gradient of this
    formula over drawn sets, not that of the expected reward.

    Args:
        log_prob: [n, length], per token, with a gradient. Whole groups: Q cannot be computed from a part of one.
        mask: bool [n, length], True where the position counts.
        rewards: [n]; read where ``distinct`` only.
        distinct: bool [n], the rows that make up the sets, as `distinct_rows` finds them.
        groups: int64 [n], numbered from 0.
        alpha: the sharpness α > 0 of Q; small values make it flat.
        count: number of groups with at least two distinct outputs, in the whole optimiser step. The others add nothing:
            Q is 1 there whatever the policy.

    Returns:
        A scalar.

    Raises:
        TrainingError: when ``count`` is 0.
    """
    if count < 1:
        raise TrainingError(
            "no source has two distinct outputs in this step",
            cure="skip the step, draw more samples for each source, or raise the temperature",
        )
    rows = distinct & (group_sums(distinct.long(), groups)[groups] > 1)
    members = groups[rows]
    scores = alpha * torch.where(mask, log_prob, 0.0).sum(-1)[rows]
    # The largest score of a group is taken off, so that the exponentials of long outputs do not all underflow.
    top = scores.new_full((int(groups.max()) + 1 if len(groups) else 0,), -torch.inf)
    top = top.scatter_reduce(0, members, scores.detach(), "amax")
    weights = (scores - top[members]).exp()
    q = weights / group_sums(weights, members)[members]
    return -(q * rewards.detach()[rows]).sum() / count


def distinct_rows(tokens: Tensor, lengths: Tensor, kept: Tensor, groups: Tensor) -> Tensor:
    """The first occurrence of each kept output within its group.

    Args:
        tokens: int64 [n, length], ids from 0; what stands beyond a row's length is not read.
        lengths: int64 [n].
        kept: bool [n]; other rows are no occurrence.
        groups: int64 [n].

    Returns:
        bool [n].
    """
    inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    named = torch.cat([groups[:, None], torch.where(inside, tokens, -1)], dim=1)
    rows = kept.nonzero()[:, 0]
    _, output = named[rows].unique(dim=0, return_inverse=True)
    first = torch.full_like(rows, len(kept)).scatter_reduce(0, output, rows, "amin")
    return torch.zeros_like(kept).index_fill(0, first[output], True)
