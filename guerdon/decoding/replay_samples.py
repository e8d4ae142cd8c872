"""Greedy search and sampling by a recorded step.

Axes: r rows (outputs being written; row = place * copies + copy), t positions.
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
from guerdon.models.cache import rows_of
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision
from guerdon.models.static import Room
from guerdon.models.transformer import Transformer


def replay_samples(
    policy: Policy,
    sources: Padded,
    copies: int,
    limits: Tensor,
    choice: Choice,
    outputs: Tensor,
    precision: InferencePrecision,
    places: int,
) -> Samples | None:
    """``copies`` outputs of each source; None where no step can be recorded for lack of memory.

    Args:
        limits: int64 [sources].
        outputs: int64 [sources * copies], the number of each row's output among those that ``choice`` knows.
        places: for how many sources at once.

    Raises:
        GuerdonError: where the policy's logits are not finite.
    """
    room, make = Room.of(sources, copies, limits, places), partial(_Written, choice=choice, precision=precision)
    with recording(policy, room, precision, choice.kind, make) as found:
        return None if found is None else found.write(sources, limits, outputs, choice)


class _Written(Recording):
    """What the rows have written so far: tokens, log-probabilities, lengths, and whether the end token was among them.

    Attributes:
        ids, log_prob: [r, t + 1]; the last column takes what rows write that do not run.
    """

    def __init__(self, policy: Transformer, room: Room, choice: Choice, precision: InferencePrecision) -> None:
        super().__init__(policy, room, precision)
        self.keys, self.lengths = torch.zeros_like(self.rows), torch.zeros_like(self.rows)
        self.choice = choice.on(self.keys)
        self.ids = torch.full((len(self.rows), room.length + 1), policy.pad_id, device=self.rows.device)
        self.log_prob = torch.zeros_like(self.ids, dtype=torch.float32)
        self.finished = torch.zeros_like(self.step.running)

    def advance(self, logits: Tensor) -> None:
        """See `Recording`."""
        step, end_id = self.step, self.step.policy.end_id
        chosen, log_prob = self.choice.choose(logits, self.rows, step.position, None)
        running = step.running
        at = torch.where(running, step.position, self.room.length)[:, None]
        self.ids.scatter_(1, at, chosen[:, None])
        self.log_prob.scatter_(1, at, log_prob[:, None])
        ends = chosen == end_id
        self.finished |= running & ends
        self.lengths += running
        running &= ~ends & (step.position + 1 < self.limits.repeat_interleave(self.room.copies))
        step.position += running
        step.tokens.copy_(torch.where(running, chosen, end_id))

    def write(self, sources: Padded, limits: Tensor, outputs: Tensor, choice: Choice) -> Samples:
        """See `replay_samples`."""
        count, most = len(outputs), int(limits.max())
        tokens = Padded(self.ids.new_full((count, most), self.step.policy.pad_id), torch.zeros_like(outputs))
        found = Samples(tokens, torch.zeros_like(outputs, dtype=torch.bool), self.log_prob.new_zeros(count, most))
        keys = None if choice.keys is None else choice.keys[outputs]
        self.run(sources, limits, partial(self._enter, keys), partial(self._leave, found))
        broken = (~torch.isfinite(found.log_prob)).any(1).nonzero()[:, 0].tolist()
        if broken:
            raise not_finite(f"output {int(outputs[broken[0]])}")
        width = int(tokens.lengths.max())
        return Samples(Padded(tokens.ids[:, :width], tokens.lengths), found.finished, found.log_prob[:, :width])

    def _enter(self, keys: Tensor | None, places: Tensor, numbers: Tensor) -> None:
        rows = rows_of(places, self.room.copies)
        if keys is not None:
            self.keys[rows] = keys[rows_of(numbers, self.room.copies)]
        self.ids[rows], self.log_prob[rows] = self.step.policy.pad_id, 0.0
        self.lengths[rows], self.finished[rows] = 0, False

    def _leave(self, found: Samples, places: Tensor, numbers: Tensor) -> None:
        rows, into = rows_of(places, self.room.copies), rows_of(numbers, self.room.copies)
        width = found.log_prob.shape[1]
        found.tokens.ids[into], found.log_prob[into] = self.ids[rows, :width], self.log_prob[rows, :width]
        found.tokens.lengths[into], found.finished[into] = self.lengths[rows], self.finished[rows]
