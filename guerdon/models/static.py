"""A decoder's step over buffers that stay where they are, so that a GPU can be told once what to do at every position.

What `guerdon.models.transformer.Transformer.step` computes, with two kernels of our own between the products
(`guerdon.models.kernels`). Weights are read where they lie, or from copies in bfloat16 which `refresh` brings up to date: a
product that has to round them first reads and writes three times as much.

Axes: r rows (outputs being written), s sources, h heads, n source positions, t positions of an output, d width of a head,
m of the model, v vocabulary.
"""

from __future__ import annotations

import functools
import importlib.util
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.models.cache import rows_of
from guerdon.models.layers import FeedForward
from guerdon.models.precision import InferencePrecision

if TYPE_CHECKING:
    from guerdon.models.transformer import Transformer


@dataclass(frozen=True)
class Room:
    """How much the buffers of a step hold: sources, rows of each, positions of a source and of an output."""

    sources: int
    copies: int
    source_length: int
    length: int

    @classmethod
    def of(cls, sources: Padded, copies: int, limits: Tensor, places: int) -> Room:
        """What outputs of these sources need, at most so many at once; ``limits`` are int64 [s], the most tokens of each's."""
        return cls(min(places, len(sources)), copies, sources.ids.shape[1], int(limits.max()))

    def holds(self, other: Room) -> bool:
        """Whether what needs ``other`` finds room here; rows are a source's own."""
        return self.copies == other.copies and all(
            own >= needed
            for own, needed in (
                (self.sources, other.sources),
                (self.source_length, other.source_length),
                (self.length, other.length),
            )
        )


class _Product(NamedTuple):
    weight: Tensor
    bias: Tensor | None

    def __call__(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)


@dataclass(frozen=True)
class _Layer:
    """The products of a decoder layer, and the norm that follows each residual sum."""

    own_in: _Product
    own_out: _Product
    query: _Product
    source_out: _Product
    inner: _Product
    outer: _Product
    feed_forward: FeedForward
    norms: Sequence[nn.LayerNorm]


