"""Importance weights: outputs that one model drew, for the gradient of another.

Axes: n samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Importance:
    """What outputs count for that q drew and p is trained on.

    Attributes:
        weights: float64 [n], min(p / q, cap).
        effective: (Σ p/q)² / (n Σ (p/q)²), from 1/n to 1: the share of so many samples of p that are worth as much (Kong 1992).
            The ratios are those before the cap, since after it a few large ones would not be seen.
        capped: the share of weights at the cap.
    """

    weights: Tensor
    effective: float
    capped: float


def importance(log_p: Tensor, log_q: Tensor, cap: float = math.inf) -> Importance:
    """Weights of whole outputs with which an expectation over q is one over p.

    Without a cap, E_q[(p/q) f] = E_p[f], for the policy gradient's f = A ∇log p too. A finite cap is truncated importance
    sampling (Ionides 2008, Truncated importance sampling; Espeholt et al. 2018, IMPALA, eq. 1, have it in reinforcement): the
    variance is bounded, and the expectation becomes that over min(p, cap · q), which leaves out of outputs that q draws less
    than p / cap what exceeds the cap.

    Args:
        log_p: [n], the log-probability of each output by the policy that is trained; without a gradient.
        log_q: [n], by the model that drew it.
        cap: the largest weight.
    """
    log_ratio = log_p.detach().double() - log_q.double()
    effective = (2 * log_ratio.logsumexp(0) - (2 * log_ratio).logsumexp(0)).exp() / max(1, len(log_ratio))
    over = log_ratio > math.log(cap)
    weights = torch.where(over, cap, log_ratio.exp()) if math.isfinite(cap) else log_ratio.exp()
    return Importance(weights, float(effective), float(over.double().mean()))
