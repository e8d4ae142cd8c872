"""What the loop asks of a stage, and how long it trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from guerdon.errors import ConfigurationError

_HIGHER_IS_BETTER = {
    **dict.fromkeys(("nll", "loss", "kl"), False),
    **dict.fromkeys(("reward", "accuracy", "margin", "bleu", "chrf"), True),
}


@dataclass(frozen=True)
class LoopOptions:
    """How long to train, and how often to look.

    Attributes:
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints; there is one at every validation too.
        criterion: the validation figure by which checkpoints are chosen and the stage may stop.
        higher_is_better: its direction.
        patience: stop after so many validations in a row without a rise of the criterion; None never stops early.
        tolerance: a rise of no more than this is no rise.
        smoothing: the criterion is averaged over so many validations before its rise is judged.
        average_best: the final weights are the mean of the best so many validated ones, or the best one's where that
            validates better; 0 takes the last step's.
        max_skipped: steps in a row that may be skipped because of a non-finite loss or gradient.
    """

    validate_every: int = 500
    checkpoint_every: int = 500
    criterion: str = "nll"
    higher_is_better: bool = False
    patience: int | None = None
    tolerance: float = 0.0
    smoothing: int = 1
    average_best: int = 1
    max_skipped: int = 10

    def __post_init__(self) -> None:
        for name in ("validate_every", "checkpoint_every", "smoothing", "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{getattr(self, name)} is too few", where=name, cure="give at least 1")
        if self.average_best < 0 or not self.tolerance >= 0 or (self.patience is not None and self.patience < 1):
            raise ConfigurationError(
                "average_best and tolerance must not be negative, and patience must be at least 1", where="training"
            )
        if _HIGHER_IS_BETTER.get(self.criterion, self.higher_is_better) != self.higher_is_better:
            raise ConfigurationError(
                f"higher_is_better is {self.higher_is_better}, so that the worst {self.criterion} would be chosen",
                where="loop.higher_is_better",
                cure=f"give {not self.higher_is_better}",
            )


class Trainee(Protocol):
    """What a stage supplies to the loop."""

    name: str
    model: nn.Module
    begins_trained: bool  # then it is validated before the first step: what it begins with may stay the best

    def fingerprint(self) -> str:
        """All that decides what is computed, beside seed, weights and the loop's options: a checkpoint fits no other."""
        ...

    def losses(self, step: int) -> Iterator[Tensor]:
        """The losses of the step's micro-batches, one at a time; their sum is the step's loss."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """What the last step measured."""
        ...

    def durations(self) -> Mapping[str, float]:
        """Seconds that the parts of the last step took; they go to ``timings.jsonl``."""
        ...

    def validate(self, step: int) -> Mapping[str, float]:
        """Figures on validation data, the criterion among them."""
        ...

    def samples(self) -> Sequence[Mapping[str, Any]]:
        """Texts worth keeping since the last call."""
        ...

    def batch(self) -> Sequence[Mapping[str, Any]]:
        """The records of the last step, kept where the step had to be skipped."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold beside weights and optimiser, as JSON values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave."""
        ...
