"""A reward model as a `Trainee`: its options, and one step of learning from judgements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from guerdon.data.batches import BatchOptions, TokenBudgetSampler, plan_batches
from guerdon.errors import ConfigurationError
from guerdon.models.precision import autocast
from guerdon.models.reward_model import RewardBatch
from guerdon.models.reward_options import RewardModelOptions
from guerdon.objectives.preference import check_label_smoothing
from guerdon.training.convex import ExactOptions
from guerdon.training.judged import EncodedJudgements, Item, SelectionOptions
from guerdon.training.judging import OF_RATINGS, JudgementLoss, Judging, correct
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.supervised import SupervisedOptions
from guerdon.training.trainee import LoopOptions, PlainTrainee

_FORWARD_TOKENS = 8192  # of a batch without gradients
FIGURES, RATING_FIGURES = ("accuracy", "loss"), ("correlation", "loss")


@dataclass(frozen=True)
class RewardModelConfig(SupervisedOptions):
    """Options of training a reward model.

    ``epochs`` or ``steps``, ``batch`` (a row is a judgement: its source, and its longest output as often as it has outputs),
    ``accumulation``, ``precision``, ``optimiser`` and ``loop`` are as in `~guerdon.training.supervised.SupervisedOptions`. The
    criterion is accuracy or loss of held-out comparisons; of ratings correlation or loss.

    Attributes:
        model: what the reward model is made of.
        loss: bradley_terry; rao_kupper or davidson, which learn from ties; plackett_luce for whole rankings; regression or
            ordinal for ratings. See `guerdon.objectives.comparison`.
        select: which judgements count, and for which head.
        label_smoothing: the share of judgements that are taken to be wrong; for bradley_terry.
        centring: pulls the mean score of each judgement's outputs to 0.
        reliability: whether a reliability is estimated for each annotator; for bradley_terry.
        held_out: share of the sources that measures, where no validation data are given.
        members: how many reward models are trained, from different random weights and orders of the data: an ensemble.
        temperature_folds: parts of the training sources for each of which another model is trained on the others, to fit the
            temperature by; 0 leaves it at 1.
        exact: finds the optimum itself instead of making steps, where the weights that are trained enter linearly (kind
            linear, or a frozen trunk, and no layer between), for bradley_terry; seeds and dropout do not matter then.
        too_long: what to do with a judgement of texts that the model cannot take: stop, or skip and count it.
    """

    model: RewardModelOptions = field(default_factory=RewardModelOptions)
    loss: JudgementLoss = "bradley_terry"
    select: SelectionOptions = field(default_factory=SelectionOptions)
    label_smoothing: float = 0.0
    centring: float = 0.0
    reliability: bool = False
    held_out: float = 0.1
    members: int = 1
    temperature_folds: int = 0
    exact: ExactOptions | None = None
    too_long: Literal["stop", "skip"] = "stop"
    batch: BatchOptions = field(default_factory=lambda: BatchOptions(max_tokens=4096))
    optimiser: OptimiserOptions = field(
        default_factory=lambda: OptimiserOptions(learning_rate=3e-4, warmup_steps=20, schedule="linear", weight_decay=0.01)
    )
    loop: LoopOptions = field(
        default_factory=lambda: LoopOptions(validate_every=50, criterion="accuracy", higher_is_better=True, patience=6)
    )

    def __post_init__(self) -> None:
        if self.loss not in get_args(JudgementLoss):
            names = ", ".join(get_args(JudgementLoss))
            raise ConfigurationError(f"there is no {self.loss!r}", where="reward_model.loss", cure=f"choose {names}")
        super().__post_init__()
        check_label_smoothing(self.label_smoothing)
        for name, given in self._only_bradley_terry().items():
            if given and self.loss != "bradley_terry":
                raise ConfigurationError(
                    f"belongs to the loss bradley_terry, and the loss is {self.loss}",
                    where=f"reward_model.{name}",
                    cure="take it out",
                )
        if not (0.0 <= self.centring < float("inf") and 0.0 < self.held_out < 1.0):
            raise ConfigurationError(
                f"centring is {self.centring} and held_out is {self.held_out}",
                where="reward_model.centring, held_out",
                cure="give 0 or more, and a share between 0 and 1",
            )
        if self.members < 1 or self.temperature_folds < 0 or self.temperature_folds == 1:
            raise ConfigurationError(
                f"members is {self.members} and temperature_folds is {self.temperature_folds}",
                where="reward_model.members, temperature_folds",
                cure="give at least 1 member, and 0 or at least 2 folds",
            )
        if self.temperature_folds and self.rated:
            raise ConfigurationError(
                "a temperature is fitted to comparisons, not to ratings", where="reward_model.temperature_folds", cure="give 0"
            )
        if self.too_long not in ("stop", "skip"):
            raise ConfigurationError(
                f"there is no {self.too_long!r}", where="reward_model.too_long", cure="choose stop or skip"
            )
        if self.loop.criterion not in self.figures:
            raise ConfigurationError(
                f"nothing measures {self.loop.criterion!r}",
                where="reward_model.loop.criterion",
                cure=f"choose {' or '.join(self.figures)}",
            )

    def check_length(self) -> None:
        """See `SupervisedOptions`; no steps are made where the optimum is found itself."""
        if self.exact is None:
            super().check_length()
            return
        model = self.model
        given = {
            "epochs": self.epochs, "steps": self.steps, "label_smoothing": self.label_smoothing, "centring": self.centring,
            "reliability": self.reliability, "select.margin": self.select.margin, "model.hidden": model.hidden,
            "members": self.members - 1,
        }  # fmt: skip
        for name, value in given.items():
            if value:
                raise ConfigurationError("is not for an exact optimum", where=f"reward_model.{name}", cure="take it out")
        if self.loss != "bradley_terry" or (model.kind != "linear" and model.trunk != "frozen"):
            raise ConfigurationError(
                f"the loss is {self.loss}, the kind {model.kind} and the trunk {model.trunk}: there is no optimum to find",
                where="reward_model.exact",
                cure="choose bradley_terry, and the kind linear or a frozen trunk",
            )

    def _only_bradley_terry(self) -> dict[str, object]:
        return {
            "label_smoothing": self.label_smoothing,
            "reliability": self.reliability,
            "select.margin": self.select.margin,
        }

    @property
    def rated(self) -> bool:
        """Whether it learns from ratings."""
        return self.loss in OF_RATINGS

    @property
    def figures(self) -> tuple[str, ...]:
        """What validation measures."""
        return RATING_FIGURES if self.rated else FIGURES


class RewardTraining(PlainTrainee):
    """Fits scores to judgements. See `guerdon.training.loop.Trainee`.

    Args:
        name: of the stage, in logs and checkpoints.
        judging: the reward model, and what is trained beside it.
        training, validation: the judgements, encoded.
        config: the options.
        seed: of the order of the batches.
    """

    begins_trained = False

    def __init__(
        self,
        name: str,
        judging: Judging,
        training: EncodedJudgements,
        validation: EncodedJudgements,
        config: RewardModelConfig,
        seed: int,
    ) -> None:
        self.name, self._judging, self._config, self._seed = name, judging, config, seed
        self.model: nn.Module = judging
        self._training, self._validation = training, validation
        self._steps: Iterator[tuple[int, int, list[int]]] | None = None
        self._next = 0
        self._rows: list[int] = []
        self._metrics: dict[str, float] = {}

    def fingerprint(self) -> str:
        """See `Trainee`: the options and the judgements."""
        return f"{self._config} {self._training.fingerprint()} {self._validation.fingerprint()}"

    def losses(self, step: int) -> Iterator[Tensor]:
        """See `Trainee`. The loss of a step is a mean over its judgements, however it is cut."""
        epoch, rows = self._at(step)
        self.model.train()
        right, weight = 0.0, 0.0
        for part in torch.tensor(rows).chunk(self._config.accumulation):
            items = [self._training.items[row] for row in part.tolist()]
            scores, mask = self._scores(self._training, items)
            right += float((_weights(items) * _correct(items, scores.detach(), mask)).sum())
            weight += sum(item.weight for item in items)
            yield self._judging.sums(items, scores, mask) / len(rows)
        accuracy = {} if self._config.rated else {"accuracy": right / weight}
        self._metrics = {**accuracy, "judgements": len(rows), "epoch": epoch}

    def metrics(self) -> Mapping[str, float]:
        """See `Trainee`."""
        return self._metrics

    def batch(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`: the numbers of the step's judgements, and of the outputs that they are about."""
        return [{"judgement": row, "outputs": list(self._training.items[row].outputs)} for row in self._rows]

    @torch.no_grad()
    def validate(self, step: int) -> Mapping[str, float]:
        """Loss and accuracy (of ratings: correlation) of the held-out judgements, each weighed as in training.

        Accuracy, and correlation, are the mean over the heads, each of which is given, too, where there are several.
        """
        self.model.eval()
        data, heads = self._validation, self._judging.model.options.heads
        loss, seen = 0.0, list[tuple[Item, float, float]]()
        largest = max(map(sum, zip(*data.lengths(), strict=True)))
        for rows in plan_batches(*data.lengths(), max(_FORWARD_TOKENS, largest), seed=0, epoch=0):
            items = [data.items[row] for row in rows]
            scores, mask = self._scores(data, items)
            loss += float(self._judging.sums(items, scores, mask))
            right = _correct(items, scores, mask)
            seen += zip(items, scores[:, 0].tolist(), right.tolist(), strict=True)
        measure = _correlation if self._config.rated else _accuracy
        of_head = {
            name: measure([entry for entry in seen if entry[0].head == number])
            for number, name in enumerate(heads)
            if any(item.head == number for item in data.items)
        }
        name = self._config.figures[0]
        mean = sum(of_head.values()) / len(of_head)
        each = {f"{name}_{head}": value for head, value in of_head.items()} if len(heads) > 1 else {}
        return {name: mean, "loss": loss / len(data), **each}

    def _at(self, step: int) -> tuple[int, list[int]]:
        if self._steps is None or step != self._next:
            lengths = self._training.lengths()
            self._steps = iter(TokenBudgetSampler(*lengths, self._config.batch, self._seed, start_step=step - 1))
        _, epoch, self._rows = next(self._steps)
        self._next = step + 1
        return epoch, self._rows

    def _scores(self, data: EncodedJudgements, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """The scores of each item's outputs by its head, [n, k], and which of them it has."""
        model = self._judging.model
        numbers: dict[int, int] = {}
        for item in items:
            for output in item.outputs:
                numbers.setdefault(output, len(numbers))
        batch = RewardBatch.of(data.texts, list(numbers), model.pad_id, model.device)
        with autocast(model.device, self._config.precision):
            found = model(batch)
        found = found.to(torch.promote_types(found.dtype, torch.float32))
        width = max(len(item.outputs) for item in items)
        rows = [[numbers[item.outputs[min(k, len(item.outputs) - 1)]] for k in range(width)] for item in items]
        counts = torch.tensor([len(item.outputs) for item in items], device=found.device)
        heads = torch.tensor([item.head for item in items], device=found.device)
        return found[torch.tensor(rows, device=found.device), heads[:, None]], torch.arange(
            width, device=found.device
        ) < counts[:, None]


def _weights(items: Sequence[Item]) -> Tensor:
    return torch.tensor([item.weight for item in items], dtype=torch.float64)


def _correct(items: Sequence[Item], scores: Tensor, mask: Tensor) -> Tensor:
    return correct(scores, mask, [item.tie for item in items]).double().cpu()


def _accuracy(seen: Sequence[tuple[Item, float, float]]) -> float:
    """The weighed share of comparisons in the right order; ties, which no order is right for, left out."""
    decided = [(item.weight, right) for item, _, right in seen if not item.tie]
    return sum(weight * right for weight, right in decided) / sum(weight for weight, _ in decided) if decided else 0.5


def _correlation(seen: Sequence[tuple[Item, float, float]]) -> float:
    """Pearson's, 0 where scores or ratings do not vary."""
    scores, values = torch.tensor([[score, item.value] for item, score, _ in seen], dtype=torch.float64).T
    far = scores - scores.mean(), values - values.mean()
    norm = float((far[0].square().sum() * far[1].square().sum()).sqrt())
    return float((far[0] * far[1]).sum()) / norm if norm else 0.0
