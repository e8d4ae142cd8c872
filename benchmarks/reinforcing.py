"""How many outputs a second a step of reinforcement draws, judges and learns from: guerdon and TRL's GRPO.

    python benchmarks/reinforcing.py runs/multi30k/tokenizer ../shared/data/multi30k/train.jsonl --output reinforcing.json

TRL trains decoders alone, so that the models are not the same: both have 10.4 million parameters, random weights, the same
vocabulary and the same prompts, and write 32 tokens for each of 8 outputs of 32 prompts. TRL's is a Llama of width 256 with
eight layers; guerdon's a Transformer of the same width with four layers before and five after. The reward is trivial: what
it costs is no part of this. Each lives in a process of its own and makes some steps in turn, of which the first two are
not counted. Neither holds an anchor (TRL by its default; guerdon scans it nevertheless, for its log), both draw at
temperature 1 and make one update from a rollout.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from apart import Apart, all_made, in_turn
from figures import device, summary, table
from peers.trl_grpo import Peer
from prompts import asked

import guerdon
from guerdon.data.files import write_atomically
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import LengthLimit
from guerdon.generator import Generator
from guerdon.models.options import TransformerOptions
from guerdon.models.precision import Precision
from guerdon.models.transformer import Transformer
from guerdon.rewards.function import FunctionReward
from guerdon.training.estimators import Estimator
from guerdon.training.holding import KlOptions
from guerdon.training.progress import Silent
from guerdon.training.trainee import LoopOptions

SOURCES, COPIES, LENGTH, UNCOUNTED = 32, 8, 32, 2
SHARE = 1 / 8  # of the sources, for a KL that holds nothing: TRL measures none
SIZES = (SOURCES, COPIES, LENGTH, UNCOUNTED)
Timing = tuple[float, dict[str, float]]  # outputs a second, and the share of the time that each part takes


def trivial(sources: list[str], outputs: list[str], references: list[Any]) -> list[float]:
    return [len(output) / 100 for output in outputs]


class Native:
    """`guerdon.reinforce`, with all that a run does: logs, samples, monitors."""

    def __init__(
        self,
        folder: Path,
        texts: list[str],
        steps: int,
        device: str,
        precision: Precision,
        estimator: Estimator,
        measured: float,
    ) -> None:
        torch.manual_seed(1)
        tokenizer = Tokenizer.load(folder)
        options = TransformerOptions(tokenizer.vocabulary_size, encoder_layers=4, decoder_layers=5, max_source=256)
        self.generator = Generator(Transformer(options).to(device), tokenizer)
        self.examples = [guerdon.Example(text) for text in texts]
        self.config = guerdon.ReinforceConfig(
            steps=steps + UNCOUNTED, sources_per_step=SOURCES, samples_per_source=COPIES, limit=LengthLimit(absolute=LENGTH),
            estimator=estimator, precision=precision, rollout_precision=precision, kl=KlOptions(0.0, measured=measured),
            loop=LoopOptions(validate_every=10_000, checkpoint_every=10_000, criterion="reward", higher_is_better=True),
        )  # fmt: skip

    def parameters(self) -> int:
        return sum(weight.numel() for weight in self.generator.policy.parameters())

    def rate(self, repetition: int) -> Timing:
        with tempfile.TemporaryDirectory() as place:
            guerdon.reinforce(
                self.generator, FunctionReward(trivial), self.examples, self.config, self.examples[:1], None, Path(place),
                repetition, Silent(),
            )  # fmt: skip
            rows = list(map(json.loads, (Path(place) / "timings.jsonl").read_text("utf-8").splitlines()))
        steps = [row for row in rows if "step" in row][UNCOUNTED:]
        whole = sum(row["seconds"] for row in steps)
        shares = {part: sum(row[part] for row in steps) / whole for part in ("rollout", "reward", "update")}
        return SOURCES * COPIES * len(steps) / whole, shares


def main() -> None:
    options, texts = asked(__doc__, "reinforcing.json")
    given = (options.tokenizer, texts, options.steps, options.device)
    every = {
        "guerdon grpo, float32": Apart(Native, *given, "float32", "grpo", SHARE, threads=options.threads),
        "guerdon grpo, bfloat16": Apart(Native, *given, "bfloat16", "grpo", SHARE, threads=options.threads),
        "guerdon grpo, bfloat16, KL of all outputs": Apart(Native, *given, "bfloat16", "grpo", 1.0, threads=options.threads),
        "TRL GRPO, float32": Apart(Peer, *given, False, SIZES, threads=options.threads),
        "TRL GRPO, bfloat16": Apart(Peer, *given, True, SIZES, threads=options.threads),
    }
    all_made(every)
    answers = in_turn(every, options.repetitions, lambda name, repetition: every[name].call("rate", repetition))
    found = {
        name: {
            "parameters": every[name].call("parameters"),
            **summary([rate for rate, _ in own], "outputs/s", 1),
            "parts": ", ".join(f"{part} {share:.0%}" for part, share in own[-1][1].items()),
        }
        for name, own in answers.items()
    }
    for engine in every.values():
        engine.close()
    print(table(found))
    own, other = (max(found[name]["outputs/s"] for name in found if name.startswith(who)) for who in ("guerdon", "TRL"))
    print(f"guerdon's better, × TRL's better: {own / other:.2f}")
    record = {"engines": found, "ratio": own / other, "threads": options.threads, **device(options.device)}
    write_atomically(options.output, [json.dumps(record, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
