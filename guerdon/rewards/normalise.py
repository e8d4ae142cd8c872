"""Rewards on one scale: r̄ = (r - μ) / σ (FORMULAS 4.3.2), per part before the sum, or of the sum.

Axes: n samples of one optimiser step; groups number the sample groups (the outputs drawn for one source).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.rewards.base import Judgement, Part

_TOTAL = "sum"
_NOISE = 1e-6  # a spread below this share of the mean is the rounding of float32 scores, and counts as none


@dataclass(frozen=True)
class NormaliserOptions:
    """Where μ and σ come from.

    Attributes:
        kind: "none" leaves rewards as they are; "running" takes the moments of all *earlier* batches (of the first batch, its
            own), so that they do not depend on the samples they are applied to; "batch" and "group" take those of the
            step's samples and of each sample group.
        order: "each" normalises every part before the weighted sum, "sum" the weighted sum of the raw scores.
    """

    kind: Literal["none", "running", "batch", "group"] = "running"
    order: Literal["each", "sum"] = "each"

    def __post_init__(self) -> None:
        if self.kind not in ("none", "running", "batch", "group"):
            raise ConfigurationError(
                f"there is no kind {self.kind!r}", where="normalisation.kind", cure="none, running, batch or group"
            )
        if self.order not in ("each", "sum"):
            raise ConfigurationError(f"there is no order {self.order!r}", where="normalisation.order", cure="each or sum")


@dataclass
class Moments:
    """Count, mean and sum of squared deviations, merged exactly (Chan, Golub and LeVeque 1979, eq. 2.1), in float64."""

    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0

    def update(self, values: Tensor) -> None:
        """Takes in some values, [k]."""
        if len(values) == 0:
            return
        wide = values.double()
        count, mean = len(wide), float(wide.mean())
        total, gap = self.count + count, mean - self.mean
        self.deviations += float((wide - mean).square().sum()) + gap * gap * self.count * count / total
        self.mean += gap * count / total
        self.count = total

    @property
    def deviation(self) -> float:
        """The population's standard deviation; 0 of no values."""
        return (self.deviations / self.count) ** 0.5 if self.count else 0.0


