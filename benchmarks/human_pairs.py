"""How often reward models prefer what people prefer: several seeds, beside a linear Bradley–Terry model on 1–3-grams.

    python benchmarks/human_pairs.py runs/feedback-1/reward_model runs/feedback-2/reward_model runs/feedback-3/reward_model \\
        --data ../shared/data/e2e_human --aspects naturalness quality --output human_pairs.json

Each folder is one seed's reward model, with a head for each aspect. Measured on the unanimous pairs (at least two votes for,
none against) of split=valid; the linear model is that of `guerdon evaluate`, trained on those of split=train. Printed for each
aspect: each seed's accuracy, their mean with its 95% interval, and its gain over the linear model, paired. Sources are
resampled, and every seed is measured on the same ones. The expected calibration error is that of σ(r(chosen) − r(rejected))
as the models give it: their temperatures were fitted on folds of the training sources.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from guerdon.data.files import write_atomically
from guerdon.data.judgements import ComparisonFields, read_comparisons
from guerdon.evaluation.calibration import calibration
from guerdon.evaluation.folds import sums_by_source
from guerdon.evaluation.human_pairs import HumanPair, voted_pairs
from guerdon.evaluation.judged_pairs import KnownPair, order_of, pair_scores, right, with_examples
from guerdon.evaluation.linear_preference import train_linear
from guerdon.metrics.base import MeanMetric
from guerdon.metrics.significance import bootstrap_interval, paired_bootstrap
from guerdon.rewards import LearnedReward, Reward
from guerdon.rewards.normalise import NormaliserOptions

FIELDS = ComparisonFields(source="prompt", weight="votes_for", against="votes_against")
ACCURACY = MeanMetric("accuracy")


def unanimous(path: Path, split: str) -> list[HumanPair]:
    found = read_comparisons(path, FIELDS, empty_outputs=True).comparisons
    kept = [comparison for comparison in found if comparison.meta.get("split") == split]
    return [pair for pair in voted_pairs(kept).pairs if pair.unanimous]


def scores(reward: Reward, known: Sequence[KnownPair]) -> Any:
    return pair_scores(reward, known, NormaliserOptions())[0].values


def measured(folders: Sequence[str], path: Path, aspect: str, resamples: int, seed: int) -> dict[str, Any]:
    """Everything about one aspect."""
    pairs = unanimous(path, "valid")
    known, sources = with_examples(pairs, ()), [pair.source for pair in pairs]
    linear = right(order_of(scores(train_linear(unanimous(path, "train")), known)))
    each, errors = [], []
    for folder in folders:
        found = scores(LearnedReward.load(folder, heads={aspect: 1.0}), known)
        each.append(right(order_of(found)))
        margins = found[: len(pairs)] - found[len(pairs) :]
        errors.append(calibration(margins, np.ones(len(pairs)), sources, 10, resamples, seed))
    by_source = sums_by_source(sources, np.mean(each, axis=0))
    gain = paired_bootstrap(ACCURACY, by_source, sums_by_source(sources, linear), resamples, seed)
    return {
        "pairs": len(pairs),
        "sources": len(set(sources)),
        "seeds": [float(one[:, 0].mean()) for one in each],
        "mean": asdict(bootstrap_interval(ACCURACY, by_source, resamples, seed)),
        "linear": float(linear[:, 0].mean()),
        "gain": asdict(gain),
        "ece": [asdict(one.ece) | {"by_chance": one.ece_by_chance} for one in errors],
    }


def line(aspect: str, found: dict[str, Any]) -> str:
    mean, gain = found["mean"], found["gain"]
    seeds = ", ".join(f"{value:.3f}" for value in found["seeds"])
    errors = ", ".join(f"{one['value']:.3f}" for one in found["ece"])
    return (
        f"| {aspect} | {seeds} | {mean['value']:.3f} [{mean['low']:.3f}, {mean['high']:.3f}] | {found['linear']:.3f} | "
        f"{gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] | {errors} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", help="a reward model's folder for each seed")
    parser.add_argument("--data", type=Path, required=True, help="the folder of pairs_<aspect>.jsonl")
    parser.add_argument("--aspects", nargs="+", default=["naturalness", "quality"])
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("human_pairs.json"))
    given = parser.parse_args()
    results = {}
    print("| aspect | seeds | mean | linear | gain, paired | calibration error |\n|---|---|---|---|---|---|")
    for aspect in given.aspects:
        path = given.data / f"pairs_{aspect}.jsonl"
        results[aspect] = measured(given.folders, path, aspect, given.resamples, given.seed)
        print(line(aspect, results[aspect]), flush=True)
    write_atomically(given.output, [json.dumps(results, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
