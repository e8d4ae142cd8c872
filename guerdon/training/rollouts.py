"""Rollouts: outputs drawn from the policy for a few sources, with all that a policy gradient reads of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from guerdon.data.draws import generator as random_generator
from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.data.records import Example
from guerdon.decoding import LengthLimit, Samples, SamplingOptions, greedy, sample
from guerdon.errors import DataError
from guerdon.generator import Generator, Text
from guerdon.models.policy import Policy
from guerdon.models.precision import Precision
from guerdon.models.together import deal, together
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

    def references(self, numbers: Sequence[int], generator: Generator, seed: int, step: int) -> Padded:
        """One reference of each of the examples named, drawn anew at each step."""
        drawn = random_generator(seed, "mle reference", step)
        chosen = [self.examples[i].references for i in numbers]
        texts = [references[int(drawn.integers(len(references)))] for references in chosen]
        return Padded.from_lists(generator.encode_targets(texts), generator.policy.pad_id, generator.device)

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

    def prefixes(self, tokenizer: Text) -> list[list[str]]:
        """The text before each token of each output."""
        rows = self.samples.tokens.to_lists()
        texts = iter(tokenizer.decode_batch([row[:t] for row in rows for t in range(len(row))]))
        return [[next(texts) for _ in row] for row in rows]

    @property
    def copies(self) -> int:
        """Outputs of each source."""
        return len(self.groups) // len(self.sources)

    def micro_batches(self, max_tokens: int, sources: int | None = None) -> Iterator[MicroBatch]:
        """Whole sample groups of about equal length, at most ``max_tokens`` padded target positions together (or one group).

        Args:
            max_tokens: of a micro-batch.
            sources: only the groups of the first so many; None for all.
        """
        lengths = torch.zeros_like(self.sources.lengths).scatter_reduce(0, self.groups, self.samples.tokens.lengths, "amax")
        copies = self.copies
        part: list[int] = []
        for group in torch.argsort(lengths[:sources], stable=True).tolist():
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

    def deal(self, policy: Policy) -> list[Tensor]:
        """Whole sample groups for each core, see `guerdon.models.together.deal`: the places of their rows, int64."""
        lengths = torch.zeros_like(self.sources.lengths).scatter_add(0, self.of_source, self.targets.lengths)
        return [torch.isin(self.of_source, share).nonzero()[:, 0] for share in deal(policy, lengths)]

    def select(self, places: Tensor) -> MicroBatch:
        """The rows that stand there, and their sources."""
        groups, of_source = self.of_source[places].unique(return_inverse=True)
        return MicroBatch(self.rows[places], self.sources.select(groups), self.targets.select(places), of_source)


def dealt(
    module: nn.Module | Policy, policy: Policy, part: MicroBatch, look: Callable[[MicroBatch], list[Tensor]]
) -> Sequence[Tensor]:
    """What ``look`` says of some sample groups, each tensor [part, length]; each core looks at some of the groups."""
    shares = part.deal(policy)
    if len(shares) == 1:
        return look(part)
    found = together(module, [partial(lambda places: look(part.select(places)), places) for places in shares])
    width, order = part.targets.ids.shape[1], torch.cat(shares).argsort()
    return [
        torch.cat([functional.pad(values, (0, width - values.shape[1])) for values in each])[order]
        for each in zip(*found, strict=True)
    ]


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
    return rollout_of(generator, sources, numbers, copies, samples)


def rollout_of(generator: Generator, sources: Padded, numbers: Sequence[int], copies: int, samples: Samples) -> Rollout:
    """What was drawn for the sources of the examples named, with its texts."""
    rows = [number for number in numbers for _ in range(copies)]
    groups = torch.arange(len(numbers), device=sources.ids.device).repeat_interleave(copies)
    return Rollout(sources, rows, groups, samples, generator.tokenizer.decode_batch(samples.without_end()))


def greedy_texts(
    generator: Generator, prompts: Prompts, numbers: Sequence[int], limit: LengthLimit
) -> tuple[list[str], list[bool]]:
    """The policy's greedy output for each example named, and whether it ended."""
    sources = prompts.padded(numbers, generator)
    found = greedy(generator.policy, sources, limit.of(sources, generator.policy))
    return generator.tokenizer.decode_batch([h.tokens for h in found]), [h.finished for h in found]


def check_references(examples: Sequence[Example], reader: str) -> None:
    """Refuses, as a `DataError`, an example without references, which ``reader`` needs."""
    for number, example in enumerate(examples):
        if not example.references:
            raise DataError(
                f"example {number} ({example.source[:60]!r}) has no references, which {reader} reads",
                where="reinforce",
                cure="give every record at least one reference, or choose rewards that need none",
            )
