"""The gain of `human_pairs.py` with four times the pairs: reward models and linear models that have not seen the sources.

    python benchmarks/crossed_pairs.py recipes/e2e_feedback.yaml runs/feedback-1/finetune runs/feedback-2/finetune --folds 5

The sources of split=train are cut into folds; for each fold the recipe's reward model is trained on the others, with each of
the fine-tuned policies named, and the linear Bradley–Terry model too, with its own strength. Both are measured on the fold's
unanimous pairs (at least two votes for, none against). Sources are resampled over all folds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from human_pairs import ACCURACY, scores, unanimous

import guerdon
from guerdon.data.files import write_atomically
from guerdon.data.selection import folds_of
from guerdon.evaluation.folds import sums_by_source
from guerdon.evaluation.judged_pairs import order_of, right, with_examples
from guerdon.evaluation.linear_preference import train_linear
from guerdon.metrics.significance import bootstrap_interval, paired_bootstrap
from guerdon.pipeline.judgements import read_judgements
from guerdon.pipeline.recipe import read_recipe
from guerdon.rewards.learned import LearnedOptions, LearnedReward
from guerdon.stages.reward_model import train_reward_model


def crossed(recipe: Any, policies: list[Path], data: Path, aspect: str, folds: int, seed: int) -> dict[str, Any]:
    """Of one aspect."""
    section = recipe.reward_model
    config = dataclasses.replace(section, temperature_folds=0)  # a temperature changes no order
    records = [record for record in read_judgements(recipe)["reward_model"][0] if record.aspect == aspect]
    pairs = unanimous(data / f"pairs_{aspect}.jsonl", "train")
    sources = [pair.source for pair in pairs]
    fold = dict(zip(sources, folds_of(sources, folds, seed).tolist(), strict=True))
    own, plain = np.zeros((len(pairs), 2)), np.zeros((len(pairs), 2))
    for number in range(folds):
        held = [i for i, source in enumerate(sources) if fold[source] == number]
        known = with_examples([pairs[i] for i in held], ())
        others = [pair for pair in pairs if fold[pair.source] != number]
        plain[held] = right(order_of(scores(train_linear(others), known)))
        learnt = [record for record in records if fold.get(record.source) != number]
        found = []
        for policy in policies:
            start = guerdon.load(policy)
            trained = train_reward_model(learnt, config, start=start, likelihood=start, seed=seed)
            reward = LearnedReward(trained.scorers, LearnedOptions(heads={aspect: 1.0}))
            found.append(right(order_of(scores(reward, known))))
        own[held] = np.mean(found, axis=0)
        print(f"{aspect}, fold {number + 1}: {own[held, 0].mean():.3f}, linear {plain[held, 0].mean():.3f}", flush=True)
    gain = paired_bootstrap(ACCURACY, sums_by_source(sources, own), sums_by_source(sources, plain), 1000, seed)
    mean = bootstrap_interval(ACCURACY, sums_by_source(sources, own), 1000, seed)
    return {"pairs": len(pairs), "sources": len(set(sources)), "mean": asdict(mean), "gain": asdict(gain)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("policies", type=Path, nargs="+", help="folders of fine-tuned policies")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data/e2e_human"), help="the folder of pairs_<aspect>.jsonl"
    )
    parser.add_argument("--aspects", nargs="+", default=["naturalness", "quality"])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("crossed_pairs.json"))
    given = parser.parse_args()
    recipe = read_recipe(given.recipe, [f"data.folder={given.data.resolve().parent}"])
    found = {aspect: crossed(recipe, given.policies, given.data, aspect, given.folds, given.seed) for aspect in given.aspects}
    for aspect, one in found.items():
        mean, gain = one["mean"], one["gain"]
        print(
            f"{aspect}: {mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] of {one['pairs']} pairs, above the linear "
            f"model by {gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]"
        )
    write_atomically(given.output, [json.dumps(found, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
