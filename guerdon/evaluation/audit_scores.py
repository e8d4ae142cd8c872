"""The statistics of an audit: one score, over references, probes and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from guerdon.evaluation.audit_judging import Scale, spread
from guerdon.evaluation.audit_results import Agreement, Preference, ScoreAudit, Shown
from guerdon.evaluation.audit_texts import Row, Subjects
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.evaluation.probes import PROBES, words_of
from guerdon.metrics.base import FloatArray, MeanMetric
from guerdon.metrics.significance import bootstrap_interval, wilson_interval
from guerdon.rewards.base import Judgement

_TIE_SPREAD, _TIE_ROUNDING = 1e-4, 1e-6  # of the spread over references, and of the size of the scores


@dataclass(frozen=True)
class Scores:
    """One score of every judged text.

    Attributes:
        name: the part's, or the reward's.
        weight: the part's factor in the total.
        values: float64 [n].
        applies: bool [n].
    """

    name: str
    weight: float
    values: FloatArray
    applies: NDArray[np.bool_]


class Resampling(NamedTuple):
    """Resamples of each bootstrap interval, and their seed."""

    samples: int
    seed: int


def all_scores(judgement: Judgement, scale: Scale, groups: Sequence[int], name: str) -> list[Scores]:
    """The total that training sees, named ``name``; behind it, for a composed reward, its raw parts.

    Raises:
        RewardError: as `Scale.total`.
    """
    values, kept = scale.total(judgement, groups)
    total = Scores(name, 1.0, values.numpy(), kept.numpy())
    parts = [
        Scores(name, part.weight, part.scores.double().numpy(), part.applies.numpy()) for name, part in judgement.parts.items()
    ]
    return [total, *(parts if len(parts) > 1 else [])]


def signs(first: FloatArray, second: FloatArray, spread: float) -> NDArray[np.int64]:
    """+1 where the first is higher, -1 where the second is, 0 for a tie: within 1e-4 of the spread, or 1e-6 of their size."""
    size = np.maximum(np.abs(first), np.abs(second))
    higher: NDArray[np.int64] = np.sign(first - second).astype(np.int64)
    return np.where(np.abs(first - second) <= np.maximum(_TIE_SPREAD * spread, _TIE_ROUNDING * size), 0, higher)


def score_audit(
    scores: Scores, rows: Sequence[Row], sources: int, pairs: tuple[Scores, Sequence[HumanPair]] | None, resampling: Resampling
) -> ScoreAudit:
    """The findings on one score.

    Args:
        scores: of the rows.
        rows: the references of all sources, then the probes.
        sources: how many.
        pairs: scores of human pairs, chosen ones first, and the pairs.
        resampling: of the intervals.
    """
    width = spread(scores.values[:sources], scores.applies[:sources])
    found = {name: _preference(scores, rows, places, width, resampling) for name, places in _probe_rows(rows, sources).items()}
    lengths = np.array([len(words_of(row.text)[0]) for row in rows], dtype=np.float64)
    agreement = {} if pairs is None else _agreements(*pairs, width, resampling)
    return ScoreAudit(
        name=scores.name,
        weight=scores.weight,
        sources=int(scores.applies[:sources].sum()),
        spread=width,
        probes={name: preference for name, preference in found.items() if preference is not None},
        length_references=_rank_correlation(scores, lengths, slice(0, sources)),
        length_probes=_rank_correlation(scores, lengths, slice(sources, None)),
        agreement=agreement.get("all"),
        unanimous=agreement.get("unanimous"),
    )


def median_examples(scores: Scores, rows: Sequence[Row], subjects: Subjects) -> dict[str, Shown]:
    """Of each probe the one with the median gap, with its scores."""
    sources, shown = len(subjects.examples), {}
    for name, places in _probe_rows(rows, sources).items():
        kept = [p for p in places if scores.applies[p] and scores.applies[rows[p].subject]]
        if not kept:
            continue
        gaps = [scores.values[p] - scores.values[rows[p].subject] for p in kept]
        row = kept[int(np.argsort(gaps, kind="stable")[len(kept) // 2])]
        number = rows[row].subject
        shown[name] = Shown(
            subjects.examples[number].source,
            subjects.texts[number],
            rows[row].text,
            float(scores.values[number]),
            float(scores.values[row]),
        )
    return shown


def _preference(
    scores: Scores, rows: Sequence[Row], places: Sequence[int], width: float, resampling: Resampling
) -> Preference | None:
    """One probe against its references; None where nothing can be compared."""
    probes = np.array(places, dtype=np.int64)
    references = np.array([rows[place].subject for place in places], dtype=np.int64)
    both = scores.applies[probes] & scores.applies[references]
    if not both.any():
        return None
    probe, reference = scores.values[probes[both]], scores.values[references[both]]
    order = signs(probe, reference, width)
    gap = None
    if width:
        mean = MeanMetric("gap")
        gap = bootstrap_interval(mean, mean.statistics_of(((probe - reference) / width).tolist()), *resampling)
    preferred = wilson_interval(int((order > 0).sum()), len(order))
    return Preference(len(order), preferred, float((order == 0).mean()), gap)


def _rank_correlation(scores: Scores, lengths: FloatArray, rows: slice) -> float | None:
    """Spearman's ρ of score and length where the score applies; None where either is constant."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    applies = scores.applies[rows]
    values, words = scores.values[rows][applies], lengths[rows][applies]
    if len(values) < 2 or (values == values[0]).all() or (words == words[0]).all():
        return None
    return float(spearmanr(values, words).statistic)


def _agreements(
    scores: Scores, pairs: Sequence[HumanPair], width: float, resampling: Resampling
) -> dict[str, Agreement | None]:
    """With all pairs, and with the unanimous ones."""
    n = len(pairs)
    order = signs(scores.values[:n], scores.values[n:], width)
    applies = scores.applies[:n] & scores.applies[n:]
    unanimous = np.array([pair.unanimous for pair in pairs])
    return {
        name: agreement(order, [row for row in range(n) if kept[row]], pairs, resampling)
        for name, kept in (("all", applies), ("unanimous", applies & unanimous))
    }


def agreement(
    order: NDArray[np.int64], rows: Sequence[int], pairs: Sequence[HumanPair], resampling: Resampling
) -> Agreement | None:
    """How often the signs of ``order`` [pairs] are those of people, over some ``rows``; None where there are none.

    Sources are resampled, not pairs: those of one source are not independent.
    """
    if not rows:
        return None
    of_source: dict[str, list[float]] = {}
    for row in rows:
        sums = of_source.setdefault(pairs[row].source, [0.0, 0.0])
        sums[0] += (1 + int(order[row])) / 2
        sums[1] += 1
    agrees = bootstrap_interval(MeanMetric("agreement"), np.array(list(of_source.values())), *resampling)
    return Agreement(len(rows), agrees, float((order[list(rows)] == 0).mean()))


def _probe_rows(rows: Sequence[Row], sources: int) -> dict[str, list[int]]:
    """The rows of each probe."""
    found: dict[str, list[int]] = {name: [] for name in PROBES}
    for place, row in enumerate(rows[sources:], sources):
        found[str(row.probe)].append(place)
    return found
