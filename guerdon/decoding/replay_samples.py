"""Greedy search and sampling by a recorded step.

Axes: r rows (outputs being written; row = source * copies + copy), t positions.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding.choosing import Choice
from guerdon.decoding.constraints import not_finite
from guerdon.decoding.outputs import Samples
from guerdon.decoding.replay import Recording, recording
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision
from guerdon.models.static import Room
from guerdon.models.transformer import Transformer


def replay_samples(
    policy: Policy, sources: Padded, copies: int, limits: Tensor, choice: Choice, outputs: Tensor, precision: InferencePrecision
) -> Samples | None:
    """``copies`` outputs of each source; None where no step can be recorded for lack of memory.

    Args:
        limits: int64 [sources].
        outputs: int64 [r], the number of each row's output among those that ``choice`` knows.

    Raises:
        GuerdonError: where the policy's logits are not finite.
    """
    room, make = Room.of(sources, copies, limits), partial(_Written, choice=choice, precision=precision)
    with recording(policy, room, precision, choice.kind, make) as found:
        return None if found is None else found.write(sources, limits, outputs, choice)


class _Written(Recording):
    """What the rows have written so far: tokens, log-probabilities, lengths, and whether the end token was among them."""

    def __init__(self, policy: Transformer, room: Room, choice: Choice, precision: InferencePrecision) -> None:
        super().__init__(policy, room, precision)
        self.keys, self.lengths = torch.zeros_like(self.rows), torch.zeros_like(self.rows)
        self.choice = choice.on(self.keys)
        self.ids = torch.full((len(self.rows), room.length), policy.pad_id, device=self.rows.device)
        self.log_prob = torch.zeros_like(self.ids, dtype=torch.float32)
        self.finished = torch.zeros_like(self.step.running)

    def advance(self, logits: Tensor) -> None:
        """See `Recording`."""
        step, policy = self.step, self.step.policy
        chosen, log_prob = self.choice.choose(logits, self.rows, step.position, None)
        at, running = step.position.view(1), step.running
        self.ids.index_copy_(1, at, torch.where(running, chosen, policy.pad_id)[:, None])
        self.log_prob.index_copy_(1, at, torch.where(running, log_prob, 0.0)[:, None])
        ends = chosen == policy.end_id
        self.finished |= running & ends
        self.lengths += running
        step.position += 1
        running &= ~ends & (step.position < self.limits.repeat_interleave(self.room.copies))
        step.tokens.copy_(torch.where(running, chosen, policy.end_id))

    def write(self, sources: Padded, limits: Tensor, outputs: Tensor, choice: Choice) -> Samples:
        """See `replay_samples`."""
        count = len(outputs)
        self.keys[:count] = choice.keys[outputs] if choice.keys is not None else 0
        for buffer in (self.log_prob, self.lengths, self.finished):
            buffer.zero_()
        self.ids.fill_(self.step.policy.pad_id)
        self.run(sources, limits)
        broken = (~torch.isfinite(self.log_prob[:count])).any(1).nonzero()[:, 0].tolist()
        if broken:
            raise not_finite(f"output {int(outputs[broken[0]])}")
        width = int(self.lengths[:count].max())
        tokens = Padded(self.ids[:count, :width].clone(), self.lengths[:count].clone())
        return Samples(tokens, self.finished[:count].clone(), self.log_prob[:count, :width].clone())
