"""Attention on a CPU: torch's fused kernel against two matrix products and a softmax, forward and backward, in one run.

    python benchmarks/attention.py

Prints milliseconds (median of the repetitions) and the ratio fused / plain for the shapes of `recipes/e2e.yaml`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from guerdon.models.attention import attend

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None, bool], Tensor]


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    return scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)


def milliseconds(attention: Attention, dtype: torch.dtype, queries: int, keys: int, causal: bool, repetitions: int) -> float:
    torch.manual_seed(0)
    shapes = [(64, 4, queries, 64), (64, 4, keys, 64), (64, 4, keys, 64)]
    inputs = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    mask = None if causal else (torch.arange(keys) < torch.randint(keys // 2, keys + 1, (64, 1)))[:, None, None, :]
    taken = []
    for _ in range(repetitions + 3):
        began = time.perf_counter()
        attention(*inputs, mask, causal).sum().backward()
        taken.append(1000 * (time.perf_counter() - began))
    return statistics.median(taken[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=20)
    repetitions = parser.parse_args().repetitions
    for dtype in (torch.float32, torch.bfloat16):
        for name, shape in {"encoder": (36, 36, False), "decoder": (28, 28, True), "cross": (28, 36, False)}.items():
            one, other = (milliseconds(attention, dtype, *shape, repetitions) for attention in (fused, attend))
            row = {"dtype": str(dtype), "attention": name, "fused_ms": round(one, 2), "plain_ms": round(other, 2)}
            print(json.dumps({**row, "fused/plain": round(one / other, 2)}))


if __name__ == "__main__":
    main()
