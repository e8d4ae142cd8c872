"""A tiny policy, examples and a reward for reinforcement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from guerdon.data.records import Example
from guerdon.data.tokenizer import Tokenizer
from guerdon.generator import Generator
from guerdon.models.transformer import Transformer, TransformerOptions
from guerdon.rewards.function import FunctionReward

WORDS = ("red", "blue", "pub", "cafe", "near", "river", "old", "cheap")
EXAMPLES = [Example(f"{a} {b} {c}", [f"{c} {a}"]) for a in WORDS[:4] for b in WORDS[2:6] for c in WORDS[5:7]]


def count_e(sources: Sequence[str], outputs: Sequence[str], references: Any = None) -> list[float]:
    """Whole numbers, so that float32 rewards are exact."""
    return [float(output.count("e") * 4 + output.count(" ") * 2 - len(output)) for output in outputs]


REWARD = FunctionReward(count_e, name="wanted", scores_prefixes=True)


def generator(double: bool = True) -> Generator:
    tokenizer = Tokenizer.train([e.source for e in EXAMPLES] * 3, 280)
    torch.manual_seed(3)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 32, dropout=0.1, max_source=32, max_target=16)
    policy = Transformer(options).eval()
    return Generator(policy.double() if double else policy, tokenizer)
