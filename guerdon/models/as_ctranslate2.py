"""guerdon's Transformer as a model of CTranslate2 with the same weights, which runs without Python or torch.

`as_ctranslate2` makes what its library's converters make; `model_files` the files of such a model, in memory, in a few
milliseconds.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from guerdon.errors import MissingExtraError
from guerdon.models.attention import CrossAttention, SelfAttention
from guerdon.models.layers import DecoderLayer, EncoderLayer, FeedForward
from guerdon.models.options import IMPOSSIBLE
from guerdon.models.transformer import Transformer


def as_ctranslate2(policy: Transformer, tokens: Sequence[str]) -> Any:
    """A ``ctranslate2.specs.TransformerSpec`` that gives every target the probability that ``policy`` gives it.

    Sources end with the end token, and nothing is added to them; outputs begin with the start token, which is not theirs.
    Tokens that the policy never writes have the logit `~guerdon.models.options.IMPOSSIBLE`.

    Args:
        policy: of any kind.
        tokens: the name of each id.

    Raises:
        MissingExtraError: without ctranslate2.
    """
    spec = _spec(policy, tokens)
    from ctranslate2.specs.model_spec import visit_spec  # type: ignore[import-untyped]

    def own(part: Any, name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            setattr(part, name.rsplit("/", 1)[-1], value.numpy().copy())  # quantising writes into what it is given

    visit_spec(spec, own)
    return spec


def _spec(policy: Transformer, tokens: Sequence[str]) -> Any:
    """The spec of `as_ctranslate2`, of tensors that share the memory of the policy's where these are float32 on the CPU."""
    try:
        from ctranslate2.specs import common_spec, transformer_spec  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("ctranslate2", "ctranslate2", "a model in CTranslate2's format") from error
    options, kinds = policy.options, common_spec.Activation
    common = {
        "num_heads": options.heads,
        "pre_norm": options.norm == "pre",
        "activation": {"relu": kinds.RELU, "gelu": kinds.GELU, "swiglu": kinds.SWISH}[options.activation],
        "ffn_glu": options.activation == "swiglu",
        "rotary_dim": options.width // options.heads if options.positions == "rotary" else None,
        "rotary_interleave": True,
    }
    encoder = transformer_spec.TransformerEncoderSpec(options.encoder_layers, **common)
    decoder = transformer_spec.TransformerDecoderSpec(options.decoder_layers, **common)
    _fill_side(encoder, encoder.embeddings[0], policy.embedding, policy.encoder, policy.encoder_norm)
    tied = options.tied_embeddings
    target, output = (policy.embedding,) * 2 if tied else (policy.target_embedding, policy.output)
    _fill_side(decoder, decoder.embeddings, target, policy.decoder, policy.decoder_norm)
    decoder.projection.weight = _array(output.weight)
    decoder.projection.bias = _array(torch.where(policy.allowed, 0.0, IMPOSSIBLE))
    _fill_positions(policy, encoder, decoder)
    return _named(transformer_spec.TransformerSpec(encoder, decoder), policy, tokens)


def _named(spec: Any, policy: Transformer, tokens: Sequence[str]) -> Any:
    """The vocabulary; nothing is unknown to it, so that padding, which no text encodes to, stands for what would be."""
    spec.register_source_vocabulary(list(tokens))
    spec.register_target_vocabulary(list(tokens))
    pad, start, end = (tokens[token] for token in (policy.pad_id, policy.start_id, policy.end_id))
    spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = pad, start, end
    spec.config.decoder_start_token = start
    return spec


def _fill_positions(policy: Transformer, encoder: Any, decoder: Any) -> None:
    positions = policy.options.positions
    if positions == "sinusoidal":
        encoder.position_encodings.encodings = decoder.position_encodings.encodings = _array(policy.get_buffer("sinusoid"))
    elif positions == "learned":
        encoder.position_encodings.encodings = _array(policy.source_positions.weight)
        decoder.position_encodings.encodings = _array(policy.target_positions.weight)


def _fill_side(spec: Any, table: Any, embedding: nn.Embedding, layers: nn.ModuleList, norm: nn.Module) -> None:
    table.weight = _array(embedding.weight)
    if isinstance(norm, nn.LayerNorm):
        _fill_norm(spec.layer_norm, norm)
    for theirs, ours in zip(spec.layer, layers, strict=True):
        assert isinstance(ours, EncoderLayer | DecoderLayer)
        _fill_attention(theirs.self_attention, ours.attention, ours.around_attention.norm)
        if isinstance(ours, DecoderLayer):
            _fill_attention(theirs.attention, ours.cross, ours.around_cross.norm)
        _fill_feed_forward(theirs.ffn, ours.feed_forward, ours.around_feed_forward.norm)


