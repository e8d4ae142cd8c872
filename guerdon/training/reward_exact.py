"""A reward model of fixed features at its optimum: n-grams, and the states of a policy that stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from guerdon.data.selection import folds_of
from guerdon.errors import DataError
from guerdon.models.reward_model import RewardModel, read_texts
from guerdon.models.reward_text import EncodedTexts
from guerdon.training.convex import ExactOptions, Sparse, best_strength, fit_weights
from guerdon.training.judged import EncodedJudgements, Item


def solve(
    model: RewardModel,
    training: EncodedJudgements,
    sources: Sequence[str],
    options: ExactOptions,
    seed: int,
    tried: Callable[[], None] | None = None,
) -> None:
    """Gives heads and n-grams the weights that `guerdon.training.convex` finds for each head's comparisons.

    Args:
        model: what has these weights; all others stay.
        training: comparisons of two outputs, without ties.
        sources: of each comparison, for the folds.
        options: the strengths to choose from, by folds.
        seed: of the folds.
        tried: is called after each strength that was tried for a head.

    Raises:
        DataError: for a head with comparisons of fewer sources than folds.
    """
    features = _features(model, training.texts)
    for head, name in enumerate(model.options.heads):
        own = [(item, source) for item, source in zip(training.items, sources, strict=True) if item.head == head]
        if (sources_of := len({source for _, source in own})) < options.folds:
            raise DataError(
                f"{name} is judged for {sources_of} sources, which cannot be cut into {options.folds} folds",
                where="reward_model.exact.folds",
                cure="give fewer folds, or more judgements",
            )
        differences, counts = _differences(features, [item for item, _ in own])
        used = np.flatnonzero(np.asarray(abs(differences).sum(0)).ravel())  # most buckets are empty
        fold = folds_of([source for _, source in own], options.folds, seed)
        strength = best_strength(differences[:, used], fold, options.strengths, counts, tried)
        weights = np.zeros(features.shape[1])
        weights[used] = fit_weights(differences[:, used], strength, counts)
        _place(model, head, torch.from_numpy(weights))


def _features(model: RewardModel, texts: EncodedTexts) -> Sparse:
    """What the weights are multiplied with, [texts, read + buckets]."""
    from scipy.sparse import csr_matrix, hstack  # type: ignore[import-untyped]

    model.eval()
    dense = csr_matrix(read_texts(model, texts, model.features).double().numpy())
    ngrams = model.options.ngrams
    if ngrams is None:
        return dense
    places = [bucket for row in texts.ngrams for bucket in row]
    ends = np.cumsum([0, *map(len, texts.ngrams)])
    wide = csr_matrix((np.full(len(places), ngrams.gain), places, ends), shape=(len(texts), ngrams.buckets))
    return hstack([dense, wide]).tocsr()


def _differences(features: Sparse, items: Sequence[Item]) -> tuple[Sparse, Any]:
    better, worse = ([item.outputs[place] for item in items] for place in (0, 1))
    return (features[better] - features[worse]).tocsr(), np.array([item.weight for item in items])


@torch.no_grad()
def _place(model: RewardModel, head: int, weights: torch.Tensor) -> None:
    read = 0
    if model.head is not None:
        read = model.head.in_features
        model.head.weight[head] = weights[:read].to(model.head.weight)
        model.head.bias[head] = 0.0
    if model.wide is not None:
        model.wide.weight[:, head] = weights[read:].to(model.wide.weight)
