"""Tiny Transformers of guerdon in float64, spread out enough that their distributions are far from uniform."""

from __future__ import annotations

from typing import Any

import torch

from guerdon.data.padded import Padded
from guerdon.models.transformer import Transformer, TransformerOptions


def tiny_policy(vocabulary: int = 19, seed: int = 0, scale: float = 0.5, **options: Any) -> Transformer:
    """Without dropout unless asked for; in evaluation mode."""
    shape = {"width": 16, "heads": 2, "encoder_layers": 2, "decoder_layers": 2, "feed_forward": 24, "dropout": 0.0}
    chosen = TransformerOptions(vocabulary, **{**shape, "max_source": 24, "max_target": 80, **options})
    policy = Transformer(chosen).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * scale
            parameter.copy_(1 + drawn if "norm" in name and name.endswith("weight") else drawn)
    return policy


def random_rows(lengths: list[int], vocabulary: int = 19, seed: int = 0) -> Padded:
    """Rows of ordinary ids, of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return Padded.from_lists([torch.randint(4, vocabulary, (n,), generator=generator).tolist() for n in lengths])


def padded_further(rows: Padded, columns: int = 5, vocabulary: int = 19) -> Padded:
    """The same rows in a wider rectangle; what stands beyond a row's length is noise, which nobody may read."""
    generator = torch.Generator().manual_seed(99)
    ids = torch.randint(4, vocabulary, (len(rows), rows.ids.shape[1] + columns), generator=generator)
    ids[:, : rows.ids.shape[1]] = torch.where(rows.mask, rows.ids, ids[:, : rows.ids.shape[1]])
    return Padded(ids, rows.lengths)
