"""Weighted sums of rewards: r = α r₁ + β r₂ + … (the described system, section 4.2.3)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import count

from torch import Tensor

from guerdon.errors import ConfigurationError
from guerdon.rewards.base import Judged, Judgement, Part, Reward


@dataclass(frozen=True)
class NamedPart:
    """One term of the sum."""

    name: str
    weight: float
    reward: Reward


class Combined(Reward):
    """A weighted sum of rewards, each logged by its own name, raw.

    ``0.5 * frequency + 0.5 * similarity`` makes one. It is flat: a sum of sums is one sum. A name that comes twice gets a
    number: ``length``, ``length_2``.

    Args:
        parts: the terms; none of their rewards is itself a sum.

    Raises:
        ConfigurationError: when there is no part, or a weight is not a finite number.
    """

    name = "combined"

    def __init__(self, parts: Iterable[NamedPart]) -> None:
        self.parts = _unique_names(list(parts))
        if not self.parts:
            raise ConfigurationError("a reward needs at least one part", where="reward", cure="name one")
        for part in self.parts:
            if not math.isfinite(part.weight):
                raise ConfigurationError(
                    f"its weight is {part.weight}", where=f"reward {part.name!r}", cure="give a finite number"
                )
        self.needs_references = any(part.reward.needs_references for part in self.parts)
        self.scores_prefixes = any(part.reward.scores_prefixes for part in self.parts)

    @classmethod
    def of(cls, reward: Reward) -> Combined:
        """The reward as a sum: itself where it is one, else its only part, with weight 1."""
        return reward if isinstance(reward, Combined) else cls([NamedPart(reward.name, 1.0, reward)])

    def scaled(self, weight: float) -> Combined:
        """The sum with every weight multiplied."""
        return Combined(replace(part, weight=part.weight * float(weight)) for part in self.parts)

    def plus(self, other: Combined) -> Combined:
        """The sum of both."""
        return Combined([*self.parts, *other.parts])

    def judge(self, judged: Judged) -> Judgement:
        """The raw scores of every part, with its weight; raises as each part's own ``judge``."""
        parts: dict[str, Part] = {}
        for part in self.parts:
            found = part.reward.judge(judged).parts
            for name, scored in found.items():
                full = part.name if len(found) == 1 else f"{part.name}.{name}"
                parts[full] = replace(scored, weight=part.weight * scored.weight)
        return Judgement(parts)

    def score(self, judged: Judged) -> Tensor:
        """The weighted sum, [n]."""
        return self.judge(judged).total()


def _unique_names(parts: list[NamedPart]) -> list[NamedPart]:
    """The parts, a repeated name followed by the first number that makes it a new one."""
    taken: set[str] = set()
    named = []
    for part in parts:
        name = next(n for i in count(1) if (n := part.name if i == 1 else f"{part.name}_{i}") not in taken)
        taken.add(name)
        named.append(replace(part, name=name))
    return named
