"""From logits to what training and scoring read: log-probabilities, entropy and the exact KL."""

from __future__ import annotations

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.models.policy import Evaluation


def evaluate_logits(logits: Tensor, anchor_logits: Tensor | None, targets: Padded, temperature: float = 1.0) -> Evaluation:
    """Scores ``targets`` under softmax(logits / temperature), and the anchor's likewise.

    Args:
        logits: [tokens, vocabulary], one row per position of ``targets`` that counts, row by row; disallowed tokens -inf.
        anchor_logits: the same of the anchor, or None.
        targets: the ids scored.
        temperature: that of the distribution the targets were drawn from.
    """
    mask = targets.mask
    ids = targets.ids[mask][:, None]
    log_probs = _log_softmax(logits, temperature)
    entropy = -(log_probs.exp() * _finite(log_probs)).sum(-1)
    kl = anchor_log_prob = None
    if anchor_logits is not None:
        anchor = _log_softmax(anchor_logits, temperature)
        disallowed = log_probs == -torch.inf  # a token that only the anchor disallows makes the divergence infinite
        kl = _spread((log_probs.exp() * (_finite(log_probs) - anchor.masked_fill(disallowed, 0.0))).sum(-1), mask)
        anchor_log_prob = _spread(anchor.gather(-1, ids)[:, 0], mask)
    return Evaluation(_spread(log_probs.gather(-1, ids)[:, 0], mask), _spread(entropy, mask), mask, kl, anchor_log_prob)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """In float32 at least: a sum over thousands of tokens loses too much in bfloat16."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)


def _finite(log_probs: Tensor) -> Tensor:
    """Disallowed tokens have log-probability -inf and probability 0; 0 · -inf is to be 0, in the gradient too."""
    return log_probs.masked_fill(log_probs == -torch.inf, 0.0)


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    """[tokens] to [batch, length], 0 where nothing counts."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
