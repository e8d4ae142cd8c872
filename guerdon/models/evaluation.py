"""From logits to what training and scoring read: log-probabilities, entropy and the exact KL."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.models.fused import LEAST, log_prob_and_entropy
from guerdon.models.policy import Evaluation


def evaluate_logits(
    logits: Tensor, anchor_logits: Tensor | None, targets: Padded, temperature: float = 1.0, top_p: float = 1.0
) -> Evaluation:
    """Scores ``targets`` under the distribution that they were drawn from, and under the anchor's whole softmax.

    Args:
        logits: [tokens, vocabulary], one row per position of ``targets`` that counts, row by row; disallowed tokens -inf.
        anchor_logits: the same of the anchor, or None. Its tokens outside the policy's nucleus keep their probability: an
            anchor cut to a nucleus of its own would be infinitely far from any policy that leaves it.
        targets: the ids scored.
        temperature, top_p: those of the distribution the targets were drawn from. The target itself always belongs to the
            nucleus: rounding must not give a token that was drawn the probability 0.
    """
    mask = targets.mask
    ids = targets.ids[mask][:, None]
    if top_p < 1.0:
        outside = outside_nucleus(logits.detach() / temperature, top_p).scatter(1, ids, False)
        logits = logits.masked_fill(outside, -torch.inf)
    log_prob, entropy = log_prob_and_entropy(logits, ids[:, 0], temperature)
    kl = anchor_log_prob = None
    if anchor_logits is not None:
        log_probs, anchor = _log_softmax(logits, temperature), _log_softmax(anchor_logits, temperature)
        disallowed = log_probs == -torch.inf  # a token that only the anchor disallows makes the divergence infinite
        kl = spread((log_probs.exp() * (_finite(log_probs) - anchor.masked_fill(disallowed, 0.0))).sum(-1), mask)
        anchor_log_prob = spread(anchor.gather(-1, ids)[:, 0], mask)
    return Evaluation(spread(log_prob, mask), spread(entropy, mask), mask, kl, anchor_log_prob)


def target_log_prob(logits: Tensor, targets: Padded, temperature: float = 1.0) -> Tensor:
    """The log-probabilities alone of `evaluate_logits`, [batch, length]: what a scan of an anchor reads."""
    mask = targets.mask
    return spread(log_prob_and_entropy(logits, targets.ids[mask], temperature)[0], mask)


def outside_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """True for tokens before which, in order of probability, ``top_p`` is already reached: bool, of the shape of [rows, v]."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    reached = torch.softmax(ordered.double(), -1).cumsum(-1)
    before = functional.pad(reached[:, :-1], (1, 0))
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, order, before >= top_p)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """In float32 at least: a sum over thousands of tokens loses too much in bfloat16."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.log_softmax(wide if temperature == 1.0 else wide / temperature, dim=-1)


def _finite(log_probs: Tensor) -> Tensor:
    """Disallowed tokens have log-probability -inf and probability 0; 0 · -inf is to be 0, in the gradient too."""
    return log_probs.clamp(min=LEAST)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """[tokens] to [batch, length], 0 where nothing counts."""
    return values.new_zeros(mask.shape).masked_scatter(mask, values)
