"""Which engine draws rollouts, and how its outputs count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from guerdon.decoding import SamplingOptions
from guerdon.errors import ConfigurationError

EngineKind = Literal["own", "ctranslate2"]
ComputeType = Literal["float32", "int8"]


@dataclass(frozen=True)
class EngineOptions:
    """The engine of rollouts.

    "ctranslate2" gives the policy's weights, before each step and in memory, to CTranslate2, which draws on the CPU. What draws
    is then another model q than the policy p that is trained: the same up to rounding with float32, a coarser one with int8.
    Its own log-probability of each output is compared with the policy's, and the output weighs min(p/q, cap) in the gradient
    (`guerdon.objectives.importance`): on its advantage, which is computed without weights, and on its KL and entropy in the
    loss. Without the cap that has the expectation of outputs drawn from p, for every baseline that does not read the sample's
    own reward; the cap biases it by what it cuts off, and ``capped`` in the metrics says how often it does.

    Attributes:
        kind: "own" is guerdon's, in `ReinforceConfig.rollout_precision`.
        compute_type: of CTranslate2's matrix products; left out, float32.
        cap: the largest weight of an output; left out, 2.
        least_effective: a step whose effective sample size is a smaller share than this ends the run: the engine does not
            sample what is trained; left out, 0.5.
    """

    kind: EngineKind = "own"
    compute_type: ComputeType | None = None
    cap: float | None = None
    least_effective: float | None = None

    def __post_init__(self) -> None:
        for name, given, known in (("kind", self.kind, EngineKind), ("compute_type", self.compute_type, ComputeType)):
            if given is not None and given not in get_args(known):
                names = ", ".join(get_args(known))
                raise ConfigurationError(f"there is no {given!r}", where=f"{_HERE}.{name}", cure=f"choose {names}")
        for name in ("compute_type", "cap", "least_effective"):
            if self.kind == "own" and getattr(self, name) is not None:
                raise ConfigurationError(
                    "belongs to the kind ctranslate2, and the kind is own",
                    where=f"{_HERE}.{name}",
                    cure="take it out, or choose kind: ctranslate2",
                )
        if not 1 <= self.largest_weight < math.inf:
            raise ConfigurationError(
                f"{self.cap} cuts off the weight of outputs that are drawn as they should be, or nothing",
                where=f"{_HERE}.cap",
                cure="give a number from 1",
            )
        if not 0 < self.least_share < 1:
            raise ConfigurationError(
                f"{self.least_effective} is no share of samples", where=f"{_HERE}.least_effective", cure="give e.g. 0.5"
            )

    @property
    def largest_weight(self) -> float:
        """``cap``, its default filled in."""
        return 2.0 if self.cap is None else self.cap

    @property
    def least_share(self) -> float:
        """``least_effective``, its default filled in."""
        return 0.5 if self.least_effective is None else self.least_effective


_HERE = "reinforce.rollout_engine"


def check_engine(options: EngineOptions, sampling: SamplingOptions, estimator: str, rollout_precision: str) -> None:
    """Refuses what CTranslate2 cannot draw, or what its outputs cannot be used for.

    Raises:
        ConfigurationError: in one line.
    """
    if options.kind == "own":
        return
    if sampling != SamplingOptions():
        raise ConfigurationError(
            "the score that CTranslate2 gives an output is its log-probability only at temperature 1, with nothing left out",
            where=f"{_HERE}.kind",
            cure="take temperature and top_p out, or choose kind: own",
        )
    if rollout_precision != "float32":
        raise ConfigurationError(
            f"{rollout_precision} is of guerdon's own engine; CTranslate2 has a compute_type",
            where="reinforce.rollout_precision",
            cure=f"take it out, or take out {_HERE}",
        )
    if estimator == "minimum_risk":
        raise ConfigurationError(
            "minimum_risk renormalises over the drawn outputs, which importance weights do not correct",
            where=f"{_HERE}.kind",
            cure="choose another estimator, or kind: own",
        )
