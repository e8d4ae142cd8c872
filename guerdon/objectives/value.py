"""The critic of PPO: advantages from predicted values, and the loss that fits the values.

Axes: n samples, length tokens of an output, padded on the right. A value at position t is the prediction, from the prefix
y_<t, of the reward that is still to come. ``mask`` bool [n, length] is True where a position counts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.objectives.sums import positive


def generalised_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, trace: float
) -> tuple[Tensor, Tensor]:
    """A_t = sum_l (γλ)^l δ_{t+l} with δ_t = r_t + γ V_{t+1} - V_t, and the returns A_t + V_t that values are fitted to.

    Schulman et al. 2016 (High-dimensional continuous control using generalized advantage estimation), eq. 11 and 16. The
    value after the last counted token is 0, also where an output was cut off at the length limit: nothing is rewarded after
    it. With λ = 1 and γ = 1 an advantage is the reward still to come less V(prefix), which is unbiased for any V.

    Args:
        rewards: [n, length], per token: what the output earned by this token; a reward of the whole output at its last.
        values: [n, length], V of the prefix before each token.
        mask: bool [n, length].
        discount: γ, from 0 to 1.
        trace: λ, from 0 (one step ahead, leaning on the values) to 1 (the rewards to the end).

    Returns:
        Advantages and returns, [n, length] each, without a gradient, 0 where nothing counts.
    """
    values = torch.where(mask, values.detach(), 0.0)
    ahead = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    errors = torch.where(mask, rewards.detach() + discount * ahead - values, 0.0)
    advantages = torch.zeros_like(errors)
    running = torch.zeros_like(errors[:, 0]) if errors.shape[1] else errors.sum(1)
    for position in reversed(range(errors.shape[1])):
        running = errors[:, position] + discount * trace * running
        advantages[:, position] = running
    return advantages, advantages + values


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, samples: int, clip: float | None) -> Tensor:
    """(1 / samples) sum_i sum_t ½ (V_it - R_it)²; with ``clip`` ½ max((V - R)², (V_old + clip(V - V_old, ±c) - R)²).

    The clipped form is that of PPO's implementations (Huang et al. 2022, The 37 implementation details of proximal policy
    optimization, 9), not of its paper: a value that has left V_old ± c in the direction of its return is not pulled further.

    Args:
        values: [n, length], with a gradient.
        old_values: [n, length], predicted when the samples were drawn.
        returns: [n, length], from `generalised_advantages`.
        mask: bool [n, length].
        samples: the scored samples of the whole optimiser step.
        clip: c, in units of the reward; None for no clip.

    Returns:
        A scalar.

    Raises:
        TrainingError: when ``samples`` is 0.
    """
    values, old, targets = (torch.where(mask, given, 0.0) for given in (values, old_values.detach(), returns.detach()))
    errors = (values - targets).square()
    if clip is not None:
        bounded = (old + (values - old).clamp(-clip, clip) - targets).square()
        errors = torch.where(bounded > errors, bounded, errors)
    return errors.sum() / (2 * positive(samples))
