"""Beam search by a recorded step.

The GPU chooses what each source goes on with, and keeps of every position what closed there and from which hypothesis each
of the next came; what the finished hypotheses are is read from that afterwards. Caches are not reordered: a table says where
the past of a hypothesis lies (as in `guerdon.models.lanes`).

Axes: s sources (places), k beam size, t positions; row = s * k + beam.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.decoding.candidates import Candidates, log_probabilities
from guerdon.decoding.constraints import not_finite
from guerdon.decoding.replay import Recording, recording
from guerdon.models.cache import rows_of
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision
from guerdon.models.static import Room
from guerdon.models.transformer import Transformer


class Closed(NamedTuple):
    """A hypothesis that closed: its source's number, its tokens, the end token not among them."""

    source: int
    tokens: tuple[int, ...]
    log_prob: float
    ends: bool


def replay_beams(
    policy: Policy,
    sources: Padded,
    numbers: Tensor,
    limits: Tensor,
    size: int,
    enough: int,
    precision: InferencePrecision,
    places: int,
) -> list[Closed] | None:
    """What closes in the search of each source, in the order in which it does; None where memory is lacking.

    Args:
        numbers: int64 [sources], by which the sources are known.
        limits: int64 [sources].
        size: of the beam.
        enough: how many finished hypotheses end the search of a source.
        places: for how many sources at once.

    Raises:
        GuerdonError: where the policy's logits are not finite.
    """
    room, make = Room.of(sources, size, limits, places), partial(_Beams, precision=precision, enough=enough)
    with recording(policy, room, precision, ("beam", enough), make) as found:
        return None if found is None else found.search(sources, numbers, limits)


class _Beams(Recording):
    """The hypotheses of all sources, and of every position what happened there.

    Attributes:
        log_prob: float32 [s, k], of the hypotheses that go on; -inf of dead ones.
        found: int64 [s], how many have closed.
        broken: int64 [r], the first position at which a row's logits were not finite, or the room's length.
        closed: float32 [t + 1, s, k], the log-probability of what closes, else -inf; `parents` and `tokens` are its. The last
            row takes what has no meaning: that of sources that have ended.
        origins: int64 [t + 1, s, k], the parent of what goes on; `written` its token.
    """

    def __init__(self, policy: Transformer, room: Room, precision: InferencePrecision, enough: int) -> None:
        super().__init__(policy, room, precision, shared=True)
        self.enough, device = enough, self.rows.device
        self.log_prob = torch.zeros(room.sources, room.copies, device=device)
        self.found, self.broken = torch.zeros_like(self.limits), torch.zeros_like(self.rows)
        self.closed = torch.zeros(room.length + 1, room.sources, room.copies, device=device)
        self.parents, self.tokens, self.origins, self.written = (
            torch.zeros_like(self.closed, dtype=torch.int64) for _ in range(4)
        )

    def advance(self, logits: Tensor) -> None:
        """See `Recording`."""
        step, size, end_id = self.step, self.room.copies, self.step.policy.end_id
        running, position = step.running.view(-1, size)[:, 0].clone(), step.position.view(-1, size)[:, 0]
        scores, broken = log_probabilities(logits)
        broken &= step.running  # dead rows are copies of sound ones
        self.broken.copy_(torch.where(broken, self.broken.minimum(step.position), self.broken))
        candidates = Candidates.of(scores, self.log_prob, end_id)
        at_limit = self.limits == position + 1
        closing = candidates.closing(at_limit, size) & running[:, None]
        self.found += closing.sum(1)
        log_prob, parent, token = candidates.going_on(size)
        at = torch.where(running, position, self.room.length)[None, :, None].expand(1, -1, size)
        self.closed.scatter_(0, at, torch.where(closing, candidates.log_prob[:, :size], -torch.inf)[None])
        self.parents.scatter_(0, at, candidates.parent[None, :, :size])
        self.tokens.scatter_(0, at, candidates.token[None, :, :size])
        self.origins.scatter_(0, at, parent[None])
        self.written.scatter_(0, at, token[None])
        running &= (self.found < self.enough) & ~at_limit & torch.isfinite(log_prob[:, 0])
        self.log_prob.copy_(log_prob)
        step.follow((self.rows.view(-1, size)[:, :1] + parent).flatten())
        step.running.copy_(running[:, None].expand(-1, size).flatten())
        step.position += step.running
        step.tokens.copy_(torch.where(running[:, None], token, end_id).flatten())

    def search(self, sources: Padded, numbers: Tensor, limits: Tensor) -> list[Closed]:
        """See `replay_beams`."""
        closed, broken = list[Closed](), list[tuple[int, int]]()

        def leave(places: Tensor, asked: Tensor) -> None:
            known, first = numbers[asked].tolist(), self.broken.view(-1, self.room.copies)[places].amin(1).tolist()
            broken.extend(
                (position, source) for position, source in zip(first, known, strict=True) if position < self.room.length
            )
            closed.extend(self._traced(places, known))

        self.run(sources, limits, self._enter, leave)
        if broken:
            position, source = min(broken)
            raise not_finite(f"source {source}, position {position}")
        return closed

    def _enter(self, places: Tensor, _: Tensor) -> None:
        self.log_prob[places] = -torch.inf
        self.log_prob[places, 0] = 0.0  # one empty hypothesis a source: the others would be copies of it
        self.closed[:, places], self.found[places] = -torch.inf, 0
        self.broken[rows_of(places, self.room.copies)] = self.room.length

    def _traced(self, places: Tensor, numbers: list[int]) -> list[Closed]:
        """What closed at these places, where the sources of these numbers are, followed back to its first token."""
        end_id, every = self.step.policy.end_id, (self.closed, self.parents, self.tokens, self.origins, self.written)
        closed, parents, tokens, origins, written = (one[: self.room.length, places].cpu() for one in every)
        at, source, rank = (closed > -torch.inf).nonzero(as_tuple=True)  # by position, source and rank
        longest = int(at.max()) if len(at) else 0
        lane, before = parents[at, source, rank], tokens.new_zeros(len(at), longest)
        for position in range(longest - 1, -1, -1):
            inside = position < at
            before[:, position] = written[position, source, lane]
            lane = torch.where(inside, origins[position, source, lane], lane)
        fields = (torch.tensor(numbers)[source], at, tokens[at, source, rank], closed[at, source, rank], before)
        return [
            Closed(source, tuple(past[:length]) if last == end_id else (*past[:length], last), log_prob, last == end_id)
            for source, length, last, log_prob, past in zip(*(field.tolist() for field in fields), strict=True)
        ]
