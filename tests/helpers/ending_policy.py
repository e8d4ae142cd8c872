"""A small policy whose outputs end here and there, on a GPU where there is one."""

from __future__ import annotations

import torch

from guerdon.data.padded import Padded
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def policy_of(**options: object) -> Transformer:
    """A small one whose outputs end here and there."""
    torch.manual_seed(3)
    sizes = {"width": 12, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 16}
    given = {**sizes, "max_source": 40, "max_target": 40, **options}
    policy = Transformer(TransformerOptions(20, **given)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for weight in policy.parameters():
            weight.copy_(weight * 1.5 if weight.ndim > 1 else weight + 0.1 * torch.randn_like(weight))
    return policy.to(DEVICE)


def larger(positions: str) -> tuple[Transformer, Padded, torch.Tensor]:
    """One of a size that a GPU's kernels are made for, 70 sources, and limits."""
    torch.manual_seed(5)
    policy = Transformer(TransformerOptions(3000, 128, 4, 2, 3, 256, positions=positions)).to(DEVICE)  # type: ignore[arg-type]
    with torch.no_grad():
        policy.embedding.weight[policy.end_id] *= 3.0
    rows = [[5 + (7 * i + j) % 2000 for j in range(1 + i % 23)] for i in range(70)]
    return policy, Padded.from_lists(rows, 0, DEVICE), torch.arange(20, 90)
