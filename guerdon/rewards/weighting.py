"""Weights that move while a policy is trained: schedules, and constraints with a Lagrange multiplier."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from guerdon.errors import CheckpointError, ConfigurationError, RewardError, nearest
from guerdon.rewards.base import Judgement, Part


@dataclass(frozen=True)
class ScheduleOptions:
    """A weight that goes from the part's own, w, to another: w up to the step ``start``, ``to`` from ``start + steps`` on.

    Attributes:
        to: the last weight.
        steps: how many optimiser steps the way takes.
        start: the last step with the part's own weight; the first optimiser step is 1.
        shape: "linear", w + (to - w) p with the share p of the way; "cosine", slow at both ends, with (1 - cos πp) / 2 for p.
    """

    to: float
    steps: int
    start: int = 0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if not math.isfinite(self.to):
            raise ConfigurationError(f"the weight goes to {self.to}", where="schedule.to", cure="give a finite number")
        if self.steps < 1:
            raise ConfigurationError(f"{self.steps} is too few", where="schedule.steps", cure="give at least 1")
        if self.start < 0:
            raise ConfigurationError(f"there is no step {self.start}", where="schedule.start", cure="give 0 or more")
        if self.shape not in ("linear", "cosine"):
            raise ConfigurationError(
                f"there is no shape {self.shape!r}", where="schedule.shape", cure="choose linear or cosine"
            )

    def weight(self, own: float, step: int) -> float:
        """The weight at an optimiser step, of a part whose own weight is ``own``."""
        share = min(max((step - self.start) / self.steps, 0.0), 1.0)
        if share == 1.0:
            return self.to  # own + (to - own) rounds
        return own + (self.to - own) * (share if self.shape == "linear" else (1.0 - math.cos(math.pi * share)) / 2.0)


@dataclass(frozen=True)
class ConstraintOptions:
    """The mean raw score of a part must not fall below a bound.

    Its weight is a Lagrange multiplier λ, in the place of the part's own weight, which is not read. After each step
    λ ← clip(λ + rate (at_least - mean raw score), 0, most): projected dual ascent on min_λ≥0 max_π E[r] + λ (E[score] -
    at_least) (Tessler, Mankowitz and Mannor 2019, "Reward constrained policy optimization"; for several rewards of a text
    Moskovitz et al. 2024, "Confronting reward model overoptimization with constrained RLHF"). λ grows while the bound is
    broken, and falls, at last to 0, where the part counts for nothing, while there is room to spare. A λ that stays at
    ``most`` says that the bound was not reached.

    The bound is on the raw scale, whatever the normalisation. What λ weighs depends on it:

    - kind "none": the raw score, so that λ is the multiplier of the problem above.
    - order "each": the normalised score, (score - μ) / σ, which is the raw one with λ / σ. λ still rests only where the raw
      mean is at the bound (or λ at 0 or ``most``), but ``initial`` and ``most`` are in units of the other normalised parts.
    - order "sum": the raw score in the sum, which is then divided by its own σ, all parts alike: λ keeps its ratio to the other
      weights, and a larger λ does not make the whole reward larger.

    Attributes:
        at_least: the bound, in raw scores.
        rate: how far λ moves at a step for each unit by which the bound is missed; slower than the policy learns.
        initial: λ at the first step.
        most: the largest λ.
    """

    at_least: float
    rate: float = 0.05
    initial: float = 0.0
    most: float = 10.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.at_least):
            raise ConfigurationError(
                f"{self.at_least} is no bound", where="constraint.at_least", cure="give a finite number, in raw scores"
            )
        for name in ("rate", "most"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}", where=f"constraint.{name}", cure="give a finite number above 0"
                )
        if not 0.0 <= self.initial <= self.most:
            raise ConfigurationError(
                f"the multiplier begins at {self.initial}",
                where="constraint.initial",
                cure=f"give a number from 0 to most, {self.most}",
            )

    def ascend(self, multiplier: float, mean: float) -> float:
        """λ after a step whose mean raw score was ``mean``; in [0, most] for every finite mean."""
        return min(max(multiplier + self.rate * (self.at_least - mean), 0.0), self.most)


class Weighting:
    """The weights of a reward's parts at each optimiser step, and the multipliers of its constraints.

    A step calls `weigh` for everything that it judges (samples, greedy outputs, prefixes), so that all are on one scale, then
    `update` with its samples. Evaluation and checks of a reward outside training keep the parts' own weights.

    With the normalisation's order "sum" and kind "running", μ and σ are of earlier sums, made with earlier weights: while a
    weight moves, the sum drifts away from mean 0 and deviation 1, the more the faster it moves. A baseline takes the drift of
    the mean away, nothing that of the deviation; order "each", or the kinds "batch" and "group", have no such lag.

    Args:
        schedules: of parts, by name.
        constraints: of parts, by name.
        names: of all the reward's parts.

    Raises:
        ConfigurationError: for a name that no part has, or one that has both.
    """

    def __init__(
        self, schedules: Mapping[str, ScheduleOptions], constraints: Mapping[str, ConstraintOptions], names: Collection[str]
    ) -> None:
        for kind, given in (("schedule", schedules), ("constraint", constraints)):
            for name in given:
                if name not in names:
                    raise ConfigurationError(
                        f"the reward has no part {name!r}", where=f"{kind} of {name!r}", cure=nearest(name, names)
                    )
        for name in schedules:
            if name in constraints:
                raise ConfigurationError(
                    f"part {name!r} has a schedule and a constraint, and both set its weight",
                    where=f"constraint of {name!r}",
                    cure="leave out the one or the other",
                )
        self.schedules, self.constraints = dict(schedules), dict(constraints)
        self.multipliers = {name: options.initial for name, options in self.constraints.items()}
        self._logged: tuple[int, dict[str, float]] | None = None

    def weigh(self, judgement: Judgement, step: int) -> Judgement:
        """The same raw parts with the weights of an optimiser step.

        Raises:
            RewardError: where a part that has a schedule or a constraint was not judged.
        """
        weights = dict(self.multipliers)
        for name in (*self.schedules, *self.constraints):
            own = _part(judgement, name).weight
            if name in self.schedules:
                weights[name] = self.schedules[name].weight(own, step)
        if self._logged is None or self._logged[0] != step:
            self._logged = step, weights
        parts = judgement.parts.items()
        return Judgement({name: replace(part, weight=weights.get(name, part.weight)) for name, part in parts})

    def update(self, judgement: Judgement) -> None:
        """Moves the multipliers by the raw scores of a step's samples; stays where a part applies to none of them.

        Raises:
            RewardError: where a constraint's part was not judged, or its mean is no finite number.
        """
        for name, options in self.constraints.items():
            part = _part(judgement, name)
            scores = part.scores[part.applies].double()
            if len(scores) == 0:
                continue
            mean = float(scores.mean())
            if not math.isfinite(mean):
                raise RewardError(f"its mean is {mean}", where=f"constraint of {name!r}", cure="correct the reward")
            self.multipliers[name] = options.ascend(self.multipliers[name], mean)

    def metrics(self, step: int) -> dict[str, float]:
        """Of every part whose weight moves, "weight/<part>" as first weighed at ``step``; empty where nothing was then."""
        if self._logged is None or self._logged[0] != step:
            return {}
        return {f"weight/{name}": weight for name, weight in self._logged[1].items()}

    def state_dict(self) -> dict[str, float]:
        """The multipliers, as numbers that JSON holds exactly; schedules are functions of the step."""
        return dict(self.multipliers)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: when it is something else, or of other constraints.
        """
        if not isinstance(state, dict) or set(state) != set(self.constraints):
            raise CheckpointError(f"the multipliers {state!r} are not those of the constraints {sorted(self.constraints)}")
        for name, value in state.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0.0 <= value <= self.constraints[name].most:
                raise CheckpointError(f"the multiplier of {name!r} is {value!r}, not from 0 to {self.constraints[name].most}")
        self.multipliers = {name: float(state[name]) for name in self.constraints}


def _part(judgement: Judgement, name: str) -> Part:
    if name not in judgement.parts:
        raise RewardError(f"no part {name!r} was judged, whose weight moves", cure=nearest(name, judgement.parts))
    return judgement.parts[name]
