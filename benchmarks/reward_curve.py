"""How a recipe's reward model grows with its judgements: trained on ever more sources, measured on other ones.

    python benchmarks/reward_curve.py recipes/e2e_feedback.yaml runs/feedback-1 --aspect naturalness --output runs/curve

Trained on the unanimous pairs (at least two votes for, none against) of split=train and measured on all of split=valid, with
the fine-tuned policy of the run. The page is that of `guerdon evaluate`, with the reward model's own learning curve in place
of the linear model's.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from human_pairs import FIELDS

import guerdon
from guerdon.data.judgements import read_comparisons
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.evaluation.reward_page import write_reward_evaluation
from guerdon.pipeline.recipe import read_recipe
from guerdon.rewards import LearnedReward
from guerdon.rewards.learned import LearnedOptions
from guerdon.stages.reward_model import train_reward_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path, help="a finished run of the recipe")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/e2e_human"), help="where pairs_<aspect>.jsonl lie")
    parser.add_argument("--aspect", default="naturalness")
    parser.add_argument("--output", type=Path, default=Path("runs/curve"))
    given = parser.parse_args()
    section = read_recipe(given.recipe, [f"data.folder={given.data.resolve().parent}"]).reward_model
    assert section is not None, "the recipe trains a reward model"
    config = dataclasses.replace(section, temperature_folds=0)  # a temperature changes no order
    start = guerdon.load(given.run / "finetune")

    def train(pairs: Sequence[HumanPair]) -> LearnedReward:
        kept = [pair for pair in pairs if pair.unanimous]
        records = [
            guerdon.Comparison(pair.source, (pair.chosen, pair.rejected), (1, 2), given.aspect, float(pair.votes_for or 0))
            for pair in kept
        ]
        trained = train_reward_model(records, config, start=start, likelihood=start, seed=1)
        return LearnedReward(trained.scorers, LearnedOptions(heads={given.aspect: 1.0}))

    found = read_comparisons(given.data / f"pairs_{given.aspect}.jsonl", FIELDS, empty_outputs=True).comparisons
    training, valid = ([one for one in found if one.meta.get("split") == split] for split in ("train", "valid"))
    reward = LearnedReward.load(given.run, heads={given.aspect: 1.0})
    result = guerdon.evaluate_reward(reward, valid, (), training, train=train, data=f"pairs of {given.aspect}, split valid")
    for point in result.curve:
        own = point.groups["unanimous"].agrees
        print(f"{point.sources} sources, {point.pairs} pairs: {own.value:.3f} [{own.low:.3f}, {own.high:.3f}]")
    given.output.mkdir(parents=True, exist_ok=True)
    write_reward_evaluation(result, given.output)


if __name__ == "__main__":
    main()
