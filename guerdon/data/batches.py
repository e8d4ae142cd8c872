"""Batches: which examples go into which step. Pure functions of (data, seed, epoch), so that a run resumes at any step.

Nothing here has state: whoever knows the step knows the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from guerdon.data import draws
from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError, DataError, InputError

Lengths = NDArray[np.int64]
Plan = tuple[int, int, list[int]]
_BUCKET_GROWTH = 1.1  # lengths up to 10% apart share a bucket: padding is bounded by that, and who meets whom stays random


@dataclass(frozen=True)
class BatchOptions:
    """How batches are cut.

    Attributes:
        max_tokens: most positions of a batch, padding included: rows * longest source + rows * longest target.
        max_rows: most examples of a batch; None for no limit but ``max_tokens``.
    """

    max_tokens: int = 4096
    max_rows: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("max_tokens", self.max_tokens), ("max_rows", self.max_rows)):
            if value is not None and value < 1:
                raise ConfigurationError(f"{value} is below 1", where=name, cure="give a whole number above 0")


@dataclass(frozen=True)
class Batch:
    """Examples of one step.

    Attributes:
        indices: their numbers in the data.
        sources: their ids, [rows, longest source].
        targets: their ids, [rows, longest target].
    """

    indices: tuple[int, ...]
    sources: Padded
    targets: Padded


def plan_batches(
    source_lengths: Sequence[int],
    target_lengths: Sequence[int],
    max_tokens: int,
    seed: int,
    epoch: int,
    max_rows: int | None = None,
) -> list[list[int]]:
    """Puts every example into exactly one batch of an epoch.

    Examples are shuffled, brought together by length (in buckets that grow by 10%, within which the order stays random), cut
    into batches, and the batches shuffled.

    Args:
        source_lengths: tokens of each source.
        target_lengths: tokens of each target.
        max_tokens: as in `BatchOptions`.
        seed: of the run.
        epoch: from 0.
        max_rows: as in `BatchOptions`.

    Returns:
        The examples' numbers, batch by batch.

    Raises:
        DataError: there are no examples, or one is larger than ``max_tokens``.
        InputError: the two lists differ in length.
    """
    sources, targets = _lengths(source_lengths, target_lengths, max_tokens)
    generator = draws.generator(seed, "batches", epoch)
    order = generator.permutation(len(sources))
    order = order[_by_bucket(sources[order], targets[order])]
    batches = _cut(order.tolist(), sources.tolist(), targets.tolist(), max_tokens, max_rows or len(order))
    return [batches[number] for number in generator.permutation(len(batches))]


def _lengths(source_lengths: Sequence[int], target_lengths: Sequence[int], max_tokens: int) -> tuple[Lengths, Lengths]:
    if len(source_lengths) != len(target_lengths):
        raise InputError(f"{len(source_lengths)} sources for {len(target_lengths)} targets", cure="pass one target per source")
    if not len(source_lengths):
        raise DataError("there are no examples to make batches of", cure="give at least one")
    sources = np.maximum(np.asarray(source_lengths, dtype=np.int64), 1)  # a rectangle has at least one column
    targets = np.maximum(np.asarray(target_lengths, dtype=np.int64), 1)
    largest = int((sources + targets).argmax())
    if (size := int(sources[largest] + targets[largest])) > max_tokens:
        raise DataError(
            f"it has {size} tokens (source {sources[largest]}, target {targets[largest]}), and a batch at most {max_tokens}",
            where=f"example {largest}",
            cure=f"raise max_tokens to {size}, or take out or shorten what is that long",
        )
    return sources, targets


def _by_bucket(sources: Lengths, targets: Lengths) -> NDArray[np.intp]:
    """A stable order by source bucket, and by target bucket within it, up and down in turn so that neighbours stay alike."""
    source_buckets, target_buckets = _bucket(sources), _bucket(targets)
    turned = np.where(source_buckets % 2 == 0, target_buckets, -target_buckets)
    return np.lexsort((turned, source_buckets))


def _bucket(lengths: Lengths) -> Lengths:
    buckets: Lengths = np.floor(np.log(lengths) / np.log(_BUCKET_GROWTH)).astype(np.int64)
    return buckets


def _cut(order: list[int], sources: list[int], targets: list[int], max_tokens: int, max_rows: int) -> list[list[int]]:
    batches, batch, width_s, width_t = list[list[int]](), list[int](), 0, 0
    for example in order:
        wider_s, wider_t = max(width_s, sources[example]), max(width_t, targets[example])
        if batch and (len(batch) == max_rows or (len(batch) + 1) * (wider_s + wider_t) > max_tokens):
            batches.append(batch)
            batch, wider_s, wider_t = [], sources[example], targets[example]
        batch.append(example)
        width_s, width_t = wider_s, wider_t
    return [*batches, batch]


class TokenBudgetSampler(Sampler[Plan]):
    """(step, epoch, examples) for ever, from any step on; steps count on over the epochs.

    To start at a late step, the epochs before it are planned again, for their numbers of batches: about a second for a
    million examples an epoch.

    Args:
        source_lengths: tokens of each source.
        target_lengths: tokens of each target.
        options: how batches are cut.
        seed: of the run.
        start_step: the first step to give; 0 is the first of the first epoch.

    Raises:
        DataError, InputError: as `plan_batches`.
        ConfigurationError: ``start_step`` is negative.
    """

    def __init__(
        self,
        source_lengths: Sequence[int],
        target_lengths: Sequence[int],
        options: BatchOptions,
        seed: int,
        start_step: int = 0,
    ) -> None:
        _check_start(start_step)
        _lengths(source_lengths, target_lengths, options.max_tokens)
        self._lengths, self._options = (source_lengths, target_lengths), options
        self._seed, self._start = seed, start_step

    def __iter__(self) -> Iterator[Plan]:
        step = epoch = 0
        while True:
            plan = plan_batches(*self._lengths, self._options.max_tokens, self._seed, epoch, self._options.max_rows)
            for number in range(max(0, self._start - step), len(plan)):
                yield step + number, epoch, plan[number]
            step, epoch = step + len(plan), epoch + 1


def _check_start(start_step: int) -> None:
    if start_step < 0:
        raise ConfigurationError(f"{start_step} is negative", where="start_step", cure="the first step is 0")


class _Rectangles(Dataset[tuple[int, int, Batch]]):
    """What a sampler's plan names, as tensors."""

    def __init__(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> None:
        self._sources, self._targets = sources, targets

    def __getitem__(self, plan: Plan) -> tuple[int, int, Batch]:
        step, epoch, indices = plan
        sources = Padded.from_lists([self._sources[index] for index in indices])
        targets = Padded.from_lists([self._targets[index] for index in indices])
        return step, epoch, Batch(tuple(indices), sources, targets)


def _as_is(item: Any) -> Any:
    return item


def batches(
    sources: Sequence[Sequence[int]],
    targets: Sequence[Sequence[int]],
    options: BatchOptions,
    seed: int,
    start_step: int = 0,
) -> Iterator[tuple[int, int, Batch]]:
    """(step, epoch, batch) for ever: a pass over the examples is an epoch, and steps count on over the epochs.

    A run from ``start_step`` gives what a run from 0 gives from there on. No global random state is read or changed.

    Args:
        sources: the ids of each source.
        targets: the ids of each target.
        options: how batches are cut.
        seed: of the run.
        start_step: the first step to give.

    Raises:
        DataError, InputError: as `plan_batches`.
        ConfigurationError: ``start_step`` is negative.
    """
    sampler = TokenBudgetSampler([len(ids) for ids in sources], [len(ids) for ids in targets], options, seed, start_step)
    loader = DataLoader(
        _Rectangles(sources, targets),
        sampler=sampler,
        batch_size=None,
        collate_fn=_as_is,
        generator=torch.Generator(),  # without its own, a loader draws from torch's global state at every start
    )
    return iter(loader)


def source_batches(count: int, sources_per_step: int, seed: int, start_step: int = 0) -> Iterator[tuple[int, int, list[int]]]:
    """(step, epoch, sources) for ever, for reinforcement: a new permutation each epoch, the same number every step.

    A step that ends an epoch begins the next one; the next permutation is then drawn so that the step has no source twice.

    Args:
        count: number of sources.
        sources_per_step: how many each step has.
        seed: of the run.
        start_step: the first step to give; 0 is the first of the first epoch.

    Returns:
        The steps; ``epoch`` is that of the step's first source.

    Raises:
        ConfigurationError: ``sources_per_step`` is below 1 or above ``count``, or ``start_step`` is negative.
    """
    _check_start(start_step)
    if not 1 <= sources_per_step <= count:
        cure = f"choose from 1 to {count}" if count else "give some sources"
        raise ConfigurationError(f"{sources_per_step} of {count} sources", where="sources_per_step", cure=cure)
    return _source_steps(count, sources_per_step, seed, start_step)


def _source_steps(count: int, size: int, seed: int, start_step: int) -> Iterator[tuple[int, int, list[int]]]:
    step, epoch, carried = 0, 0, list[int]()
    while True:
        waiting = carried + _permutation(count, seed, epoch, carried, size)
        first = epoch - 1 if carried else epoch
        whole = len(waiting) // size
        for number in range(max(0, start_step - step), whole):
            yield step + number, first if number == 0 else epoch, waiting[number * size : (number + 1) * size]
        step, epoch, carried = step + whole, epoch + 1, waiting[whole * size :]


def _permutation(count: int, seed: int, epoch: int, carried: list[int], size: int) -> list[int]:
    """An epoch's order, in which the sources that share a step with ``carried`` are others."""
    order: list[int] = draws.generator(seed, "sources", epoch).permutation(count).tolist()
    if not carried:
        return order
    taken, needed = set(carried), size - len(carried)
    fresh = [source for source in order if source not in taken][:needed]
    chosen = set(fresh)
    return fresh + [source for source in order if source not in chosen]
