"""The precision of rollouts, chosen by measuring: before step 1, once, and kept for the whole run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, cast, get_args

from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.models.precision import Precision

RolloutPrecision = Literal["float32", "bfloat16", "auto"]
ROUNDS, SECONDS = 5, 10.0  # what is measured at the most; one draw that takes longer than that is not repeated
MARGIN = 1.05  # bfloat16 draws from a coarser policy than the one that is trained: it has to be worth it


def check_rollout_precision(precision: str) -> None:
    """Raises `ConfigurationError` for a precision that is none of `RolloutPrecision`."""
    if precision not in get_args(RolloutPrecision):
        names = ", ".join(get_args(RolloutPrecision))
        raise ConfigurationError(f"there is no {precision!r}", where="reinforce.rollout_precision", cure=f"choose {names}")


@dataclass(frozen=True)
class Decision:
    """Which precision rollouts are drawn in.

    Attributes:
        chosen: the precision.
        rates: what each was measured at: the median of its tokens a second.
    """

    chosen: Precision
    rates: Mapping[str, float]

    @classmethod
    def of(cls, rates: Mapping[Precision, Sequence[float]]) -> Decision:
        """bfloat16 where its median is higher than float32's by more than 5%, else float32."""
        medians: dict[str, float] = {precision: median(found) for precision, found in rates.items()}
        return cls("bfloat16" if medians["bfloat16"] > MARGIN * medians["float32"] else "float32", medians)

    @property
    def sentence(self) -> str:
        """For a person."""
        told = " and ".join(f"{rate:,.0f} in {precision}" for precision, rate in self.rates.items())
        return f"rollouts are drawn in {self.chosen}; measured: {told} (tokens a second)"

    def plain(self) -> dict[str, Any]:
        """JSON values."""
        return {"chosen": self.chosen, "rates": dict(self.rates)}

    @classmethod
    def from_plain(cls, state: Mapping[str, Any]) -> Decision:
        """What `plain` gave; raises `CheckpointError` where it is damaged."""
        try:
            rates: dict[str, float] = {name: float(state["rates"][name]) for name in get_args(Precision)}
            chosen = state["chosen"]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"the rollouts' precision is damaged ({error})") from error
        if chosen not in rates:
            raise CheckpointError(f"the rollouts' precision is damaged (there is no {chosen!r})")
        return cls(cast(Precision, chosen), rates)


def measured(draw: Callable[[Precision], int], rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[Precision, list[float]]:
    """Tokens a second of drawing in each precision, in turn.

    The first round warms up (kernels are built, weights laid out) and counts only where there is no time for another.

    Args:
        draw: draws outputs and returns how many tokens they have; always the same sources with the same keys.
        rounds: measured at the most.
        seconds: after which no round begins that would, by the last one, end later.
    """
    rates: dict[Precision, list[float]] = {precision: [] for precision in get_args(Precision)}
    began = time.perf_counter()
    for _ in range(rounds + 1):
        at = time.perf_counter()
        for precision, found in rates.items():
            before = time.perf_counter()
            tokens = draw(precision)
            found.append(tokens / (time.perf_counter() - before))
        now = time.perf_counter()
        if now - began + (now - at) > seconds:
            break
    return {precision: found[1:] or found for precision, found in rates.items()}
