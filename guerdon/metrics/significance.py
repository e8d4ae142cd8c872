"""What a test set can tell: intervals of a score, and of the difference between two systems on the same sources.

Scores that are functions of sums over samples are resampled (Koehn 2004, https://aclanthology.org/W04-3250); measures of
all outputs together, such as the number of types, by leaving one out. Both ask the same question: what would have come out
with other sources of the same kind? Neither says anything about other training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from guerdon.data.draws import generator
from guerdon.errors import ConfigurationError, InputError
from guerdon.metrics.base import FloatArray, Measure
from guerdon.metrics.diversity import Diversity

LEVEL = 0.95
_NORMAL_QUANTILE = 1.959963984540054  # of (1 + LEVEL) / 2
_DRAWS_AT_ONCE = 4_000_000  # numbers held in memory while resampling: 32 MB


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """The difference between two systems on the same sources, a − b.

    Attributes:
        difference: of the two scores on the whole test set.
        low: lower end of its 95% interval.
        high: upper end of its 95% interval.
        p: two-sided: how often, under no difference, one so far from zero would come out.
    """

    difference: float
    low: float
    high: float
    p: float


def check_resamples(count: int, where: str) -> None:
    """Refuses, as a `ConfigurationError` of the option ``where``, fewer than 100 resamples."""
    if count < 100:
        raise ConfigurationError(f"{count} resamples give no 95% interval", where=where, cure="give at least 100")


def bootstrap_interval(measure: Measure, statistics: FloatArray, samples: int = 1000, seed: int = 0) -> Interval:
    """The score of one system, with the 2.5 and 97.5 percentiles of its bootstrap distribution.

    Args:
        measure: turns summed statistics into a score.
        statistics: of each sample, [n, k].
        samples: resamples of n drawn with replacement.
        seed: of the draws; the same seed and n draw the same sources, whatever the measure.

    Raises:
        ConfigurationError: for fewer than 100 resamples, which give no percentile of 2.5.
    """
    scores = _resampled(measure, statistics, samples, seed)
    low, high = _percentiles(scores)
    return Interval(float(measure.aggregate(statistics.sum(0))), low, high)


def wilson_interval(successes: int, trials: int) -> Interval:
    """The share of successes with its score interval (Wilson 1927, Journal of the American Statistical Association 22:209).

    Its ends stay within 0 and 1, and it has a width where all trials came out alike, which resampling them has not.

    Raises:
        InputError: when there was no trial, or there are more successes than trials.
    """
    if not 0 <= successes <= trials or not trials:
        raise InputError(f"{successes} of {trials} is no share", where="interval", cure="count successes among trials")
    share, z = successes / trials, _NORMAL_QUANTILE
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    centre, scale = share + z * z / (2 * trials), 1 + z * z / trials
    low, high = (centre - spread) / scale, (centre + spread) / scale
    return Interval(share, low if successes else 0.0, high if successes < trials else 1.0)  # exact, where rounding is not


def paired_bootstrap(measure: Measure, a: FloatArray, b: FloatArray, samples: int = 1000, seed: int = 0) -> Comparison:
    """The difference a − b in score, every resample drawing the same sources for both systems (Koehn 2004, section 4).

    p is twice the smaller share of resampled differences on one side of zero (zero itself counted on both), so that it is
    below 0.05 where the interval excludes zero.

    Args:
        measure: turns summed statistics into a score.
        a: statistics of the first system, [n, k].
        b: statistics of the second on the same sources in the same order, [n, k].
        samples: resamples of n drawn with replacement.
        seed: of the draws.

    Raises:
        InputError: when the systems have different numbers of samples.
        ConfigurationError: for fewer than 100 resamples.
    """
    if len(a) != len(b):
        raise InputError(f"cannot pair {len(a)} samples with {len(b)}", where=f"measure {measure.name!r}")
    differences = _resampled(measure, a, samples, seed) - _resampled(measure, b, samples, seed)
    low, high = _percentiles(differences)
    tail = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    observed = float(measure.aggregate(a.sum(0))) - float(measure.aggregate(b.sum(0)))
    return Comparison(observed, low, high, min(1.0, 2 * (1 + tail) / (1 + samples)))


def jackknife_interval(measure: Diversity, outputs: Sequence[str]) -> Interval:
    """The value of a measure of all outputs together, ± 1.96 jackknife standard errors.

    By the inequality of Efron and Stein (1981, Annals of Statistics 9:586) the jackknife's variance is too large rather than
    too small, on average: the interval errs on the side of caution. Of one output alone the ends are infinitely far.
    """
    value = measure.value(outputs)
    half = _NORMAL_QUANTILE * _jackknife_error(measure.leave_one_out(outputs))
    return Interval(value, value - half, value + half)


def paired_jackknife(measure: Diversity, a: Sequence[str], b: Sequence[str]) -> Comparison:
    """The difference a − b of a measure of all outputs together, leaving out the same source for both.

    Raises:
        InputError: when the systems have different numbers of outputs.
    """
    if len(a) != len(b):
        raise InputError(f"cannot pair {len(a)} outputs with {len(b)}", where=f"measure {measure.name!r}")
    difference = measure.value(a) - measure.value(b)
    error = _jackknife_error(measure.leave_one_out(a) - measure.leave_one_out(b))
    half = _NORMAL_QUANTILE * error
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else float(difference == 0)
    return Comparison(difference, difference - half, difference + half, p)


def _jackknife_error(left_out: FloatArray) -> float:
    """sqrt((n − 1) / n · Σ (θ_i − mean θ)²) of the n leave-one-out values."""
    n = len(left_out)
    return math.sqrt((n - 1) * float(left_out.var())) if n > 1 else math.inf


def _resampled(measure: Measure, statistics: FloatArray, samples: int, seed: int) -> FloatArray:
    """The score of each resample, [samples]."""
    check_resamples(samples, "samples")
    n = len(statistics)
    draws = generator(seed, "bootstrap", n)
    rows = max(1, _DRAWS_AT_ONCE // n)
    scores = []
    for start in range(0, samples, rows):
        drawn = draws.integers(n, size=(min(rows, samples - start), n))
        drawn += n * np.arange(len(drawn))[:, None]
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        scores.append(measure.aggregate(times.astype(np.float64) @ statistics))
    return np.concatenate(scores)


def _percentiles(values: FloatArray) -> tuple[float, float]:
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
