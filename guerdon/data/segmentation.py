"""BPE-dropout: at each epoch words are cut into other subwords (Provilkov et al. 2020, https://aclanthology.org/2020.acl-main.170).

A model that always sees a word as the same pieces learns nothing about what they are made of; with few pairs that costs most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from guerdon.data import draws
from guerdon.data.tokenizer import Tokenizer

_COPIES = 8  # a frequent word's occurrences in an epoch share so many segmentations; each is drawn as the paper draws it


class Segmentations:
    """Segmentations of texts, other ones in each epoch; a pure function of (texts, seed, epoch), so that a run resumes.

    Args:
        tokenizer: whose merges are dropped.
        texts: all that will be asked for, by their numbers.
        dropout: probability that a possible merge is passed over, at each step of each word; in [0, 1].
        seed: of the run.
        purpose: keeps the draws of several sets of texts apart.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Iterable[str], dropout: float, seed: int, purpose: str) -> None:
        self._merges, self._dropout, self._seed, self._purpose = Merges(tokenizer), dropout, seed, purpose
        numbers: dict[str, int] = {}
        rows = [[numbers.setdefault(word, len(numbers)) for word in tokenizer.words(text)] for text in texts]
        self._words, self._ends = list(numbers), np.cumsum([len(row) for row in rows])
        self._of_texts = np.array([number for row in rows for number in row], dtype=np.int64)
        self._copies = np.minimum(np.bincount(self._of_texts, minlength=len(numbers)), _COPIES)
        self._epoch = -1
        self._table: list[list[int]] = []
        self._chosen = self._of_texts

    def of(self, text: int, epoch: int) -> list[int]:
        """The ids of the text of this number in this epoch (from 0); no end token is added."""
        if epoch != self._epoch:
            self._draw(epoch)
        first = self._ends[text - 1] if text else 0
        return [piece for row in self._chosen[first : self._ends[text]].tolist() for piece in self._table[row]]

    def _draw(self, epoch: int) -> None:
        generator = draws.generator(self._seed, f"segmentations of {self._purpose}", epoch)
        uniforms = _uniforms(generator)
        pairs = zip(self._words, self._copies.tolist(), strict=True)
        self._table = [self._merges.apply(word, self._dropout, uniforms) for word, copies in pairs for _ in range(copies)]
        firsts, copies = np.cumsum(self._copies) - self._copies, self._copies[self._of_texts]
        self._chosen = firsts[self._of_texts] + generator.integers(copies)
        self._epoch = epoch


class Merges:
    """A tokenizer's merges, to be applied with some passed over."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._ids, merges = tokenizer.merges()
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}

    def apply(self, word: str, dropout: float, uniforms: Iterator[float]) -> list[int]:
        """The ids of a word's pieces, by the paper's algorithm 1: of the possible merges that stay, the first that was learned.

        Args:
            word: its bytes, each as a visible character, as `Tokenizer.words` gives it.
            dropout: 0 gives what the tokenizer gives, 1 bytes.
            uniforms: in [0, 1), one for each possible merge.
        """
        pieces, ranks = list(word), self._ranks
        while True:
            best, place = len(ranks), -1
            for here, pair in enumerate(pairwise(pieces)):
                rank = ranks.get(pair)
                if rank is not None and next(uniforms) >= dropout and rank < best:
                    best, place = rank, here
            if place < 0:
                return [self._ids[piece] for piece in pieces]
            pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]


def _uniforms(generator: np.random.Generator) -> Iterator[float]:
    while True:
        yield from generator.random(1 << 16).tolist()
