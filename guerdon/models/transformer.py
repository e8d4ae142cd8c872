"""guerdon's own encoder–decoder Transformer (Vaswani et al. 2017), as a policy.

Axes: b rows, s source positions, t target positions, m width of the model, v vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from guerdon.data.padded import Padded
from guerdon.models.attention import as_bias, rotations, sinusoids
from guerdon.models.cache import Layout, SelfCache
from guerdon.models.dropout import Dropout
from guerdon.models.evaluation import evaluate_logits
from guerdon.models.filled import Filled, spans
from guerdon.models.fused import project
from guerdon.models.integer import has_integers, no_integers
from guerdon.models.layers import DecoderLayer, EncoderLayer, Memory
from guerdon.models.options import END_ID, MASK_ID, PAD_ID, START_ID, TransformerOptions
from guerdon.models.packed import can_pack, fingerprint, kept, many_rows, pack, single_row
from guerdon.models.policy import Evaluation, Policy
from guerdon.models.precision import InferencePrecision, autocast
from guerdon.models.state import DecoderState, Parts
from guerdon.models.stepping import LayerStep


class Transformer(nn.Module):
    """An encoder–decoder Transformer with the members of `guerdon.models.policy.Policy`.

    ``forward(sources, targets)`` gives logits [b, t, v]; ``logits`` gives those of the positions that count only.

    Attributes:
        recompute: whether a layer's activations are computed again in the backward pass instead of kept (Chen et al. 2016,
            https://arxiv.org/abs/1604.06174): to the same bits, with dropout too.
    """

    parallel = True
    recompute = False
    allowed: Tensor
    disallowed_bias: Tensor
    sinusoid: Tensor

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.options = options
        self.vocabulary_size = options.vocabulary_size
        self.pad_id, self.start_id, self.end_id = PAD_ID, START_ID, END_ID
        self.max_source, self.max_target, self.width = options.max_source, options.max_target, options.width
        self.embedding = nn.Embedding(options.vocabulary_size, options.width)
        if not options.tied_embeddings:
            self.target_embedding = nn.Embedding(options.vocabulary_size, options.width)
            self.output = nn.Linear(options.width, options.vocabulary_size, bias=False)
        self._add_positions()
        self.encoder = nn.ModuleList([EncoderLayer(options) for _ in range(options.encoder_layers)])
        self.decoder = nn.ModuleList([DecoderLayer(options) for _ in range(options.decoder_layers)])
        final = nn.LayerNorm if options.norm == "pre" else nn.Identity
        self.encoder_norm, self.decoder_norm = final(options.width), final(options.width)
        self.dropout = Dropout(options.dropout)
        allowed = torch.ones(options.vocabulary_size, dtype=torch.bool)
        allowed[[PAD_ID, START_ID, MASK_ID]] = False
        self.register_buffer("allowed", allowed, persistent=False)
        bias = torch.zeros(options.vocabulary_size).masked_fill(~allowed, -torch.inf)
        self.register_buffer("disallowed_bias", bias, persistent=False)
        self.apply(self._initialise)

    def _add_positions(self) -> None:
        options = self.options
        longest = max(options.max_source, options.max_target)
        if options.positions == "learned":
            self.source_positions = nn.Embedding(options.max_source, options.width)
            self.target_positions = nn.Embedding(options.max_target, options.width)
        elif options.positions == "rotary":
            self.register_buffer("rotation", rotations(longest, options.width // options.heads), persistent=False)
        else:
            self.register_buffer("sinusoid", sinusoids(longest, options.width), persistent=False)

    def _initialise(self, module: nn.Module) -> None:
        """Glorot for matrices; embeddings of variance 1 / m, so that scaled by √m, and as tied logits, they have variance 1."""
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.options.width**-0.5)

    # --- encoder and decoder over whole sequences

    def encode(self, sources: Padded) -> tuple[Tensor, Tensor | None]:
        """The memory [b, s, m], and its mask [b, 1, 1, s] (None where no source is padded)."""
        return self._encode(sources, cast("list[EncoderLayer]", list(self.encoder)))

    def _encode(self, sources: Padded, layers: Sequence[EncoderLayer]) -> tuple[Tensor, Tensor | None]:
        filled = Filled.of(sources)
        hidden = self._embed(sources.ids, self.embedding, "source_positions", filled=filled)
        mask = None if bool((sources.lengths == sources.ids.shape[1]).all()) else sources.mask[:, None, None, :]
        rotation = self._rotation(0, sources.ids.shape[1])
        for layer in layers:
            hidden = self._through(layer, hidden, mask, rotation, filled)
        memory = self.encoder_norm(hidden)
        return memory if filled is None else filled.spread(memory), mask

    def decode(self, memory: Tensor, mask: Tensor | None, targets: Padded, rows: Tensor | None = None) -> Tensor:
        """Teacher forcing: the hidden state that predicts each target token, [b, t, m]; ``rows`` as in `logits`."""
        filled = Filled.of(targets)
        hidden = self._decode(memory, mask, targets, rows, filled)
        return hidden if filled is None else filled.spread(hidden)

    def _decode(
        self, memory: Tensor, mask: Tensor | None, targets: Padded, rows: Tensor | None, filled: Filled | None
    ) -> Tensor:
        """As `decode`; with ``filled``, [n, m]."""
        start = targets.ids.new_full((len(targets), 1), self.start_id)
        inputs = torch.cat([start, targets.ids[:, :-1]], dim=1)
        hidden = self._embed(inputs, self._target_embedding, "target_positions", filled=filled)
        rotation = self._rotation(0, inputs.shape[1])
        for layer in self.decoder_layers:
            of_source = Memory(*layer.cross.keys_values(memory), mask)
            seen = of_source if rows is None else of_source.select(rows)
            hidden = self._through(layer, hidden, seen, rotation, filled)
        return self.decoder_norm(hidden)

    def _through(self, layer: nn.Module, *given: Any) -> Tensor:
        found = checkpoint(layer, *given, use_reentrant=False) if self.recompute and torch.is_grad_enabled() else layer(*given)
        return cast(Tensor, found)

    def forward(self, sources: Padded, targets: Padded) -> Tensor:
        """The logits of every target position, [b, t, v]; disallowed tokens -inf."""
        return self._project(self.decode(*self.encode(sources), targets))

    def logits(self, sources: Padded, targets: Padded, rows: Tensor | None = None) -> Tensor:
        """See `guerdon.models.policy.Policy.logits`."""
        return self.hidden_and_logits(sources, targets, rows)[1]

    def hidden_and_logits(self, sources: Padded, targets: Padded, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See `guerdon.models.policy.Policy.hidden_and_logits`."""
        hidden = self.hidden(sources, targets, rows)
        return hidden, self._project(hidden)

    def hidden(self, sources: Padded, targets: Padded, rows: Tensor | None = None) -> Tensor:
        """The first half of `hidden_and_logits`: logits are its product with ``output_weight``, -inf where not ``allowed``."""
        filled = Filled.of(targets)
        hidden = self._decode(*self.encode(sources), targets, rows, filled)
        return hidden if filled is not None else hidden[targets.mask]

    def evaluate(
        self,
        sources: Padded,
        targets: Padded,
        anchor: Policy | None = None,
        temperature: float = 1.0,
        rows: Tensor | None = None,
        top_p: float = 1.0,
    ) -> Evaluation:
        """See `guerdon.models.policy.Policy.evaluate`."""
        with torch.no_grad():
            anchor_logits = None if anchor is None else anchor.logits(sources, targets, rows)
        return evaluate_logits(self.logits(sources, targets, rows), anchor_logits, targets, temperature, top_p)

    # --- one position at a time

    def start(self, sources: Padded, copies: int = 1, precision: InferencePrecision = "float32") -> tuple[DecoderState, Tensor]:
        """See `guerdon.models.policy.Policy.start`."""
        rows, head = len(sources) * copies, self.options.width // self.options.heads
        parts = self._parts(precision, rows)
        pairs = self._memory(sources, parts)
        caches = [SelfCache.empty(rows, self.options.heads, head, like=pairs[0][0]) for _ in self.decoder]
        even = bool((sources.lengths == sources.ids.shape[1]).all())
        bias = None if even else as_bias(sources.mask[:, None, None, :], pairs[0][0])
        layout = Layout.regular(len(sources), copies, sources.lengths.device)
        return DecoderState(0, caches, pairs, bias, layout, parts), sources.ids.new_full((rows,), self.start_id)

    def memory(self, sources: Padded, rows: int, precision: InferencePrecision) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of the sources for each decoder layer, each [s, h, n, d], as a decode of so many rows begins."""
        return self._memory(sources, self._parts(precision, rows))

    def _memory(self, sources: Padded, parts: Parts) -> list[tuple[Tensor, Tensor]]:
        """The same; like lengths are encoded together."""
        with autocast(self.embedding.weight.device, parts.autocast):
            return self._encoded(sources, parts)

    def _encoded(self, sources: Padded, parts: Parts) -> list[tuple[Tensor, Tensor]]:
        cuts = spans(sources.lengths) if sources.ids.device.type == "cpu" and not torch.is_grad_enabled() else ()
        if len(cuts) <= 1:
            memory, _ = self._encode(sources, parts.encoder)
            return [cross.keys_values(memory) for cross in parts.cross]
        whole: list[tuple[Tensor, Tensor]] = []
        for first, last, n in cuts:
            memory, _ = self._encode(Padded(sources.ids[first:last, :n], sources.lengths[first:last]), parts.encoder)
            pairs = [cross.keys_values(memory) for cross in parts.cross]
            if not whole:
                room = (len(sources), pairs[0][0].shape[1], sources.ids.shape[1], pairs[0][0].shape[3])
                whole = [(pair[0].new_zeros(room), pair[1].new_zeros(room)) for pair in pairs]
            for into, made in zip(whole, pairs, strict=True):
                for side in (0, 1):
                    into[side][first:last, :, :n] = made[side]
        return whole

    def step(self, state: DecoderState, tokens: Tensor) -> Tensor:
        """See `guerdon.models.policy.Policy.step`."""
        hidden = self.embed_next(tokens, state.position)
        rotation, parts = self._rotation(state.position, 1), state.parts
        state.begin_step()
        with autocast(tokens.device, parts.autocast):
            for layer, cache, pair in zip(parts.decoder, state.caches, state.memory, strict=True):
                hidden = layer(hidden, cache, pair, state.bias, state.layout, rotation)
            state.position += 1
            return parts.project(self.decoder_norm(hidden))

    def _parts(self, precision: InferencePrecision, rows: int) -> Parts:
        """What a decode that begins with so many rows computes with: packed layers where possible, else the model's own."""
        packs = can_pack(self.output_weight)
        if precision == "int8":
            if not (packs and has_integers()):
                raise no_integers()
        elif not packs:
            encoder, decoder = cast("list[EncoderLayer]", list(self.encoder)), self.decoder_layers
            cross = [layer.cross for layer in decoder]
            return Parts(encoder, cross, [LayerStep(layer) for layer in decoder], self._project, precision)
        key, weights = (precision, self.training), fingerprint(self)
        many = kept(self, key, lambda: self._packed(precision), weights)
        return many if rows != 1 else kept(self, (*key, "single"), lambda: self._single(many, precision), weights)

    def _packed(self, precision: InferencePrecision) -> Parts:
        encoder = cast("list[EncoderLayer]", pack(list(self.encoder), precision))
        decoder = cast("list[DecoderLayer]", pack(list(self.decoder), precision))
        project = many_rows(self.output_weight, self.disallowed_bias, precision)
        return Parts(encoder, [layer.cross for layer in decoder], [LayerStep(layer) for layer in decoder], project, "float32")

    def _single(self, many: Parts, precision: InferencePrecision) -> Parts:
        """The same with a decoder for one row."""
        decoder = cast("list[DecoderLayer]", pack(list(self.decoder), precision, single=True))
        project = single_row(self.output_weight, self.disallowed_bias, precision)
        return dataclasses.replace(many, decoder=[LayerStep(layer) for layer in decoder], project=project)

    # --- ends

    @property
    def decoder_layers(self) -> list[DecoderLayer]:
        """The decoder's layers."""
        return cast("list[DecoderLayer]", list(self.decoder))

    @property
    def _target_embedding(self) -> nn.Embedding:
        return self.embedding if self.options.tied_embeddings else self.target_embedding

    def _embed(self, ids: Tensor, table: nn.Embedding, learned: str, first: int = 0, filled: Filled | None = None) -> Tensor:
        """[b, length, m]; with ``filled``, [n, m]."""
        hidden = table(ids) * math.sqrt(self.options.width)
        if self.options.positions == "learned":
            hidden = hidden + getattr(self, learned).weight[first : first + ids.shape[1]]
        elif self.options.positions == "sinusoidal":
            hidden = hidden + self.get_buffer("sinusoid")[first : first + ids.shape[1]]
        return self.dropout(hidden if filled is None else filled.collect(hidden))

    def embed_next(self, tokens: Tensor, position: int | Tensor) -> Tensor:
        """What the decoder's first layer reads of tokens [r] at one position (an int), or at one each (int64 [r]): [r, m]."""
        hidden, scale = functional.embedding(tokens, self._target_embedding.weight), math.sqrt(self.options.width)
        kind = self.options.positions
        if kind == "rotary":
            return self.dropout(hidden * scale)
        table = self.target_positions.weight if kind == "learned" else self.sinusoid
        own = table.index_select(0, position) if isinstance(position, Tensor) else table[position]
        return self.dropout(torch.add(own, hidden, alpha=scale))

    def _rotation(self, first: int, length: int) -> Tensor | None:
        return self.get_buffer("rotation")[first : first + length] if self.options.positions == "rotary" else None

    @property
    def output_weight(self) -> Tensor:
        """[vocabulary, width]: what hidden states are multiplied by."""
        return self.embedding.weight if self.options.tied_embeddings else self.output.weight

    def _project(self, hidden: Tensor) -> Tensor:
        return project(hidden, self.output_weight, self.allowed)

    def describe(self) -> dict[str, object]:
        """The options as plain values, for ``config.json``."""
        return dataclasses.asdict(self.options)
