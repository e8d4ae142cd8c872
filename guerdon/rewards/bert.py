"""The forward pass of a BERT that makes sentence vectors, without padding: for `guerdon.rewards.encoders.SentenceEncoder`.

Linear layers, norms and activations see the tokens of all texts as rows of one matrix; attention sees the texts of one length
at a time, so that no mask is needed. Queries, keys and values are one product, which rounds its input once.

Axes: n tokens of all texts, b texts of one length, t that length, h heads, d width of a head, m of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from guerdon.models.attention import attend, merge_heads, split_heads
from guerdon.models.integer import IntegerLinear
from guerdon.models.packed import PackedLinear, many_rows
from guerdon.models.precision import InferencePrecision

_Linear = PackedLinear | IntegerLinear


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
        order = torch.argsort(lengths, stable=True)
        ids, lengths = ids[order], lengths[order]
        within = torch.arange(ids.shape[1]) < lengths[:, None]
        place = within.nonzero()[:, 1]
        hidden = self.norm(self.words[ids[within]] + self.positions[place] + self.type)
        spans = list(_spans(lengths.tolist()))
        for layer in self.layers:
            joined, mixed = layer.joined(hidden), torch.empty_like(hidden)
            for first, last, length in spans:
                parts = joined[first:last].view(-1, length, joined.shape[1]).chunk(3, dim=-1)
                query, key, value = (split_heads(part, self.heads) for part in parts)
                mixed[first:last] = merge_heads(attend(query, key, value)).view(last - first, -1)
            hidden = layer.after_attention(layer.mixed.added(mixed, hidden))
            hidden = layer.after_feed_forward(layer.outer.added(layer.inner(hidden), hidden))
        means = torch.cat([hidden[first:last].view(-1, length, hidden.shape[1]).mean(1) for first, last, length in spans])
        vectors = torch.empty_like(means).index_copy_(0, order, means)
        return functional.normalize(vectors, dim=1) if self.unit else vectors


def _spans(lengths: list[int]) -> Iterator[tuple[int, int, int]]:
    """The first token, the one behind the last, and the length of the texts, for each run of texts of one length."""
    first, texts = 0, 0
    for place, length in enumerate(lengths):
        texts += 1
        if place + 1 == len(lengths) or lengths[place + 1] != length:
            yield first, first + texts * length, length
            first, texts = first + texts * length, 0


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
