"""Rollouts: outputs drawn from the policy for a few sources, with all that a policy gradient reads of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.data.records import Example
from guerdon.decoding import LengthLimit, Samples, SamplingOptions, greedy, sample
from guerdon.generator import Generator
from guerdon.models.precision import Precision
from guerdon.rewards.base import Judged


@dataclass(frozen=True)
class Prompts:
    """Examples with their sources encoded once."""

    examples: Sequence[Example]
    ids: Sequence[Sequence[int]]

    @classmethod
    def of(cls, generator: Generator, examples: Sequence[Example]) -> Prompts:
        """Encodes the sources; raises `guerdon.errors.DataError` for one that is too long."""
        return cls(examples, generator.encode_sources([example.source for example in examples]))

    def __len__(self) -> int:
        return len(self.examples)

    def padded(self, numbers: Sequence[int], generator: Generator) -> Padded:
        """The sources of the examples named, as the policy reads them."""
        return Padded.from_lists([self.ids[i] for i in numbers], generator.policy.pad_id, generator.device)

    def judged(self, numbers: Sequence[int], texts: Sequence[str], finished: Sequence[bool]) -> Judged:
        """What a reward is shown of one text for each example named."""
        chosen = [self.examples[i] for i in numbers]
        return Judged.of([e.source for e in chosen], texts, [e.references for e in chosen], [e.meta for e in chosen], finished)


@dataclass(frozen=True)
class Rollout:
    """Outputs drawn for some sources, row = source * copies + copy.

    Attributes:
        sources: the sources, one row each.
        numbers: the example of each row.
        groups: int64 [rows], the sample group (source) of each row.
        samples: the ids, whether they ended, and their log-probabilities when drawn.
        texts: the ids as texts.
        weights: float64 [rows], what each output counts where another model than the policy drew it; None where it did.
        figures: what drawing measured, for the log.
    """

    sources: Padded
    numbers: Sequence[int]
    groups: Tensor
    samples: Samples
    texts: Sequence[str]
    weights: Tensor | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def micro_batches(self, max_tokens: int) -> Iterator[MicroBatch]:
        """Whole sample groups of about equal length, at most ``max_tokens`` padded target positions together (or one group)."""
        lengths = torch.zeros_like(self.sources.lengths).scatter_reduce(0, self.groups, self.samples.tokens.lengths, "amax")
        copies = len(self.groups) // len(self.sources)
        part: list[int] = []
        for group in torch.argsort(lengths, stable=True).tolist():
            if part and (len(part) + 1) * copies * int(lengths[group]) > max_tokens:
                yield self._micro_batch(part, copies)
                part = []
            part.append(group)
        yield self._micro_batch(part, copies)

    def _micro_batch(self, groups: list[int], copies: int) -> MicroBatch:
        chosen = torch.tensor(groups, device=self.groups.device)
        rows = (chosen[:, None] * copies + torch.arange(copies, device=chosen.device)).flatten()
        of_source = torch.arange(len(chosen), device=chosen.device).repeat_interleave(copies)
        return MicroBatch(rows, self.sources.select(chosen), self.samples.tokens.select(rows), of_source)


@dataclass(frozen=True)
class MicroBatch:
    """Some sample groups of a rollout.

    Attributes:
        rows: int64 [part], their rows in the rollout.
        sources: their sources, one row for each group.
        targets: their ids, [part, length].
        of_source: int64 [part], the row in ``sources`` of each.
    """

    rows: Tensor
    sources: Padded
    targets: Padded
    of_source: Tensor


def draw(
    generator: Generator,
    prompts: Prompts,
    numbers: Sequence[int],
    copies: int,
    options: SamplingOptions,
    limit: LengthLimit,
    seed: int,
    step: int,
    precision: Precision = "float32",
) -> Rollout:
    """``copies`` outputs for each example named; a function of (weights, seed, step, example, copy) and of nothing else."""
    sources = prompts.padded(numbers, generator)
    rows = [number for number in numbers for _ in range(copies)]
    keys = row_keys(seed, "rollout", step, rows, torch.arange(copies).repeat(len(numbers)))
    limits = limit.of(sources, generator.policy)
    samples = sample(generator.policy, sources, limits, options, keys, copies, precision=precision)
    groups = torch.arange(len(numbers), device=sources.ids.device).repeat_interleave(copies)
    return Rollout(sources, rows, groups, samples, generator.tokenizer.decode_batch(samples.without_end()))


def greedy_texts(
    generator: Generator, prompts: Prompts, numbers: Sequence[int], limit: LengthLimit
) -> tuple[list[str], list[bool]]:
    """The policy's greedy output for each example named, and whether it ended."""
    sources = prompts.padded(numbers, generator)
    found = greedy(generator.policy, sources, limit.of(sources, generator.policy))
    return generator.tokenizer.decode_batch([h.tokens for h in found]), [h.finished for h in found]
