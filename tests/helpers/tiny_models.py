"""Tiny random encoder–decoder models of transformers, spread out enough that their distributions are far from uniform."""

from __future__ import annotations

from typing import Any

import torch


def tiny_t5(vocabulary: int = 13, seed: int = 0, **settings: Any) -> Any:
    """Relative positions, tied head. Ids: 0 pad and start, 1 end."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=4,
        d_ff=32,
        num_layers=2,
        num_decoder_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=6,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        **settings,
    )
    return _spread(T5ForConditionalGeneration, config, seed, 0.3)


def tiny_bart(vocabulary: int = 13, seed: int = 0, forced_first: int | None = 0, **settings: Any) -> Any:
    """Learned positions, a bias on the logits, a forced first token. Ids: 0 begin, 1 pad, 2 end and start."""
    from transformers import BartConfig, BartForConditionalGeneration

    settings = {"max_position_embeddings": 24, "forced_eos_token_id": None, **settings}
    config = BartConfig(
        vocab_size=vocabulary, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, **_SHAPE, **settings
    )
    model = _spread(BartForConditionalGeneration, config, seed, 0.5)
    model.generation_config.forced_bos_token_id = forced_first
    model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def tiny_marian(vocabulary: int = 13, seed: int = 0, **settings: Any) -> Any:
    """Sinusoidal positions. Ids: 0 end, the last pad and start."""
    from transformers import MarianConfig, MarianMTModel

    last = vocabulary - 1
    settings = {"max_position_embeddings": 24, "forced_eos_token_id": None, **settings}
    config = MarianConfig(
        vocab_size=vocabulary, pad_token_id=last, eos_token_id=0, decoder_start_token_id=last, **_SHAPE, **settings
    )
    return _spread(MarianMTModel, config, seed, 0.5)


_SHAPE = {
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}


def _spread(kind: Any, config: Any, seed: int, scale: float) -> Any:
    """Draws every matrix anew, and leaves the norms and the sinusoids."""
    model = kind(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dim() > 1:
                parameter.normal_(std=scale, generator=generator)
    return model


def in_float64(model: Any) -> Any:
    """The model in float64 throughout. T5's own norm takes its mean in float32 whatever it is given; torch's does not."""
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    for name, module in list(model.named_modules()):
        if isinstance(module, T5LayerNorm):
            norm = torch.nn.RMSNorm(len(module.weight), eps=module.variance_epsilon)
            norm.weight = module.weight
            model.set_submodule(name, norm)
    return model.double()
