"""chrF and chrF++ (Popović 2015, https://aclanthology.org/W15-3049; 2017, W17-4770), equal to sacrebleu to the last bit."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from guerdon.errors import ConfigurationError
from guerdon.metrics.base import FloatArray, Metric, References, check_texts
from guerdon.metrics.cache import ReferenceCache

CHARACTER_ORDER = 6
BETA = 2
_PUNCTUATION = frozenset(string.punctuation)


@dataclass(frozen=True)
class _Prepared:
    """The n-grams of one source's references, counted side by side: one look-up serves them all.

    Attributes:
        row: the row of each n-gram in `counts`.
        order: which order of n-grams a row belongs to, counted from 0, [n-grams].
        counts: how often each reference has it, [n-grams, references].
        totals: n-grams of each order in each reference, [references, orders].
    """

    row: dict[str, int]
    order: NDArray[np.int64]
    counts: NDArray[np.int32]
    totals: FloatArray


class Chrf(Metric):
    """chrF (character 6-grams, β = 2), or chrF++ with word 1- and 2-grams as well.

    Statistics: for each order the n-grams of the output, of the reference with the best F, and those matched.

    Args:
        word_order: 0 for chrF, 2 for chrF++.
        lowercase: score lower-cased texts.

    Raises:
        ConfigurationError: for another word order.
    """

    higher_is_better = True

    def __init__(self, word_order: int = 0, lowercase: bool = False) -> None:
        if word_order not in (0, 2):
            raise ConfigurationError(
                f"chrF with word n-grams up to {word_order} has no name",
                where="Chrf.word_order",
                cure="take 0 (chrF) or 2 (chrF++)",
            )
        self.word_order, self.lowercase = word_order, lowercase
        self.name, self.label = ("chrf++", "chrF++") if word_order else ("chrf", "chrF")
        self._cache: ReferenceCache[_Prepared] = ReferenceCache()

    def sentence_statistics(self, output: str, references: Sequence[str]) -> list[float]:
        """[3 · orders]: n-grams of the output, of the best reference, matched; order by order."""
        triples = self._triples(output, references)
        best: list[float] = triples[int(np.argmax(_f_score(triples)))].ravel().tolist()
        return best

    def score(self, summed: Sequence[float]) -> float:
        """The F-score of summed statistics, 0 to 100; precision and recall are means over the orders that both sides have."""
        return float(_f_score(np.asarray(summed, dtype=np.float64).reshape(-1, 3)))

    def aggregate(self, summed: FloatArray) -> FloatArray:
        """The F-score of each row of summed statistics."""
        return _f_score(summed.reshape(*summed.shape[:-1], -1, 3))

    def sentence(self, outputs: Sequence[str], references: References) -> list[float]:
        """The score of each output by itself; raises as `statistics` does."""
        check_texts(self.name, outputs, references)
        # all pairs of an output and a reference in one array: the cost of numpy is per call
        groups = [self._triples(*pair) for pair in zip(outputs, references, strict=True)]
        scores = _f_score(np.concatenate(groups))
        starts = np.cumsum([0, *(len(group) for group in groups[:-1])])
        best: list[float] = np.maximum.reduceat(scores, starts).tolist()
        return best

    def _triples(self, output: str, references: Sequence[str]) -> FloatArray:
        """[references, orders, 3]: n-grams of the output, of the reference, matched."""
        prepared = self._cache.get(references, self._prepare)
        orders = self._ngrams(output)
        triples = np.zeros((len(references), len(orders), 3))
        triples[:, :, 0] = np.where(prepared.totals > 0, [len(ngrams) for ngrams in orders], 0)
        triples[:, :, 1] = prepared.totals
        counted = Counter(chain.from_iterable(orders)).items()
        found = [(row, count) for ngram, count in counted if (row := prepared.row.get(ngram)) is not None]
        if found:
            rows, counts = np.array(found).T
            running = np.cumsum(np.minimum(prepared.counts[rows], counts[:, None]), axis=0)
            # a counter keeps the order of its keys, so that each order of n-grams is one run of rows
            ends = np.searchsorted(prepared.order[rows], np.arange(len(orders)), side="right")
            triples[:, :, 2] = np.diff(np.pad(running, ((1, 0), (0, 0)))[ends], axis=0, prepend=0).T
        return triples

    def _prepare(self, references: tuple[str, ...]) -> tuple[_Prepared, int]:
        row: dict[str, int] = {}
        split = [self._ngrams(text) for text in references]
        rows = [[row.setdefault(ngram, len(row)) for ngram in chain.from_iterable(orders)] for orders in split]
        order = np.array([_order(ngram) for ngram in row], dtype=np.int64)
        counts = np.stack([np.bincount(found, minlength=len(row)) for found in rows], axis=1).astype(np.int32)
        totals = np.array([[len(ngrams) for ngrams in orders] for orders in split], dtype=np.float64)
        return _Prepared(row, order, counts, totals), len(row) * (1 + len(references) // 32)

    def _ngrams(self, text: str) -> list[list[str]]:
        """The n-grams of a text, order by order: characters without white space, then words (marked by a leading space)."""
        text = text.lower() if self.lowercase else text
        joined = "".join(text.split())
        orders = [[joined[i : i + n] for i in range(len(joined) - n + 1)] for n in range(1, CHARACTER_ORDER + 1)]
        if self.word_order:
            words = _split_punctuation(text)
            for n in range(1, self.word_order + 1):
                orders.append([" " + " ".join(words[i : i + n]) for i in range(len(words) - n + 1)])
        return orders


def _order(ngram: str) -> int:
    """Which of the orders, counted from 0, an n-gram made by `Chrf._ngrams` belongs to."""
    return CHARACTER_ORDER - 1 + ngram.count(" ") if ngram.startswith(" ") else len(ngram) - 1


def _split_punctuation(text: str) -> list[str]:
    """Words, with one punctuation mark taken off the end or, failing that, off the beginning, as chrF++ does."""
    words: list[str] = []
    for word in text.split():
        if len(word) > 1 and word[-1] in _PUNCTUATION:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in _PUNCTUATION:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    return words


def _f_score(triples: FloatArray) -> FloatArray:
    """[..., orders, 3] to [...]: the F-score, 0 to 100, of averaged precision and recall."""
    in_output, in_reference, matched = np.moveaxis(triples, -1, 0)
    both = (in_output > 0) & (in_reference > 0)
    precisions = np.divide(matched, in_output, out=np.zeros_like(matched), where=both)
    recalls = np.divide(matched, in_reference, out=np.zeros_like(matched), where=both)
    orders = np.maximum(both.sum(-1), 1)
    precision, recall = _ordered_sum(precisions) / orders, _ordered_sum(recalls) / orders
    weighted = BETA**2 * precision + recall
    scores = np.divide((1 + BETA**2) * precision * recall, weighted, out=np.zeros_like(weighted), where=weighted > 0)
    return np.asarray(100 * scores)


def _ordered_sum(values: FloatArray) -> FloatArray:
    """The sum over the last axis from left to right, so that it rounds as a loop does (numpy's own sum may not)."""
    total = np.zeros(values.shape[:-1])
    for column in range(values.shape[-1]):
        total = total + values[..., column]
    return total
