"""Decoding on a GPU by a CUDA graph: the work of a position is recorded once, and replayed at each.

A step is some hundred small kernels. To launch them one by one takes longer than they run, unless the model is large or the
batch is. The recorded step holds everything that a position needs, the choice of the tokens and what is kept of them, too: the
processor only says "again", and looks at how many rows still run one position later, so that the GPU never waits for it.
Rows that have ended stay in the batch and read nothing: products of few rows take as long as their weights take to be read,
and the caches of rows that run are all that is read beside these. Where more sources wait than have a place, they take the
places of those that have ended, a quarter of the places at a time (continuous batching: Yu et al. 2022, "Orca"): every row
stands at a position of its own.

Recordings are kept with the policy, for some sizes of a batch; smaller ones take places that do not run.
``GUERDON_GRAPHS=0`` does without.

Axes: r rows (outputs being written), s sources, t positions.
"""

from __future__ import annotations

import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from guerdon.data.padded import Padded
from guerdon.models.policy import Policy
from guerdon.models.precision import InferencePrecision, autocast
from guerdon.models.static import Room, StaticStep, addresses, bytes_of, has_static_step
from guerdon.models.transformer import Transformer

_KEPT = 4  # recordings of a policy
_WAIT = 0.75  # sources that wait take places once at most this share of them still runs: a look at what ended takes a position
_STEP = 32  # by which room for positions, and for more than so many sources, is made


Turn = Callable[[Tensor, Tensor], None]
"""What is told of some places, and of the numbers of the sources there, int64 [n] each."""


def replays(policy: Policy, sources: Padded, ngram_block: int) -> bool:
    """Whether the outputs of these sources are written by a recorded step."""
    return (
        sources.ids.device.type == "cuda"
        and not ngram_block  # looks for repetitions among what is written, of which there is more at each position
        and isinstance(policy, Transformer)
        and has_static_step(policy)
        and os.environ.get("GUERDON_GRAPHS", "1") != "0"
    )


class Recording(ABC):
    """The step of a policy for a batch of some size, with what its rows have written.

    Attributes:
        limits: int64 [s], the most tokens of each source's outputs.
        left: on the CPU, how many sources have rows that run.
    """

    def __init__(self, policy: Transformer, room: Room, precision: InferencePrecision, shared: bool = False) -> None:
        self.room, self.precision = room, precision
        self.step = StaticStep(policy, room, precision, shared)
        device = self.step.tokens.device
        self.rows = torch.arange(room.sources * room.copies, device=device)
        self.limits = torch.zeros(room.sources, dtype=torch.int64, device=device)
        self.left = torch.zeros((), dtype=torch.int64, pin_memory=device.type == "cuda")
        self.graph: torch.cuda.CUDAGraph | None = None

    @abstractmethod
    def advance(self, logits: Tensor) -> None:
        """One position of each row, of logits [r, v]: into the buffers, the step's too. What does not run stays as it is."""

    def _advance(self) -> None:
        with autocast(self.rows.device, "float32"):  # the caller's own does not reach what is recorded
            logits = self.step()
        self.advance(logits)
        self.left.copy_(self._running().sum(), non_blocking=True)

    def _running(self) -> Tensor:
        return self.step.running.view(-1, self.room.copies).any(1)

    def record(self) -> None:
        """Once, after the buffers have been made; nothing is recorded on the CPU."""
        if self.rows.device.type != "cuda":
            return
        stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # kernels are built the first time
            self._advance()
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._advance()
        self.graph = graph

    def run(self, sources: Padded, limits: Tensor, enter: Turn, leave: Turn) -> None:
        """Until every source has had a place, and no row runs; ``limits`` are int64 [sources].

        Args:
            enter: is told of sources, in their order, before they are written.
            leave: is told of them when they have been, before others take their places.
        """
        self.step.clear()
        waiting, device = 0, self.rows.device
        held = torch.full((self.room.sources,), -1)  # the number of each place's source; -1: none
        while True:
            free = (held < 0).nonzero()[: len(sources) - waiting, 0]
            if len(free):
                numbers = torch.arange(waiting, waiting + len(free))
                held[free], waiting = numbers, waiting + len(free)
                self._seat(sources.select(numbers.to(device)), limits[numbers.to(device)], free.to(device))
                enter(free.to(device), numbers.to(device))
            more = waiting < len(sources)
            self._replay(int(_WAIT * self.room.sources) if more else 0)
            ended = (~self._running().cpu() & (held >= 0)).nonzero()[:, 0]
            leave(ended.to(device), held[ended].to(device))
            held[ended] = -1
            if not more and bool((held < 0).all()):
                return

    def _seat(self, sources: Padded, limits: Tensor, places: Tensor) -> None:
        memory = self.step.policy.memory(sources, len(sources) * self.room.copies, self.precision)
        self.limits[places] = limits
        self.step.enter(places, memory, sources.lengths)

    def _replay(self, most: int) -> None:
        """Until at most so many sources have rows that run, which is seen one position later."""
        if self.graph is None:
            for _ in range(self.room.length):
                self._advance()
                if int(self.left) <= most:
                    return
            return
        done = [torch.cuda.Event(), torch.cuda.Event()]
        for position in range(self.room.length):
            self.graph.replay()
            done[position % 2].record()
            if position:
                done[(position - 1) % 2].synchronize()
                if int(self.left) <= most:
                    return


