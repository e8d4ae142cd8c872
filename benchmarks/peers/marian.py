"""What the baselines of this folder share: a Marian-shaped Hugging Face model, batches, decoding, scores, results.

Nothing here imports guerdon: a peer is measured by its own means.
"""

from __future__ import annotations

import json
import platform
import random
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from os import environ
from pathlib import Path
from typing import Any

import sacrebleu
import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

IGNORED = -100  # what cross-entropy leaves out


@dataclass(frozen=True)
class Special:
    """The ids that stand for no text."""

    pad: int
    start: int
    end: int


@dataclass(frozen=True)
class Pair:
    """Ids of one training pair; the end token is included in both."""

    source: list[int]
    target: list[int]


def add_common(parser: ArgumentParser) -> None:
    """The options of every baseline."""
    parser.add_argument(
        "--data", type=Path, default=Path(environ.get("GUERDON_DATA", "../shared/data")), help="folder of the data sets"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the outputs and result.json")
    parser.add_argument("--width", type=int, default=256, help="model width")
    parser.add_argument("--layers", type=int, default=3, help="layers of the encoder, and of the decoder")
    parser.add_argument("--feedforward", type=int, default=1024, help="width of the feed-forward layers")
    parser.add_argument("--heads", type=int, default=4, help="attention heads")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--warmup", type=int, default=200, help="steps in which the learning rate rises")
    parser.add_argument(
        "--batch-tokens", type=int, default=4096, help="positions of a batch: rows * (longest source + longest target)"
    )
    parser.add_argument("--max-target", type=int, default=128, help="longest output, in tokens")
    parser.add_argument("--decode-rows", type=int, default=64, help="sources decoded at once")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--max-steps", type=int, help="stop after this many steps: for a trial of the script")
    parser.add_argument("--max-eval", type=int, help="decode only this many sources of a split: for a trial of the script")


def prepare(options: Namespace) -> None:
    """Seeds and threads; makes the output folder."""
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)


def say(text: str) -> None:
    """Progress, on standard error: standard output carries the result alone."""
    print(text, file=sys.stderr, flush=True)


def read_jsonl(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines][:limit]


def model_of(options: Namespace, vocabulary: int, special: Special) -> MarianMTModel:
    """A freshly initialised model: shared and tied embeddings, post-norm, sinusoidal positions, as Marian trains them."""
    config = MarianConfig(
        vocab_size=vocabulary,
        d_model=options.width,
        encoder_layers=options.layers,
        decoder_layers=options.layers,
        encoder_ffn_dim=options.feedforward,
        decoder_ffn_dim=options.feedforward,
        encoder_attention_heads=options.heads,
        decoder_attention_heads=options.heads,
        dropout=options.dropout,
        activation_function="swish",
        scale_embedding=True,
        max_position_embeddings=512,
        pad_token_id=special.pad,
        eos_token_id=special.end,
        forced_eos_token_id=special.end,
        decoder_start_token_id=special.start,
        attn_implementation="eager",
    )
    model = MarianMTModel(config)
    model.generation_config.update(max_length=options.max_target, num_beams=1, do_sample=False)
    return model


def batches_of(pairs: Sequence[Pair], budget: int, numbers: random.Random) -> list[list[int]]:
    """One epoch: pairs of like length together, at most ``budget`` padded positions a batch, batches in random order."""
    order = list(range(len(pairs)))
    numbers.shuffle(order)
    order.sort(key=lambda at: (len(pairs[at].source) // 3, len(pairs[at].target) // 3))
    batches: list[list[int]] = []
    source = target = budget
    for at in order:
        source, target = max(source, len(pairs[at].source)), max(target, len(pairs[at].target))
        if not batches or (len(batches[-1]) + 1) * (source + target) > budget:
            batches.append([])
            source, target = len(pairs[at].source), len(pairs[at].target)
        batches[-1].append(at)
    numbers.shuffle(batches)
    return batches


def pad(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def collate(pairs: Sequence[Pair], special: Special) -> dict[str, Tensor]:
    """The tensors of one batch, each [rows, length]."""
    sources = pad([pair.source for pair in pairs], special.pad)
    return {
        "input_ids": sources,
        "attention_mask": (sources != special.pad).long(),
        "decoder_input_ids": pad([[special.start, *pair.target[:-1]] for pair in pairs], special.pad),
        "labels": pad([pair.target for pair in pairs], IGNORED),
    }


@torch.inference_mode()
def decode(model: MarianMTModel, sources: Sequence[list[int]], special: Special, rows: int, beams: int) -> list[list[int]]:
    """The best output of each source, special ids removed; sources of like length are decoded together."""
    model.eval()
    order = sorted(range(len(sources)), key=lambda at: len(sources[at]))
    found: dict[int, list[int]] = {}
    for chunk in (order[first : first + rows] for first in range(0, len(order), rows)):
        ids = pad([sources[at] for at in chunk], special.pad)
        with torch.autocast("cpu", torch.bfloat16):
            made = model.generate(input_ids=ids, attention_mask=(ids != special.pad).long(), num_beams=beams)
        found.update(zip(chunk, (list(without(row, special)) for row in made.tolist()), strict=True))
    return [found[at] for at in range(len(sources))]


def without(row: Sequence[int], special: Special) -> Iterator[int]:
    """The ids up to the end token, without the special ones."""
    for token in row:
        if token == special.end:
            return
        if token not in (special.pad, special.start):
            yield token


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool) -> float:
    """Corpus BLEU of sacrebleu, 13a, with all references (their number may differ)."""
    most = max(map(len, references))
    streams = [[row[at] if at < len(row) else None for row in references] for at in range(most)]
    return float(sacrebleu.corpus_bleu(list(outputs), streams, lowercase=lowercase, tokenize="13a").score)


def chrf(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF2 of sacrebleu, cased."""
    most = max(map(len, references))
    streams = [[row[at] if at < len(row) else None for row in references] for at in range(most)]
    return float(sacrebleu.corpus_chrf(list(outputs), streams).score)


def write_outputs(path: Path, records: Sequence[dict[str, Any]], outputs: Sequence[str]) -> None:
    """The records with their ``outputs`` (one each), one JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for record, output in zip(records, outputs, strict=True):
            file.write(json.dumps({**record, "outputs": [output]}, ensure_ascii=False) + "\n")


def report(options: Namespace, model: MarianMTModel, figures: dict[str, Any]) -> None:
    """Prints the result, and keeps it beside the outputs."""
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    packages = ("torch", "transformers", "tokenizers", "sacrebleu", "accelerate")
    result = {
        "peer": Path(sys.argv[0]).stem,
        "settings": settings,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "parameters": sum(one.numel() for one in model.parameters()),
        **figures,
    }
    text = json.dumps(result, indent=2)
    (options.output / "result.json").write_text(text + "\n", "utf-8")
    print(text)
