"""guerdon's Transformer as a model of transformers with the same weights, for whatever reads such models.

Three of theirs compute what it computes: Marian (norm after the sum, sinusoids), Pegasus (norm before, sinusoids) and
Blenderbot (norm before, learned positions). Marian and Pegasus write the sines in the first half of the columns and the
cosines in the second, guerdon in turns: the columns of the model's width are permuted, which changes nothing else, because
every matrix is permuted with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from guerdon.errors import CapabilityError, MissingExtraError
from guerdon.models.layers import DecoderLayer, EncoderLayer
from guerdon.models.options import IMPOSSIBLE
from guerdon.models.transformer import Transformer

_SHARED = "model.shared.weight"
_SINUSOIDS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
_KINDS = {
    ("post", "sinusoidal"): ("MarianConfig", "MarianMTModel"),
    ("pre", "sinusoidal"): ("PegasusConfig", "PegasusForConditionalGeneration"),
    ("pre", "learned"): ("BlenderbotConfig", "BlenderbotForConditionalGeneration"),
}


def as_huggingface(policy: Transformer) -> Any:
    """A model of transformers that gives every target the probability that ``policy`` gives it; float32, in evaluation mode.

    Sources end with the end token (2), outputs begin with the start token (1); padding is 0. Tokens that the policy never
    writes have the logit `~guerdon.models.options.IMPOSSIBLE`.

    Raises:
        CapabilityError: for a kind of Transformer that transformers has no model for.
        MissingExtraError: without transformers.
    """
    options = policy.options
    kind = _KINDS.get((options.norm, options.positions))
    if kind is None or options.activation == "swiglu":
        raise CapabilityError(
            f"transformers has no encoder–decoder with norm: {options.norm}, positions: {options.positions} and activation: "
            f"{options.activation}",
            where="model",
            cure="export to ctranslate2, or train with norm: pre, positions: sinusoidal and activation: relu or gelu",
        )
    try:
        import transformers
    except ImportError as error:
        raise MissingExtraError("transformers", "huggingface", "a model in Hugging Face's format") from error
    config, model = (getattr(transformers, name) for name in kind)
    theirs = model(config(**_configuration(policy))).float().eval()
    with torch.no_grad():
        _load(theirs, _weights(policy))
    return theirs


def _configuration(policy: Transformer) -> dict[str, Any]:
    options = policy.options
    same = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in (("attention_heads", options.heads), ("ffn_dim", options.feed_forward))
    }
    return {
        **same,
        "vocab_size": options.vocabulary_size,
        "d_model": options.width,
        "encoder_layers": options.encoder_layers,
        "decoder_layers": options.decoder_layers,
        "max_position_embeddings": max(options.max_source, options.max_target),
        "activation_function": options.activation,
        "dropout": options.dropout,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "scale_embedding": True,
        "tie_word_embeddings": options.tied_embeddings,
        "share_encoder_decoder_embeddings": options.tied_embeddings,
        "pad_token_id": policy.pad_id,
        "bos_token_id": policy.start_id,
        "decoder_start_token_id": policy.start_id,
        "eos_token_id": policy.end_id,
        "forced_eos_token_id": None,
    }


def _load(theirs: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Fills everything but the sinusoids, which the model writes itself."""
    given = {name: weight for name, weight in weights.items() if name != _SHARED or name in theirs.state_dict()}
    found = theirs.load_state_dict(given, strict=False)
    if found.unexpected_keys or not set(found.missing_keys) <= set(_SINUSOIDS):
        raise CapabilityError(
            f"its {type(theirs).__name__} has other weights: {sorted(found.unexpected_keys + found.missing_keys)}",
            where="transformers",
            cure="install a release that guerdon's constraints name",
        )


def _weights(policy: Transformer) -> dict[str, Tensor]:
    """All weights under their names."""
    options = policy.options
    columns = torch.arange(options.width)
    if options.positions == "sinusoidal":
        columns = torch.cat([columns[0::2], columns[1::2]])
    tied, source = options.tied_embeddings, policy.embedding.weight[:, columns]
    weights = {
        _SHARED: source,
        "model.encoder.embed_tokens.weight": source,
        "model.decoder.embed_tokens.weight": source if tied else policy.target_embedding.weight[:, columns],
        "lm_head.weight": source if tied else policy.output.weight[:, columns],
        "final_logits_bias": torch.zeros(1, options.vocabulary_size).masked_fill(~policy.allowed.cpu(), IMPOSSIBLE),
    }
    for side in ("encoder", "decoder"):
        for number, layer in enumerate(getattr(policy, side)):
            weights |= {f"model.{side}.layers.{number}.{name}": tensor for name, tensor in _layer(layer, columns).items()}
        norm = getattr(policy, f"{side}_norm")
        if isinstance(norm, nn.LayerNorm):
            weights |= {f"model.{side}.layer_norm.{name}": tensor for name, tensor in _rows(norm, columns).items()}
    if options.positions == "learned":
        longest = max(options.max_source, options.max_target)
        for side, table in (("encoder", policy.source_positions), ("decoder", policy.target_positions)):
            # theirs are of one length: what no source or output reaches is left at 0
            weights[f"model.{side}.embed_positions.weight"] = nn.functional.pad(
                table.weight, (0, 0, 0, longest - len(table.weight))
            )
    return weights


def _layer(layer: EncoderLayer | DecoderLayer, columns: Tensor) -> dict[str, Tensor]:
    """A layer's weights under their names within the layer; ``columns`` of the model's width, in their order."""
    found = {
        **_inner(layer.attention.project_in, columns, "self_attn", "q", "k", "v"),
        **_named("self_attn.out_proj", _rows(layer.attention.project_out, columns)),
        **_named("self_attn_layer_norm", _rows(layer.around_attention.norm, columns)),
        "fc1.weight": layer.feed_forward.project_in.weight[:, columns],
        "fc1.bias": layer.feed_forward.project_in.bias,
        **_named("fc2", _rows(layer.feed_forward.project_out, columns)),
        **_named("final_layer_norm", _rows(layer.around_feed_forward.norm, columns)),
    }
    if isinstance(layer, DecoderLayer):
        found |= _inner(layer.cross.project_query, columns, "encoder_attn", "q")
        found |= _inner(layer.cross.project_memory, columns, "encoder_attn", "k", "v")
        found |= _named("encoder_attn.out_proj", _rows(layer.cross.project_out, columns))
        found |= _named("encoder_attn_layer_norm", _rows(layer.around_cross.norm, columns))
    return found


def _inner(linear: nn.Linear, columns: Tensor, attention: str, *names: str) -> dict[str, Tensor]:
    """The projections that one of ours joins, each under its name: they read the model's width, and write the heads'."""
    weights, biases = linear.weight[:, columns].chunk(len(names)), linear.bias.chunk(len(names))
    parts = zip(names, weights, biases, strict=True)
    return {f"{attention}.{name}_proj.{k}": v for name, weight, bias in parts for k, v in (("weight", weight), ("bias", bias))}


def _rows(module: nn.Linear | nn.LayerNorm, columns: Tensor) -> dict[str, Tensor]:
    """Weight and bias of what writes the model's width."""
    return {"weight": module.weight[columns], "bias": module.bias[columns]}


def _named(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{name}.{kind}": tensor for kind, tensor in tensors.items()}
