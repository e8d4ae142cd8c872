"""Losses that fit scores to human judgement: comparisons with and without ties, rankings, ratings.

Axes: n judgements of one micro-batch, k outputs of a ranking. A score is a real number, higher is better. All losses are sums
over the judgements, each times its weight: divide them by the number of judgements of the *whole* optimiser step, and any cut
into micro-batches gives the same gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from guerdon.objectives.preference import PreferenceSums, check_label_smoothing, log1mexp


def bradley_terry_loss(
    better: Tensor,
    worse: Tensor,
    weight: Tensor | None = None,
    margin: Tensor | float = 0.0,
    label_smoothing: float = 0.0,
    reliability: Tensor | None = None,
) -> PreferenceSums:
    """-Σ w log P(better ≻ worse), with P = σ(s_better - s_worse - m).

    Bradley and Terry 1952; as a loss of a reward model Stiennon et al. 2020, section 3.4; the margin m, by which a judgement
    must be met before it costs little, Touvron et al. 2023 (Llama 2), eq. 2. With label smoothing ε a share ε of the judgements
    is taken to be wrong: -(1 - ε) log P - ε log (1 - P). With reliabilities P = r σ(d) + (1 - r) / 2: an annotator who looks
    with probability r, and else tosses a coin (Chen et al. 2013, Pairwise ranking aggregation in a crowdsourced setting, eq. 3,
    where η = (1 + r) / 2).

    Args:
        better, worse: [n], scores with a gradient.
        weight: [n], e.g. votes; None is 1 for all.
        margin: [n] or one number, 0 or more.
        label_smoothing: ε, from 0 to below ½.
        reliability: [n], r of each judgement's annotator, from above 0 to 1, with a gradient; None is 1 for all.

    Raises:
        ConfigurationError: for an ε out of range.
    """
    check_label_smoothing(label_smoothing)
    difference = better - worse
    losses = -(1.0 - label_smoothing) * _log_preferred(difference - margin, reliability)
    if label_smoothing:
        losses = losses - label_smoothing * _log_preferred(margin - difference, reliability)
    return _pair_sums(losses, difference, weight)


def _log_preferred(difference: Tensor, reliability: Tensor | None) -> Tensor:
    """log (r σ(d) + (1 - r) / 2), finite for every d where r < 1."""
    seen = functional.logsigmoid(difference)
    if reliability is None:
        return seen
    return torch.logaddexp(reliability.log() + seen, torch.log1p(-reliability) - math.log(2.0))


def rao_kupper_loss(
    better: Tensor, worse: Tensor, tie: Tensor, log_threshold: Tensor, weight: Tensor | None = None
) -> PreferenceSums:
    """-Σ w log P, with P(better ≻ worse) = σ(d - η) and P(tie) = (e^{2η} - 1) σ(d - η) σ(-d - η).

    Rao and Kupper 1967 (Ties in paired-comparison experiments), eq. 2.3 and 2.4, with θ = e^η: two outputs of which the better
    exceeds the other by less than the threshold η cannot be told apart. d is the difference of the scores.

    Args:
        better, worse: [n], scores with a gradient; for a tie either order.
        tie: bool [n], True where the two were judged equal.
        log_threshold: η above 0, one number or [n], with a gradient where it is learnt.
        weight: [n]; None is 1 for all.
    """
    difference = better - worse
    won = functional.logsigmoid(difference - log_threshold)
    lost = functional.logsigmoid(-difference - log_threshold)
    log_theta_squared_less_one = 2.0 * log_threshold + log1mexp(-2.0 * log_threshold)
    losses = -torch.where(tie, log_theta_squared_less_one + won + lost, won)
    return _pair_sums(losses, difference, weight)


def davidson_loss(better: Tensor, worse: Tensor, tie: Tensor, log_nu: Tensor, weight: Tensor | None = None) -> PreferenceSums:
    """-Σ w log P, where better ≻ worse, worse ≻ better and tie are as e^{d/2} to e^{-d/2} to ν.

    Davidson 1970 (On extending the Bradley-Terry model to accommodate ties in paired comparison experiments), eq. 2.2: a tie is
    the likelier the nearer the two are, and ν / (2 + ν) where they are equal. Arguments as `rao_kupper_loss`; ``log_nu`` is
    any number.
    """
    difference = better - worse
    half = 0.5 * difference
    log_nu = log_nu.expand_as(half)
    normaliser = torch.stack([half, -half, log_nu]).logsumexp(0)
    losses = normaliser - torch.where(tie, log_nu, half)
    return _pair_sums(losses, difference, weight)


def plackett_luce_loss(scores: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """-Σ w Σ_j log (e^{s_j} / Σ_{l ≥ j} e^{s_l}): the best is chosen of all, the second of what is left, and so on.

    Plackett 1975 (The analysis of permutations), eq. 2 with the choice probabilities of Luce 1959. Two outputs make Bradley
    and Terry's model.

    Args:
        scores: [n, k], the best output's first, with a gradient.
        mask: bool [n, k], True at the outputs that a ranking has; they come first.
        weight: [n]; None is 1 for all.

    Returns:
        A scalar.
    """
    places = torch.arange(scores.shape[1], device=scores.device)
    left = (places[None, :] >= places[:, None]) & mask[:, None, :]
    left = left | torch.eye(len(places), dtype=torch.bool, device=scores.device)  # an empty choice has no logarithm
    log_choices = scores[:, None, :].masked_fill(~left, -torch.inf).logsumexp(-1)
    return _total(torch.where(mask, log_choices - scores, 0.0).sum(-1), weight)


def regression_loss(scores: Tensor, targets: Tensor, weight: Tensor | None = None) -> Tensor:
    """½ Σ w (s - y)², a scalar; scores and the ratings that they are fitted to are [n] each."""
    return _total(0.5 * (scores - targets).square(), weight)


def ordinal_loss(scores: Tensor, levels: Tensor, thresholds: Tensor, weight: Tensor | None = None) -> Tensor:
    """-Σ w log P(y = level), with P(y ≤ j) = σ(t_j - s): the cumulative logit, or proportional odds.

    McCullagh 1980 (Regression models for ordinal data), eq. 1.1: a rating says in which of the intervals that the thresholds
    cut the score fell, whose noise is logistic; nothing is supposed of the distances between the ratings.

    Args:
        scores: [n], with a gradient.
        levels: int64 [n], from 0 (the worst) to the number of thresholds.
        thresholds: [levels - 1], strictly rising; with a gradient where they are learnt.
        weight: [n]; None is 1 for all.

    Returns:
        A scalar.
    """
    ends = thresholds.new_full((1,), torch.inf)
    edges = torch.cat([-ends, thresholds, ends])
    upper, lower = edges[levels + 1] - scores, edges[levels] - scores
    # σ(u) - σ(l) = σ(u) σ(-l) (1 - e^{l - u}): no difference of nearly equal numbers
    log_probability = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + log1mexp(lower - upper)
    return _total(-log_probability, weight)


def centring_loss(scores: Tensor, mask: Tensor, weight: Tensor | None = None) -> Tensor:
    """Σ w (mean score of the judged outputs)², a scalar: what fixes the constant that comparisons leave free.

    Eisenstein et al. 2023 (Helping or herding?), section 3, for k = 2 up to a factor of 4.

    Args:
        scores: [n, k], with a gradient.
        mask: bool [n, k], True at the outputs that a judgement has.
        weight: [n]; None is 1 for all.
    """
    means = torch.where(mask, scores, 0.0).sum(-1) / mask.sum(-1)
    return _total(means.square(), weight)


def _total(losses: Tensor, weight: Tensor | None) -> Tensor:
    return (losses if weight is None else losses * weight).sum()


def _pair_sums(losses: Tensor, difference: Tensor, weight: Tensor | None) -> PreferenceSums:
    seen = difference.detach()
    return PreferenceSums(_total(losses, weight), seen, 0.5 * (1.0 + seen.sign()))
