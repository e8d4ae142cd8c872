"""The loss of a reward model's scores, with what is learnt beside them: ties, thresholds of ratings, reliabilities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from guerdon.models.reward_model import RewardModel
from guerdon.objectives.comparison import (
    bradley_terry_loss,
    centring_loss,
    davidson_loss,
    ordinal_loss,
    plackett_luce_loss,
    rao_kupper_loss,
    regression_loss,
)
from guerdon.training.judged import Item

JudgementLoss = Literal["bradley_terry", "rao_kupper", "davidson", "plackett_luce", "regression", "ordinal"]
WITH_TIES, OF_RATINGS = ("rao_kupper", "davidson"), ("regression", "ordinal")
_CERTAIN = 1.0 - 1e-6  # an annotator who never errs would make the loss of one error infinite


class Judging(nn.Module):
    """A reward model and the parameters of the judgements, which are trained together.

    Args:
        model: gives the scores.
        loss: see `guerdon.objectives.comparison`.
        levels: the distinct ratings of each head, for ordinal.
        annotators: how many have a reliability of their own; 0 estimates none.
        label_smoothing: see `~guerdon.objectives.comparison.bradley_terry_loss`.
        centring: factor of `~guerdon.objectives.comparison.centring_loss`.
    """

    def __init__(
        self,
        model: RewardModel,
        loss: JudgementLoss,
        levels: Sequence[int] = (),
        annotators: int = 0,
        label_smoothing: float = 0.0,
        centring: float = 0.0,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.label_smoothing, self.centring = model, loss, label_smoothing, centring
        heads = len(model.options.heads)
        self.tie = nn.Parameter(torch.zeros(heads)) if loss in WITH_TIES else None
        self.steps = nn.ParameterList([_evenly(count) for count in levels]) if loss == "ordinal" else None
        self.reliability = nn.Parameter(torch.full((annotators,), 2.0)) if annotators else None  # σ(2) = 0.88

    def thresholds(self, head: int) -> Tensor:
        """The thresholds of an ordinal head, strictly rising: the first, and the positive steps to the next ones."""
        assert self.steps is not None, "only ordinal ratings have thresholds"
        raw: Tensor = self.steps[head]
        return torch.cat([raw[:1], functional.softplus(raw[1:])]).cumsum(0)

    def reliabilities(self) -> Tensor:
        """r of each annotator, between 0 and 1."""
        assert self.reliability is not None, "no reliability is estimated"
        return _CERTAIN * torch.sigmoid(self.reliability)

    def sums(self, items: Sequence[Item], scores: Tensor, mask: Tensor) -> Tensor:
        """The loss, summed over the judgements.

        Args:
            items: n judgements.
            scores: [n, k], of each item's outputs by its head, best first.
            mask: bool [n, k], True at the outputs that an item has.
        """
        weight = torch.tensor([item.weight for item in items], dtype=scores.dtype, device=scores.device)
        found = (
            self._of_ratings(items, scores, weight) if self.loss in OF_RATINGS else self._of_order(items, scores, mask, weight)
        )
        return found + self.centring * centring_loss(scores, mask, weight) if self.centring else found

    def _of_order(self, items: Sequence[Item], scores: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        if self.loss == "plackett_luce":
            return plackett_luce_loss(scores, mask, weight)
        better, worse = scores[:, 0], scores[:, 1]
        if self.tie is None:
            margin = scores.new_tensor([item.margin for item in items])
            return bradley_terry_loss(better, worse, weight, margin, self.label_smoothing, self._trust(items, scores)).loss
        tie = torch.tensor([item.tie for item in items], device=scores.device)
        raw = self.tie[_heads(items, scores)].to(scores.dtype)
        if self.loss == "rao_kupper":
            return rao_kupper_loss(better, worse, tie, functional.softplus(raw), weight).loss
        return davidson_loss(better, worse, tie, raw, weight).loss

    def _trust(self, items: Sequence[Item], scores: Tensor) -> Tensor | None:
        """The reliability of each judgement's annotator; an unknown one is taken at his word. None while validating."""
        if self.reliability is None or not self.training:
            return None
        numbers = torch.tensor([item.annotator for item in items], device=scores.device)
        known = self.reliabilities()[numbers.clamp(min=0)].to(scores.dtype)
        return torch.where(numbers >= 0, known, _CERTAIN)

    def _of_ratings(self, items: Sequence[Item], scores: Tensor, weight: Tensor) -> Tensor:
        rated = scores[:, 0]
        if self.loss == "regression":
            return regression_loss(rated, scores.new_tensor([item.value for item in items]), weight)
        total, heads = rated.new_zeros(()), _heads(items, scores)
        levels = torch.tensor([int(item.value) for item in items], device=scores.device)
        for head in sorted(set(heads.tolist())):
            own = heads == head
            total = total + ordinal_loss(rated[own], levels[own], self.thresholds(head).to(scores.dtype), weight[own])
        return total


def correct(scores: Tensor, mask: Tensor, tie: Sequence[bool]) -> Tensor:
    """The share of each item's pairs that are in the right order, [n]; equal scores are half right, and so are ties."""
    difference = scores[:, :, None] - scores[:, None, :]
    pairs = torch.ones_like(difference, dtype=torch.bool).triu(1) & mask[:, :, None] & mask[:, None, :]
    right = torch.where(pairs, 0.5 * (1.0 + difference.sign()), 0.0).sum((1, 2)) / pairs.sum((1, 2)).clamp(min=1)
    return torch.where(torch.tensor(tie, device=scores.device), 0.5, right)


def fit_temperature(differences: Tensor, weights: Tensor) -> float:
    """The T that minimises Σ w log(1 + e^{-d/T}) over held-out comparisons (Guo et al. 2017, section 4.2), between 0.05 and 20.

    Args:
        differences: [n], score of the better output less that of the worse.
        weights: [n].
    """
    differences, weights = differences.double(), weights.double()

    def slope(inverse: float) -> float:
        return float((weights * differences * torch.sigmoid(-inverse * differences)).sum())

    low, high = math.log(1 / 20), math.log(1 / 0.05)  # the loss is convex in 1/T: its slope changes sign once
    for _ in range(100):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(math.exp(middle)) > 0 else (low, middle)
    return math.exp(-0.5 * (low + high))


def _heads(items: Sequence[Item], scores: Tensor) -> Tensor:
    return torch.tensor([item.head for item in items], device=scores.device)


def _evenly(levels: int) -> nn.Parameter:
    """Thresholds at even distances of 1 around 0, as `Judging.thresholds` reads them."""
    first = -(levels - 2) / 2
    return nn.Parameter(torch.tensor([first, *[math.log(math.expm1(1.0))] * (levels - 2)]))
