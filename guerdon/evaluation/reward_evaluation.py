"""The evaluation of a reward against what people judged: pairs and ratings of outputs, beside what is simpler.

All intervals are 95% bootstrap intervals over sources: pairs of one source share outputs and are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.records import Example
from guerdon.data.selection import folds_of
from guerdon.errors import ConfigurationError, DataError
from guerdon.evaluation.audit import name_of
from guerdon.evaluation.audit_scores import Resampling, Scores
from guerdon.evaluation.calibration import Calibration, calibration, cross_fitted
from guerdon.evaluation.ceiling import Ceiling, ceiling
from guerdon.evaluation.folds import sums_by_source
from guerdon.evaluation.human_pairs import HumanPair, voted_pairs
from guerdon.evaluation.judged_pairs import JudgedPairs, KnownPair, order_of, pair_scores, right, with_examples
from guerdon.evaluation.learning_curve import Trainer, learning_curve
from guerdon.evaluation.linear_preference import LinearOptions, LinearPreference, train_linear
from guerdon.evaluation.rating_agreement import RatingScale, correlation_of, rating_agreement
from guerdon.evaluation.reward_results import CurvePoint, LengthBias, RatingAgreement, RewardEvaluation, Scorer
from guerdon.evaluation.simple_scorers import lengths, simple_orders
from guerdon.evaluation.system_pairs import system_correlation, system_pairs, system_ranks
from guerdon.metrics.base import FloatArray, MeanMetric
from guerdon.metrics.significance import Interval, bootstrap_interval
from guerdon.rewards.base import Reward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.training.progress import Progressing, Silent

NOT_APPLIED = "to which the reward does not apply"


@dataclass(frozen=True)
class RewardEvaluationOptions:
    """How a reward is evaluated.

    Attributes:
        seed: of folds and draws.
        resamples: of each bootstrap interval.
        folds: of the evaluated sources: temperatures, and the way round of length and the like, are learnt on the others.
        bins: of the reliability plot, of equal mass.
        curve: shares of the training sources that the learning curve is measured at, the last being 1; () for none.
        rating_scale: "annotator" compares each rating with the others of its annotator, "raw" takes the numbers.
        normalisation: how training brings the parts of a composed reward to one scale.
        linear: how the linear model is trained.

    Raises:
        ConfigurationError: for fewer than 100 resamples, 2 folds or 2 bins, or shares that do not rise to 1.
    """

    seed: int = 1
    resamples: int = 1000
    folds: int = 5
    bins: int = 10
    curve: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    rating_scale: RatingScale = "annotator"
    normalisation: NormaliserOptions = field(default_factory=NormaliserOptions)
    linear: LinearOptions = field(default_factory=LinearOptions)

    def __post_init__(self) -> None:
        for name, least in (("resamples", 100), ("folds", 2), ("bins", 2)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{getattr(self, name)} are too few", where=name, cure=f"give at least {least}")
        rising = all(a < b for a, b in zip((0.0, *self.curve), self.curve, strict=False))
        if self.curve and not (rising and self.curve[-1] == 1):
            raise ConfigurationError(f"the shares are {self.curve}", where="curve", cure="let them rise to 1, from above 0")
        if self.rating_scale not in ("annotator", "raw"):
            raise ConfigurationError(
                f"there is no scale {self.rating_scale!r}", where="rating_scale", cure="choose annotator or raw"
            )


def evaluate_reward(
    reward: Reward,
    comparisons: Sequence[Comparison],
    ratings: Sequence[Rating] = (),
    training: Sequence[Comparison] = (),
    examples: Sequence[Example] = (),
    options: RewardEvaluationOptions | None = None,
    train: Trainer | None = None,
    data: str = "",
    progress: Progressing | None = None,
) -> RewardEvaluation:
    """Measures a reward against comparisons and ratings by people.

    Args:
        reward: any reward.
        comparisons: of outputs, their weights being votes; see `voted_pairs`.
        ratings: of outputs.
        training: comparisons of other sources, on which the linear model is trained.
        examples: records of the same sources, for references and further fields.
        options: how it is done.
        train: makes a reward from pairs; its learning curve is measured instead of the linear model's.
        data: what the comparisons are, in words, for the page.
        progress: is told how far the work has come.

    Raises:
        DataError: no pair is left, or training pairs are about an evaluated source.
        InputError: fewer sources than folds; a reward that needs references, and a source without.
        RewardError: as the reward's own ``judge``.
    """
    chosen, shown = options or RewardEvaluationOptions(), progress or Silent()
    voted = voted_pairs(comparisons)
    known = _known(voted.pairs, training, examples, chosen)
    shown.begin("evaluate", 1)
    scores, judgement = pair_scores(reward, known, chosen.normalisation)
    known, scores, left_out = _where_it_applies(known, scores)
    pairs = JudgedPairs([entry.pair for entry in known], Resampling(chosen.resamples, chosen.seed))
    order = order_of(scores.values)
    shown.advance(1, {})
    trained = voted_pairs(training).pairs
    linear = train_linear(trained, chosen.linear) if trained else None
    scorers = _scorers(pairs, known, order, linear, trained, examples, chosen)
    curve = _curve(train, trained, known, pairs, chosen)
    shown.end()
    return RewardEvaluation(
        reward=name_of(judgement),
        data=data,
        aspect=", ".join(sorted({comparison.aspect for comparison in comparisons if comparison.aspect})),
        pairs=len(known),
        sources=len(set(pairs.sources)),
        dropped={**voted.dropped, **left_out},
        **_training(linear),
        scorers=[Scorer("reward", name_of(judgement), pairs.agreements(order)), *scorers],
        ceilings=_ceilings(pairs),
        calibration=_calibrations(pairs, known, scores.values, linear, chosen),
        ratings=_rating_agreement(reward, ratings, examples, chosen),
        length=_length_bias(pairs, scores.values, order),
        **_systems(pairs, order),
        curve=curve,
        options=asdict(chosen),
    )


def _known(
    pairs: Sequence[HumanPair],
    training: Sequence[Comparison],
    examples: Sequence[Example],
    options: RewardEvaluationOptions,
) -> list[KnownPair]:
    """The pairs to evaluate; whatever is wrong with them is said before anything is judged."""
    if not pairs:
        raise DataError("there is no pair that people decided", where="evaluate", cure="give comparisons with votes")
    _check_apart(pairs, training)
    folds_of([pair.source for pair in pairs], options.folds, options.seed)
    return with_examples(pairs, examples)


def _check_apart(pairs: Sequence[HumanPair], training: Sequence[Comparison]) -> None:
    shared = {pair.source for pair in pairs} & {comparison.source for comparison in training}
    if shared:
        raise DataError(
            f"{len(shared)} sources are both trained on and evaluated, such as {min(shared)[:60]!r}",
            where="training pairs",
            cure="split by source, e.g. by a field that names the split",
        )


def _where_it_applies(known: list[KnownPair], scores: Scores) -> tuple[list[KnownPair], Scores, dict[str, int]]:
    n = len(known)
    both = scores.applies[:n] & scores.applies[n:]
    if not both.any():
        raise DataError("the reward applies to no pair", where="evaluate", cure="give pairs of sources that it is about")
    kept = np.concatenate([both, both])
    left = [entry for entry, applies in zip(known, both, strict=True) if applies]
    left_out = {NOT_APPLIED: n - len(left)} if len(left) < n else {}
    return left, replace(scores, values=scores.values[kept], applies=scores.applies[kept]), left_out


def _curve(
    train: Trainer | None,
    trained: Sequence[HumanPair],
    known: Sequence[KnownPair],
    pairs: JudgedPairs,
    options: RewardEvaluationOptions,
) -> list[CurvePoint]:
    make: Trainer = train or (lambda given: train_linear(given, options.linear))
    return learning_curve(make, trained, known, pairs, options.curve, options.normalisation) if trained else []


def _ceilings(pairs: JudgedPairs) -> dict[str, Ceiling]:
    return {
        name: ceiling([pairs.pairs[row] for row in rows], pairs.pairs, *pairs.resampling)
        for name, rows in pairs.groups().items()
    }


def _scorers(
    pairs: JudgedPairs,
    known: Sequence[KnownPair],
    order: NDArray[np.int64],
    linear: LinearPreference | None,
    trained: Sequence[HumanPair],
    examples: Sequence[Example],
    options: RewardEvaluationOptions,
) -> list[Scorer]:
    """What the reward has to beat, and by how much it does."""
    texts = [reference for example in examples for reference in example.references]
    counted = texts or [text for pair in trained or pairs.pairs for text in (pair.chosen, pair.rejected)]
    orders = simple_orders(known, counted, options.folds, options.seed)
    if linear is not None:
        found = order_of(pair_scores(linear, known, options.normalisation)[0].values)
        orders = {"linear": ("linear model on 1–3-grams", found), **orders}
    return [Scorer(name, label, pairs.agreements(other), pairs.ahead(order, other)) for name, (label, other) in orders.items()]


def _calibrations(
    pairs: JudgedPairs,
    known: Sequence[KnownPair],
    scores: FloatArray,
    linear: LinearPreference | None,
    options: RewardEvaluationOptions,
) -> dict[str, Calibration]:
    """Of the reward, each pair with the temperature of the other folds; of the linear model, with its own."""
    margins = scores[: len(known)] - scores[len(known) :]
    found = {}
    for name in ("all", "unanimous"):
        rows = pairs.groups().get(name, [])
        sources = [pairs.pairs[row].source for row in rows]
        if len(set(sources)) < options.folds:
            continue
        fitted = cross_fitted(margins[rows], sources, options.folds, options.seed)
        found[name] = calibration(margins[rows], fitted, sources, options.bins, options.resamples, options.seed)
        if linear is not None:
            own = pair_scores(linear, [known[row] for row in rows], options.normalisation)[0].values
            apart, at = own[: len(rows)] - own[len(rows) :], np.full(len(rows), linear.temperature)
            found[f"linear, {name}"] = calibration(apart, at, sources, options.bins, options.resamples, options.seed)
    return found


def _rating_agreement(
    reward: Reward, ratings: Sequence[Rating], examples: Sequence[Example], options: RewardEvaluationOptions
) -> RatingAgreement | None:
    if not ratings:
        return None
    resampling = Resampling(options.resamples, options.seed)
    return rating_agreement(reward, ratings, examples, options.rating_scale, options.normalisation, resampling)


def _length_bias(pairs: JudgedPairs, scores: FloatArray, order: NDArray[np.int64]) -> LengthBias:
    words = lengths(pairs.pairs)
    longer = np.sign(words[: len(order)] - words[len(order) :]).astype(np.int64)
    rows = np.flatnonzero(longer)

    def share(signs: NDArray[np.int64]) -> Interval | None:
        if not len(rows):
            return None
        sums = sums_by_source([pairs.pairs[row].source for row in rows.tolist()], right(signs[rows]))
        return bootstrap_interval(MeanMetric("longer"), sums, *pairs.resampling)

    return LengthBias(correlation_of("spearman", scores, words), share(longer * order), share(longer))


def _training(linear: LinearPreference | None) -> dict[str, Any]:
    if linear is None:
        return {"training_pairs": 0, "training": ""}
    which = "unanimous pairs" if linear.unanimous else "pairs"
    return {"training_pairs": linear.pairs, "training": f"{linear.pairs} {which}, L2 strength {linear.strength:g}"}


def _systems(pairs: JudgedPairs, order: NDArray[np.int64]) -> dict[str, Any]:
    ranks = system_ranks(pairs, order)
    found = {"system_pairs": system_pairs(pairs, order), "system_ranks": ranks}
    return {**found, "system_correlation": system_correlation(ranks)}
