"""What a metric is: sufficient statistics per sentence, their sum, and a score of the sum.

Corpus scores such as BLEU are not means of sentence scores, but functions of sums over sentences. Keeping the two steps
apart gives the corpus score, the sentence score and any bootstrap resample from one pass over the texts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guerdon.errors import InputError

FloatArray = NDArray[np.float64]
References = Sequence[Sequence[str]]


class Measure(ABC):
    """Anything whose value over a corpus is a function of a sum over its samples.

    Attributes:
        name: under which its values are logged.
        label: as people write it.
        higher_is_better: the good direction; None for a description (length, ...) that has none.
    """

    name: str
    label: str
    higher_is_better: bool | None = True

    @abstractmethod
    def score(self, summed: Sequence[float]) -> float:
        """The corpus score of summed statistics, [k]."""

    def aggregate(self, summed: FloatArray) -> FloatArray:
        """The corpus score of each row of summed statistics: [k] gives a scalar array, [b, k] gives [b]."""
        if summed.ndim == 1:
            return np.asarray(self.score(summed.tolist()), dtype=np.float64)
        return np.fromiter((self.score(row) for row in summed.tolist()), dtype=np.float64, count=len(summed))


class Metric(Measure):
    """A measure of output texts against their references."""

    @abstractmethod
    def sentence_statistics(self, output: str, references: Sequence[str]) -> Sequence[float]:
        """The sufficient statistics of one output, [k]."""

    def sentence_score(self, statistics: Sequence[float]) -> float:
        """The score of one output alone, from its statistics."""
        return self.score(statistics)

    def statistics(self, outputs: Sequence[str], references: References) -> FloatArray:
        """The sufficient statistics of every output, float64 [n, k].

        Raises:
            InputError: when there is no output, a list is not as long as the other, or an output has no reference.
        """
        return np.asarray(self._rows(outputs, references), dtype=np.float64)

    def corpus(self, outputs: Sequence[str], references: References) -> float:
        """The score of the whole corpus; raises as `statistics` does."""
        return float(self.aggregate(self.statistics(outputs, references).sum(0)))

    def sentence(self, outputs: Sequence[str], references: References) -> list[float]:
        """The score of each output by itself; raises as `statistics` does."""
        return [self.sentence_score(row) for row in self._rows(outputs, references)]

    def _rows(self, outputs: Sequence[str], references: References) -> list[Sequence[float]]:
        check_texts(self.name, outputs, references)
        return [self.sentence_statistics(*pair) for pair in zip(outputs, references, strict=True)]


def check_texts(name: str, outputs: Sequence[str], references: References) -> None:
    """Refuses what no reference metric can score.

    Raises:
        InputError: as said in `Metric.statistics`.
    """
    where = f"metric {name!r}"
    if not outputs:
        raise InputError("there is no output to score", where=where)
    if len(outputs) != len(references):
        raise InputError(f"{len(outputs)} outputs but {len(references)} lists of references", where=where)
    for row, given in enumerate(references):
        if isinstance(given, str):
            raise InputError(f"the references of sample {row} are one text", where=where, cure="give a list per output")
        if not given:
            raise InputError(
                f"sample {row} (output {outputs[row][:80]!r}) has no references",
                where=where,
                cure="give every record at least one reference, or choose a metric that needs none",
            )


class MeanMetric(Measure):
    """The mean of a number that each sample has: a reward, a length, a count of slot errors.

    Args:
        name: under which its values are logged.
        label: as people write it; the name where left out.
        higher_is_better: the good direction, or None.
    """

    def __init__(self, name: str, *, label: str | None = None, higher_is_better: bool | None = True) -> None:
        self.name, self.label, self.higher_is_better = name, label or name, higher_is_better

    def statistics_of(self, values: Sequence[float]) -> FloatArray:
        """The statistics (value, 1) of each sample, [n, 2].

        Raises:
            InputError: when there is no value, or one that is not finite.
        """
        numbers = np.asarray(values, dtype=np.float64)
        where = f"measure {self.name!r}"
        if not len(numbers):
            raise InputError("there is no value to average", where=where)
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise InputError(f"sample {row} has the value {numbers[row]}", where=where, cure="give a finite number per sample")
        return np.stack([numbers, np.ones_like(numbers)], axis=1)

    def score(self, summed: Sequence[float]) -> float:
        """The mean: the summed values over their number."""
        return summed[0] / summed[1]

    def aggregate(self, summed: FloatArray) -> FloatArray:
        """The mean of each row of summed statistics."""
        return np.asarray(summed[..., 0] / summed[..., 1], dtype=np.float64)
