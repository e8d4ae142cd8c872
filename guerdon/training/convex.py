"""The exact optimum of what is linear in its weights: a Bradley–Terry model on fixed features is a convex problem.

min over w of Σ vᵢ log(1 + e^(−xᵢ·w)) + λ/2 · ‖w‖², with xᵢ = f(chosen) − f(rejected) of a comparison and vᵢ its weight
(Bradley and Terry 1952, Biometrika 39:324; the paired logistic regression of Chen et al. 2016). It is strictly convex: there is
one optimum, whatever the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guerdon.errors import ConfigurationError

FloatArray = NDArray[np.float64]
Sparse = Any  # scipy.sparse.csr_matrix, which has no types


@dataclass(frozen=True)
class ExactOptions:
    """How the optimum is found.

    Attributes:
        strengths: λ of the penalty to choose from, each above 0, where a comparison weighs 1 on average.
        folds: of the sources, to choose by.
    """

    strengths: Sequence[float] = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
    folds: int = 5

    def __post_init__(self) -> None:
        if not self.strengths or not all(0.0 < strength < float("inf") for strength in self.strengths) or self.folds < 2:
            raise ConfigurationError(
                f"strengths are {list(self.strengths)}, and folds {self.folds}",
                where="reward_model.exact",
                cure="give numbers above 0, and at least 2 folds",
            )


def fit_weights(differences: Sparse, strength: float, counts: FloatArray | None = None) -> FloatArray:
    """The optimum, [features], by L-BFGS.

    Args:
        differences: x, sparse [pairs, features].
        strength: λ.
        counts: v, [pairs]; 1 for each where left out.
    """
    from scipy.optimize import minimize  # type: ignore[import-untyped]
    from scipy.special import expit  # type: ignore[import-untyped]

    turned = differences.T.tocsr()
    each = np.ones(differences.shape[0]) if counts is None else counts

    def loss(weights: FloatArray) -> tuple[float, FloatArray]:
        margins = differences @ weights
        gradient = strength * weights - turned @ (each * expit(-margins))
        return float(each @ np.logaddexp(0.0, -margins) + strength / 2 * weights @ weights), gradient

    found = minimize(loss, np.zeros(differences.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    weights: FloatArray = found.x
    return weights


def held_out_margins(
    differences: Sparse, fold: NDArray[np.int64], strength: float, counts: FloatArray | None = None
) -> FloatArray:
    """The margin x·w of each pair under the weights trained on the other folds, [pairs]."""
    margins = np.zeros(differences.shape[0])
    for number in range(int(fold.max()) + 1):
        others = fold != number
        own = None if counts is None else counts[others]
        margins[fold == number] = differences[fold == number] @ fit_weights(differences[others], strength, own)
    return margins


def best_strength(
    differences: Sparse,
    fold: NDArray[np.int64],
    strengths: Sequence[float],
    counts: FloatArray | None = None,
    tried: Callable[[], None] | None = None,
) -> float:
    """The λ under whose weights pairs of held-out folds have the least loss; ``tried`` is called after each."""
    each = np.ones(differences.shape[0]) if counts is None else counts

    def loss(strength: float) -> float:
        margins = held_out_margins(differences, fold, strength, counts)
        if tried is not None:
            tried()
        return float(each @ np.logaddexp(0.0, -margins))

    return min(strengths, key=loss)