class Normaliser:
    """Turns raw parts into the rewards that the policy is trained on; keeps the running moments.

    σ is the population's; where it is 0, or below 1e-6 of the size of μ (float32's rounding), the normalised value is 0.
    """

    def __init__(self, options: NormaliserOptions) -> None:
        self.options = options
        self.moments: dict[str, Moments] = {}
        self._last: dict[str, tuple[Tensor, Tensor]] = {}  # μ and σ of the last step, of all (scalars) or by group

    def apply(self, judgement: Judgement, groups: Tensor) -> tuple[Tensor, Tensor]:
        """The rewards of one step's samples.

        A part that does not apply to a sample adds nothing to it (0 is the mean once centred); a sample to which no part
        applies is not kept.

        Args:
            judgement: raw parts.
            groups: int64 [n].

        Returns:
            Rewards, float32 [n], 0 where not kept; and kept, bool [n].

        Raises:
            RewardError: where a part does not apply to a sample and nothing centres it.
        """
        kept = torch.stack([part.applies for part in judgement.parts.values()]).any(0)
        summands = self._summands(judgement)
        self._last = {name: self._centre_and_scale(name, part, groups) for name, part in summands.items()}
        rewards = self._weighted(summands, groups)
        if self.options.kind == "running":
            for name, part in summands.items():
                self.moments.setdefault(name, Moments()).update(part.scores[part.applies])
        return torch.where(kept, rewards, 0.0).float(), kept

    def rescale(self, judgement: Judgement, groups: Tensor) -> Tensor:
        """Further outputs of the last step's groups (greedy ones), on the scale that `apply` gave its samples.

        Args:
            judgement: raw parts of k outputs.
            groups: int64 [k], the group in the last step that each belongs to.

        Returns:
            float32 [k].
        """
        return self._weighted(self._summands(judgement), groups).float()

    def potentials(self, judgement: Judgement, groups: Tensor) -> Tensor:
        """Prefixes of the last step's samples (`guerdon.rewards.shaping.judge_prefixes`), on the scale that `apply` gave those.

        The normalised weighted sum over the parts that score prefixes. Where all parts do, the potential of a whole output is
        its reward. A part that does not adds nothing: that is its mean once it is centred by itself (order "each"), and a raw
        score of 0 where it is not, which moves all potentials alike.

        Args:
            judgement: raw parts of k prefixes, with the weights that `apply` saw.
            groups: int64 [k], the group in the last step that each belongs to.

        Returns:
            float32 [k].

        Raises:
            RewardError: where a part applies to some prefixes only and nothing centres it.
        """
        scoring = {name: part for name, part in judgement.parts.items() if bool(part.applies.any())}
        return self.rescale(Judgement(scoring), groups) if scoring else torch.zeros(len(groups))

    def state_dict(self) -> dict[str, Any]:
        """Numbers that JSON holds exactly."""
        return {name: [m.count, m.mean, m.deviations] for name, m in self.moments.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: when it is something else.
        """
        try:
            self.moments = {name: Moments(int(n), float(mean), float(dev)) for name, (n, mean, dev) in state.items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the normaliser's state is damaged ({error})") from error
        for name, m in self.moments.items():
            if m.count < 0 or not math.isfinite(m.mean) or not 0.0 <= m.deviations < math.inf:
                raise CheckpointError(f"the normaliser's moments of {name!r} are impossible: {m}")

    def _summands(self, judgement: Judgement) -> dict[str, Part]:
        if self.options.order == "each" and self.options.kind != "none":
            return judgement.parts
        total = judgement.total()
        return {_TOTAL: Part(total, torch.ones(len(total), dtype=torch.bool))}

    def _weighted(self, summands: dict[str, Part], groups: Tensor) -> Tensor:
        total = torch.zeros(len(groups), dtype=torch.float64)
        for name, part in summands.items():
            centre, scale = (moment[groups] if moment.ndim else moment for moment in self._last[name])
            spread = scale > _NOISE * centre.abs()
            normal = torch.where(spread, (part.scores.double() - centre) / torch.where(spread, scale, 1.0), 0.0)
            total += part.weight * torch.where(part.applies, normal, 0.0)
        return total

    def _centre_and_scale(self, name: str, part: Part, groups: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ, float64: of each group, [groups], or of all, scalars."""
        if self.options.kind == "group":
            return _group_moments(part, groups)
        if self.options.kind == "none":
            return torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        moments = self.moments.get(name) if self.options.kind == "running" else None
        if moments is None or not moments.count:  # the first batch in which the part applies to any sample
            moments = Moments()
            moments.update(part.scores[part.applies])
        return torch.tensor(moments.mean, dtype=torch.float64), torch.tensor(moments.deviation, dtype=torch.float64)


def _group_moments(part: Part, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each group's scores where the part applies, float64 [groups]."""
    size = int(groups.max()) + 1
    weight, scores = part.applies.double(), part.scores.double()

    def sums(values: Tensor) -> Tensor:
        return torch.zeros(size, dtype=torch.float64).index_add(0, groups, values)

    count = sums(weight).clamp(min=1)
    mean = sums(weight * scores) / count
    return mean, (sums(weight * (scores - mean[groups]).square()) / count).sqrt()


def comparable_rewards(judgements: Sequence[Judgement], options: NormaliserOptions) -> tuple[Tensor, Tensor]:
    """The rewards of outputs that are chosen from, not trained on: parts on one scale over all of them.

    Args:
        judgements: of successive samples, n in all.
        options: as in training; moments are those of these samples, unless the kind is "none".

    Returns:
        Rewards, float32 [n], and kept, bool [n], as `Normaliser.apply` gives them.

    Raises:
        RewardError: where a part does not apply to a sample and nothing centres it.
    """
    whole = Judgement({name: joined([judgement.parts[name] for judgement in judgements]) for name in judgements[0].parts})
    options = options if options.kind == "none" else replace(options, kind="batch")
    size = len(next(iter(whole.parts.values())).scores)
    return Normaliser(options).apply(whole, torch.zeros(size, dtype=torch.int64))


def joined(parts: Sequence[Part]) -> Part:
    """Parts of successive samples as one."""
    return replace(parts[0], scores=torch.cat([p.scores for p in parts]), applies=torch.cat([p.applies for p in parts]))
