"""The forward pass of a BERT that makes sentence vectors: for `guerdon.rewards.encoders.SentenceEncoder`.

Linear layers, norms and activations see the tokens of all texts as rows of one matrix; only attention sees padding. Queries,
keys and values are one product, which rounds its input once.

Axes: n tokens of all texts, b texts, t the length of the longest, h heads, d width of a head, m of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from guerdon.models.attention import as_bias, attend_next, merge_heads
from guerdon.models.integer import IntegerLinear
from guerdon.models.packed import PackedLinear, many_rows
from guerdon.models.precision import InferencePrecision

_Linear = PackedLinear | IntegerLinear
_BLOCK = 2**25 - 2**16  # bytes: the largest that glibc learns from is of 32 MB


@dataclass(frozen=True)
class _Layer:
    joined: _Linear
    mixed: _Linear
    inner: _Linear
    outer: _Linear
    after_attention: nn.LayerNorm
    after_feed_forward: nn.LayerNorm


class SentenceBert:
    """Texts as ids to their vectors: what a BERT, the mean over its last states, and a scaling to length 1 make of them.

    The weights are copies (`guerdon.models.packed`).

    Args:
        loaded: a model of sentence-transformers of which `reads` says that it is one.
        precision: of the matrix products.
    """

    def __init__(self, loaded: Any, precision: InferencePrecision) -> None:
        _keep_freed_memory()
        bert = loaded[0].auto_model
        self.heads, self.unit = bert.config.num_attention_heads, len(loaded) == 3
        embeddings = bert.embeddings
        self.words, self.positions = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
        self.type, self.norm = embeddings.token_type_embeddings.weight[0], embeddings.LayerNorm
        self.none = self.words.new_empty(0, self.words.shape[1])  # the vectors of no texts
        self.layers = [_layer(layer, precision) for layer in bert.encoder.layer]

    @torch.no_grad()
    def __call__(self, features: Mapping[str, Any]) -> Tensor:
        """float32 [texts, m], of what the model's own ``preprocess`` gives: ids and a mask, both [texts, longest]."""
        ids, lengths = features["input_ids"], features["attention_mask"].sum(1)
        shape = ids.shape
        within = torch.arange(shape[1]) < lengths[:, None]
        places = within.flatten().nonzero()[:, 0]
        hidden = self.norm(self.words[ids[within]] + self.positions[places % shape[1]] + self.type)
        bias = as_bias(within[:, None, None], hidden)
        padded = hidden.new_zeros(ids.numel(), 3 * hidden.shape[1])  # what is behind a text stays 0
        for layer in self.layers:
            padded.index_copy_(0, places, layer.joined(hidden))
            mixed = self._attended(padded.view(*shape, -1), bias).index_select(0, places)
            hidden = layer.after_attention(layer.mixed.added(mixed, hidden))
            hidden = layer.after_feed_forward(layer.outer.added(layer.inner(hidden), hidden))
        spread = hidden.new_zeros(ids.numel(), hidden.shape[1]).index_copy_(0, places, hidden)
        means = spread.view(*shape, -1).sum(1) / lengths[:, None]
        return functional.normalize(means, dim=1) if self.unit else means

    def _attended(self, joined: Tensor, bias: Tensor) -> Tensor:
        """[b * t, m], of queries, keys and values [b, t, 3m] and what is added to the scores, [b, 1, 1, t]."""
        parts = joined.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = parts
        return merge_heads(attend_next(query, key, value, bias)).flatten(0, 1)


def _keep_freed_memory() -> None:
    """Has glibc keep some freed memory (up to 64 MB, and as much for each thread) instead of giving it back at once.

    It sets out to give back all but 128 KB, and keeps twice the largest block below 32 MB that it has seen freed (mallopt(3),
    M_MMAP_THRESHOLD). What trains has freed such blocks; a process that does nothing but score has not, and gets a pass's
    tensors anew from the system, page by page, for up to a third of the time.
    """
    torch.empty(_BLOCK, dtype=torch.uint8)


def _layer(layer: Any, precision: InferencePrecision) -> _Layer:
    own, attention = layer.attention.self, layer.attention.output
    of_all = [own.query, own.key, own.value]
    weight, bias = torch.cat([one.weight for one in of_all]), torch.cat([one.bias for one in of_all])
    inner = _packed(layer.intermediate.dense, precision)
    inner.activation, inner.keeps = "gelu", True
    return _Layer(
        joined=many_rows(weight, bias, precision),
        mixed=_packed(attention.dense, precision),
        inner=inner,
        outer=_packed(layer.output.dense, precision),
        after_attention=attention.LayerNorm,
        after_feed_forward=layer.output.LayerNorm,
    )


def _packed(linear: nn.Linear, precision: InferencePrecision) -> _Linear:
    return many_rows(linear.weight, linear.bias, precision)


def reads(loaded: Any) -> bool:
    """Whether `SentenceBert` computes what this model of sentence-transformers does: a plain BERT, mean, length 1 or not."""
    kinds = [type(module).__name__ for module in loaded]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return False
    bert, pooling = loaded[0].auto_model, loaded[1].get_config_dict()
    config = getattr(bert, "config", None)
    return (
        type(bert).__name__ == "BertModel"
        and hasattr(loaded, "preprocess")
        and pooling.get("pooling_mode") == "mean"
        and pooling.get("include_prompt", True)
        and config is not None
        and config.hidden_act == "gelu"
        and not config.is_decoder
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and all(type(layer).__name__ == "BertLayer" for layer in bert.encoder.layer)
    )
