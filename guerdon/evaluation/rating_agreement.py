"""Correlations of scores with ratings, over the outputs of each source and over all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from guerdon.data.comparisons import Rating
from guerdon.data.draws import generator
from guerdon.data.records import Example
from guerdon.evaluation.audit_judging import judge_all
from guerdon.evaluation.audit_scores import Resampling
from guerdon.evaluation.judged_pairs import total_of
from guerdon.evaluation.reward_results import Correlation, RatingAgreement
from guerdon.metrics.base import FloatArray, MeanMetric
from guerdon.metrics.significance import Interval, bootstrap_interval
from guerdon.rewards.base import Judged, Reward
from guerdon.rewards.normalise import NormaliserOptions

RatingScale = Literal["annotator", "raw"]


def rated_outputs(ratings: Sequence[Rating], scale: RatingScale) -> dict[tuple[str, str], float]:
    """The mean rating of each (source, output).

    Args:
        ratings: at least one.
        scale: "annotator" takes of each rating its place among those of its annotator, in (0, 1), equal ones sharing theirs
            (what 80 means differs between people, and some scales are open); "raw" the number itself.
    """
    values = np.array([rating.score for rating in ratings], dtype=np.float64)
    if scale == "annotator":
        by_annotator: dict[str | None, list[int]] = {}
        for row, rating in enumerate(ratings):
            by_annotator.setdefault(rating.annotator, []).append(row)
        for rows in by_annotator.values():
            values[rows] = _places(values[rows])
    found: dict[tuple[str, str], list[float]] = {}
    for rating, value in zip(ratings, values.tolist(), strict=True):
        found.setdefault((rating.source, rating.output), []).append(value)
    return {output: sum(given) / len(given) for output, given in found.items()}


def rating_agreement(
    reward: Reward,
    ratings: Sequence[Rating],
    examples: Sequence[Example],
    scale: RatingScale,
    normalisation: NormaliserOptions,
    resampling: Resampling,
) -> RatingAgreement:
    """Scores of the rated outputs beside their mean ratings.

    Args:
        reward: any.
        ratings: at least one.
        examples: records of the same sources, for references and further fields.
        scale: see `rated_outputs`.
        normalisation: of a composed reward's parts.
        resampling: of the intervals.
    """
    rated = rated_outputs(ratings, scale)
    by_source = {example.source: example for example in examples}
    known = [output for output in rated if not reward.needs_references or output[0] in by_source]
    if not known:
        return RatingAgreement(len(ratings), 0, 0, len(rated), ())
    given = [by_source.get(source) for source, _ in known]
    judged = Judged.of(
        [source for source, _ in known],
        [output for _, output in known],
        [example.references if example else () for example in given],
        [example.meta if example else {} for example in given],
    )
    scores = total_of(judge_all(reward, judged), judged, normalisation)
    kept = np.flatnonzero(scores.applies)
    sources = [known[row][0] for row in kept]
    numbers = np.array([rated[known[row]] for row in kept], dtype=np.float64)
    found = correlations(scores.values[kept], numbers, sources, resampling) if len(kept) else ()
    return RatingAgreement(len(ratings), len(kept), len(set(sources)), len(rated) - len(kept), found)


def correlations(
    scores: FloatArray, ratings: FloatArray, sources: Sequence[str], resampling: Resampling
) -> tuple[Correlation, ...]:
    """Kendall's tau-b, Spearman's ρ and Pearson's r of scores and ratings, each [outputs]; sources are resampled."""
    return tuple(
        Correlation(
            name,
            _within(statistic, scores, ratings, sources, resampling),
            _pooled(statistic, scores, ratings, sources, resampling),
        )
        for name, statistic in _statistics().items()
    )


def correlation_of(name: str, scores: FloatArray, ratings: FloatArray) -> float | None:
    """One of "kendall", "spearman", "pearson"; None where either is constant."""
    return _correlation(_statistics()[name], scores, ratings)


def _statistics() -> Mapping[str, Callable[[FloatArray, FloatArray], float]]:
    from scipy.stats import kendalltau, pearsonr, spearmanr  # type: ignore[import-untyped]

    return {
        "kendall": lambda x, y: float(kendalltau(x, y).statistic),
        "spearman": lambda x, y: float(spearmanr(x, y).statistic),
        "pearson": lambda x, y: float(pearsonr(x, y).statistic),
    }


def _correlation(statistic: Callable[[FloatArray, FloatArray], float], x: FloatArray, y: FloatArray) -> float | None:
    return None if len(x) < 2 or (x == x[0]).all() or (y == y[0]).all() else statistic(x, y)


def _within(
    statistic: Callable[[FloatArray, FloatArray], float],
    scores: FloatArray,
    ratings: FloatArray,
    sources: Sequence[str],
    resampling: Resampling,
) -> Interval | None:
    """Of each source by itself; those where either is constant say nothing."""
    each = [_correlation(statistic, scores[rows], ratings[rows]) for rows in _rows_of(sources)]
    found = [value for value in each if value is not None]
    if not found:
        return None
    mean = MeanMetric("correlation")
    return bootstrap_interval(mean, mean.statistics_of(found), *resampling)


def _pooled(
    statistic: Callable[[FloatArray, FloatArray], float],
    scores: FloatArray,
    ratings: FloatArray,
    sources: Sequence[str],
    resampling: Resampling,
) -> Interval | None:
    """Of all outputs together; every resample draws sources and takes all their outputs."""
    whole = _correlation(statistic, scores, ratings)
    if whole is None:
        return None
    groups = _rows_of(sources)
    draws = generator(resampling.seed, "bootstrap", len(groups))
    found = []
    for _ in range(resampling.samples):
        rows = np.concatenate([groups[place] for place in draws.integers(len(groups), size=len(groups))])
        found.append(_correlation(statistic, scores[rows], ratings[rows]))
    low, high = np.percentile([value for value in found if value is not None], [2.5, 97.5])
    return Interval(whole, float(low), float(high))


def _rows_of(sources: Sequence[str]) -> list[NDArray[np.int64]]:
    places = np.unique(np.asarray(sources, dtype=object), return_inverse=True)[1]
    return [np.flatnonzero(places == place).astype(np.int64) for place in range(int(places.max()) + 1)]


def _places(values: FloatArray) -> FloatArray:
    """Each value's place among all, in (0, 1); equal ones share theirs."""
    from scipy.stats import rankdata

    return np.asarray((rankdata(values) - 0.5) / len(values), dtype=np.float64)
