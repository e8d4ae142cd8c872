"""Rewards as weighted sums of named parts: ``0.5 * frequency + 0.5 * similarity`` (FORMULAS 4.2.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from guerdon.errors import ConfigurationError
from guerdon.rewards.base import Judged, Judgement, Part, Reward


@dataclass(frozen=True)
class Weighted:
    """One part of a sum: a simple reward, under a name of its own, and its weight."""

    name: str
    weight: float
    reward: Reward


class Combined(Reward):
    """A weighted sum of rewards. Sums of sums are flat; of two parts of one name the second becomes ``name_2``.

    Args:
        parts: the summands.

    Raises:
        ConfigurationError: without parts, for a weight that is not finite, or for a name that stands twice.
    """

    def __init__(self, parts: Sequence[Weighted]) -> None:
        if not parts:
            raise ConfigurationError("a sum of no rewards", where="reward", cure="give at least one part")
        for part in parts:
            if not math.isfinite(part.weight):
                raise ConfigurationError(
                    f"{part.weight} is no weight", where=f"reward {part.name!r}", cure="give a finite number"
                )
        if len({part.name for part in parts}) < len(parts):
            raise ConfigurationError("two parts have one name", where="reward", cure="give each part a name of its own")
        self.parts = tuple(parts)
        self.name = " + ".join(f"{part.weight:g} {part.name}" for part in parts)
        self.needs_references = any(part.reward.needs_references for part in parts)

    @classmethod
    def of(cls, reward: Reward) -> Combined:
        """The reward as a sum; itself where it is one."""
        return reward if isinstance(reward, Combined) else cls([Weighted(reward.name, 1.0, reward)])

    def scaled(self, weight: float) -> Self:
        """Every weight times ``weight``."""
        return type(self)([replace(part, weight=part.weight * weight) for part in self.parts])

    def plus(self, other: Combined) -> Self:
        """The parts of both."""
        parts = list(self.parts)
        for part in other.parts:
            taken, name, number = {known.name for known in parts}, part.name, 1
            while name in taken:
                number += 1
                name = f"{part.name}_{number}"
            parts.append(replace(part, name=name))
        return type(self)(parts)

    def judge(self, judged: Judged) -> Judgement:
        """The raw scores of every part, with its weight."""
        found: dict[str, Part] = {}
        for part in self.parts:
            raw = next(iter(part.reward.judge(judged).parts.values()))
            found[part.name] = replace(raw, weight=part.weight)
        return Judgement(found)

    def score(self, judged: Judged) -> Tensor:
        """The weighted sum; raises `guerdon.errors.RewardError` where a part does not apply."""
        return self.judge(judged).total()
