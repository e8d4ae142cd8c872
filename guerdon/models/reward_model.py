"""A reward model: one score or several for an output, given its source.

Axes: n outputs, s source positions, t output positions, m width of the backbone, p pooled columns, h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.models.dropout import Dropout
from guerdon.models.options import PAD_ID, START_ID
from guerdon.models.reward_options import RewardModelOptions
from guerdon.models.reward_text import SURPRISALS, EncodedTexts, by_length
from guerdon.models.transformer import Transformer

_BATCH_TOKENS = 8192  # of a forward pass without gradients


@dataclass(frozen=True)
class RewardBatch:
    """Outputs of one forward pass.

    Attributes:
        sources: the distinct sources.
        rows: int64 [n], the source of each output.
        outputs: [n, t], end token included.
        ngrams: [n, features], buckets.
        measures: float [n, measured].
    """

    sources: Padded
    rows: Tensor
    outputs: Padded
    ngrams: Padded
    measures: Tensor

    @classmethod
    def of(cls, texts: EncodedTexts, rows: Sequence[int], pad: int = PAD_ID, device: torch.device | str = "cpu") -> RewardBatch:
        """The pairs named; a source that several outputs share stands once."""
        numbers: dict[tuple[int, ...], int] = {}
        of_source = [numbers.setdefault(tuple(texts.sources[row]), len(numbers)) for row in rows]
        return cls(
            Padded.from_lists(list(numbers), pad, device),
            torch.tensor(of_source, dtype=torch.int64, device=device),
            Padded.from_lists([texts.outputs[row] for row in rows], pad, device),
            Padded.from_lists([texts.ngrams[row] for row in rows], 0, device),
            texts.measures[list(rows)].to(device),
        )


class RewardModel(nn.Module):
    """Scores [n, h] of a `RewardBatch`.

    Args:
        options: what it is made of.
        backbone: a policy whose hidden states are pooled: a `Transformer` or a
            `~guerdon.models.huggingface.HuggingFacePolicy`; None for a linear model.
    """

    measure_mean: Tensor
    measure_scale: Tensor

    def __init__(self, options: RewardModelOptions, backbone: Any = None) -> None:
        super().__init__()
        self.options = options
        assert options.heads, "there is a score to give"
        assert (backbone is None) == (options.kind == "linear"), "every kind but the linear one has a backbone"
        if backbone is not None and options.kind == "encoder":
            backbone.decoder, backbone.decoder_norm = nn.ModuleList(), nn.Identity()
        self.backbone = backbone
        measured = len(SURPRISALS) if options.surprisal else 0
        self.register_buffer("measure_mean", torch.zeros(measured))
        self.register_buffer("measure_scale", torch.ones(measured))
        pooled = 0 if backbone is None else backbone.width * len(options.pooling)
        frozen = options.trunk == "frozen"
        self.norm = Scaled(pooled) if frozen else nn.LayerNorm(pooled) if pooled else nn.Identity()
        if frozen:
            backbone.requires_grad_(False)
        self.dropout = Dropout(options.dropout)
        width, inner = pooled + measured, options.hidden
        self.inner = nn.Linear(width, inner) if inner and width else None
        self.head = nn.Linear(inner if self.inner else width, len(options.heads)) if width else None
        self.wide = nn.Embedding(options.ngrams.buckets, len(options.heads)) if options.ngrams else None
        self._initialise()

    def _initialise(self) -> None:
        """Scores near 0 to begin with: at a difference of 0 a comparison teaches most."""
        if self.head is not None:
            nn.init.normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)
        if self.wide is not None:
            nn.init.zeros_(self.wide.weight)

    @property
    def pad_id(self) -> int:
        """What fills rectangles of ids."""
        return PAD_ID if self.backbone is None else int(self.backbone.pad_id)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def standardise(self, measures: Tensor) -> None:
        """Takes mean and spread of the training outputs' measures ([n, measured]), by which they are scaled from now on.

        A measure that is the same for all of them is left as large as it is: it has no spread to be scaled by.
        """
        spread = measures.std(0, correction=0)
        self.measure_mean.copy_(measures.mean(0))
        self.measure_scale.copy_(torch.where(spread > 1e-6, spread, 1.0))

    def train(self, mode: bool = True) -> RewardModel:
        """A frozen backbone draws no dropout in training either."""
        super().train(mode)
        if self.options.trunk == "frozen":
            self.backbone.eval()
        return self

    def features(self, batch: RewardBatch) -> Tensor:
        """What the heads read of each output, [n, p + measured]."""
        parts = [] if self.backbone is None else [self.norm(self.pooled(batch))]
        if len(self.measure_mean):
            measures = (batch.measures.to(self.measure_mean.dtype) - self.measure_mean) / self.measure_scale
            parts.append(measures * self.options.surprisal_gain)
        return torch.cat(parts, dim=-1) if parts else batch.measures.new_zeros(len(batch.rows), 0)

    def forward(self, batch: RewardBatch) -> Tensor:
        """The scores, [n, h]."""
        total = batch.measures.new_zeros(len(batch.rows), len(self.options.heads)).to(self._dtype)
        if self.head is not None:
            hidden = self.dropout(self.features(batch))
            if self.inner is not None:
                hidden = self.dropout(functional.gelu(self.inner(hidden)))
            total = total + self.head(hidden)
        return total if self.wide is None else total + self._of_ngrams(batch.ngrams, self.wide)

    @property
    def _dtype(self) -> torch.dtype:
        """At least float32, also under autocast."""
        return torch.promote_types(next(self.parameters()).dtype, torch.float32)

    def _of_ngrams(self, ngrams: Padded, wide: nn.Embedding) -> Tensor:
        """The sum of the features' weights, [n, h]."""
        options = self.options.ngrams
        assert options is not None, "there is a wide part only where there are n-grams"
        kept = ngrams.mask.to(wide.weight.dtype)
        if self.training and options.dropout:
            kept = functional.dropout(kept, options.dropout)
        return options.gain * functional.embedding_bag(ngrams.ids, wide.weight, mode="sum", per_sample_weights=kept)

    # --- hidden states and their pooling

    def pooled(self, batch: RewardBatch) -> Tensor:
        """[n, p]; only the output's own positions are seen."""
        hidden, mask = self._over_pair(batch) if self.options.kind == "encoder" else self._over_output(batch)
        return torch.cat([_POOLS[name](hidden, mask) for name in self.options.pooling], dim=-1)

    def _over_output(self, batch: RewardBatch) -> tuple[Tensor, Tensor]:
        """Hidden states [n, t, m] after start and each token of the output, and their mask."""
        outputs = batch.outputs
        if isinstance(self.backbone, Transformer):
            return self.backbone.decode(*self.backbone.encode(batch.sources), outputs, batch.rows), outputs.mask
        states = self.backbone.hidden_and_logits(batch.sources, outputs, batch.rows)[0]
        hidden = states.new_zeros(*outputs.mask.shape, states.shape[-1])
        return hidden.masked_scatter(outputs.mask[..., None], states), outputs.mask

    def _over_pair(self, batch: RewardBatch) -> tuple[Tensor, Tensor]:
        """Hidden states [n, s + t, m] of the encoder over source, start and output; the mask is True from start on."""
        sources, outputs = batch.sources.to_lists(), batch.outputs.to_lists()
        before = [sources[row] for row in batch.rows.tolist()]
        joint = [[*one, START_ID, *other[:-1]] for one, other in zip(before, outputs, strict=True)]
        rows = Padded.from_lists(joint, self.pad_id, batch.rows.device)
        first = torch.tensor([len(ids) for ids in before], device=batch.rows.device)
        hidden, _ = self.backbone.encode(rows)
        own = torch.arange(rows.ids.shape[1], device=first.device) >= first[:, None]
        return hidden, rows.mask & own


