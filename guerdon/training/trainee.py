"""What the loop asks of a stage, and how long it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from guerdon.errors import ConfigurationError
from guerdon.training.deciding import Decision
from guerdon.training.figures import check_direction
from guerdon.training.monitors import Alarm
from guerdon.training.usage import Usage


@dataclass(frozen=True)
class LoopOptions:
    """How long to train, and how often to look.

    Attributes:
        validate_every: steps between validations.
        checkpoint_every: steps between checkpoints; there is one at every validation too.
        criterion: the validation figure by which checkpoints are chosen and the stage may stop. Any that validation measures:
            where the reward is optimised, a held-out one such as "bleu" keeps the checkpoint that is best by it.
        higher_is_better: its direction.
        patience: stop after so many validations in a row without a rise of the criterion; None never stops early.
        tolerance: a rise of no more than this is no rise.
        smoothing: the criterion is averaged over so many validations before its rise is judged.
        average_best: the final weights are the mean of the best so many validated ones, or the best one's where that
            validates better; 0 takes the last step's.
        max_skipped: steps in a row that may be skipped because of a non-finite loss or gradient.
        recompute: whether the layers' activations are computed again in the backward pass instead of kept: less memory, for
            one more forward pass, and the same gradients. For guerdon's own Transformer.
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
    recompute: bool = False

    def __post_init__(self) -> None:
        for name in ("validate_every", "checkpoint_every", "smoothing", "max_skipped"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{getattr(self, name)} is too few", where=name, cure="give at least 1")
        if self.average_best < 0 or not self.tolerance >= 0 or (self.patience is not None and self.patience < 1):
            raise ConfigurationError(
                "average_best and tolerance must not be negative, and patience must be at least 1", where="training"
            )
        check_direction(self.criterion, self.higher_is_better, "loop.higher_is_better")


class Trainee(Protocol):
    """What a stage supplies to the loop."""

    name: str
    model: nn.Module
    begins_trained: bool  # then it is validated before the first step: what it begins with may stay the best

    def fingerprint(self) -> str:
        """All that decides what is computed, beside seed, weights and the loop's options: a checkpoint fits no other."""
        ...

    def decide(self) -> Decision | None:
        """What is chosen by measuring: before the first checkpoint, and not again on resuming, so that `state` has it."""
        ...

    def updates(self, step: int) -> Iterator[Iterator[Tensor]]:
        """The updates of the step, one after the other: most stages have one.

        Each gives the losses of its micro-batches, one at a time; their sum is the update's loss. The weights are updated
        before the next update is asked for.
        """
        ...

    def metrics(self) -> Mapping[str, float]:
        """What the last step measured."""
        ...

    def usage(self) -> Usage | None:
        """What the parts of the last step took; it goes to ``timings.jsonl``. None where a step has no parts."""
        ...

    def validate(self, step: int) -> Mapping[str, float]:
        """Figures on validation data, the criterion among them."""
        ...

    def observe(self, step: int, kind: Literal["train", "validation"], figures: Mapping[str, float]) -> Sequence[Alarm]:
        """Is shown all that is logged of a step or of a validation, once; returns what is worth an alarm."""
        ...

    def stop_reason(self) -> str | None:
        """Why the stage should end now, by what was observed; None to go on."""
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


class PlainTrainee(ABC):
    """What stages share that make one update a step from data alone: nothing to watch, and no state but the step."""

    @abstractmethod
    def losses(self, step: int) -> Iterator[Tensor]:
        """The losses of the step's only update, micro-batch by micro-batch."""

    def decide(self) -> Decision | None:
        """See `Trainee`: there is nothing to choose."""
        return None

    def updates(self, step: int) -> Iterator[Iterator[Tensor]]:
        """See `Trainee`."""
        yield self.losses(step)

    def usage(self) -> Usage | None:
        """See `Trainee`."""
        return None

    def observe(self, step: int, kind: Literal["train", "validation"], figures: Mapping[str, float]) -> Sequence[Alarm]:
        """See `Trainee`: the monitors are for rewards."""
        return []

    def stop_reason(self) -> str | None:
        """See `Trainee`."""
        return None

    def samples(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`."""
        return []

    def state(self) -> dict[str, Any]:
        """See `Trainee`: the step alone says where in the data it is."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:  # noqa: B027  (nothing to take back is what most mean)
        """See `Trainee`."""