def _fill_attention(spec: Any, attention: SelfAttention | CrossAttention, norm: nn.LayerNorm) -> None:
    inner = (
        [attention.project_in] if isinstance(attention, SelfAttention) else [attention.project_query, attention.project_memory]
    )
    for theirs, ours in zip(spec.linear, [*inner, attention.project_out], strict=True):
        _fill_linear(theirs, ours.weight, ours.bias)
    _fill_norm(spec.layer_norm, norm)


def _fill_feed_forward(spec: Any, feed_forward: FeedForward, norm: nn.LayerNorm) -> None:
    first = feed_forward.project_in
    if feed_forward.gated:
        (gate, value), (gate_bias, value_bias) = first.weight.chunk(2), first.bias.chunk(2)
        _fill_linear(spec.linear_0, gate, gate_bias)
        _fill_linear(spec.linear_0_noact, value, value_bias)
    else:
        _fill_linear(spec.linear_0, first.weight, first.bias)
    _fill_linear(spec.linear_1, feed_forward.project_out.weight, feed_forward.project_out.bias)
    _fill_norm(spec.layer_norm, norm)


def _fill_linear(spec: Any, weight: Tensor, bias: Tensor) -> None:
    spec.weight, spec.bias = _array(weight), _array(bias)


def _fill_norm(spec: Any, norm: nn.LayerNorm) -> None:
    spec.gamma, spec.beta = _array(norm.weight), _array(norm.bias)


def _array(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu().contiguous()


# --- in memory

_VERSION = 6  # of the layout that `_binary` writes; later releases of ctranslate2 read it too
_KINDS = ("float32", "int8", "int16", "int32", "float16", "bfloat16")


def model_files(policy: Transformer, tokens: Sequence[str], quantised: bool = False) -> dict[str, bytes]:
    """The files of `as_ctranslate2`'s model, for the argument ``files`` of ``ctranslate2.Translator``: name to content.

    They have the bytes of those that ctranslate2 saves, without a detour by the disk or by copies of the weights.

    Args:
        policy: of any kind; it is only read.
        tokens: the name of each id.
        quantised: int8 matrices, each row with a scale of its own, as ctranslate2 quantises; else float32.

    Raises:
        MissingExtraError: without ctranslate2.
    """
    spec = _spec(policy, tokens)
    spec.validate()
    return {
        "model.bin": _binary(spec, quantised),
        "config.json": json.dumps(spec.config.to_dict()).encode(),
        "shared_vocabulary.json": json.dumps(list(tokens)).encode(),
    }


def _binary(spec: Any, quantised: bool) -> bytes:
    """Header, variables by name, then the names that stand for another variable, which is the same tensor."""
    variables: dict[str, Any] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[int, ...], str] = {}
    for name, (value, can) in sorted(_values(spec).items()):
        same = first.setdefault((value.ctypes.data, *value.shape), name)
        if same != name and value.ndim:
            aliases[name] = same
        elif quantised and can:
            variables[name], variables[f"{name}_scale"] = _quantised(value)
        else:
            variables[name] = value
    parts: list[Any] = [struct.pack("I", _VERSION), _text(spec.name), struct.pack("II", spec.revision, len(variables))]
    for name, value in sorted(variables.items()):
        shape = struct.pack(f"=B{value.ndim}I", value.ndim, *value.shape)
        parts += [_text(name), shape, struct.pack("=BI", _KINDS.index(value.dtype.name), value.nbytes), value]
    parts += [struct.pack("I", len(aliases)), *(_text(alias) + _text(name) for alias, name in sorted(aliases.items()))]
    return b"".join(parts)


def _values(spec: Any) -> dict[str, tuple[Any, bool]]:
    """The arrays of a spec by name, and whether they may be quantised."""
    from ctranslate2.specs.model_spec import visit_spec

    found: dict[str, tuple[Any, bool]] = {}

    def take(part: Any, name: str, value: Any) -> None:
        if not isinstance(value, str):  # what stands for a variable that is not there
            found[name] = np.asarray(value.numpy()), hasattr(part, f"{name.rsplit('/', 1)[-1]}_scale")

    visit_spec(spec, take)
    return found


def _quantised(weight: Any) -> tuple[Any, Any]:
    """int8 of the weight's shape, and float32 [rows]: the largest of each row becomes 127."""
    largest = np.maximum(weight.max(1), -weight.min(1))
    largest[largest == 0] = 127
    scale = np.float32(127) / np.maximum(largest, np.float32(127) / np.finfo(np.float32).max)
    scaled = weight * scale[:, None]
    return np.rint(scaled, out=scaled).astype(np.int8), scale


def _text(text: str) -> bytes:
    content = text.encode() + b"\0"
    return struct.pack("H", len(content)) + content
