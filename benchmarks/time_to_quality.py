"""BLEU against minutes: English captions to German on Multi30k, from raw text to a trained model.

    python benchmarks/time_to_quality.py guerdon --data ../shared/data/multi30k --output runs/quality

Texts are prepared as published (`captions.py`), the tokenizer is learned from the training captions, and the model has the shape
of the published "tiny" Transformer (Wu et al. 2021, https://aclanthology.org/2021.acl-long.480, table 1: width 128, 4 + 4
layers, 41.02 BLEU without pictures). The clock starts before all of that; validations count. What the curve shows is the
BLEU of greedy outputs on the validation captions; at the end the test captions of 2016 are written by beam search, once, and
measured on tokens as they are, which is what is published.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from captions import captions

import guerdon
from guerdon.data.batches import BatchOptions
from guerdon.data.files import write_atomically
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import DecodingOptions, LengthLimit
from guerdon.generator import Generator
from guerdon.metrics.bleu import Bleu
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer
from guerdon.training.progress import Silent
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=["guerdon"])
    parser.add_argument("--data", type=Path, required=True, help="the folder of Multi30k's JSONL files")
    parser.add_argument("--output", type=Path, default=Path("runs/quality"))
    parser.add_argument("--epochs", type=float, default=80)
    parser.add_argument("--rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--feed-forward", type=int, default=256)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--warmup", type=int, default=1000)
    parser.add_argument("--schedule", default="cosine")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    began = time.perf_counter()
    texts = captions(given.data)
    pool = [text for example in texts["train"] for text in (example.source, *example.references)]
    tokenizer = Tokenizer.train(pool, given.vocabulary)
    torch.manual_seed(given.seed)
    options = TransformerOptions(
        tokenizer.vocabulary_size, given.width, 4, given.layers, given.layers, given.feed_forward, dropout=given.dropout,
        norm="post", activation="relu", max_source=128, max_target=128,
    )  # fmt: skip
    generator, curve = Generator(Transformer(options), tokenizer), list[tuple[float, float]]()

    def validate(current: Generator) -> Mapping[str, float]:
        outputs = [one[0].text for one in current.generate([e.source for e in texts["val"]], greedy())]
        bleu = Bleu(tokenize="none").corpus(outputs, [e.references for e in texts["val"]])
        curve.append(((time.perf_counter() - began) / 60, bleu))
        return {"bleu": bleu}

    config = guerdon.FinetuneConfig(
        epochs=given.epochs, batch=BatchOptions(given.batch), label_smoothing=0.1, precision="bfloat16",
        optimiser=OptimiserOptions(given.rate, given.warmup, given.schedule, weight_decay=0.0, clip_norm=1.0),
        loop=LoopOptions(validate_every=250, checkpoint_every=1000, criterion="bleu", higher_is_better=True, average_best=5),
    )  # fmt: skip
    guerdon.finetune(generator, texts["train"], config, texts["val"], validate, given.output, given.seed, Silent())
    minutes = (time.perf_counter() - began) / 60
    generator.save(given.output / "model")
    found = {}
    for penalty in (1.0,):
        beam = DecodingOptions(method="beam", beam_size=5, length_penalty=penalty, limit=LengthLimit(absolute=96))
        for split in ("val", "test_2016_flickr"):
            outputs = [one[0].text for one in generator.generate([e.source for e in texts[split]], beam)]
            found[split] = Bleu(tokenize="none").corpus(outputs, [e.references for e in texts[split]])
            write_atomically(given.output / f"{split}.txt", ["\n".join(outputs).encode()])
    record = {"minutes": minutes, "curve": curve, "found": found, "options": {k: str(v) for k, v in vars(given).items()}}
    write_atomically(given.output / "quality.json", [json.dumps(record, indent=1).encode(), b"\n"])
    print(json.dumps(record))


def greedy() -> DecodingOptions:
    return DecodingOptions(method="greedy", limit=LengthLimit(absolute=96), precision="bfloat16", batch_size=128)


if __name__ == "__main__":
    main()
