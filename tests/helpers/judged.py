"""Judgements of the built-in corpus by a simulated judge, who prefers what was written to what was shuffled."""

from __future__ import annotations

import random

from guerdon.data.comparisons import Comparison, Rating
from guerdon.quickstart.corpus import build

EXAMPLES = [*next(iter(build(1)))][:60]


def shuffled(text: str, seed: int) -> str:
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def comparisons(aspect: str | None = None, count: int = 60) -> list[Comparison]:
    return [
        Comparison.of_pair(e.source, e.references[0], shuffled(e.references[0], i), weight=1 + i % 3, aspect=aspect)
        for i, e in enumerate(EXAMPLES[:count])
    ]


def rankings(count: int = 60) -> list[Comparison]:
    return [
        Comparison(e.source, (shuffled(e.references[0], i), e.references[0], "and " * (1 + i % 7)), (2, 1, 3))
        for i, e in enumerate(EXAMPLES[:count])
    ]


def ratings(count: int = 60) -> list[Rating]:
    return [
        Rating(e.source, text, score)
        for i, e in enumerate(EXAMPLES[:count])
        for text, score in ((e.references[0], 5.0), (shuffled(e.references[0], i), 3.0), ("and " * (1 + i % 5), 1.0))
    ]
