"""How fast a reward model scores: outputs a second, of a trained one's folder or of one of the default size.

    python benchmarks/scoring.py --records outputs.jsonl --model runs/feedback/reward_model
    python benchmarks/scoring.py --records ../shared/data/e2e_human/system_outputs.jsonl --sources ../shared/data/e2e/test.jsonl

Records hold ``output`` and either ``source`` or an ``id`` of the file of sources. Tokenising, features and batching count as
time; repeated pairs are left out before, so that nothing is gained by scoring a pair once. The default size (width 128, two
layers each way, n-grams, three poolings) has random weights, which cost what trained ones cost.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from guerdon.data.tokenizer import Tokenizer
from guerdon.models.reward_folder import RewardScorer, load_scorers
from guerdon.models.reward_model import RewardModel
from guerdon.models.reward_options import NgramOptions, RewardModelOptions, ScratchOptions
from guerdon.models.reward_text import RewardText
from guerdon.models.transformer import Transformer
from guerdon.rewards.learned import LearnedReward


def read_pairs(records: Path, sources: Path | None) -> list[tuple[str, str]]:
    """The distinct pairs of source and output."""
    known = {}
    if sources is not None:
        known = {row["id"]: row["source"] for row in map(json.loads, sources.read_text("utf-8").splitlines())}
    rows = map(json.loads, records.read_text("utf-8").splitlines())
    return list(dict.fromkeys((row.get("source") or known[row["id"]], row["output"]) for row in rows if row.get("output")))


def default_scorer(pairs: list[tuple[str, str]]) -> RewardScorer:
    """One of the default size, with random weights."""
    options = RewardModelOptions(
        heads=("naturalness", "quality"),
        pooling=("last", "mean", "max"),
        scratch=ScratchOptions(),
        ngrams=NgramOptions(),
        max_source=160,
        max_output=160,
    )
    tokenizer = Tokenizer.train([text for pair in pairs for text in pair], ScratchOptions().vocabulary_size)
    torch.manual_seed(0)
    model = RewardModel(options, Transformer(options.transformer(tokenizer.vocabulary_size)))
    return RewardScorer(model, RewardText(options, tokenizer))


def main() -> None:
    """Prints the rate of each repetition's median."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--sources", type=Path)
    parser.add_argument("--model", type=Path, help="a reward model's folder; by default one of the default size")
    parser.add_argument("--together", type=int, default=512, help="outputs that are scored in one call")
    parser.add_argument("--repetitions", type=int, default=5)
    given = parser.parse_args()
    pairs = read_pairs(given.records, given.sources)[: 20 * given.together]
    reward = LearnedReward(load_scorers(given.model) if given.model else [default_scorer(pairs)])
    rates = []
    for repetition in range(given.repetitions + 1):
        began = time.perf_counter()
        for first in range(0, len(pairs), given.together):
            part = pairs[first : first + given.together]
            reward([source for source, _ in part], [output for _, output in part])
        if repetition:  # the first one warms up
            rates.append(len(pairs) / (time.perf_counter() - began))
    print(f"{len(pairs)} distinct outputs, {given.together} a call, {torch.get_num_threads()} threads")
    print(f"outputs a second: median {statistics.median(rates):.0f}, lowest {min(rates):.0f}, highest {max(rates):.0f}")


if __name__ == "__main__":
    main()
