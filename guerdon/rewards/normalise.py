"""Reward normalisation: r̄ = (r − μ) / σ, with μ and σ estimated from samples (the described system, section 4.3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from guerdon.errors import CheckpointError, ConfigurationError, RewardError
from guerdon.rewards.base import Judgement

_SUM = "weighted sum"
_NOISE = 1e-6  # a spread below this share of the mean is the rounding of float32 scores: it is no spread


@dataclass(frozen=True)
class NormaliserOptions:
    """How rewards are normalised.

    Attributes:
        kind: where μ and σ come from. "running": all samples of earlier steps. "batch": the step's samples. "group": the
            samples of one source. "none": the raw weighted sum.
        order: "each" normalises each part, then sums with the weights, so that these balance parts of different scale;
            "sum" normalises the weighted sum.
        scale: False centres only, r − μ.

    Raises:
        ConfigurationError: for another kind or order, or when the kind is "none" and another option says how to normalise.
    """

    kind: Literal["none", "running", "batch", "group"] = "running"
    order: Literal["each", "sum"] = "each"
    scale: bool = True

    def __post_init__(self) -> None:
        for option, known in (("kind", ("none", "running", "batch", "group")), ("order", ("each", "sum"))):
            if getattr(self, option) not in known:
                raise ConfigurationError(
                    f"there is no {option} {getattr(self, option)!r}",
                    where=f"normalisation.{option}",
                    cure=f"choose one of {', '.join(known)}",
                )
        if self.kind == "none" and (self.order, self.scale) != ("each", True):
            raise ConfigurationError(
                "order and scale say how to normalise, but the kind is none", where="normalisation", cure="leave them out"
            )


class Moments:
    """Count, mean and sum of squared deviations of all values added, in float64.

    Batches are merged by Chan, Golub and LeVeque (1979), equation (2.1), which is stable however the values were cut.
    """

    def __init__(self, count: int = 0, mean: float = 0.0, m2: float = 0.0) -> None:
        self.count, self.mean, self.m2 = count, mean, m2

    def add(self, values: Tensor) -> None:
        """Takes in float64 values, [n]."""
        if not len(values):
            return
        mean = float(values.mean())
        m2 = float(((values - mean) ** 2).sum())
        total, delta = self.count + len(values), mean - self.mean
        self.m2 += m2 + delta * delta * self.count * len(values) / total
        self.mean += delta * len(values) / total
        self.count = total

    @property
    def std(self) -> float:
        """Population standard deviation (divided by the count); 0 for no values."""
        return math.sqrt(self.m2 / self.count) if self.count else 0.0

    def to_dict(self) -> dict[str, float]:
        """The three numbers; JSON keeps every bit of them."""
        return {"count": self.count, "mean": self.mean, "m2": self.m2}


@dataclass(frozen=True)
class _Column:
    """What is normalised as one: a part, or the weighted sum. Tensors are [n]."""

    name: str
    values: Tensor
    applies: Tensor
    weight: float


class Normaliser:
    """Turns judgements into the rewards that a policy is trained on.

    σ is the population standard deviation. Where it is 0 (or below 1e-6 of the mean: the rounding of float32), the
    normalised value is 0, never NaN. A part that does not apply to a sample takes no part in μ and σ, and adds nothing.

    With the kind "running", μ and σ come from earlier steps only: they do not depend on the samples that they normalise, so
    that the gradient's expectation is only rescaled. The first step has no earlier one and uses its own samples' moments.
    """

    def __init__(self, options: NormaliserOptions | None = None) -> None:
        self.options = options or NormaliserOptions()
        self._moments: dict[str, Moments] = {}
        self._used: dict[str, tuple[Tensor, Tensor]] = {}

    def apply(self, judgement: Judgement, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Normalises one step's samples, and takes them into the running moments.

        Args:
            judgement: of n samples.
            groups: int64 [n]; samples of one source share a number.

        Returns:
            The rewards, float64 [n], and bool [n]: False for a sample to which no part applies (its reward is 0; leave it
            out of loss and count).

        Raises:
            RewardError: when a part does not apply to some sample and is not centred by itself (kind "none" or order "sum").
        """
        if self.options.kind == "none":
            total = judgement.total().double()
            return total, torch.ones(len(total), dtype=torch.bool)
        columns = list(self._columns(judgement))
        self._used = {column.name: self._statistics(column, groups) for column in columns}
        index = groups.unique(return_inverse=True)[1] if self.options.kind == "group" else torch.zeros_like(groups)
        rewards = self._weigh(columns, index)
        if self.options.kind == "running":
            for column in columns:
                self._moments.setdefault(column.name, Moments()).add(column.values[column.applies])
        return rewards, torch.stack([column.applies for column in columns]).any(0)

    def rescale(self, judgement: Judgement) -> Tensor:
        """Normalises other outputs of the last step's sources by the μ and σ that `apply` used there; nothing is taken in.

        Args:
            judgement: one output per source; for the kind "group", in the ascending order of the groups' numbers.

        Returns:
            The rewards, float64 [sources].

        Raises:
            RewardError: as `apply`, and when the number of outputs is not that of the groups.
        """
        if self.options.kind == "none":
            return judgement.total().double()
        columns = list(self._columns(judgement))
        rows = len(columns[0].values)
        if self.options.kind != "group":
            return self._weigh(columns, torch.zeros(rows, dtype=torch.int64))
        known = len(self._used[columns[0].name][0])
        if rows != known:
            raise RewardError(f"{rows} outputs for {known} sample groups", where="normaliser", cure="judge one per source")
        return self._weigh(columns, torch.arange(rows))

    def state_dict(self) -> dict[str, dict[str, float]]:
        """The running moments by name, as JSON."""
        return {name: moments.to_dict() for name, moments in self._moments.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Goes on from what `state_dict` gave.

        Raises:
            CheckpointError: when it is something else.
        """
        try:
            loaded = {name: Moments(int(m["count"]), float(m["mean"]), float(m["m2"])) for name, m in state.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"these are no moments: {error!r}", where="normaliser", cure="use another checkpoint"
            ) from error
        for name, moments in loaded.items():
            if moments.count < 1 or not math.isfinite(moments.mean) or not 0 <= moments.m2 < math.inf:
                raise CheckpointError(f"the moments of {name!r} are impossible: {moments.to_dict()}", where="normaliser")
        self._moments = loaded

    def _columns(self, judgement: Judgement) -> Iterator[_Column]:
        if self.options.order == "sum":
            total = judgement.total().double()
            yield _Column(_SUM, total, torch.ones(len(total), dtype=torch.bool), 1.0)
            return
        for name, part in judgement.parts.items():
            yield _Column(name, part.scores.double(), part.applies, part.weight)

    def _statistics(self, column: _Column, groups: Tensor) -> tuple[Tensor, Tensor]:
        """μ and σ, [groups] for the kind "group", else [1]."""
        earlier = self._moments.get(column.name)
        if self.options.kind == "running" and earlier is not None and earlier.count:
            return torch.tensor([earlier.mean]).double(), torch.tensor([earlier.std], dtype=torch.float64)
        index = groups.unique(return_inverse=True)[1] if self.options.kind == "group" else torch.zeros_like(groups)
        size = int(index.max()) + 1 if len(index) else 1
        return _moments_of(column.values, column.applies, index, size)

    def _weigh(self, columns: list[_Column], index: Tensor) -> Tensor:
        """Σ w (r − μ) / σ over the parts that apply; ``index`` says which μ and σ are a row's."""
        rewards = torch.zeros(len(index), dtype=torch.float64)
        for column in columns:
            mean, std = (moment[index] for moment in self._used[column.name])
            spread = std > _NOISE * mean.abs()
            divisor = torch.where(spread, std, 1.0) if self.options.scale else torch.ones_like(std)
            normalised = torch.where(spread & column.applies, (column.values - mean) / divisor, 0.0)
            rewards += column.weight * normalised
        return rewards


def _moments_of(values: Tensor, counted: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of the counted values of each group: float64 [size] each; 0 where none counts."""
    weight = counted.double()
    count = torch.zeros(size, dtype=torch.float64).index_add_(0, index, weight).clamp(min=1.0)
    mean = torch.zeros_like(count).index_add_(0, index, values * weight) / count
    squares = torch.zeros_like(count).index_add_(0, index, (values - mean[index]) ** 2 * weight)
    return mean, (squares / count).sqrt()
