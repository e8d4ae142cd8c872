"""Decoding on a GPU by a CUDA graph: the work of a position is recorded once, and replayed at each.

A step is some hundred small kernels. To launch them one by one takes longer than they run, unless the model is large or the
batch is. The recorded step holds everything that a position needs, the choice of the tokens and what is kept of them, too: the
processor only says "again", and looks at how many rows still run one position later, so that the GPU never waits for it.
Rows that have ended stay in the batch and read nothing: products of few rows take as long as their weights take to be read,
and the caches of rows that run are all that is read beside these.

Recordings are kept with the policy, for some sizes of a batch; smaller ones take places that do not run.
``GUERDON_GRAPHS=0`` does without.

Axes: r rows (outputs being written), t positions.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Hashable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from guerdon.data.padded import Padded
from guerdon.decoding.choosing import Choice
from guerdon.decoding.constraints import not_finite
from guerdon.decoding.outputs import Samples
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision, autocast
from guerdon.models.static import Room, StaticStep, addresses, bytes_of, has_static_step
from guerdon.models.transformer import Transformer

_KEPT = 4  # recordings of a policy
_STEP = 32  # by which room for positions, and for more than so many sources, is made


def replays(policy: Policy, sources: Padded, choice: Choice) -> bool:
    """Whether the outputs of these sources are written by a recorded step."""
    return (
        sources.ids.device.type == "cuda"
        and not choice.ngram_block  # looks for repetitions among what is written, of which there is more at each position
        and isinstance(policy, Transformer)
        and has_static_step(policy)
        and os.environ.get("GUERDON_GRAPHS", "1") != "0"
    )


def replay(
    policy: Policy, sources: Padded, copies: int, limits: Tensor, choice: Choice, outputs: Tensor, precision: InferencePrecision
) -> Samples | None:
    """``copies`` outputs of each source; None where that would take more than half of the memory that is left.

    Args:
        limits: int64 [sources].
        outputs: int64 [r], the number of each row's output among those that ``choice`` knows.
    """
    assert isinstance(policy, Transformer)
    room = _room(policy, Room(len(sources), copies, sources.ids.shape[1], int(limits.max())))
    with _LOCK:
        recording = _recording(policy, room, choice, precision)
        return None if recording is None else recording.write(sources, limits, outputs, choice)


def _room(policy: Transformer, needed: Room) -> Room:
    """Rounded up, so that batches of like sizes share a recording."""

    def up(value: int, most: int) -> int:
        return max(value, min(most, -(-value // _STEP) * _STEP))

    sources = up(needed.sources, 2**62) if needed.sources > _STEP else 1 << (needed.sources - 1).bit_length()
    return Room(sources, needed.copies, up(needed.source_length, policy.max_source), up(needed.length, policy.max_target))


class Recording:
    """The step of a policy for a batch of some size, with what its rows have written."""

    def __init__(self, policy: Transformer, room: Room, choice: Choice, precision: InferencePrecision) -> None:
        self.room, self.precision = room, precision
        self.step = StaticStep(policy, room, precision)
        rows, device = room.sources * room.copies, self.step.tokens.device
        self.rows = torch.arange(rows, device=device)
        self.keys, self.limits, self.lengths = (torch.zeros_like(self.rows) for _ in range(3))
        self.choice = choice.on(self.keys)
        self.ids = torch.full((rows, room.length), policy.pad_id, device=device)
        self.log_prob = torch.zeros(rows, room.length, device=device)
        self.finished = torch.zeros_like(self.step.running)
        self.left = torch.zeros((), dtype=torch.int64, pin_memory=device.type == "cuda")
        self.graph = self._recorded() if device.type == "cuda" else None

    def _recorded(self) -> torch.cuda.CUDAGraph:
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are built the first time
            self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._advance()
        return graph

    def _advance(self) -> None:
        """One position: into the buffers."""
        step, policy = self.step, self.step.policy
        with autocast(self.rows.device, "float32"):  # the caller's own does not reach what is recorded
            logits = step()
        chosen, log_prob = self.choice.choose(logits, self.rows, step.position, None)
        at, running = step.position.view(1), step.running
        self.ids.index_copy_(1, at, torch.where(running, chosen, policy.pad_id)[:, None])
        self.log_prob.index_copy_(1, at, torch.where(running, log_prob, 0.0)[:, None])
        ends = chosen == policy.end_id
        self.finished |= running & ends
        self.lengths += running
        step.position += 1
        running &= ~ends & (step.position < self.limits)
        step.tokens.copy_(torch.where(running, chosen, policy.end_id))
        self.left.copy_(running.sum(), non_blocking=True)

    def write(self, sources: Padded, limits: Tensor, outputs: Tensor, choice: Choice) -> Samples:
        """See `replay`."""
        count = len(outputs)
        policy = self.step.policy
        memory = policy.memory(sources, count, self.precision)
        self.keys[:count] = choice.keys[outputs] if choice.keys is not None else 0
        self.limits[:count] = limits.repeat_interleave(self.room.copies)
        for buffer in (self.log_prob, self.lengths, self.finished):
            buffer.zero_()
        self.ids.fill_(policy.pad_id)
        self.step.begin(memory, sources.lengths, self.rows < count)
        self._run(int(limits.max()))
        broken = (~torch.isfinite(self.log_prob[:count])).any(1).nonzero()[:, 0].tolist()
        if broken:
            raise not_finite(f"output {int(outputs[broken[0]])}")
        width = int(self.lengths[:count].max())
        tokens = Padded(self.ids[:count, :width].clone(), self.lengths[:count].clone())
        return Samples(tokens, self.finished[:count].clone(), self.log_prob[:count, :width].clone())

    def _run(self, positions: int) -> None:
        """Until no row runs, which is seen one position later."""
        if self.graph is None:
            for _ in range(positions):
                self._advance()
                if not int(self.left):
                    return
            return
        done = [torch.cuda.Event(), torch.cuda.Event()]
        for position in range(positions):
            self.graph.replay()
            done[position % 2].record()
            if position:
                done[(position - 1) % 2].synchronize()
                if not int(self.left):
                    return


_RECORDINGS: WeakKeyDictionary[nn.Module, OrderedDict[Hashable, Recording]] = WeakKeyDictionary()
_LOCK = threading.RLock()  # a recording has one set of buffers


def _recording(policy: Transformer, room: Room, choice: Choice, precision: InferencePrecision) -> Recording | None:
    """One that has room enough; recorded where there is none or the weights have moved, in place of old ones if need be."""
    known = _RECORDINGS.setdefault(policy, OrderedDict())
    key = (room.sources, room.copies, choice.kind, precision)
    found = known.pop(key, None)
    if found is None or not found.room.holds(room) or found.step.addresses != addresses(policy):
        longest = room if found is None else found.room
        source_length, length = max(room.source_length, longest.source_length), max(room.length, longest.length)
        room, found = Room(room.sources, room.copies, source_length, length), None  # an outgrown one goes first
        while known and (len(known) >= _KEPT or bytes_of(policy, room, precision) > _spare(policy)):
            known.popitem(last=False)
        if bytes_of(policy, room, precision) > _spare(policy):
            return None
        found = Recording(policy, room, choice, precision)
    known[key] = found  # the latest at the end
    return found


def _spare(policy: Transformer) -> int:
    """Half of the GPU's memory that nothing holds."""
    device = policy.embedding.weight.device
    if device.type != "cuda":
        return 2**62
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + held - used) // 2
