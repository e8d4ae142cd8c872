"""What the evaluation of a reward against people's judgements found, as plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from guerdon.data.files import write_atomically
from guerdon.evaluation.audit_results import Agreement
from guerdon.evaluation.calibration import Calibration
from guerdon.evaluation.ceiling import Ceiling
from guerdon.metrics.significance import Comparison, Interval

REWARD_EVALUATION = "reward_evaluation.json"


@dataclass(frozen=True)
class Scorer:
    """Anything that orders outputs: the reward itself, or what it has to beat.

    Attributes:
        name: "reward", "linear", "length", "frequency" or "overlap".
        label: as people write it.
        groups: pair accuracy, a tie counting half, by group of pairs: "all", "unanimous", "1 vote", "2 votes", ...
        ahead: of the reward's accuracy, by group: the reward less this scorer, paired; empty for the reward itself.
    """

    name: str
    label: str
    groups: Mapping[str, Agreement]
    ahead: Mapping[str, Comparison] = field(default_factory=dict)


@dataclass(frozen=True)
class Correlation:
    """One correlation of scores with ratings.

    Attributes:
        name: "kendall" (tau-b), "spearman" or "pearson".
        within: mean over sources of the correlation over the outputs of each; None where no source has two that differ.
        pooled: over all outputs; None where all scores or all ratings are alike.
    """

    name: str
    within: Interval | None
    pooled: Interval | None


@dataclass(frozen=True)
class RatingAgreement:
    """Scores beside ratings.

    Attributes:
        ratings: used.
        outputs: distinct ones that they are about; several ratings of one are averaged.
        sources: of these.
        left_out: outputs to which the reward does not apply, or that lack references which it needs.
        correlations: one of each kind.
    """

    ratings: int
    outputs: int
    sources: int
    left_out: int
    correlations: tuple[Correlation, ...]


@dataclass(frozen=True)
class LengthBias:
    """What the reward, and what people make of length, in words.

    Attributes:
        correlation: Spearman's ρ of score and length over the outputs of all pairs; None where either is constant.
        reward_longer: how often the reward prefers the longer output of a pair, of pairs whose lengths differ.
        people_longer: how often people do.
    """

    correlation: float | None
    reward_longer: Interval | None
    people_longer: Interval | None


@dataclass(frozen=True)
class SystemPair:
    """Pairs between two systems.

    Attributes:
        systems: their names.
        pairs: between them.
        people: share in which people prefer the first.
        reward: share in which the reward does, a tie counting half.
        agrees: pair accuracy.
    """

    systems: tuple[str, str]
    pairs: int
    people: float
    reward: float
    agrees: Interval


@dataclass(frozen=True)
class SystemRank:
    """How often a system's outputs win their pairs: with people, and with the reward."""

    system: str
    pairs: int
    people: float
    reward: float


@dataclass(frozen=True)
class CurvePoint:
    """A model trained on part of the training pairs.

    Attributes:
        sources, pairs: that it was given.
        groups: its pair accuracy by group of the evaluated pairs.
    """

    sources: int
    pairs: int
    groups: Mapping[str, Agreement]


@dataclass(frozen=True)
class RewardEvaluation:
    """All that an evaluation found.

    Attributes:
        reward: its name.
        data: what was judged, in words.
        aspect: that people judged, where it is one.
        pairs, sources: evaluated.
        dropped: comparisons and pairs left out, by reason.
        training_pairs: given to the linear model, and how it was trained, in words; 0 and empty without.
        scorers: the reward first.
        ceilings: agreement of people, by group.
        calibration: by group, "all" and "unanimous"; of the linear model under "linear, all" and "linear, unanimous".
        ratings: None where there are none.
        length: bias.
        system_pairs: most pairs first; empty where the data names no systems.
        system_ranks: best with people first.
        system_correlation: Kendall's tau-b of the two shares over systems; None for fewer than three.
        curve: learning curve; empty without training pairs.
        options: how it was done.
    """

    reward: str
    data: str
    aspect: str
    pairs: int
    sources: int
    dropped: Mapping[str, int]
    training_pairs: int
    training: str
    scorers: Sequence[Scorer]
    ceilings: Mapping[str, Ceiling]
    calibration: Mapping[str, Calibration]
    ratings: RatingAgreement | None
    length: LengthBias
    system_pairs: Sequence[SystemPair]
    system_ranks: Sequence[SystemRank]
    system_correlation: float | None
    curve: Sequence[CurvePoint]
    options: Mapping[str, Any]

    @property
    def own(self) -> Scorer:
        """The reward's own accuracy."""
        return self.scorers[0]

    def plain(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)

    def write(self, folder: Path) -> Path:
        """Writes ``reward_evaluation.json`` and returns its path; raises as `guerdon.data.files.write_atomically`."""
        path = folder / REWARD_EVALUATION
        write_atomically(path, [json.dumps(self.plain(), ensure_ascii=False, allow_nan=False, indent=1).encode(), b"\n"])
        return path
