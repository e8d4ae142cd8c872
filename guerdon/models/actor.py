"""What reinforcement trains beside the bare policy: a value head on the decoder, and an anchor that moves.

Both are part of the weights that a checkpoint holds. Where there is neither, the policy itself is trained.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from guerdon.data.padded import Padded
from guerdon.models.evaluation import evaluate_logits, spread
from guerdon.models.policy import Evaluation, Policy

VALUE_HEAD = "value."
"""What the names of a value head's weights begin with, in an `Actor`."""


class ValueHead(nn.Module):
    """V(x, y_<t), linear in the decoder's hidden state; 0 everywhere to begin with.

    Args:
        width: of the hidden states.
        gain: factor of its output, which with Adam acts as a factor of its learning rate: a policy's is far too small for a
            head that starts from nothing.
        trunk: whether the value's error trains the decoder below it, too.
    """

    def __init__(self, width: int, gain: float, trunk: bool) -> None:
        super().__init__()
        self.gain, self.trunk = gain, trunk
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """The value of each position: [tokens, width] to [tokens], in the head's own precision."""
        wide = hidden.to(self.linear.weight.dtype)
        value: Tensor = self.gain * self.linear(wide if self.trunk else wide.detach())[:, 0]
        return value


class Actor(nn.Module):
    """A policy with a value head, an anchor that moves, or both.

    Args:
        policy: what is trained.
        value: its value head.
        anchor: where it is among the weights that a checkpoint holds; it has no gradient.
    """

    def __init__(self, policy: Policy, value: ValueHead | None = None, anchor: Policy | None = None) -> None:
        super().__init__()
        self.policy, self.value, self.anchor = policy, value, anchor

    def evaluate(
        self, sources: Padded, targets: Padded, anchor: Policy | None, temperature: float, rows: Tensor, top_p: float
    ) -> Evaluation:
        """See `guerdon.models.policy.Policy.evaluate`; the value of each position with it, where there is a head."""
        if self.value is None:
            return self.policy.evaluate(sources, targets, anchor, temperature, rows, top_p)
        with torch.no_grad():
            anchor_logits = None if anchor is None else anchor.logits(sources, targets, rows)
        hidden, logits = self.policy.hidden_and_logits(sources, targets, rows)
        seen = evaluate_logits(logits, anchor_logits, targets, temperature, top_p)
        return dataclasses.replace(seen, value=spread(self.value(hidden), targets.mask))
