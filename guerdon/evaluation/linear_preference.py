"""A linear Bradley–Terry model on 1–3-grams: what a reward model has to beat.

P(chosen ≻ rejected) = σ(w·(f(chosen) − f(rejected))), with f(y) the counts of the 1- to 3-grams of y, its beginning and end
marked (Bradley and Terry 1952, Biometrika 39:324; the paired logistic regression of Chen et al. 2016). The penalty
λ/2 · ‖w‖² is chosen by cross-validation over sources.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

from guerdon.data.selection import folds_of
from guerdon.data.words import ngrams
from guerdon.errors import ConfigurationError, DataError
from guerdon.evaluation.calibration import fitted_temperature, log_loss
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.rewards.base import Judged, Reward
from guerdon.training.convex import Sparse, fit_weights, held_out_margins

_TOKEN = regex.compile(r"\w+(?:'\w+)?|[^\w\s]")
_EDGES = ("\x02", "\x03")  # begin and end: no text holds them as tokens of a word
Gram = tuple[str, ...]


@dataclass(frozen=True)
class LinearOptions:
    """How the linear model is trained.

    Attributes:
        strengths: λ to choose from, each above 0.
        folds: of the sources, to choose by.
        unanimous: trains on the pairs that at least two voted for and nobody against, where their sources suffice; what few
            people decided teaches the model noise.
        seed: of the folds.

    Raises:
        ConfigurationError: for no strength, one that is not above 0, or fewer than two folds.
    """

    strengths: tuple[float, ...] = (3.0, 10.0, 30.0, 100.0)
    folds: int = 5
    unanimous: bool = True
    seed: int = 1

    def __post_init__(self) -> None:
        if not self.strengths or not all(0 < strength < float("inf") for strength in self.strengths):
            raise ConfigurationError(
                f"the strengths are {self.strengths}", where="linear.strengths", cure="give numbers above 0"
            )
        if self.folds < 2:
            raise ConfigurationError(f"{self.folds} folds", where="linear.folds", cure="give at least 2")


class LinearPreference(Reward):
    """w·f(y) of a trained model; grams that training has not seen count nothing. Make it by `train_linear`.

    It reads neither source nor references.

    Attributes:
        weights: of each gram.
        strength: λ.
        temperature: divides score differences, so that σ of them are probabilities; fitted on held-out folds.
        pairs: it was trained on.
        unanimous: whether these were the unanimous ones alone.
    """

    name = "linear"

    def __init__(self, weights: Mapping[Gram, float], strength: float, temperature: float, pairs: int, unanimous: bool) -> None:
        self.weights, self.strength, self.temperature = dict(weights), strength, temperature
        self.pairs, self.unanimous = pairs, unanimous

    def score(self, judged: Judged) -> list[float]:
        """One score per output; the empty output has that of its marks alone."""
        return [
            float(sum(count * self.weights.get(gram, 0.0) for gram, count in grams(output).items()))
            for output in judged.outputs
        ]


def train_linear(pairs: Sequence[HumanPair], options: LinearOptions | None = None) -> LinearPreference:
    """Trains the model on pairs, λ and the temperature by cross-validation over their sources.

    Raises:
        DataError: for pairs of fewer sources than folds.
    """
    chosen = options or LinearOptions()
    kept, unanimous = _trained_on(pairs, chosen)
    if len({pair.source for pair in kept}) < chosen.folds:
        raise DataError(
            f"pairs of {len({pair.source for pair in kept})} sources cannot be cut into {chosen.folds} folds",
            where="linear model",
            cure="give training pairs of more sources",
        )
    features, names = _features(kept)
    fold = folds_of([pair.source for pair in kept], chosen.folds, chosen.seed)
    held_out = {strength: held_out_margins(features, fold, strength) for strength in chosen.strengths}
    strength = min(chosen.strengths, key=lambda strength: log_loss(held_out[strength]))
    weights = fit_weights(features, strength)
    known = dict(zip(names, weights.tolist(), strict=True))
    return LinearPreference(known, strength, fitted_temperature(held_out[strength]), len(kept), unanimous)


def grams(text: str) -> Counter[Gram]:
    """How often each run of 1 to 3 tokens stands in a text; case is ignored, punctuation is a token.

    >>> sorted(" ".join(gram) for gram in grams("A pub.") if len(gram) == 2 and set(gram).isdisjoint(_EDGES))
    ['a pub', 'pub .']
    """
    tokens = [_EDGES[0], *_TOKEN.findall(text.lower()), _EDGES[1]]
    return Counter(gram for n in (1, 2, 3) for gram in ngrams(tokens, n))


def _trained_on(pairs: Sequence[HumanPair], options: LinearOptions) -> tuple[list[HumanPair], bool]:
    unanimous = [pair for pair in pairs if pair.unanimous]
    enough = options.unanimous and len({pair.source for pair in unanimous}) >= options.folds
    return (unanimous, True) if enough else (list(pairs), False)


def _features(pairs: Sequence[HumanPair]) -> tuple[Sparse, list[Gram]]:
    """f(chosen) − f(rejected) of each pair, [pairs, grams], and the grams."""
    from scipy.sparse import csr_matrix  # type: ignore[import-untyped]

    known = {text: grams(text) for pair in pairs for text in (pair.chosen, pair.rejected)}
    columns: dict[Gram, int] = {}
    values, places, ends = list[float](), list[int](), [0]
    for pair in pairs:
        difference = Counter(known[pair.chosen])
        difference.subtract(known[pair.rejected])
        for gram, count in difference.items():
            if count:
                places.append(columns.setdefault(gram, len(columns)))
                values.append(float(count))
        ends.append(len(values))
    return csr_matrix((values, places, ends), shape=(len(pairs), len(columns))), list(columns)
