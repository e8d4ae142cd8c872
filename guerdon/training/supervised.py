"""Teacher forcing as a `Trainee`: what pre-training and fine-tuning share."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from guerdon.data.batches import Batch, BatchOptions, batches, plan_batches
from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError
from guerdon.generator import Generator
from guerdon.models.policy import Policy
from guerdon.models.precision import Precision, autocast, check_precision
from guerdon.models.together import deal, together
from guerdon.models.transformer import Transformer
from guerdon.objectives.likelihood import LikelihoodSums, label_smoothed_nll, linear_label_smoothed_nll
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions, PlainTrainee

Corruption = Callable[[int, Batch], Batch]
Validate = Callable[[Generator], Mapping[str, float]]
_VALIDATION_TOKENS = 8192  # of a validation batch; forward only


class HasLengths(Protocol):
    """What batches are cut from."""

    def lengths(self) -> tuple[list[int], list[int]]:
        """The tokens of each source and of its target."""
        ...


@dataclass(frozen=True)
class SupervisedOptions:
    """Options of a stage that learns by teacher forcing.

    Attributes:
        epochs: passes over the training pairs; exclusive with ``steps``.
        steps: optimiser steps; exclusive with ``epochs``.
        batch: how many tokens an optimiser step sees.
        accumulation: micro-batches that each step is cut into, to save memory; changes no gradient but for dropout.
        label_smoothing: share of the target distribution that is spread over all allowed tokens.
        precision: of the matrix products; weights and sums are float32.
        optimiser, loop: see there.
    """

    epochs: float | None = None
    steps: int | None = None
    batch: BatchOptions = field(default_factory=BatchOptions)
    accumulation: int = 1
    label_smoothing: float = 0.1
    precision: Precision = "float32"
    optimiser: OptimiserOptions = field(default_factory=OptimiserOptions)
    loop: LoopOptions = field(default_factory=LoopOptions)

    def __post_init__(self) -> None:
        self.check_length()
        check_precision(self.precision)
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigurationError(f"{self.label_smoothing} is not a share", where="label_smoothing", cure="0 to below 1")

    def check_length(self) -> None:
        """Refuses, as a `ConfigurationError`, options that do not say how long to train."""
        if (self.epochs is None) == (self.steps is None):
            raise ConfigurationError("needs either epochs or steps", where="epochs, steps", cure="give exactly one of them")
        if not (self.epochs or self.steps or 0) > 0 or self.accumulation < 1:
            raise ConfigurationError("epochs, steps and accumulation must be more than 0", where="epochs, steps, accumulation")

    def total_steps(self, pairs: HasLengths, seed: int) -> int:
        """The optimiser steps of the whole stage."""
        if self.steps is not None:
            return self.steps
        an_epoch = len(plan_batches(*pairs.lengths(), self.batch.max_tokens, seed, 0, self.batch.max_rows))
        return max(1, round(an_epoch * (self.epochs or 0)))


@dataclass(frozen=True)
class Pairs:
    """Encoded training pairs, end tokens included: ids of each source and of its target."""

    sources: Sequence[Sequence[int]]
    targets: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.sources)

    def fingerprint(self) -> str:
        """The same for the same ids in the same order."""
        digest = hashlib.sha256()
        for ids in itertools.chain(self.sources, self.targets):
            digest.update(np.array([len(ids), *ids], dtype=np.int64).tobytes())
        return digest.hexdigest()

    def lengths(self) -> tuple[list[int], list[int]]:
        """The tokens of each source and of each target."""
        return [len(ids) for ids in self.sources], [len(ids) for ids in self.targets]


class Supervised(PlainTrainee):
    """Minimises the label-smoothed negative log-likelihood of targets. See `guerdon.training.loop.Trainee`."""

    begins_trained = False

    def __init__(
        self,
        name: str,
        generator: Generator,
        training: Pairs,
        validation: Pairs,
        options: SupervisedOptions,
        seed: int,
        corrupt: Corruption | None = None,
        validate: Validate | None = None,
    ) -> None:
        self.name, self.model, self.generator = name, generator.policy, generator
        self._training, self._validation, self._options, self._seed = training, validation, options, seed
        self._corrupt, self._validate = corrupt, validate
        self._steps: Iterator[tuple[int, int, Batch]] | None = None
        self._next = 0
        self._batch: Batch | None = None
        self._metrics: dict[str, float] = {}

    def fingerprint(self) -> str:
        """See `Trainee`: the model's and the stage's options, and the pairs."""
        data = f"{self._training.fingerprint()} {self._validation.fingerprint()}"
        return f"{getattr(self.model, 'options', '')} {self._options} {data}"

    def losses(self, step: int) -> Iterator[Tensor]:
        """The losses of the only update of a step: a mean over its target tokens, however it is cut."""
        epoch, batch = self._at(step)
        self.model.train()
        tokens, nll = batch.targets.tokens(), 0.0
        for part in _cut(batch, self._options.accumulation):
            sums = self._sums(part, self._options.label_smoothing)
            nll += sums[1]
            yield sums[0] / tokens
        positions = batch.sources.ids.numel() + batch.targets.ids.numel()
        fill = (batch.sources.tokens() + tokens) / positions
        self._metrics = {"nll": nll / tokens, "tokens": tokens, "rows": len(batch.targets), "fill": fill, "epoch": epoch}

    def metrics(self) -> Mapping[str, float]:
        """See `Trainee`."""
        return self._metrics

    def validate(self, step: int) -> Mapping[str, float]:
        """The validation pairs' negative log-likelihood per token, and what the stage's ``validate`` adds."""
        self.model.eval()
        figures = {"nll": self._validation_nll()} if len(self._validation) else {}
        return {**figures, **(self._validate(self.generator) if self._validate else {})}

    def batch(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`: the numbers and texts of the step's pairs."""
        if self._batch is None:
            return []
        texts = zip(
            self._batch.indices,
            self.generator.tokenizer.decode_batch(self._batch.sources.to_lists()),
            self.generator.tokenizer.decode_batch(self._batch.targets.to_lists()),
            strict=True,
        )
        return [{"pair": number, "source": source, "target": target} for number, source, target in texts]

    def _at(self, step: int) -> tuple[int, Batch]:
        if self._steps is None or step != self._next:
            training, options = self._training, self._options
            self._steps = batches(training.sources, training.targets, options.batch, self._seed, start_step=step - 1)
        _, epoch, batch = next(self._steps)
        self._next = step + 1
        self._batch = self._corrupt(epoch, batch) if self._corrupt else batch
        return epoch, self._batch

    def _sums(self, batch: Batch, smoothing: float) -> tuple[Tensor, float]:
        """The smoothed and the plain negative log-likelihood of the batch."""
        device = self.generator.device
        sources, targets = batch.sources.to(device), batch.targets.to(device)

        def of_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
            with autocast(device, self._options.precision):
                sums = smoothed_nll(self.generator.policy, sources.select(rows), targets.select(rows), smoothing)
            return sums.loss, sums.nll

        shares = deal(self.model, targets.lengths)
        losses, nlls = zip(*together(self.model, [partial(of_rows, rows) for rows in shares]), strict=True)
        return torch.stack(losses).sum(), float(torch.stack(nlls).sum())

    def _validation_nll(self) -> float:
        pairs = self._validation
        nll, tokens = 0.0, 0
        with torch.no_grad():
            largest = max(map(sum, zip(*pairs.lengths(), strict=True)))
            for rows in plan_batches(*pairs.lengths(), max(_VALIDATION_TOKENS, largest), seed=0, epoch=0):
                targets = Padded.from_lists([pairs.targets[i] for i in rows])
                sources = Padded.from_lists([pairs.sources[i] for i in rows])
                nll += self._sums(Batch(tuple(rows), sources, targets), 0.0)[1]
                tokens += targets.tokens()
        return nll / tokens


def smoothed_nll(policy: Policy, sources: Padded, targets: Padded, smoothing: float) -> LikelihoodSums:
    """What ``policy`` makes of the targets, see `guerdon.objectives.likelihood.label_smoothed_nll`."""
    if isinstance(policy, Transformer):
        return linear_label_smoothed_nll(
            policy.hidden(sources, targets), policy.output_weight, policy.allowed, targets, smoothing
        )
    return label_smoothed_nll(policy.logits(sources, targets), targets, smoothing)


def _cut(batch: Batch, parts: int) -> Iterator[Batch]:
    for rows in torch.arange(len(batch.targets)).chunk(parts):
        numbers = tuple(batch.indices[i] for i in rows.tolist())
        yield Batch(numbers, batch.sources.select(rows), batch.targets.select(rows))
