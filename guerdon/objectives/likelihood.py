"""Maximum likelihood with label smoothing, as sums, so that any cut of an optimiser step adds up to the same loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError

_CPU_ROWS, _GPU_ROWS = 64, 8192  # logits worked on at once: what a cache holds, and what a launch is worth
_PRODUCT_ROWS = 512  # rows of one product with the output matrix: enough for its full speed, few enough for the cache


@dataclass(frozen=True)
class LikelihoodSums:
    """What one micro-batch adds to an optimiser step.

    Attributes:
        loss: scalar with a gradient: the smoothed negative log-likelihood, summed over the target tokens, in nats.
        nll: scalar without a gradient: the plain negative log-likelihood, summed likewise; exp(nll / tokens) is the perplexity.
        tokens: number of target tokens summed over.
    """

    loss: Tensor
    nll: Tensor
    tokens: int


def label_smoothed_nll(logits: Tensor, targets: Padded, smoothing: float = 0.0) -> LikelihoodSums:
    """Cross-entropy against a target distribution that gives a share of its mass to every allowed token.

    Szegedy et al. 2016 (Rethinking the Inception architecture), section 7: q'(k) = (1 - s) [k = target] + s / K. A token is
    allowed where its logit is not -inf, and K counts the allowed tokens of the position, so that no mass is asked for
    what the model cannot write.

    Args:
        logits: [tokens, vocabulary], one row per position of ``targets`` that counts, row by row, as
            `guerdon.models.policy.Policy.logits` gives them; -inf for disallowed tokens. Computed in float32 at least.
        targets: [batch, length]; what stands beyond a row's length is not read.
        smoothing: s, in [0, 1).

    Returns:
        Sums, not means: divide by the target tokens of the whole optimiser step. ``loss`` is not finite where a target
        is itself a disallowed token, which the training loop reports like any other non-finite loss.

    Raises:
        ConfigurationError: when ``smoothing`` is outside [0, 1).
    """
    _check(smoothing)
    ids = targets.ids[targets.mask]
    loss, nll = _SmoothedNll.apply(logits, ids, smoothing)  # type: ignore[no-untyped-call]
    return LikelihoodSums(loss, nll, len(ids))


def linear_label_smoothed_nll(
    hidden: Tensor, weight: Tensor, allowed: Tensor, targets: Padded, smoothing: float = 0.0
) -> LikelihoodSums:
    """`label_smoothed_nll` of logits ``hidden @ weight.T``, which are never held all at once.

    The gradients of both factors are made in the forward pass too, some rows at a time, as others do it on GPUs (Hsu et al.
    2024, Liger kernel, section 3.2). Products are computed in the precision of the autocast around the call.

    Args:
        hidden: [tokens, width], one row per position of ``targets`` that counts, row by row.
        weight: [vocabulary, width].
        allowed: bool [vocabulary]; the logits of other tokens are -inf.
        targets, smoothing: as there.

    Raises:
        ConfigurationError: when ``smoothing`` is outside [0, 1).
    """
    _check(smoothing)
    ids, shut = targets.ids[targets.mask], (~allowed).nonzero()[:, 0]
    loss, nll = _LinearSmoothedNll.apply(hidden, weight, shut, ids, smoothing)  # type: ignore[no-untyped-call]
    return LikelihoodSums(loss, nll, len(ids))


def _check(smoothing: float) -> None:
    if not 0.0 <= smoothing < 1.0:
        raise ConfigurationError(f"label smoothing is {smoothing}", cure="choose a number from 0 (none) to below 1")


class _SmoothedNll(torch.autograd.Function):
    """Loss and plain negative log-likelihood of [tokens, vocabulary] logits, with the gradient made in the forward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """The two sums; rows of ``logits`` and of ``ids`` [tokens] belong together."""
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        shut = _disallowed(logits) if logits.device.type == "cpu" else None
        loss, nll = _sums(logits, ids, smoothing, shut, gradient)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, loss_slope: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
        """The gradient made before, times that of the loss."""
        (gradient,) = ctx.saved_tensors
        return gradient * loss_slope.to(gradient.dtype), None, None


