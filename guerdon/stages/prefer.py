"""Learning from comparisons without drawing samples: DPO, IPO and ORPO (`guerdon.objectives.preference`).

Both outputs of a pair stand in one micro-batch, and a source is encoded once for all its outputs there. The anchor is the
policy that the stage begins with; all that is kept of it is its log-probability of each output, computed once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guerdon.data.batches import TokenBudgetSampler, plan_batches
from guerdon.data.comparisons import Comparison
from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.models.precision import autocast
from guerdon.objectives.preference import PreferenceSums, dpo_loss, ipo_loss, orpo_loss, sequence_log_prob
from guerdon.training.around import surroundings
from guerdon.training.checkpoint import add_weights
from guerdon.training.loop import Loop, Outcome
from guerdon.training.preferences import FIGURES, PairIds, PreferConfig, encode_comparisons
from guerdon.training.progress import Progressing, Silent
from guerdon.training.supervised import Validate
from guerdon.training.trainee import PlainTrainee

_FORWARD_TOKENS = 8192  # of a batch without gradients


@dataclass(frozen=True)
class _Anchored:
    """Pairs with the anchor's log-probabilities of their outputs, [2, pairs], chosen first; None for a loss without anchor."""

    pairs: PairIds
    log_prob: Tensor | None


class Prefer(PlainTrainee):
    """A preference loss as a `guerdon.training.loop.Trainee`. Dropout is off: a margin compares whole outputs."""

    begins_trained = True

    def __init__(
        self, generator: Generator, training: PairIds, validation: PairIds, config: PreferConfig, seed: int,
        validate: Validate | None = None,
    ) -> None:  # fmt: skip
        self.name, self.generator, self.model = "prefer", generator, generator.policy
        self._config, self._seed, self._validate = config, seed, validate
        self._anchor_weights = hashlib.sha256()
        if config.anchored:
            add_weights(self._anchor_weights, self.model.parameters())
        self.model.eval()
        self._training, self._validation = (_Anchored(pairs, self._of_anchor(pairs)) for pairs in (training, validation))
        self._steps: Iterator[tuple[int, int, list[int]]] | None = None
        self._next = 0
        self._rows: list[int] = []
        self._metrics: dict[str, float] = {}

    def fingerprint(self) -> str:
        """See `Trainee`: the options, the pairs, and the anchor, which on resuming must be the one it began with."""
        data = f"{self._training.pairs.fingerprint()} {self._validation.pairs.fingerprint()}"
        return f"{getattr(self.model, 'options', '')} {self._config} {data} {self._anchor_weights.hexdigest()}"

    def losses(self, step: int) -> Iterator[Tensor]:
        """See `Trainee`. The loss of a step is a mean over its pairs, however it is cut."""
        epoch, rows = self._at(step)
        self.model.eval()
        totals: dict[str, float] = {}
        for part in torch.tensor(rows).chunk(self._config.accumulation):
            sums, figures = self._sums(self._training, part.tolist())
            totals = {name: totals.get(name, 0.0) + value for name, value in figures.items()}
            yield sums.loss / len(rows)
        tokens = totals.pop("tokens")
        del totals["loss"]  # the loop logs it
        means = {name: value / len(rows) for name, value in totals.items()}
        self._metrics = {**means, "pairs": len(rows), "tokens": tokens, "epoch": epoch}

    def metrics(self) -> Mapping[str, float]:
        """See `Trainee`."""
        return self._metrics

    def validate(self, step: int) -> Mapping[str, float]:
        """Loss, accuracy and margin of the validation pairs, each weighed as in training, and what ``validate`` adds."""
        self.model.eval()
        figures = self._figures(self._validation) if len(self._validation.pairs) else {}
        return {**figures, **(self._validate(self.generator) if self._validate else {})}

    def batch(self) -> Sequence[Mapping[str, Any]]:
        """See `Trainee`: the texts of the step's pairs."""
        chosen = [(row, self._training.pairs.pairs[row]) for row in self._rows]
        return [{"pair": i, "source": p.source, "chosen": p.chosen, "rejected": p.rejected} for i, p in chosen]

    # --- the parts of a step

    def _at(self, step: int) -> tuple[int, list[int]]:
        if self._steps is None or step != self._next:
            lengths = self._training.pairs.lengths()
            self._steps = iter(TokenBudgetSampler(*lengths, self._config.batch, self._seed, start_step=step - 1))
        _, epoch, self._rows = next(self._steps)
        self._next = step + 1
        return epoch, self._rows

    def _log_probs(self, pairs: PairIds, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The policy's log-probability of both outputs of some pairs, and their tokens: [2, n] each, chosen first."""
        device, pad = self.generator.device, self.model.pad_id
        numbers: dict[tuple[int, ...], int] = {}
        of_source = [numbers.setdefault(tuple(pairs.sources[row]), len(numbers)) for row in rows]
        sources = Padded.from_lists(list(numbers), pad, device)
        targets = Padded.from_lists([side[row] for side in (pairs.chosen, pairs.rejected) for row in rows], pad, device)
        with autocast(device, self._config.precision):
            logits = self.model.logits(sources, targets, torch.tensor(of_source * 2, device=device))
        return sequence_log_prob(logits, targets).view(2, -1), targets.lengths.view(2, -1)

    def _sums(self, data: _Anchored, rows: Sequence[int]) -> tuple[PreferenceSums, dict[str, float]]:
        """The loss of some pairs, and sums of figures over them."""
        log_prob, tokens = self._log_probs(data.pairs, rows)
        exact = torch.tensor([data.pairs.weights[row] for row in rows], dtype=torch.float64, device=log_prob.device)
        anchor = None if data.log_prob is None else data.log_prob[:, rows].to(log_prob)
        sums = self._loss(log_prob, tokens, anchor, exact.to(log_prob))
        seen = {
            "accuracy": sums.correct,
            "margin": sums.margin,
            "chosen_log_prob": log_prob[0].detach(),
            "rejected_log_prob": log_prob[1].detach(),
        }
        figures = {name: (exact * values).sum().item() for name, values in seen.items()}
        figures |= {"loss": sums.loss.item(), "tokens": float(tokens.sum())}
        return sums, figures

    def _loss(self, log_prob: Tensor, tokens: Tensor, anchor: Tensor | None, weight: Tensor) -> PreferenceSums:
        """The loss that the options name, of log-probabilities [2, n]."""
        factor, (chosen, rejected) = self._config.factor, log_prob
        if anchor is None:
            return orpo_loss(chosen, rejected, tokens[0], tokens[1], factor, weight)
        if self._config.loss == "ipo":
            return ipo_loss(chosen, rejected, anchor[0], anchor[1], factor, weight)
        return dpo_loss(chosen, rejected, anchor[0], anchor[1], factor, self._config.label_smoothing, weight)

    @staticmethod
    def _portions(pairs: PairIds) -> list[list[int]]:
        """All pairs in batches that depend on nothing but the pairs: a policy that has not moved has margins of exactly 0."""
        largest = max(map(sum, zip(*pairs.lengths(), strict=True)))
        return plan_batches(*pairs.lengths(), max(_FORWARD_TOKENS, largest), seed=0, epoch=0)

    @torch.no_grad()
    def _of_anchor(self, pairs: PairIds) -> Tensor | None:
        """The log-probabilities of the policy as it is now, [2, pairs]; None where the loss has no anchor."""
        if not self._config.anchored:
            return None
        found = torch.zeros(2, len(pairs), dtype=torch.float64)
        for rows in self._portions(pairs) if len(pairs) else []:
            found[:, rows] = self._log_probs(pairs, rows)[0].to(found)
        return found

    @torch.no_grad()
    def _figures(self, data: _Anchored) -> dict[str, float]:
        totals: dict[str, float] = {}
        for rows in self._portions(data.pairs):
            for name, value in self._sums(data, rows)[1].items():
                totals[name] = totals.get(name, 0.0) + value
        del totals["tokens"]
        return {name: value / len(data.pairs) for name, value in totals.items()}


def prefer(
    generator: Generator,
    comparisons: Sequence[Comparison],
    config: PreferConfig,
    validation: Sequence[Comparison] = (),
    validate: Validate | None = None,
    folder: Path | None = None,
    seed: int = 0,
    progress: Progressing | None = None,
    tensorboard: bool = False,
) -> Outcome:
    """Trains the generator's policy, in place, on every pair of ``comparisons`` of which one output is preferred.

    Args:
        generator: its policy ends with the weights that validated best by ``config.loop.criterion``. The policy that it
            begins with is the anchor.
        comparisons: ties, repeats and pairs of equal texts are dropped and counted.
        config: the options.
        validation: comparisons that measure accuracy, margin and loss; of sources that are not trained on
            (`guerdon.data.selection.split_by_source`).
        validate: further validation figures, e.g. BLEU of greedy outputs.
        folder, seed, progress, tensorboard: as `guerdon.stages.finetune.finetune`.

    Raises:
        DataError: where no pair is left to train on, or one is too long (with ``too_long="stop"``) or cannot be written.
        ConfigurationError: for a criterion that nothing measures.
        TrainingError, CheckpointError: as `guerdon.training.loop.Loop.run`.
    """
    progress = progress or Silent()
    training, held = (encode_comparisons(generator, given, config.too_long) for given in (comparisons, validation))
    for which, pairs in (("training", training), ("validation", held)):
        for reason, count in pairs.dropped.items():
            progress.say(f"prefer: {count} of the {which} comparisons dropped: {reason}")
    if not len(training):
        raise DataError(
            "no pair is left to train on", where="prefer", cure="give comparisons that prefer one of two different outputs"
        )
    if (config.loop.criterion in FIGURES and not len(held)) or (config.loop.criterion not in FIGURES and validate is None):
        raise ConfigurationError(
            f"nothing measures {config.loop.criterion!r}",
            where="prefer.loop.criterion",
            cure=f"give validation comparisons for {', '.join(FIGURES)}, or a function that measures it",
        )
    trainee = Prefer(generator, training, held, config, seed, validate)
    with surroundings(folder, "prefer", seed, progress, tensorboard) as around:
        return Loop(trainee, config.total_steps(training, seed), config.loop, config.optimiser, around).run()
