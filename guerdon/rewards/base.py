"""What a reward is.

A reward reads texts and returns one number per output. To write one, derive from `Reward` and implement ``score``; or pass
any function ``f(sources, outputs, references) -> numbers`` to `~guerdon.rewards.function.FunctionReward`. Composition is
arithmetic: ``0.5 * frequency + 0.5 * similarity`` (see `guerdon.rewards.combine`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guerdon.errors import GuerdonError, InputError, RewardError

if TYPE_CHECKING:
    from guerdon.rewards.combine import Combined


@dataclass(frozen=True)
class Judged:
    """The texts that a reward judges; every list has one entry per output.

    Attributes:
        sources: what went in.
        outputs: what the policy wrote.
        references: the gold texts of each source; empty lists where there are none.
        meta: the further fields of the example's record.
        finished: False where the output was cut at the length limit before it ended.
    """

    sources: Sequence[str]
    outputs: Sequence[str]
    references: Sequence[Sequence[str]] = ()
    meta: Sequence[Mapping[str, Any]] = ()
    finished: Sequence[bool] = ()

    @classmethod
    def of(
        cls,
        sources: Sequence[str],
        outputs: Sequence[str],
        references: Sequence[Sequence[str]] | None = None,
        meta: Sequence[Mapping[str, Any]] | None = None,
        finished: Sequence[bool] | None = None,
    ) -> Judged:
        """Fills in what is left out, and refuses lists of unequal length with an `InputError`."""
        n = len(outputs)
        made = cls(
            sources,
            outputs,
            [()] * n if references is None else references,
            [{}] * n if meta is None else meta,
            [True] * n if finished is None else finished,
        )
        for name in ("sources", "references", "meta", "finished"):
            if len(getattr(made, name)) != n:
                raise InputError(f"{len(getattr(made, name))} {name} for {n} outputs", cure="pass one entry per output")
        return made

    def __len__(self) -> int:
        return len(self.outputs)


@dataclass(frozen=True)
class Part:
    """The raw scores that one reward gave.

    Attributes:
        scores: float32 [n]; 0 where the reward does not apply.
        applies: bool [n]; decided by source and references alone, never by the output.
        weight: its factor in the sum.
    """

    scores: Tensor
    applies: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Judgement:
    """What a reward, simple or composed, says of n outputs: its raw parts by name."""

    parts: dict[str, Part] = field(default_factory=dict)

    def total(self) -> Tensor:
        """The weighted sum of the raw scores, float32 [n].

        Raises:
            RewardError: where a part does not apply: without centring, leaving it out would itself be a reward.
        """
        for name, part in self.parts.items():
            if not bool(part.applies.all()):
                row = int((~part.applies).nonzero()[0])
                raise RewardError(
                    f"part {name!r} does not apply to sample {row}, so that the weighted sums do not compare",
                    cure="normalise each part before the sum, or take the part out",
                )
        return torch.stack([part.weight * part.scores for part in self.parts.values()]).sum(0)


class Reward(ABC):
    """Judges outputs. Subclasses implement `score`, and `applies` where the reward may not concern every source.

    Attributes:
        name: under which its scores are logged.
        needs_references: True where `score` reads references.
        scores_prefixes: True where the score of an unfinished output is a sensible estimate of the score of the whole, so
            that it can shape the reward of each token (`guerdon.rewards.shaping`). `score` is then also given the text before
            each token of an output, from the empty one to the whole, each with ``finished`` False. A bad estimate
            biases no gradient, it only adds variance.
    """

    name: str = "reward"
    needs_references: bool = False
    scores_prefixes: bool = False

    @abstractmethod
    def score(self, judged: Judged) -> Tensor | Sequence[float]:
        """One raw score per output."""

    def applies(self, judged: Judged) -> Sequence[bool] | None:
        """Whether the reward concerns each sample, from its source and references alone; None for all of them."""
        return None

    def judge(self, judged: Judged) -> Judgement:
        """The raw parts, checked.

        Raises:
            RewardError: when `score` raises, or returns a non-finite number or another number of scores.
        """
        if self.needs_references:
            self._check_references(judged)
        try:
            returned = self.score(judged)
            concerned = self.applies(judged)
        except GuerdonError:
            raise
        except Exception as error:  # whatever a user's function raises is reported under the reward's name
            raise RewardError(
                f"raised {type(error).__name__}: {error}",
                where=f"reward {self.name!r}",
                cure="correct it; --debug shows the traceback",
            ) from error
        scores = self._numbers(returned)
        if scores.shape != (len(judged),):
            raise RewardError(
                f"returned scores of shape {list(scores.shape)} for {len(judged)} outputs",
                where=f"reward {self.name!r}",
                cure="return one number per output",
            )
        mask = torch.ones(len(judged), dtype=torch.bool) if concerned is None else torch.as_tensor(concerned, dtype=torch.bool)
        if mask.shape != scores.shape:
            raise RewardError(
                f"said of {list(mask.shape)} samples whether it applies, for {len(judged)} outputs",
                where=f"reward {self.name!r}",
            )
        scores = torch.where(mask, scores, 0.0)
        self._check_finite(scores, judged)
        return Judgement({self.name: Part(scores, mask)})

    def __call__(
        self,
        sources: Sequence[str],
        outputs: Sequence[str],
        references: Sequence[Sequence[str]] | None = None,
        meta: Sequence[Mapping[str, Any]] | None = None,
        finished: Sequence[bool] | None = None,
    ) -> Tensor:
        """The scores as one float32 tensor [n]; a composed reward gives its weighted sum."""
        return self.judge(Judged.of(sources, outputs, references, meta, finished)).total()

    def __mul__(self, weight: float) -> Combined:
        from guerdon.rewards.combine import Combined

        return Combined.of(self).scaled(weight)

    __rmul__ = __mul__

    def __add__(self, other: Reward) -> Combined:
        from guerdon.rewards.combine import Combined

        return Combined.of(self).plus(Combined.of(other)) if isinstance(other, Reward) else NotImplemented

    def __neg__(self) -> Combined:
        return self * -1.0

    def __sub__(self, other: Reward) -> Combined:
        return self + -other

    def _numbers(self, returned: object) -> Tensor:
        try:
            return torch.as_tensor(returned, dtype=torch.float32).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise RewardError(
                f"returned {str(returned)[:80]!r} ({type(returned).__name__}), which is no list of numbers: {error}",
                where=f"reward {self.name!r}",
                cure="return one number per output",
            ) from error

    def _check_finite(self, scores: Tensor, judged: Judged) -> None:
        bad = (~torch.isfinite(scores)).nonzero().flatten().tolist()
        if bad:
            raise RewardError(
                f"returned {scores[bad[0]].item()} for sample {bad[0]} (output {judged.outputs[bad[0]][:80]!r})",
                where=f"reward {self.name!r}",
                cure="a reward must be a finite number for every output, the empty one included",
            )

    def _check_references(self, judged: Judged) -> None:
        for row, references in enumerate(judged.references):
            if not references:
                raise InputError(
                    f"sample {row} (source {judged.sources[row][:80]!r}) has no references",
                    where=f"reward {self.name!r}",
                    cure="give every record at least one reference, or choose a reward that needs none",
                )
