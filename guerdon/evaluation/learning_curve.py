"""How accuracy grows with the training pairs, for anything that can be trained on pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from guerdon.data.draws import key
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.evaluation.judged_pairs import JudgedPairs, KnownPair, order_of, pair_scores
from guerdon.evaluation.reward_results import CurvePoint
from guerdon.rewards.base import Reward
from guerdon.rewards.normalise import NormaliserOptions

Trainer = Callable[[Sequence[HumanPair]], Reward]
_FEWEST = 10  # sources


def learning_curve(
    train: Trainer,
    training: Sequence[HumanPair],
    known: Sequence[KnownPair],
    judged: JudgedPairs,
    shares: Sequence[float],
    normalisation: NormaliserOptions,
) -> list[CurvePoint]:
    """Rewards trained on the pairs of ever more sources, each set of sources within the next, and their accuracy.

    Args:
        train: makes a reward from pairs.
        training: all of them.
        known, judged: the evaluated pairs.
        shares: of the training sources; those that come to fewer than 10 sources are left out.
        normalisation: of a composed reward's parts.

    Raises:
        GuerdonError: as ``train`` and the rewards it makes do.
    """
    seed = judged.resampling.seed
    sources = sorted({pair.source for pair in training}, key=lambda source: (key(seed, f"curve {source}"), source))
    points = []
    for share in shares:
        taken = set(sources[: round(share * len(sources))])
        if len(taken) < _FEWEST:
            continue
        given = [pair for pair in training if pair.source in taken]
        scores, _ = pair_scores(train(given), known, normalisation)
        points.append(CurvePoint(len(taken), len(given), judged.agreements(order_of(scores.values))))
    return points
