"""BLEU (Papineni et al. 2002, https://aclanthology.org/P02-1040), equal to sacrebleu to the last bit."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from sacrebleu.metrics.bleu import BLEU

from guerdon.errors import ConfigurationError
from guerdon.metrics.base import Metric
from guerdon.metrics.cache import ReferenceCache

ORDER = 4
TOKENIZERS = ("13a", "intl", "zh", "char", "none")
_LOG_OF_ZERO = -9999999999.0  # sacrebleu's floor, so that exp() of it is 0

Ngram = tuple[str, ...]


class Bleu(Metric):
    """Corpus BLEU, and sentence BLEU with exponential smoothing and effective order.

    Statistics: output length, closest reference length, 4 counts of matched and 4 of all n-grams.

    Args:
        lowercase: score lower-cased texts.
        tokenize: sacrebleu's name of the tokenizer; those that need a download or another package are left out.

    Raises:
        ConfigurationError: for an unknown tokenizer.
    """

    name, label, higher_is_better = "bleu", "BLEU", True

    def __init__(self, lowercase: bool = False, tokenize: str = "13a") -> None:
        if tokenize not in TOKENIZERS:
            raise ConfigurationError(
                f"there is no BLEU tokenizer {tokenize!r}", where="Bleu.tokenize", cure=f"choose one of {', '.join(TOKENIZERS)}"
            )
        self.lowercase, self.tokenize = lowercase, tokenize
        self._tokenizer: Callable[[str], str] = BLEU(tokenize=tokenize).tokenizer
        self._cache: ReferenceCache[tuple[dict[Ngram, int], list[int]]] = ReferenceCache()

    def sentence_statistics(self, output: str, references: Sequence[str]) -> list[int]:
        """[10]: output length, closest reference length, matched n-grams (4), all n-grams (4)."""
        known, lengths = self._cache.get(references, self._prepare)
        words = self._words(output)
        matched = [
            sum(min(count, known[ngram]) for ngram, count in Counter(_ngrams(words, n)).items() if ngram in known)
            for n in range(1, ORDER + 1)
        ]
        closest = min(lengths, key=lambda length: (abs(length - len(words)), length))
        return [len(words), closest, *matched, *(max(0, len(words) - n) for n in range(ORDER))]

    def score(self, summed: Sequence[float]) -> float:
        """BLEU of summed statistics, 0 to 100, with exponential smoothing of orders without a match (sacrebleu's default)."""
        return _bleu(summed, effective_order=False)

    def sentence_score(self, statistics: Sequence[float]) -> float:
        """BLEU of one sentence, over the orders that it is long enough for."""
        return _bleu(statistics, effective_order=True)

    def _words(self, text: str) -> list[str]:
        text = text.lower() if self.lowercase else text
        return self._tokenizer(text.rstrip()).split()

    def _prepare(self, references: tuple[str, ...]) -> tuple[tuple[dict[Ngram, int], list[int]], int]:
        """The largest count of each n-gram in any one reference, and the references' lengths."""
        largest: dict[Ngram, int] = {}
        lengths = []
        for words in map(self._words, references):
            lengths.append(len(words))
            for n in range(1, ORDER + 1):
                for ngram, count in Counter(_ngrams(words, n)).items():
                    if count > largest.get(ngram, 0):
                        largest[ngram] = count
        return (largest, lengths), len(largest)


def _ngrams(words: list[str], n: int) -> zip[Ngram]:
    return zip(*(words[start:] for start in range(n)), strict=False)


def _bleu(statistics: Sequence[float], effective_order: bool) -> float:
    """Equation (3) of the paper with the smoothing "exp" of Chen and Cherry 2014 (https://aclanthology.org/W14-3346)."""
    length, reference_length = int(statistics[0]), int(statistics[1])
    matched, total = statistics[2 : 2 + ORDER], statistics[2 + ORDER :]
    if not any(matched):
        return 0.0
    brevity = math.exp(1 - reference_length / length) if length < reference_length else 1.0
    logs, halving = [], 1.0
    for hits, all_ngrams in zip(matched, total, strict=True):
        if not all_ngrams:
            break
        if hits:
            precision = 100.0 * hits / all_ngrams
        else:
            halving *= 2
            precision = 100.0 / (halving * all_ngrams)
        logs.append(math.log(precision))
    order = len(logs) if effective_order else ORDER
    logs += [_LOG_OF_ZERO] * (order - len(logs))
    return brevity * math.exp(sum(logs) / order)
