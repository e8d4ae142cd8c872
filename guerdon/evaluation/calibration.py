"""Whether σ of a reward's score differences are probabilities: temperature, calibration error, Brier score.

A pair gives one probability p = σ((r(chosen) − r(rejected)) / T) of what people chose. Seen without knowing what they chose,
it is a prediction with the confidence max(p, 1 − p) that is right where p > ½; that is what calibration is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guerdon.data.draws import generator
from guerdon.data.selection import folds_of
from guerdon.evaluation.folds import sums_by_source
from guerdon.metrics.base import FloatArray, MeanMetric
from guerdon.metrics.significance import Interval, bootstrap_interval

_CHANCE_DRAWS = 1000
_RANGE = (-8.0, 12.0)  # of log T, in units of the margins' own size


@dataclass(frozen=True)
class Bin:
    """The predictions of one bin of a reliability plot.

    Attributes:
        pairs: in it.
        confidence: their mean.
        right: the share of them that is right.
    """

    pairs: int
    confidence: float
    right: float


@dataclass(frozen=True)
class Calibration:
    """How far confidence can be taken at its word.

    Attributes:
        pairs: measured on.
        temperature: T; the mean over folds where each has its own.
        ece: expected calibration error: the mean over bins of abs(share right − mean confidence), weighted by their pairs
            (Naeini et al. 2015), with bins of equal mass (Nguyen and O'Connor 2015). Never 0 for finite n, and larger still in
            resamples: its interval is that of the bootstrap less the bootstrap's own bias.
        ece_by_chance: what a reward that is calibrated perfectly, with these confidences, has on average over draws of labels.
        brier: mean of (1 − p)².
        bins: in order of confidence.
    """

    pairs: int
    temperature: float
    ece: Interval
    ece_by_chance: float
    brier: Interval
    bins: tuple[Bin, ...]


def probabilities(margins: FloatArray, temperature: FloatArray | float = 1.0) -> FloatArray:
    """σ(margin / T), [n]."""
    from scipy.special import expit  # type: ignore[import-untyped]

    return np.asarray(expit(margins / temperature), dtype=np.float64)


def log_loss(margins: FloatArray, temperature: float = 1.0) -> float:
    """Mean of −log σ(margin / T)."""
    return float(np.logaddexp(0.0, -margins / temperature).mean())


def fitted_temperature(margins: FloatArray) -> float:
    """The T that minimises the log loss (Guo et al. 2017, section 4.2), of margins r(chosen) − r(rejected), [n].

    The loss is convex in 1/T. Of margins that are mostly negative, the best T is as large as can be, and p near ½; of margins
    that are never negative, as small as can be, and p near 1: T keeps within e^−8 and e^12 of the margins' root mean square.
    """
    from scipy.optimize import minimize_scalar  # type: ignore[import-untyped]

    size = float(np.sqrt(np.mean(margins**2)))
    if not size:
        return 1.0
    found = minimize_scalar(lambda log: log_loss(margins / size, float(np.exp(log))), bounds=_RANGE, method="bounded")
    return size * float(np.exp(found.x))


def cross_fitted(margins: FloatArray, sources: Sequence[str], folds: int, seed: int) -> FloatArray:
    """For each pair the temperature fitted on the pairs of the other folds of sources, [n]; raises as `folds_of`."""
    fold = folds_of(sources, folds, seed)
    fitted = np.array([fitted_temperature(margins[fold != number]) for number in range(folds)])
    return np.asarray(fitted[fold], dtype=np.float64)


def calibration(
    margins: FloatArray, temperature: FloatArray, sources: Sequence[str], bins: int, resamples: int, seed: int
) -> Calibration:
    """How well σ(margins / T) is calibrated.

    Args:
        margins: r(chosen) − r(rejected), [n].
        temperature: of each pair, [n]; fitted on other pairs.
        sources: of the pairs, which are what is resampled.
        bins: at most; fewer where there are fewer pairs.
        resamples, seed: of the intervals and of the draws of chance.
    """
    chances = probabilities(margins, temperature)
    confidence = np.maximum(chances, 1 - chances)
    right = (1 + np.sign(margins)) / 2
    places = equal_mass(confidence, bins)
    brier = MeanMetric("brier", higher_is_better=False)
    squares = sums_by_source(sources, brier.statistics_of(((1 - chances) ** 2).tolist()))
    return Calibration(
        len(margins),
        float(np.mean(temperature)),
        error_interval(_bin_sums(right - confidence, places, sources), resamples, seed),
        chance_error(confidence, places, seed),
        bootstrap_interval(brier, squares, resamples, seed),
        tuple(_bin(places == number, confidence, right) for number in range(int(places.max()) + 1)),
    )


def equal_mass(values: FloatArray, bins: int) -> NDArray[np.int64]:
    """The bin of each value, [n]: bins in order, of as many values each up to one."""
    places = np.empty(len(values), dtype=np.int64)
    places[np.argsort(values, kind="stable")] = np.arange(len(values)) * min(bins, len(values)) // len(values)
    return places


def error_interval(sums: FloatArray, resamples: int, seed: int) -> Interval:
    """ECE = Σ_b abs(Σ right − confidence) / n of sums by source, [sources, bins + 1] with the number of pairs last.

    The percentiles of the bootstrap are moved by what its mean exceeds the value: noise adds to every absolute value.
    """
    n = len(sums)
    draws = generator(seed, "bootstrap", n).integers(n, size=(resamples, n))
    times = np.stack([np.bincount(row, minlength=n) for row in draws])
    value = float(np.abs(sums.sum(0)[:-1]).sum() / sums[:, -1].sum())
    resampled = np.abs((times @ sums)[:, :-1]).sum(1) / (times @ sums[:, -1])
    low, high = np.percentile(resampled, [2.5, 97.5]) - (resampled.mean() - value)
    return Interval(value, max(0.0, float(low)), float(high))


def chance_error(confidence: FloatArray, places: NDArray[np.int64], seed: int) -> float:
    """The mean ECE of predictions that are right exactly as often as their confidence says, over 1,000 draws."""
    draws = generator(seed, "calibration by chance", len(confidence)).random((_CHANCE_DRAWS, len(confidence)))
    excess = (draws < confidence) - confidence
    bins = np.eye(int(places.max()) + 1)[places]
    return float(np.abs(excess @ bins).sum(1).mean() / len(confidence))


def _bin_sums(excess: FloatArray, places: NDArray[np.int64], sources: Sequence[str]) -> FloatArray:
    in_bin = np.eye(int(places.max()) + 1)[places] * excess[:, None]
    return sums_by_source(sources, np.concatenate([in_bin, np.ones((len(excess), 1))], axis=1))


def _bin(inside: NDArray[np.bool_], confidence: FloatArray, right: FloatArray) -> Bin:
    return Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