@torch.no_grad()
def read_texts(model: RewardModel, texts: EncodedTexts, read: Callable[[RewardBatch], Tensor]) -> Tensor:
    """``read`` of all texts, [n, columns], in batches of alike lengths; in float32 at least, on the CPU."""
    sizes = [max(len(ids), len(known)) for ids, known in zip(texts.outputs, texts.ngrams, strict=True)]
    found: Tensor | None = None
    for part in by_length(sizes, [len(ids) for ids in texts.sources], _BATCH_TOKENS):
        values = read(RewardBatch.of(texts, part, model.pad_id, model.device)).cpu()
        if found is None:
            found = torch.zeros(len(texts), values.shape[1], dtype=torch.promote_types(values.dtype, torch.float32))
        found[part] = values.to(found)
    return torch.zeros(0, 0) if found is None else found


class Scaled(nn.Module):
    """Columns less a mean, divided by a scale: those of the training outputs."""

    mean: Tensor
    scale: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))

    def fit(self, values: Tensor) -> None:
        """Takes mean and deviation of each column of ``values`` [n, columns]; a constant column is not scaled."""
        deviation = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.scale.copy_(torch.where(deviation > 1e-6, deviation, 1.0))

    def forward(self, values: Tensor) -> Tensor:
        """[n, columns] to the same."""
        return (values - self.mean) / self.scale


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    """The state of the last position that counts."""
    places = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(mask, places, -1).max(1).values
    return hidden[torch.arange(len(hidden), device=hidden.device), last]


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask[..., None], 0.0).sum(1) / mask.sum(1, keepdim=True)


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(~mask[..., None], -torch.inf).max(1).values


_POOLS = {"last": _last, "mean": _mean, "max": _max}
