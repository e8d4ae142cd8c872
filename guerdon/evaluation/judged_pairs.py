"""Scores of both outputs of human pairs, and what can be counted in them: the groups of pairs, and who is right how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guerdon.data.records import Example
from guerdon.evaluation.audit_judging import Scale, judge_all, spread
from guerdon.evaluation.audit_results import Agreement
from guerdon.evaluation.audit_scores import Resampling, Scores, agreement, all_scores, signs
from guerdon.evaluation.audit_texts import pairs_judged
from guerdon.evaluation.folds import sums_by_source
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.metrics.base import FloatArray, MeanMetric
from guerdon.metrics.significance import Comparison, paired_bootstrap
from guerdon.rewards.base import Judged, Judgement, Reward
from guerdon.rewards.normalise import NormaliserOptions


@dataclass(frozen=True)
class KnownPair:
    """A pair, and the further fields of its source's record."""

    pair: HumanPair
    meta: Mapping[str, Any]


def with_examples(pairs: Sequence[HumanPair], examples: Sequence[Example]) -> list[KnownPair]:
    """The pairs with the references and further fields of their source, where the examples know it."""
    by_source = {example.source: example for example in examples}
    known = []
    for pair in pairs:
        example = by_source.get(pair.source)
        if example is not None and not pair.references:
            pair = replace(pair, references=example.references)
        known.append(KnownPair(pair, example.meta if example else {}))
    return known


def pair_scores(reward: Reward, known: Sequence[KnownPair], normalisation: NormaliserOptions) -> tuple[Scores, Judgement]:
    """The total of a reward for the chosen outputs, then for the rejected ones, [2n].

    The parts of a composed reward are normalised as in training, over these outputs.

    Raises:
        RewardError, InputError: as the reward's own ``judge``.
    """
    judged = pairs_judged([entry.pair for entry in known], [entry.meta for entry in known])
    judgement = judge_all(reward, judged)
    return total_of(judgement, judged, normalisation), judgement


def total_of(judgement: Judgement, judged: Judged, normalisation: NormaliserOptions) -> Scores:
    """What training would make of the raw parts, their moments being those of the judged outputs, [n].

    Raises:
        RewardError: as `Scale.total`.
    """
    places = {source: place for place, source in enumerate(dict.fromkeys(judged.sources))}
    scale = Scale(normalisation, judgement, len(judged))
    return all_scores(judgement, scale, [places[source] for source in judged.sources], "total")[0]


@dataclass(frozen=True)
class JudgedPairs:
    """The pairs that everything is measured on.

    Attributes:
        pairs: in order.
        resampling: of the intervals; sources are drawn, not pairs.
    """

    pairs: Sequence[HumanPair]
    resampling: Resampling

    @property
    def sources(self) -> list[str]:
        """Of each pair."""
        return [pair.source for pair in self.pairs]

    def groups(self) -> dict[str, list[int]]:
        """The rows of all pairs, the unanimous ones, and those of each number of votes; without empty groups."""
        found: dict[str, list[int]] = {"all": [], "unanimous": []}
        counts = sorted({votes for pair in self.pairs if (votes := votes_of(pair))})
        found |= {group_of(votes): [] for votes in counts}
        for row, pair in enumerate(self.pairs):
            found["all"].append(row)
            if pair.unanimous:
                found["unanimous"].append(row)
            if votes := votes_of(pair):
                found[group_of(votes)].append(row)
        return {name: rows for name, rows in found.items() if rows}

    def agreements(self, order: NDArray[np.int64]) -> dict[str, Agreement]:
        """Pair accuracy by group, of +1, 0 or −1 for each pair."""
        made = {name: agreement(order, rows, self.pairs, self.resampling) for name, rows in self.groups().items()}
        return {name: found for name, found in made.items() if found is not None}

    def ahead(self, order: NDArray[np.int64], other: NDArray[np.int64]) -> dict[str, Comparison]:
        """Accuracy less that of another scorer, by group, paired over sources; none for a group of a single source."""
        found = {}
        for name, rows in self.groups().items():
            sources = [self.pairs[row].source for row in rows]
            if len(set(sources)) > 1:
                a, b = (sums_by_source(sources, right(given[rows])) for given in (order, other))
                found[name] = paired_bootstrap(MeanMetric("agreement"), a, b, *self.resampling)
        return found


def right(order: NDArray[np.int64]) -> FloatArray:
    """How right each pair is, a tie half, and 1 to count it by: [n, 2]."""
    return np.stack([(1 + order) / 2, np.ones(len(order))], axis=1)


def order_of(scores: FloatArray) -> NDArray[np.int64]:
    """+1 where the chosen output scores more, −1 where the rejected one does, 0 for a tie: [n] of scores [2n]."""
    n = len(scores) // 2
    return signs(scores[:n], scores[n:], spread(scores, np.ones(2 * n, dtype=np.bool_)))


def votes_of(pair: HumanPair) -> int:
    """For either output; 0 where votes were not counted."""
    return 0 if pair.votes_for is None else pair.votes_for + pair.votes_against


def group_of(votes: int) -> str:
    """The name of the group of pairs with so many votes."""
    return f"{votes} vote{'s' * (votes != 1)}"
