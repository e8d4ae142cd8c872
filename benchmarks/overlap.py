"""How many steps of reinforcement a second, with the next outputs drawn and judged during the update and one after the other.

    python benchmarks/overlap.py runs/multi30k/tokenizer ../shared/data/multi30k/train.jsonl --output overlap.json

Twice: with a reward that takes no time, and with one that waits for as long as an update takes, as one that asks a service
does. How long that is, a run without overlap says first. The policy is a Transformer of width 256 with random weights; a step
draws 8 outputs of at most 32 tokens for each of 16 sources and makes one update by leave-one-out, without a penalty. Each way
lives in a process of its own and makes some steps in turn; the first two are not counted, nor is the last, during which nothing
is drawn ahead.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from apart import Apart, all_made, in_turn
from figures import summary, table
from prompts import asked

import guerdon
from guerdon.data.files import write_atomically
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit
from guerdon.generator import Generator
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer
from guerdon.rewards.function import FunctionReward
from guerdon.training.holding import KlOptions
from guerdon.training.progress import Silent
from guerdon.training.trainee import LoopOptions

SOURCES, COPIES, LENGTH, UNCOUNTED = 16, 8, 32, 2
Row = dict[str, Any]


class Way:
    """`guerdon.reinforce`, with overlap or without, in all that a run does."""

    def __init__(self, folder: Path, texts: list[str], steps: int, overlap: bool) -> None:
        torch.manual_seed(1)
        tokenizer = Tokenizer.load(folder)
        options = TransformerOptions(tokenizer.vocabulary_size, encoder_layers=3, decoder_layers=3, max_source=256)
        self.generator = Generator(Transformer(options), tokenizer)
        self.examples = [guerdon.Example(text) for text in texts]
        self.config = guerdon.ReinforceConfig(
            steps=UNCOUNTED + steps + 1, sources_per_step=SOURCES, samples_per_source=COPIES,
            limit=LengthLimit(absolute=LENGTH), estimator="rloo", kl=KlOptions(coefficient=0.0), overlap=overlap,
            loop=LoopOptions(validate_every=10_000, checkpoint_every=10_000, criterion="reward", higher_is_better=True),
        )  # fmt: skip

    def steps(self, repetition: int, wait: float) -> list[Row]:
        """The times of the steps that count, where the reward waits so many seconds."""

        def waiting(sources: list[str], outputs: list[str], references: list[Any]) -> list[float]:
            time.sleep(wait)
            return [len(output) / 100 for output in outputs]

        with tempfile.TemporaryDirectory() as place:
            guerdon.reinforce(
                self.generator, FunctionReward(waiting), self.examples, self.config, self.examples[:1], None, Path(place),
                repetition, Silent(),
            )  # fmt: skip
            rows = list(map(json.loads, (Path(place) / "timings.jsonl").read_text("utf-8").splitlines()))
        return [row for row in rows if "step" in row][UNCOUNTED:-1]


def figures(repetitions: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Steps a second, and what the last repetition's steps consist of, in seconds."""
    rates = [len(rows) / sum(row["seconds"] for row in rows) for rows in repetitions]
    rows = repetitions[-1]
    parts = [name for name in rows[0] if name not in ("stage", "step", "seconds")]
    means = {name: statistics.fmean(row[name] for row in rows) for name in parts}
    return {**summary(rates, "steps/s", 3), "seconds": ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())}


def main() -> None:
    options, texts = asked(__doc__, "overlap.json")
    given = (options.tokenizer, texts, options.steps)
    ways = {
        name: Apart(Way, *given, overlap, threads=options.threads)
        for name, overlap in {"one after the other": False, "overlapped": True}.items()
    }
    all_made(ways)
    update = statistics.median(row["update"] for row in ways["one after the other"].call("steps", 0, 0.0))
    cases = {f"{way}, {reward}": (way, wait) for reward, wait in (("no wait", 0.0), ("waits", update)) for way in ways}
    answers = in_turn(cases, options.repetitions, lambda case, n: ways[cases[case][0]].call("steps", n, cases[case][1]))
    found = {case: figures(own) for case, own in answers.items()}
    for way in ways.values():
        way.close()
    print(table(found, "step"))
    ratios = {
        reward: found[f"overlapped, {reward}"]["steps/s"] / found[f"one after the other, {reward}"]["steps/s"]
        for reward in ("no wait", "waits")
    }
    print(f"the reward that waits does so for {update:.2f} s; overlapped, × one after the other: ", end="")
    print(", ".join(f"{reward} {ratio:.2f}" for reward, ratio in ratios.items()))
    record = {"steps": found, "ratios": ratios, "wait": update, "threads": options.threads, "torch": torch.__version__}
    write_atomically(options.output, [json.dumps(record, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
