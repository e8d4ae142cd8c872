"""From hidden states to logits, and from these to log-probability and entropy, with gradients of their own.

Rows are taken in portions that stay in the cache, and only logits are kept for the backward pass: no float32 tensor of
[tokens, vocabulary] is made, where the plain way makes six and keeps four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_CPU_ROWS, _GPU_ROWS = 64, 8192  # logits worked on at once: what a cache holds, and what a launch is worth
LEAST = -1e30  # a log-probability that is finite, and whose exponential is 0


def project(hidden: Tensor, weight: Tensor, allowed: Tensor) -> Tensor:
    """The logits ``hidden @ weight.T``, [..., vocabulary], -inf where ``allowed`` (bool [vocabulary]) is False.

    A bias of -inf would say the same; torch first writes it to every row, and then adds the product to it.
    """
    logits = functional.linear(hidden, weight)
    if not logits.requires_grad:
        return _disallow(logits, allowed)
    filled: Tensor = _Disallow.apply(logits, allowed)  # type: ignore[no-untyped-call]
    return filled


def _disallow(logits: Tensor, allowed: Tensor) -> Tensor:
    """In place."""
    if logits.device.type != "cpu":
        return logits.masked_fill_(~allowed, -torch.inf)
    return logits.index_fill_(-1, (~allowed).nonzero()[:, 0], -torch.inf)  # a few columns: far sooner done than by a mask


class _Disallow(torch.autograd.Function):
    """As for a bias of -inf, the gradient passes as it is: whatever reads logits has none for a token of probability 0."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, allowed: Tensor) -> Tensor:
        ctx.mark_dirty(logits)
        return _disallow(logits, allowed)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def log_prob_and_entropy(logits: Tensor, ids: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """log p(ids) and -Σ p log p of p = softmax(logits / temperature), each [tokens].

    In float32 at least: a sum over thousands of tokens loses too much in bfloat16. Disallowed tokens, of logit -inf, add
    nothing to the entropy.

    Args:
        logits: [tokens, vocabulary].
        ids: int64 [tokens].
        temperature: above 0.
    """
    found: tuple[Tensor, Tensor] = _LogProbAndEntropy.apply(logits, ids, temperature)  # type: ignore[no-untyped-call]
    return found


def _portions(logits: Tensor) -> list[slice]:
    size = _CPU_ROWS if logits.device.type == "cpu" else _GPU_ROWS
    return [slice(first, first + size) for first in range(0, len(logits), size)]


class _LogProbAndEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        log_prob, entropy, total = (logits.new_empty(len(ids), dtype=dtype) for _ in range(3))
        for rows in _portions(logits):
            wide = _divided(logits[rows], temperature, dtype)
            chances = torch.softmax(wide, -1)
            total[rows] = wide.amax(-1) - chances.amax(-1).log_()  # logsumexp takes a second exponential
            log_prob[rows] = wide.gather(-1, ids[rows, None])[:, 0] - total[rows]
            log_probs = wide.sub_(total[rows, None]).clamp_(min=LEAST)
            entropy[rows] = -chances.mul_(log_probs).sum(-1)
        ctx.save_for_backward(logits, ids, total, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return log_prob, entropy

    @staticmethod
    def backward(ctx: Any, of_log_prob: Tensor | None, of_entropy: Tensor | None) -> tuple[Tensor | None, None, None]:
        """d log p_y / d logit_k = ([k = y] - p_k) / T, and d H / d logit_k = -p_k (log p_k + H) / T."""
        logits, ids, total, entropy = ctx.saved_tensors
        if of_log_prob is None and of_entropy is None:
            return None, None, None
        gradient = torch.empty_like(logits)
        for rows in _portions(logits):
            wide = _divided(logits[rows], ctx.temperature, total.dtype)
            chances = torch.softmax(wide, -1)
            factor = torch.zeros_like(total[rows])[:, None]
            if of_log_prob is not None:
                factor = factor - of_log_prob[rows, None]
            if of_entropy is not None:
                surprise = wide.clamp_(min=LEAST).sub_((total - entropy)[rows, None])
                factor = surprise.mul_(-of_entropy[rows, None]).add_(factor)
            slope = chances.mul_(factor)
            if of_log_prob is not None:
                slope.scatter_add_(-1, ids[rows, None], of_log_prob[rows, None])
            gradient[rows] = slope if ctx.temperature == 1.0 else slope.div_(ctx.temperature)
        return gradient, None, None


def _divided(logits: Tensor, temperature: float, dtype: torch.dtype) -> Tensor:
    """logits / temperature, a tensor of its own."""
    wide = logits.to(dtype, copy=True)
    return wide if temperature == 1.0 else wide.div_(temperature)
