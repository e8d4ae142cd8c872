"""Judging in an audit: texts in batches, raw parts on one scale, and whether a score is a function of its text alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from guerdon.data.draws import generator
from guerdon.metrics.base import FloatArray
from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.normalise import Moments, Normaliser, NormaliserOptions

_TOGETHER = 512  # outputs in a batch
_AGAIN, _ALONE = 256, 48  # outputs that are scored again, and by themselves
_ROUNDING = 1e-5  # of a score's size
_SHARE_OF_SPREAD = 1e-3  # of the reward's spread: a score that moves less than this in another batch has not moved
_NO_SPREAD = 1e-6  # as in guerdon.rewards.normalise: a spread below this share of the mean is rounding


def select(judged: Judged, rows: Sequence[int]) -> Judged:
    """Some rows, in this order."""
    fields = (judged.sources, judged.outputs, judged.references, judged.meta, judged.finished)
    return Judged(*([field[row] for row in rows] for field in fields))  # type: ignore[arg-type]


def joined(judgements: Sequence[Judgement]) -> Judgement:
    """Judgements of one reward, one behind the other."""
    first = judgements[0].parts
    return Judgement(
        {
            name: Part(
                torch.cat([judgement.parts[name].scores for judgement in judgements]),
                torch.cat([judgement.parts[name].applies for judgement in judgements]),
                part.weight,
            )
            for name, part in first.items()
        }
    )


def judge_all(reward: Reward, judged: Judged, advance: Callable[[int], None] = lambda done: None) -> Judgement:
    """The raw parts of any number of outputs, judged in batches; raises as the reward's ``judge``."""
    found = []
    for first in range(0, len(judged), _TOGETHER):
        rows = range(first, min(first + _TOGETHER, len(judged)))
        found.append(reward.judge(select(judged, rows)))
        advance(rows.stop)
    return joined(found)


class Scale:
    """What training makes of raw parts: the weighted sum of the normalised ones (`guerdon.rewards.normalise`).

    μ and σ are those of the references, as those of a policy that writes like them; of a part that gives all references the
    same score, those of all judged texts, since such a part does not stay silent in training. Of "group", they are those of
    the texts of each source. A reward of one part alone is not normalised: that changes no order.

    Args:
        options: as training has them.
        judgement: raw parts of the references, then those of the probes.
        references: how many.
    """

    def __init__(self, options: NormaliserOptions, judgement: Judgement, references: int) -> None:
        running = options.kind in ("running", "batch")
        self._normaliser = Normaliser(replace(options, kind="running") if running else options)
        self._state: dict[str, list[float]] = {}
        if running and len(judgement.parts) > 1:
            summands = _summands(judgement, options.order == "sum")
            self._state = {name: _moments(part, references) for name, part in summands.items()}

    def total(self, judgement: Judgement, groups: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The scores that training would see, float64 [n], and where there are any, bool [n].

        Raises:
            RewardError: where a part does not apply to a sample and the normalisation does not centre each part.
        """
        if len(judgement.parts) == 1:
            (part,) = judgement.parts.values()
            return part.weight * part.scores.double(), part.applies
        self._normaliser.load_state_dict(self._state)
        scores, kept = self._normaliser.apply(judgement, torch.tensor(list(groups)))
        return scores.double(), kept


def _summands(judgement: Judgement, sums: bool) -> dict[str, Part]:
    if not sums:
        return judgement.parts
    total = judgement.total()
    return {"sum": Part(total, torch.ones(len(total), dtype=torch.bool))}


def _moments(part: Part, references: int) -> list[float]:
    for rows in (slice(references), slice(None)):
        moments = Moments()
        moments.update(part.scores[rows][part.applies[rows]])
        if moments.deviation > _NO_SPREAD * abs(moments.mean):
            break
    return [moments.count, moments.mean, moments.deviations]


def spread(scores: FloatArray, applies: NDArray[np.bool_]) -> float:
    """The standard deviation of the scores where they apply; 0 where they are alike up to rounding."""
    kept = scores[applies].astype(np.float64)
    deviation = float(kept.std()) if len(kept) else 0.0
    return deviation if deviation and deviation > _NO_SPREAD * abs(float(kept.mean())) else 0.0


def part_spreads(judgement: Judgement, references: int) -> dict[str, float]:
    """The spread of each part over the first ``references`` rows, or over all where it has none there."""
    spreads = {}
    for name, part in judgement.parts.items():
        scores, applies = part.scores.numpy(), part.applies.numpy()
        spreads[name] = spread(scores[:references], applies[:references]) or spread(scores, applies)
    return spreads


@dataclass(frozen=True)
class Check:
    """Whether something that should not change a score did.

    Attributes:
        tried: outputs.
        share: of them whose score changed.
        largest: change, in units of its part's spread over references; None where the part has no spread.
        parts: at fault.
    """

    tried: int
    share: float
    largest: float | None
    parts: tuple[str, ...]


def repeated(reward: Reward, judged: Judged, spreads: Mapping[str, float]) -> Check:
    """Scores the same batch twice: a deterministic reward repeats itself to the last bit."""
    batch = select(judged, _evenly(len(judged), _AGAIN))
    first, again = reward.judge(batch), reward.judge(batch)
    changes = {name: (part.scores.double() - again.parts[name].scores.double()).abs() for name, part in first.parts.items()}
    return _check(changes, {name: change > 0 for name, change in changes.items()}, spreads)


def rebatched(reward: Reward, judged: Judged, spreads: Mapping[str, float], seed: int) -> Check:
    """Scores outputs in a batch, in the same batch in another order, and alone: only rounding may differ."""
    batch = select(judged, _evenly(len(judged), _ALONE))
    order = generator(seed, "audit: order").permutation(len(batch))
    together, permuted = reward.judge(batch), reward.judge(select(batch, order.tolist()))
    alone = joined([reward.judge(select(batch, [row])) for row in range(len(batch))])
    back = torch.from_numpy(order.argsort())
    changes, moved = {}, {}
    for name, part in together.parts.items():
        scores, others = part.scores.double(), (permuted.parts[name].scores[back], alone.parts[name].scores)
        changes[name] = torch.stack([(scores - other.double()).abs() for other in others]).amax(0)
        moved[name] = changes[name] > torch.clamp(_ROUNDING * scores.abs(), min=_SHARE_OF_SPREAD * spreads[name])
    return _check(changes, moved, spreads)


def applies_by_output(judgement: Judgement, subjects: Sequence[int], references: int) -> Check:
    """Whether a part applies to a probe otherwise than to the reference of its source: the output may not decide that.

    Args:
        judgement: of the references, then the probes.
        subjects: of each row, the row of its reference.
        references: how many.
    """
    own = torch.as_tensor(list(subjects))[references:]
    differs = {name: part.applies[references:] != part.applies[own] for name, part in judgement.parts.items()}
    return _check({name: found.double() for name, found in differs.items()}, differs, {})


def _check(changes: dict[str, Tensor], moved: dict[str, Tensor], spreads: Mapping[str, float]) -> Check:
    """All changes, and which of them count."""
    largest = [float(change.max()) / spreads[name] for name, change in changes.items() if spreads.get(name)]
    rows = torch.stack(list(moved.values())).any(0)
    at_fault = tuple(name for name, found in moved.items() if bool(found.any()))
    return Check(len(rows), float(rows.double().mean()), max(largest, default=None), at_fault)


def _evenly(n: int, most: int) -> list[int]:
    """At most so many rows out of n, as far apart as can be."""
    count = min(n, most)
    return [row * n // count for row in range(count)]
