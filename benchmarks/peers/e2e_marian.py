"""E2E with a Marian-shaped Hugging Face model, trained from scratch in a plain loop.

    python benchmarks/peers/e2e_marian.py --output runs/peer-e2e-1 --seed 1

All pairs of e2e/train; AdamW with a cosine schedule after a warm-up, label smoothing, dropout, bf16 autocast, eager
attention. BLEU (sacrebleu 13a, lower-cased, all references) on dev after each epoch, greedy; the epoch that is best on dev is
decoded on test, greedy and with beam 5. Prints one JSON object; outputs go to ``outputs-greedy.jsonl`` and
``outputs-beam5.jsonl`` in the output folder.
"""

from __future__ import annotations

import copy
import math
import random
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from marian import (
    IGNORED,
    Pair,
    Special,
    add_common,
    batches_of,
    bleu,
    collate,
    decode,
    model_of,
    prepare,
    read_jsonl,
    report,
    say,
    write_outputs,
)
from tokenizers import ByteLevelBPETokenizer
from transformers import MarianMTModel

SPECIAL = Special(pad=0, start=1, end=2)


@dataclass(frozen=True)
class Setting:
    """The data as this model reads them."""

    tokenizer: ByteLevelBPETokenizer
    pairs: list[Pair]
    dev: list[dict[str, Any]]
    test: list[dict[str, Any]]


def parse() -> Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--vocabulary", type=int, default=3000, help="size of the byte-level BPE vocabulary")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradient")
    return parser.parse_args()


def read(options: Namespace) -> Setting:
    """The records, and a tokenizer trained on the sources and references of the training split."""
    folder = options.data / "e2e"
    train = read_jsonl(folder / "train.jsonl")
    tokenizer = ByteLevelBPETokenizer()
    texts = [text for record in train for text in (record["source"], *record["references"])]
    special = ["<pad>", "<s>", "</s>"]
    tokenizer.train_from_iterator(texts, options.vocabulary, min_frequency=2, show_progress=False, special_tokens=special)
    pairs = [
        Pair([*tokenizer.encode(record["source"]).ids, SPECIAL.end], [*tokenizer.encode(reference).ids, SPECIAL.end])
        for record in train
        for reference in record["references"]
    ]
    dev, test = (read_jsonl(folder / f"{split}.jsonl", options.max_eval) for split in ("dev", "test"))
    return Setting(tokenizer, pairs, dev, test)


def write(model: MarianMTModel, setting: Setting, records: list[dict[str, Any]], options: Namespace, beams: int) -> list[str]:
    """The model's outputs for ``records``."""
    sources = [[*setting.tokenizer.encode(record["source"]).ids, SPECIAL.end] for record in records]
    return [setting.tokenizer.decode(ids).strip() for ids in decode(model, sources, SPECIAL, options.decode_rows, beams)]


def score(outputs: list[str], records: list[dict[str, Any]]) -> float:
    return bleu(outputs, [record["references"] for record in records], lowercase=True)


def step(model: MarianMTModel, optimizer: torch.optim.Optimizer, pairs: list[Pair], options: Namespace) -> float:
    """One update; the loss, label smoothing included."""
    batch = collate(pairs, SPECIAL)
    labels = batch.pop("labels")
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(**batch).logits
    loss = F.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, label_smoothing=options.label_smoothing
    )
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
    optimizer.step()
    return loss.item()


def schedule(optimizer: torch.optim.Optimizer, warmup: int, total: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Up in a line over ``warmup`` steps, then down along a cosine to 0 at ``total``."""

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (done - warmup) / max(1, total - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def train(model: MarianMTModel, setting: Setting, options: Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The figures of each epoch, and the weights of the one that is best on dev."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.98), weight_decay=options.weight_decay
    )
    plans = [
        batches_of(setting.pairs, options.batch_tokens, random.Random(f"{options.seed} {n}")) for n in range(options.epochs)
    ]
    total = min(sum(map(len, plans)), options.max_steps or sum(map(len, plans)))
    rate = schedule(optimizer, options.warmup, total)
    epochs: list[dict[str, Any]] = []
    best: dict[str, Any] = {}
    done, seconds = 0, 0.0
    for number, plan in enumerate(plans, 1):
        started, losses = time.perf_counter(), []
        model.train()
        for batch in islice(plan, total - done):
            losses.append(step(model, optimizer, [setting.pairs[at] for at in batch], options))
            rate.step()
            if len(losses) % 100 == 0:
                say(f"epoch {number} step {done + len(losses)}/{total} loss {sum(losses[-100:]) / 100:.3f}")
        done, seconds = done + len(losses), seconds + time.perf_counter() - started
        dev = score(write(model, setting, setting.dev, options, 1), setting.dev)
        if not epochs or dev > max(epoch["dev_bleu"] for epoch in epochs):
            best = copy.deepcopy(model.state_dict())
        epochs.append(
            {
                "epoch": number,
                "steps": done,
                "loss": sum(losses) / len(losses),
                "dev_bleu": dev,
                "train_seconds": round(seconds, 1),
            }
        )
        say(f"epoch {number}: dev BLEU {dev:.2f}")
        if done == total:
            break
    return epochs, best


def main() -> None:
    options = parse()
    prepare(options)
    started = time.perf_counter()
    setting = read(options)
    say(f"{len(setting.pairs)} pairs")
    model = model_of(options, setting.tokenizer.get_vocab_size(), SPECIAL)
    epochs, best = train(model, setting, options)
    model.load_state_dict(best)
    test = {}
    for name, beams in (("greedy", 1), ("beam5", 5)):
        outputs = write(model, setting, setting.test, options, beams)
        write_outputs(options.output / f"outputs-{name}.jsonl", setting.test, outputs)
        test[name] = score(outputs, setting.test)
    chosen = max(epochs, key=lambda epoch: float(epoch["dev_bleu"]))["epoch"]
    figures = {
        "pairs": len(setting.pairs),
        "epochs": epochs,
        "chosen_epoch": chosen,
        "test_bleu": test,
        "seconds": round(time.perf_counter() - started, 1),
    }
    report(options, model, figures)


if __name__ == "__main__":
    main()