class StaticStep:
    """The step of some rows, each at a position of its own; called, it gives the next tokens' logits, float32 [r, v].

    Attributes:
        tokens: int64 [r], what is fed next.
        position: int64 [r], how many tokens each row has been fed.
        running: bool [r]; the logits of other rows have no meaning.
        lengths: int64 [s], of the sources.
        memory: keys and values of the sources per layer, each [2, s, h, n, d].
        table: int32 [r, t], in which row of the caches each position of a row's past lies; None: in its own.

    Args:
        shared: rows take over what others have read (`follow`).
    """

    def __init__(self, policy: Transformer, room: Room, precision: InferencePrecision, shared: bool = False) -> None:
        options, like = policy.options, policy.embedding.weight
        self._policy, self.room, self.after = weakref.ref(policy), room, options.norm == "post"
        self.kind = torch.bfloat16 if precision == "bfloat16" else like.dtype
        self._copies: dict[Tensor, Tensor] = {}
        rows, head = room.sources * room.copies, options.width // options.heads
        own = (len(policy.decoder), 2, rows, options.heads, room.length, head)
        self.caches = list(like.new_zeros(own, dtype=self.kind))
        of_sources = (len(policy.decoder), 2, room.sources, options.heads, room.source_length, head)
        self.memory = list(like.new_zeros(of_sources, dtype=self.kind))
        self.tokens = torch.full((rows,), policy.start_id, device=like.device)
        self.position = torch.zeros_like(self.tokens)
        self.running = torch.zeros(rows, dtype=torch.bool, device=like.device)
        self.lengths = torch.zeros(room.sources, dtype=torch.int64, device=like.device)
        self._rows = torch.arange(rows, dtype=torch.int32, device=like.device)
        self.table = self._rows[:, None].repeat(1, room.length) if shared else None
        self.rotation = policy.get_buffer("rotation") if options.positions == "rotary" else None
        self._output = _Product(self._own(policy.output_weight), None)
        self._layers = self._all_layers(policy)
        self.addresses = addresses(policy)
        self.refresh()

    @property
    def policy(self) -> Transformer:
        """It keeps its recordings; if these held it in turn, it would never go."""
        found = self._policy()
        assert found is not None
        return found

    def _all_layers(self, policy: Transformer) -> list[_Layer]:
        layers, found = policy.decoder_layers, list[_Layer]()
        for number, layer in enumerate(layers):
            norms = [layer.around_attention.norm, layer.around_cross.norm, layer.around_feed_forward.norm]
            if not self.after:  # the norm before a sub-layer follows the sum before it
                last = layers[number + 1].around_attention.norm if number + 1 < len(layers) else policy.decoder_norm
                norms = [*norms[1:], cast(nn.LayerNorm, last)]
            own, cross, ahead = layer.attention, layer.cross, layer.feed_forward
            found.append(
                _Layer(
                    own_in=self._product(own.project_in),
                    own_out=self._product(own.project_out),
                    query=self._product(cross.project_query),
                    source_out=self._product(cross.project_out),
                    inner=self._product(ahead.project_in),
                    outer=self._product(ahead.project_out),
                    feed_forward=ahead,
                    norms=norms,
                )
            )
        return found

    def _product(self, linear: nn.Linear) -> _Product:
        return _Product(self._own(linear.weight), None if linear.bias is None else self._own(linear.bias))

    def _own(self, weight: Tensor) -> Tensor:
        if weight.dtype == self.kind:
            return weight
        return self._copies.setdefault(weight, torch.empty_like(weight, dtype=self.kind, requires_grad=False))

    def refresh(self) -> None:
        """The weights as they are now."""
        if self._copies:
            torch._foreach_copy_(list(self._copies.values()), list(self._copies))

    def clear(self) -> None:
        """No row runs."""
        self.refresh()
        self.running.zero_()

    def enter(self, places: Tensor, memory: Sequence[tuple[Tensor, Tensor]], lengths: Tensor) -> None:
        """New sources at these places (int64 [n]): their keys and values, each [n, h, length, d], and lengths (int64 [n])."""
        self.lengths[places] = lengths
        for into, pair in zip(self.memory, memory, strict=True):
            for side, given in enumerate(pair):
                into[side, :, :, : given.shape[2]].index_copy_(0, places, given.to(into.dtype))
        rows = rows_of(places, self.room.copies)
        self.tokens[rows], self.position[rows], self.running[rows] = self.policy.start_id, 0, True

    def follow(self, rows: Tensor) -> None:
        """Each row goes on from what one of ``rows`` (int64 [r]) has read, this position included."""
        assert self.table is not None
        self.table.scatter_(1, self.position[:, None], self._rows[:, None])
        self.table.copy_(self.table[rows])

    def __call__(self) -> Tensor:
        """float32 [r, v]; the position stays as it is."""
        from guerdon.models.kernels import add_norm, attend_own, attend_source

        policy, after, kind = self.policy, self.after, self.kind
        hidden = policy.embed_next(self.tokens, self.position)
        first = policy.decoder_layers[0].around_attention.norm
        normed = (hidden if after else first(hidden)).to(kind)
        for layer, cache, memory in zip(self._layers, self.caches, self.memory, strict=True):
            mixed = attend_own(layer.own_in(normed), cache, self.position, self.running, self.rotation, self.table)
            normed = add_norm(hidden, layer.own_out(mixed), layer.norms[0], after, kind)
            mixed = attend_source(layer.query(normed), memory, self.lengths, self.running, self.room.copies)
            normed = add_norm(hidden, layer.source_out(mixed), layer.norms[1], after, kind)
            inner = layer.feed_forward.between(layer.inner(normed))
            normed = add_norm(hidden, layer.outer(inner), layer.norms[2], after, kind)
        return torch.add(policy.disallowed_bias, self._output(normed))


def bytes_of(policy: Transformer, room: Room, precision: InferencePrecision) -> int:
    """About the memory that a step and what follows it need: caches, copies of weights, some tensors of [r, v]."""
    rows, size = room.sources * room.copies, 2 if precision == "bfloat16" else 4
    cached = 2 * len(policy.decoder) * policy.width * (rows * room.length + room.sources * room.source_length)
    weights = sum(weight.numel() for weight in policy.parameters()) if size == 2 else 0
    return size * (cached + weights) + 4 * 4 * rows * policy.vocabulary_size


def has_static_step(policy: Transformer) -> bool:
    """Whether a step of this policy can be had: for float32 weights, where Triton is there."""
    return (
        policy.embedding.weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and policy.options.width // policy.options.heads % 2 == 0
        and _triton_is_there()
    )


@functools.cache
def _triton_is_there() -> bool:
    return importlib.util.find_spec("triton") is not None


def addresses(policy: nn.Module) -> tuple[int, ...]:
    """Where the parameters lie: a recorded step reads them there and nowhere else."""
    return tuple(weight.data_ptr() for weight in policy.parameters())
