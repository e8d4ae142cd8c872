"""ROUGE-L (Lin 2004, https://aclanthology.org/W04-1013), equal to the package rouge-score without stemming."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from guerdon.metrics.base import Metric
from guerdon.metrics.cache import ReferenceCache

_WORD = re.compile(r"[a-z0-9]+")


def rouge_words(text: str) -> list[str]:
    """The words that ROUGE counts: runs of a-z and 0-9 of the lower-cased text. Other scripts have none, and score 0."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class _Prepared:
    """All references of a source in one row of bits, each in a block of its own followed by a guard bit.

    Attributes:
        positions: for each word, the bits where a reference has it.
        blocks: start and length of each reference's block.
        ones: every bit but the guards.
    """

    positions: dict[str, int]
    blocks: list[tuple[int, int]]
    ones: int


class RougeL(Metric):
    """F1 of the longest common subsequence of words, the best over the references; the corpus score is the mean, times 100.

    Statistics: the sentence's score, and 1.
    """

    name, label, higher_is_better = "rouge_l", "ROUGE-L", True

    def __init__(self) -> None:
        self._cache: ReferenceCache[_Prepared] = ReferenceCache()

    def sentence_statistics(self, output: str, references: Sequence[str]) -> list[float]:
        """[2]: the score of this sentence, 0 to 100, and 1."""
        prepared = self._cache.get(references, _prepare)
        words = rouge_words(output)
        remaining = _unmatched(words, prepared)
        scores = (
            _f1(length - (remaining >> start & (1 << length) - 1).bit_count(), len(words), length)
            for start, length in prepared.blocks
        )
        return [100 * max(scores), 1.0]

    def score(self, summed: Sequence[float]) -> float:
        """The mean over the sentences."""
        return summed[0] / summed[1]


def _prepare(references: tuple[str, ...]) -> tuple[_Prepared, int]:
    positions: dict[str, int] = {}
    blocks, ones, start = [], 0, 0
    for words in map(rouge_words, references):
        for offset, word in enumerate(words):
            positions[word] = positions.get(word, 0) | 1 << start + offset
        blocks.append((start, len(words)))
        ones |= (1 << len(words)) - 1 << start
        start += len(words) + 1
    return _Prepared(positions, blocks, ones), len(positions)


def _unmatched(words: list[str], prepared: _Prepared) -> int:
    """The bits of each block that its longest common subsequence with ``words`` leaves set.

    The bit-parallel recurrence of Hyyrö 2004 (Bit-parallel LCS-length computation revisited) for all references at once: the
    carry out of a block falls on its guard bit, and is wiped.
    """
    state = prepared.ones
    for word in words:
        match = state & prepared.positions.get(word, 0)
        state = (state + match | state - match) & prepared.ones
    return state


def _f1(common: int, output_length: int, reference_length: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / output_length, common / reference_length
    return 2 * precision * recall / (precision + recall)
