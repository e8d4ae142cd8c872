"""The whole model against models of transformers with the same weights.

Marian is post-norm with sinusoids, Pegasus pre-norm with sinusoids, Blenderbot pre-norm with learned positions. BART and MBart
cannot be mapped: they normalise the sum of embedding and position, which guerdon's Transformer does not.

Marian and Pegasus write the sines in the first half of the columns and the cosines in the second, guerdon in turns. The
columns of the model's width are therefore permuted, which changes nothing else: every matrix is permuted with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from guerdon.data.padded import Padded
from guerdon.models.transformer import Transformer, TransformerOptions

WIDTH, HEADS, INNER, VOCABULARY, LONGEST = 16, 4, 24, 13, 20
SHAPE = {
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS,
    "encoder_ffn_dim": INNER,
    "decoder_ffn_dim": INNER,
    "max_position_embeddings": LONGEST,
    "scale_embedding": True,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "forced_eos_token_id": None,
}
SOURCES = Padded.from_lists([[5, 6, 7, 8, 9, 2], [12, 2], [4, 4, 10, 2]])
TARGETS = Padded.from_lists([[7, 2], [8, 9, 10, 11, 12, 4, 2], [6, 5, 2]])
HALVES = torch.stack([torch.arange(WIDTH // 2), torch.arange(WIDTH // 2) + WIDTH // 2], dim=1).flatten()
SAME = torch.arange(WIDTH)


def marian(**settings: Any) -> nn.Module:
    from transformers import MarianConfig, MarianMTModel

    return MarianMTModel(MarianConfig(**SHAPE, **settings))


def pegasus(**settings: Any) -> nn.Module:
    from transformers import PegasusConfig, PegasusForConditionalGeneration

    return PegasusForConditionalGeneration(PegasusConfig(**SHAPE, **settings))


def blenderbot(**settings: Any) -> nn.Module:
    from transformers import BlenderbotConfig, BlenderbotForConditionalGeneration

    return BlenderbotForConditionalGeneration(BlenderbotConfig(**SHAPE, **settings))


MODELS: dict[str, tuple[Callable[..., nn.Module], str, str, Tensor]] = {
    "marian": (marian, "post", "sinusoidal", HALVES),
    "pegasus": (pegasus, "pre", "sinusoidal", HALVES),
    "blenderbot": (blenderbot, "pre", "learned", SAME),
}


def spread(model: nn.Module) -> None:
    """Every trained parameter drawn anew: no bias is 0, no norm the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4)


def layer_weights(theirs: nn.Module, columns: Tensor) -> dict[str, Tensor]:
    """One layer of theirs under our names; ``columns`` of the model's width, in our order."""

    def joined(attention: nn.Module, *names: str) -> dict[str, Tensor]:
        parts = [getattr(attention, f"{name}_proj") for name in names]
        return {"weight": torch.cat([p.weight[:, columns] for p in parts]), "bias": torch.cat([p.bias for p in parts])}

    def rows(linear: nn.Linear) -> dict[str, Tensor]:
        return {"weight": linear.weight[columns], "bias": linear.bias[columns]}

    def norm(layer_norm: nn.LayerNorm) -> dict[str, Tensor]:
        return {"weight": layer_norm.weight[columns], "bias": layer_norm.bias[columns]}

    parts = {
        "attention.project_in": joined(theirs.self_attn, "q", "k", "v"),
        "attention.project_out": rows(theirs.self_attn.out_proj),
        "around_attention.norm": norm(theirs.self_attn_layer_norm),
        "feed_forward.project_in": {"weight": theirs.fc1.weight[:, columns], "bias": theirs.fc1.bias},
        "feed_forward.project_out": rows(theirs.fc2),
        "around_feed_forward.norm": norm(theirs.final_layer_norm),
    }
    if hasattr(theirs, "encoder_attn"):
        parts["cross.project_query"] = joined(theirs.encoder_attn, "q")
        parts["cross.project_memory"] = joined(theirs.encoder_attn, "k", "v")
        parts["cross.project_out"] = rows(theirs.encoder_attn.out_proj)
        parts["around_cross.norm"] = norm(theirs.encoder_attn_layer_norm)
    return {f"{name}.{kind}": tensor for name, part in parts.items() for kind, tensor in part.items()}


def ours_from(theirs: nn.Module, norm: str, positions: str, columns: Tensor, activation: str, tied: bool) -> Transformer:
    options = TransformerOptions(
        VOCABULARY, WIDTH, HEADS, 2, 3, INNER, 0.0, positions, norm, activation, tied, max_source=LONGEST, max_target=LONGEST
    )
    model = theirs.model
    weights = {"embedding.weight": model.encoder.embed_tokens.weight[:, columns]}
    if not tied:
        weights["target_embedding.weight"] = model.decoder.embed_tokens.weight[:, columns]
        weights["output.weight"] = theirs.lm_head.weight[:, columns]
    for name, side in (("encoder", model.encoder), ("decoder", model.decoder)):
        for number, layer in enumerate(side.layers):
            weights |= {f"{name}.{number}.{key}": tensor for key, tensor in layer_weights(layer, columns).items()}
        if norm == "pre":
            weights |= {f"{name}_norm.{kind}": getattr(side.layer_norm, kind)[columns] for kind in ("weight", "bias")}
    if positions == "learned":
        weights["source_positions.weight"] = model.encoder.embed_positions.weight
        weights["target_positions.weight"] = model.decoder.embed_positions.weight
    ours = Transformer(options)
    ours.load_state_dict(weights)
    if positions == "sinusoidal":
        table = model.encoder.embed_positions.weight.detach()[:, columns]
        torch.testing.assert_close(ours.sinusoid, table, rtol=0, atol=1.2e-7)  # the last bit of float32 may differ
        ours.sinusoid.copy_(table)
    return ours.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("name", MODELS)
def test_memory_and_logits_are_theirs(name: str, activation: str, tied: bool) -> None:
    build, norm, positions, columns = MODELS[name]
    theirs = build(activation_function=activation, tie_word_embeddings=tied).eval()
    spread(theirs)
    ours = ours_from(theirs, norm, positions, columns, activation, tied)
    starts = torch.full((3, 1), 1)
    inputs = torch.cat([starts, TARGETS.ids[:, :-1]], dim=1)
    for dtype, tolerance in ((torch.float32, 2e-5), (torch.float64, 1e-10)):
        theirs, ours = theirs.to(dtype), ours.to(dtype)
        with torch.no_grad():
            expected = theirs(input_ids=SOURCES.ids, attention_mask=SOURCES.mask.long(), decoder_input_ids=inputs)
            memory, _ = ours.encode(SOURCES)
            found = ours.logits(SOURCES, TARGETS)
        encoded = expected.encoder_last_hidden_state[..., columns]
        torch.testing.assert_close(memory[SOURCES.mask], encoded[SOURCES.mask], rtol=tolerance, atol=tolerance)
        logits = expected.logits[TARGETS.mask][:, ours.allowed]
        assert logits.std() > 0.5
        torch.testing.assert_close(found[:, ours.allowed], logits, rtol=tolerance, atol=tolerance)
