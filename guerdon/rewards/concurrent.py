"""A slow reward, batch by batch in several threads: one that asks a service, a model elsewhere, another program."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from guerdon.errors import ConfigurationError, InputError, RewardError
from guerdon.rewards.base import Judged, Reward

_FIRST_WAIT = 0.5  # seconds before the first repetition; doubled each time
_LOOK = 0.05  # seconds between two looks at the clock while batches are waited for


class Concurrent(Reward):
    """The scores of another reward, which must judge each output by itself: asked in batches, several at a time.

    Outputs that are equal in all that the reward is shown are judged once. The scores do not depend on which batch is ready
    first. Python runs one thread at a time but for those that wait or compute outside of it: a pure Python function gains
    nothing.

    Args:
        reward: what is asked.
        workers: batches at a time.
        batch_size: outputs a batch.
        timeout: seconds that a batch may take; None for any. A thread cannot be stopped, so that what hangs is left behind.
        retries: how often a batch is asked again when the reward raises, after half a second, one, two, ... Bad input is not
            asked again.

    Raises:
        ConfigurationError: for numbers that cannot be.
    """

    def __init__(
        self, reward: Reward, workers: int = 4, batch_size: int = 16, timeout: float | None = None, retries: int = 0
    ) -> None:
        for name, value, least in (("workers", workers, 1), ("batch_size", batch_size, 1), ("retries", retries, 0)):
            if value < least:
                raise ConfigurationError(f"{name} is {value}", where=f"reward {reward.name!r}", cure=f"give at least {least}")
        if timeout is not None and not 0 < timeout < float("inf"):
            raise ConfigurationError(
                f"timeout is {timeout}", where=f"reward {reward.name!r}", cure="give seconds, or leave it out"
            )
        self.reward, self.workers, self.batch_size, self.timeout, self.retries = reward, workers, batch_size, timeout, retries
        self.name, self.needs_references, self.scores_prefixes = reward.name, reward.needs_references, reward.scores_prefixes

    def applies(self, judged: Judged) -> Sequence[bool] | None:
        """As the reward itself."""
        return self.reward.applies(judged)

    def score(self, judged: Judged) -> list[float]:
        """As the reward itself.

        Raises:
            RewardError: when a batch takes too long, or is answered with another number of scores.
            Exception: whatever the reward raises.
        """
        first: dict[Any, int] = {}
        places = [first.setdefault(key, row) for row, key in enumerate(_keys(judged))]
        rows = list(first.values())
        work = _Work([rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)])
        for _ in range(min(self.workers, len(work.batches))):
            threading.Thread(target=self._work, args=(work, judged), name=f"reward {self.name}", daemon=True).start()
        try:
            self._wait(work)
        finally:
            work.stopped = True
        known: dict[int, float] = {}
        for number, batch in enumerate(work.batches):
            known |= zip(batch, work.scores[number], strict=True)
        return [known[place] for place in places]

    def _wait(self, work: _Work) -> None:
        while len(work.scores) < len(work.batches):
            if work.errors:
                raise work.errors[0]
            late = [began for began in list(work.began.values()) if self.timeout and time.monotonic() - began > self.timeout]
            if late:
                raise RewardError(
                    f"a batch of {self.batch_size} outputs took longer than {self.timeout:g} s",
                    where=f"reward {self.name!r}",
                    cure="see whether it hangs; raise timeout, or lower batch_size",
                )
            work.news.wait(_LOOK)
            work.news.clear()

    def _work(self, work: _Work, judged: Judged) -> None:
        """What a thread does: one batch after the other, until there is none or somebody has failed."""
        while not work.stopped:
            try:
                number = work.left.get_nowait()
            except queue.Empty:
                return
            try:
                work.scores[number] = self._ask(work, number, judged)
            except BaseException as error:
                work.errors.append(error)
                work.stopped = True
            finally:
                work.began.pop(number, None)
                work.news.set()

    def _ask(self, work: _Work, number: int, judged: Judged) -> list[float]:
        batch = _chosen(judged, work.batches[number])
        for attempt in range(self.retries + 1):
            work.began[number] = time.monotonic()
            try:
                return self._checked(self.reward.score(batch), len(batch))
            except InputError:
                raise
            except Exception:
                work.began.pop(number, None)
                if attempt == self.retries or work.stopped:
                    raise
                time.sleep(_FIRST_WAIT * 2**attempt)
        raise AssertionError

    def _checked(self, returned: Tensor | Sequence[float], count: int) -> list[float]:
        scores = [float(score) for score in returned]
        if len(scores) != count:
            raise RewardError(
                f"returned {len(scores)} scores for {count} outputs",
                where=f"reward {self.name!r}",
                cure="return one number per output",
            )
        return scores


@dataclass
class _Work:
    """What the threads share."""

    batches: list[list[int]]
    scores: dict[int, list[float]] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    began: dict[int, float] = field(default_factory=dict)
    news: threading.Event = field(default_factory=threading.Event)
    left: queue.SimpleQueue[int] = field(default_factory=queue.SimpleQueue)
    stopped: bool = False

    def __post_init__(self) -> None:
        for number in range(len(self.batches)):
            self.left.put(number)


def _keys(judged: Judged) -> list[Any]:
    """What makes two outputs the same to a reward; further fields of a record by their identity."""
    return [
        (source, output, tuple(references), id(meta), finished)
        for source, output, references, meta, finished in zip(
            judged.sources, judged.outputs, judged.references, judged.meta, judged.finished, strict=True
        )
    ]


def _chosen(judged: Judged, rows: Sequence[int]) -> Judged:
    return Judged(
        [judged.sources[row] for row in rows],
        [judged.outputs[row] for row in rows],
        [judged.references[row] for row in rows],
        [judged.meta[row] for row in rows],
        [judged.finished[row] for row in rows],
    )
