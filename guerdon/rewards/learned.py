"""Rewards that were learnt from human judgement: one reward model, several of its heads, or an ensemble."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.models.reward_folder import HeadMoments, RewardScorer, load_scorers
from guerdon.rewards.base import Judged, Reward

Ensemble = Literal["mean", "worst", "mean_minus_std", "average_weights"]


@dataclass(frozen=True)
class LearnedOptions:
    """How the scores of reward models become one reward.

    Each head's raw score s of an output of w words becomes (s - centre - length) / temperature; the heads are weighed and
    summed; the members of an ensemble are combined; the result is clipped.

    Attributes:
        heads: the weight of each head that is used; empty for all of them, with weights that sum to 1.
        ensemble: "mean"; "worst", the lowest member's (Coste et al. 2024, eq. 4); "mean_minus_std", the mean less ``penalty``
            times the members' spread (their eq. 5, with the standard deviation for the variance); or "average_weights", one
            model with the mean of the weights (Ramé et al. 2024), for members that were trained from the same weights.
        penalty: λ of mean_minus_std.
        centre: whether the mean score of the training outputs is taken off.
        debias_length: whether slope * (w - mean length) is taken off: what length alone explains of the training outputs'
            scores.
        clip: bounds the reward to ± this; None for no bound.
    """

    heads: Mapping[str, float] = field(default_factory=dict)
    ensemble: Ensemble = "mean"
    penalty: float | None = None
    centre: bool = True
    debias_length: bool = False
    clip: float | None = None

    def __post_init__(self) -> None:
        if self.ensemble not in get_args(Ensemble):
            names = ", ".join(get_args(Ensemble))
            raise ConfigurationError(f"there is no {self.ensemble!r}", where="learned.ensemble", cure=f"choose {names}")
        if (self.penalty is not None) != (self.ensemble == "mean_minus_std") or not 0.0 <= (self.penalty or 0.0) < float("inf"):
            raise ConfigurationError(
                f"penalty is {self.penalty}, and ensemble is {self.ensemble}",
                where="learned.penalty",
                cure="give 0 or more with mean_minus_std, and leave it out otherwise",
            )
        if self.clip is not None and not 0.0 < self.clip < float("inf"):
            raise ConfigurationError(f"{self.clip} is no bound", where="learned.clip", cure="give a number above 0")
        for name, weight in self.heads.items():
            if not abs(weight) < float("inf"):
                raise ConfigurationError(f"its weight is {weight}", where=f"learned.heads.{name}", cure="give a finite number")


class LearnedReward(Reward):
    """The score of one or several reward models; it reads no references.

    An output is read up to the models' length limit. A reward model judges texts such as those that it was trained on: far from
    them its scores mean nothing, and a policy that is trained against it goes there (Gao et al. 2023). Hold it near its
    anchor, prefer an ensemble's worst member, and measure by a judge that is not optimised.

    Args:
        scorers: the reward models, with the same heads; or a function that opens them when the first output is judged.
        options: how their scores become one reward.
        name: under which it is logged.

    Raises:
        ConfigurationError: for heads that a model does not have, one member where several are needed, or members that cannot
            be averaged. With a function it is raised when the first output is judged.
    """

    def __init__(
        self,
        scorers: Sequence[RewardScorer] | Callable[[], Sequence[RewardScorer]],
        options: LearnedOptions | None = None,
        name: str = "learned",
    ) -> None:
        self.name, self.options = name, options or LearnedOptions()
        self._open = scorers if callable(scorers) else None
        self._scorers = [] if callable(scorers) else self._prepared(scorers)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], options: LearnedOptions | None = None, **changes: Any) -> LearnedReward:
        """Opens the reward model or the ensemble of a folder, or of a run's folder.

        Args:
            folder: where it is.
            options: how its scores become one reward.
            **changes: single options of `LearnedOptions` instead, e.g. ``heads={"quality": 1.0}``.

        Raises:
            DataError: when there is none.
            CheckpointError: when it is damaged.
            ConfigurationError: for options that do not fit it.
        """
        return cls(load_scorers(Path(folder)), options or LearnedOptions(**changes))

    @property
    def scorers(self) -> Sequence[RewardScorer]:
        """The reward models, opened where they are not yet."""
        if self._open is not None:
            self._scorers, self._open = self._prepared(self._open()), None
        return self._scorers

    @property
    def heads(self) -> Mapping[str, float]:
        """The weight of each head that is used."""
        names = self.scorers[0].heads
        return self.options.heads or dict.fromkeys(names, 1.0 / len(names))

    def score(self, judged: Judged) -> Tensor:
        """One score per output."""
        values = self.member_scores(judged.sources, judged.outputs)
        if self.options.ensemble == "worst":
            found = values.min(0).values
        elif self.options.ensemble == "mean_minus_std":
            found = values.mean(0) - (self.options.penalty or 0.0) * values.std(0, correction=0)
        else:
            found = values.mean(0)
        return found if self.options.clip is None else found.clamp(-self.options.clip, self.options.clip)

    def member_scores(self, sources: Sequence[str], outputs: Sequence[str]) -> Tensor:
        """The weighed score of each member, float64 [members, n], before they are combined and clipped."""
        words = torch.tensor([len(output.split()) for output in outputs], dtype=torch.float64)
        found = []
        for scorer in self.scorers:
            scores = scorer.scores(sources, outputs).double()
            total = torch.zeros(len(outputs), dtype=torch.float64)
            for head, weight in self.heads.items():
                column = scorer.heads.index(head)
                total += weight * self._adjusted(scores[:, column], words, scorer.moments[column])
            found.append(total)
        return torch.stack(found)

    def _adjusted(self, scores: Tensor, words: Tensor, moments: HeadMoments) -> Tensor:
        if self.options.centre:
            scores = scores - moments.mean
        if self.options.debias_length:
            scores = scores - moments.slope * (words - moments.words)
        return scores / moments.temperature

    def _prepared(self, scorers: Sequence[RewardScorer]) -> list[RewardScorer]:
        """The members, checked; averaged to one where the options say so."""
        options = self.options
        if not scorers:
            raise ConfigurationError("there is no reward model", where="learned", cure="give at least one")
        for scorer in scorers:
            for head in options.heads:
                if head not in scorer.heads:
                    raise ConfigurationError(
                        f"the reward model has no head {head!r}",
                        where="learned.heads",
                        cure=f"choose of {', '.join(scorer.heads)}",
                    )
            if scorer.heads != scorers[0].heads:
                raise ConfigurationError(
                    f"the members have other heads: {', '.join(scorers[0].heads)}, and {', '.join(scorer.heads)}",
                    where="learned.from",
                    cure="combine reward models of the same heads",
                )
        if options.ensemble != "mean" and len(scorers) < 2:
            raise ConfigurationError(
                f"{options.ensemble} needs several reward models, and there is one",
                where="learned.ensemble",
                cure="give more, or leave it out",
            )
        return [average_weights(scorers)] if options.ensemble == "average_weights" else list(scorers)

    def __getstate__(self) -> dict[str, Any]:
        """Opened models travel; a function that opens them need not be one that can be pickled."""
        return {**self.__dict__, "_scorers": list(self.scorers), "_open": None}


def average_weights(scorers: Sequence[RewardScorer]) -> RewardScorer:
    """One reward model with the mean of several models' weights, summed in float64, and of their moments (Ramé et al. 2024).

    Raises:
        ConfigurationError: where options or tokenizers differ, so that a mean of weights means nothing.
        CheckpointError: where a weight is not finite.
    """
    first = scorers[0]
    for scorer in scorers[1:]:
        same = scorer.model.options == first.model.options and _tokens(scorer) == _tokens(first)
        if not same or scorer.model.state_dict().keys() != first.model.state_dict().keys():
            raise ConfigurationError(
                "the members are of other options or tokenizers",
                where="learned.ensemble",
                cure="average models that were trained from the same weights, or take their mean score",
            )
    model = copy.deepcopy(first.model)
    states = [scorer.model.state_dict() for scorer in scorers]
    mean = {name: _mean([state[name] for state in states]) for name in states[0]}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in mean.values()):
        raise CheckpointError("a member holds nan or inf", where="learned.ensemble")
    model.load_state_dict(mean)
    columns = zip(*(scorer.moments for scorer in scorers), strict=True)
    moments = [
        HeadMoments(*(sum(values) / len(scorers) for values in zip(*map(_values, column), strict=True))) for column in columns
    ]
    return RewardScorer(model, first.text, moments)


def _values(moments: HeadMoments) -> tuple[float, float, float, float]:
    return moments.mean, moments.words, moments.slope, moments.temperature


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    return torch.stack([tensor.double() for tensor in tensors]).mean(0).to(tensors[0].dtype)


def _tokens(scorer: RewardScorer) -> str:
    return str(getattr(scorer.text.tokenizer, "fingerprint", ""))