class _LinearSmoothedNll(torch.autograd.Function):
    """The same of logits that are a product, with the gradients of its factors."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, shut: Tensor, ids: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
        """The two sums; rows of ``hidden`` and of ``ids`` [tokens] belong together."""
        kind = hidden.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
        rows = _PRODUCT_ROWS if kind == "cpu" else _GPU_ROWS
        wanted, narrow = any(ctx.needs_input_grad[:2]), weight.to(dtype)
        of_hidden = torch.empty_like(hidden) if wanted else None
        of_weight = torch.zeros_like(weight) if wanted else None
        loss, nll = hidden.new_zeros(2, dtype=torch.promote_types(dtype, torch.float32)).unbind()
        for first in range(0, len(ids), rows):
            part = slice(first, first + rows)
            states = hidden[part].to(dtype)
            logits = (states @ narrow.T).index_fill_(1, shut, -torch.inf)
            sums = _sums(logits, ids[part], smoothing, shut, logits if wanted else None)
            loss, nll = loss + sums[0], nll + sums[1]
            if of_hidden is not None and of_weight is not None:
                of_hidden[part] = logits @ narrow  # the logits have become their gradient
                of_weight.add_(logits.T @ states)
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, loss_slope: Tensor, _: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients made before, times that of the loss."""
        of_hidden, of_weight = ctx.saved_tensors
        return of_hidden * loss_slope.to(of_hidden.dtype), of_weight * loss_slope.to(of_weight.dtype), None, None, None


def _sums(logits: Tensor, ids: Tensor, smoothing: float, shut: Tensor | None, gradient: Tensor | None) -> tuple[Tensor, Tensor]:
    """The loss and the plain negative log-likelihood; writes into ``gradient``, which may be the logits' own memory.

    softmax(logits) - q' is the gradient, and most of what it takes is at hand when the loss is. Rows are taken in portions that
    stay in the cache, so that no float32 tensor of [tokens, vocabulary] is kept beside the gradient.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    loss, nll = logits.new_zeros(2, dtype=dtype).unbind()
    portion = _CPU_ROWS if logits.device.type == "cpu" else _GPU_ROWS
    for first in range(0, len(ids), portion):
        rows = slice(first, first + portion)
        wide, chosen_ids = logits[rows].to(dtype, copy=True), ids[rows, None]
        slope, chosen = torch.softmax(wide, -1), wide.gather(-1, chosen_ids)
        total = wide.amax(-1, keepdim=True) - slope.amax(-1, keepdim=True).log_()  # logsumexp takes a second exponential
        nll = nll + (total - chosen).sum()
        loss = loss + (total - chosen).sum()
        if smoothing:
            # -log p averaged over the allowed tokens is -log p(target) + its logit - their mean logit: no second softmax.
            loss = loss + smoothing * (chosen - _smooth(wide, slope, shut, smoothing)).sum()
        if gradient is not None:
            gradient[rows] = slope.scatter_add_(-1, chosen_ids, torch.full_like(chosen, smoothing - 1.0))
    return loss, nll


def _disallowed(logits: Tensor) -> Tensor:
    """The columns that the first row disallows, int64 [columns]: most likely every row does."""
    return (logits[:1] == -torch.inf).any(0).nonzero()[:, 0]


def _smooth(wide: Tensor, slope: Tensor, shut: Tensor | None, smoothing: float) -> Tensor:
    """The mean logit of each row's allowed tokens, [rows, 1]; takes from their slopes what the smoothing adds to their mass.

    Where every row disallows the columns ``shut`` and no other, nothing is compared: on the CPU a tensor of truth values takes
    ten times as long as a sum. Writes into ``wide`` and ``slope``.
    """
    if shut is not None and bool((wide[:, shut] == -torch.inf).all()):
        count = wide.shape[1] - len(shut)
        mean = wide.index_fill_(1, shut, 0.0).sum(-1, keepdim=True) / count
        if bool(mean.isfinite().all()):
            slope.sub_(smoothing / count).index_fill_(1, shut, 0.0)
            return mean
        wide.index_fill_(1, shut, -torch.inf)
    allowed = wide != -torch.inf
    share = allowed / allowed.sum(-1, keepdim=True).to(wide.dtype)
    slope.sub_(share * smoothing)
    return (wide.masked_fill(~allowed, 0.0) * share).sum(-1, keepdim=True)
