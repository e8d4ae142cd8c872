"""How varied and how long outputs are: measures of outputs alone, as a whole, which have no good direction by themselves."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from guerdon.errors import ConfigurationError, InputError
from guerdon.metrics.base import FloatArray, Metric

Splitter = Callable[[str], Sequence[str]]


class Length(Metric):
    """The mean number of words of an output. References are not read.

    Args:
        split: cuts a text into words; at white space where left out.
    """

    name, label, higher_is_better = "length", "words", None

    def __init__(self, split: Splitter = str.split) -> None:
        self.split = split

    def sentence_statistics(self, output: str, references: Sequence[str] = ()) -> list[float]:
        """[2]: the number of words, and 1."""
        return [len(self.split(output)), 1]

    def score(self, summed: Sequence[float]) -> float:
        """The mean over the outputs."""
        return summed[0] / summed[1]

    def _rows(self, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[Sequence[float]]:
        if not outputs:
            raise InputError("there is no output to measure", where=f"metric {self.name!r}")
        return [self.sentence_statistics(output) for output in outputs]


class Diversity:
    """A function of the n-gram counts of all outputs together.

    It is no sum over outputs, and a bootstrap would be biased (a resample repeats outputs, and so has fewer types); its
    interval comes from leaving each output out in turn (`guerdon.metrics.significance.jackknife_interval`).

    Attributes:
        name: under which its values are logged.
        label: as people write it.
        order: n.
        split: cuts a text into words.
    """

    name: str
    label: str
    higher_is_better: bool | None = None
    order: int = 1
    split: Splitter

    @abstractmethod
    def of_counts(self, types: FloatArray, tokens: FloatArray, weighted: FloatArray) -> FloatArray:
        """The measure from the number of types, of tokens (at least 1), and Σ c log2 c over the types' counts c."""

    def value(self, outputs: Sequence[str]) -> float:
        """The measure of all outputs; 0 where they have no n-gram.

        Raises:
            InputError: when there is no output.
        """
        return float(self._values(outputs)[0])

    def leave_one_out(self, outputs: Sequence[str]) -> FloatArray:
        """The measure of all outputs but one, for each one, [n]; raises as `value` does."""
        return self._values(outputs)[1:]

    def _values(self, outputs: Sequence[str]) -> FloatArray:
        """[1 + n]: of all outputs, then without each."""
        if not outputs:
            raise InputError("there is no output to measure", where=f"metric {self.name!r}")
        each = [Counter(ngrams(self.split(output), self.order)) for output in outputs]
        together: Counter[tuple[str, ...]] = Counter()
        for counts in each:
            together.update(counts)
        whole = np.array([len(together), together.total(), sum(map(_weighted, together.values()))], dtype=np.float64)
        without = [whole - _share(counts, together) for counts in each]
        types, tokens, weighted = np.stack([whole, *without], axis=1)
        return np.where(tokens > 0, self.of_counts(types, np.maximum(tokens, 1), weighted), 0.0)


class Distinct(Diversity):
    """Distinct n-grams over all n-grams, in percent (Li et al. 2016, https://aclanthology.org/N16-1014).

    Raises:
        ConfigurationError: when ``order`` is below 1.
    """

    def __init__(self, order: int, split: Splitter = str.split) -> None:
        if order < 1:
            raise ConfigurationError(f"there are no {order}-grams", where="Distinct.order", cure="take 1 or more")
        self.order, self.split = order, split
        self.name, self.label = f"distinct_{order}", f"distinct-{order}"

    def of_counts(self, types: FloatArray, tokens: FloatArray, weighted: FloatArray) -> FloatArray:
        """100 · types / tokens."""
        return 100 * types / tokens


class Types(Diversity):
    """The number of different words."""

    name, label = "types", "word types"

    def __init__(self, split: Splitter = str.split) -> None:
        self.split = split

    def of_counts(self, types: FloatArray, tokens: FloatArray, weighted: FloatArray) -> FloatArray:
        """The number of types."""
        return types


class WordEntropy(Diversity):
    """The entropy of the distribution of words over all outputs, in bits: H = log2 N − Σ c log2 c / N."""

    name, label = "word_entropy", "word entropy (bits)"

    def __init__(self, split: Splitter = str.split) -> None:
        self.split = split

    def of_counts(self, types: FloatArray, tokens: FloatArray, weighted: FloatArray) -> FloatArray:
        """The entropy in bits."""
        return np.asarray(np.log2(tokens) - weighted / tokens)


def ngrams(words: Sequence[str], order: int) -> zip[tuple[str, ...]]:
    """The n-grams of a list of words, in order."""
    return zip(*(words[start:] for start in range(order)), strict=False)


def _weighted(count: int) -> float:
    return count * math.log2(count) if count else 0.0


def _share(counts: Counter[tuple[str, ...]], together: Counter[tuple[str, ...]]) -> FloatArray:
    """What types, tokens and Σ c log2 c lose when one output is left out, [3]."""
    types = sum(together[ngram] == count for ngram, count in counts.items())
    weighted = sum(_weighted(together[ngram]) - _weighted(together[ngram] - count) for ngram, count in counts.items())
    return np.array([types, counts.total(), weighted], dtype=np.float64)
