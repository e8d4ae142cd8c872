"""The smallest trainee: a point that is drawn to a target, with a validation that is told what to say."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from guerdon.training.around import surroundings
from guerdon.training.loop import Loop, Outcome
from guerdon.training.monitors import Alarm
from guerdon.training.progress import Progressing
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions
from guerdon.training.usage import Usage


class Quadratic:
    """Minimises |x - 1|² in two parts, each column weighed by noise from torch's global generator, as dropout is drawn.

    Args:
        script: the validation figures in turn by step (a missing one: the distance); nan and inf may be among them.
        faults: by step, what the loss is multiplied by (nan, inf), or "gradient" for a gradient that alone is not finite.
        crash_at: raises KeyboardInterrupt in this step, as a kill would cut it.
        criterion: the name of the figure.
        label: the fingerprint.
        begins_trained: whether it is validated before its first step.
        crash_at_checkpoint: raises KeyboardInterrupt when this checkpoint (from 1) is about to be written.
        alarms: (step, kind) of what it raises an alarm for.
        enough: the number of alarms after which it asks to stop.
        choices: the figures of the best weights and of their mean, where the loop compares the two at the end.
    """

    name = "quadratic"

    def __init__(
        self,
        script: Mapping[int, float] | None = None,
        faults: Mapping[int, float | str] | None = None,
        crash_at: int | None = None,
        criterion: str = "score",
        label: str = "",
        choices: Sequence[float] = (),
        alarms: Sequence[tuple[int, str]] = (),
        enough: float = math.inf,
        begins_trained: bool = False,
        crash_at_checkpoint: int | None = None,
    ) -> None:
        self.model = nn.Linear(4, 1, bias=True).double()
        with torch.no_grad():
            self.model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, 0.5]]))
            self.model.bias.zero_()
        self.script, self.faults, self.crash_at = script or {}, faults or {}, crash_at
        self.criterion, self.label, self.choices = criterion, label, choices
        self.begins_trained = begins_trained
        self.crash_at_checkpoint, self.checkpoints = crash_at_checkpoint, 0
        self.seen = 0
        self.alarms, self.enough, self.alarmed = alarms, enough, 0
        self.observed: list[tuple[int, str, dict[str, float]]] = []
        self.validated: list[tuple[int, float]] = []

    def fingerprint(self) -> str:
        return self.label

    def decide(self) -> None:
        return None

    def updates(self, step: int) -> Iterator[Iterator[Tensor]]:
        yield self._losses(step)

    def _losses(self, step: int) -> Iterator[Tensor]:
        self.seen += step
        noise = torch.rand(4, dtype=torch.float64)
        for part in (slice(0, 2), slice(2, 4)):
            loss = ((self.model.weight[0, part] - 1.0) * (1 + noise[part])).square().sum() + self.model.bias.square().sum()
            fault = self.faults.get(step)
            if fault == "gradient":
                loss = loss + torch.sqrt(self.model.bias * 0).sum()  # 0, and its derivative is not finite
            elif fault is not None:
                loss = loss * fault
            yield loss
        if step == self.crash_at:
            raise KeyboardInterrupt

    def metrics(self) -> Mapping[str, float]:
        return {"seen": self.seen}

    def usage(self) -> Usage:
        found = Usage(torch.device("cpu"))
        found.lap("thinking")
        return found

    def validate(self, step: int) -> Mapping[str, float]:
        distance = float((self.model.weight.detach() - 1).square().sum())
        again = [at for at, _ in self.validated].count(step)
        self.validated.append((step, distance))
        figure = self.choices[again - 1] if again and self.choices else self.script.get(step, distance)
        return {self.criterion: figure, "distance": distance}

    def observe(self, step: int, kind: str, figures: Mapping[str, float]) -> Sequence[Alarm]:
        self.observed.append((step, kind, dict(figures)))
        alarms = [Alarm("hunch", step, f"{kind} of step {step}")] if (step, kind) in self.alarms else []
        self.alarmed += len(alarms)
        return alarms

    def stop_reason(self) -> str | None:
        return "enough alarms" if self.alarmed >= self.enough else None

    def samples(self) -> Sequence[Mapping[str, Any]]:
        return [{"weight": self.model.weight[0, 0].item()}]

    def batch(self) -> Sequence[Mapping[str, Any]]:
        return [{"target": 1.0}]

    def state(self) -> dict[str, Any]:
        self.checkpoints += 1
        if self.checkpoints == self.crash_at_checkpoint:
            raise KeyboardInterrupt
        return {"seen": self.seen, "alarmed": self.alarmed}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seen, self.alarmed = state["seen"], state["alarmed"]


def train(
    trainee: Quadratic,
    folder: Path | None,
    steps: int = 10,
    seed: int = 0,
    progress: Progressing | None = None,
    clip_norm: float | None = None,
    **loop: Any,
) -> Outcome:
    """Runs the loop on it; the criterion is "score", smaller is better unless ``loop`` says otherwise."""
    chosen = LoopOptions(**{"criterion": "score", "validate_every": 2, "checkpoint_every": 1, **loop})
    optimiser = OptimiserOptions(0.1, 0, "constant", weight_decay=0.0, clip_norm=clip_norm)
    with surroundings(folder, trainee.name, seed, progress) as around:
        return Loop(trainee, steps, chosen, optimiser, around).run()
