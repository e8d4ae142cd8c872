"""Generators of tiny random Hugging Face models, which have no tokenizer of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from guerdon.generator import Generator
from guerdon.models.huggingface import HuggingFacePolicy


class Letters:
    """A text side for random Hugging Face models of 13 tokens, which have no tokenizer: each token is a letter."""

    def __init__(self, policy: Any) -> None:
        self.policy = policy
        self.ids = [i for i in range(13) if bool(policy.allowed[i]) and i != policy.end_id]

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*row, self.policy.end_id] for row in self.encode_prefixes(texts)]

    def encode_targets(self, texts: Sequence[str]) -> list[list[int]]:
        return self.encode_sources(texts)

    def encode_prefixes(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.ids[ord(letter) % len(self.ids)] for letter in text] for text in texts]

    def decode_batch(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return ["".join(chr(ord("a") + i) for i in row) for row in rows]

    def save(self, folder: Path) -> None:
        raise AssertionError("not asked for here")


def huggingface(make: Callable[[], Any]) -> Generator:
    policy = HuggingFacePolicy(make(), max_source=24, max_target=10)
    return Generator(policy.eval(), Letters(policy))