_LOCK = threading.RLock()
_RECORDINGS: WeakKeyDictionary[nn.Module, OrderedDict[Hashable, Recording]] = WeakKeyDictionary()
_Kind = TypeVar("_Kind", bound=Recording)


@contextmanager
def recording(
    policy: Policy, needed: Room, precision: InferencePrecision, kind: Hashable, make: Callable[[Transformer, Room], _Kind]
) -> Iterator[_Kind | None]:
    """One with room enough, for the caller alone: its buffers are one set, which is to be read before another uses it.

    It is recorded where there is none or the weights have moved, in place of old ones if need be.

    Args:
        needed: it is rounded up, so that batches of like sizes share a recording.
        kind: what tells those that ``make`` makes from others.

    Yields:
        None where it would take more than half of the memory that is left.
    """
    assert isinstance(policy, Transformer)
    with _LOCK:
        yield _found(policy, _room(policy, needed), precision, kind, make)


def _found(
    policy: Transformer, room: Room, precision: InferencePrecision, kind: Hashable, make: Callable[[Transformer, Room], _Kind]
) -> _Kind | None:
    known = _RECORDINGS.setdefault(policy, OrderedDict())
    key = (room.sources, room.copies, kind, precision)
    found = known.pop(key, None)
    if found is None or not found.room.holds(room) or found.step.addresses != addresses(policy):
        longest = room if found is None else found.room
        source_length, length = max(room.source_length, longest.source_length), max(room.length, longest.length)
        room, found = Room(room.sources, room.copies, source_length, length), None  # an outgrown one goes first
        while known and (len(known) >= _KEPT or bytes_of(policy, room, precision) > _spare(policy)):
            known.popitem(last=False)
        if bytes_of(policy, room, precision) > _spare(policy):
            return None
        found = make(policy, room)
        found.record()
    known[key] = found  # the latest at the end
    return cast(_Kind, found)


def _room(policy: Transformer, needed: Room) -> Room:
    def up(value: int, most: int) -> int:
        return max(value, min(most, -(-value // _STEP) * _STEP))

    sources = up(needed.sources, 2**62) if needed.sources > _STEP else 1 << (needed.sources - 1).bit_length()
    return Room(sources, needed.copies, up(needed.source_length, policy.max_source), up(needed.length, policy.max_target))


def _spare(policy: Transformer) -> int:
    """Half of the GPU's memory that nothing holds."""
    device = policy.embedding.weight.device
    if device.type != "cuda":
        return 2**62
    held, used = torch.cuda.memory_reserved(device), torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + held - used) // 2
