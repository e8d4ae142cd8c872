"""How fast guerdon, Seq2SeqTrainer and plain PyTorch loops train a translation model of the same shape on the same pairs.

    python benchmarks/training.py runs/multi30k/tokenizer ../shared/data/multi30k/train.jsonl --output training.json

The records' ``reference`` is the source and ``source`` the target, as in recipes/multi30k.yaml. Every engine begins with random
weights of width 256, 3 + 3 layers, feed-forward 1,024 (`--size base`: 512, 6 + 6, 2,048), dropout 0.1, label smoothing 0.1,
AdamW and clipping at 1. Those with batches of tokens have at most ``--max-tokens`` positions a step; those of the Trainer's
own have ``--rows`` rows, of like length ("grouped") or as they come. Each engine trains in a process of its own, in turn, as
often as asked, for some steps of which the first five are not counted. Printed: target tokens a second, end tokens included,
the median and the spread; and the share of the positions that hold a token. `torch.compile` is not among them: it took three
minutes to compile `nn.Transformer` with shapes that change, and was slower than without (docs/log.md).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from apart import Apart, all_made, in_turn
from figures import device, summary, table
from training_engines import Native, PlainMarian, PlainTransformer, Setting, Trainer

from guerdon.data.files import write_atomically

SIZES = {"small": (256, 4, 3, 1024), "base": (512, 8, 6, 2048)}  # width, heads, layers each way, feed-forward


def engines(setting: Setting, wanted: str) -> dict[str, Apart]:
    made = {
        "guerdon float32": (Native, "float32"),
        "guerdon bfloat16": (Native, "bfloat16"),
        "Seq2SeqTrainer float32, random": (Trainer, False, "random"),
        "Seq2SeqTrainer float32, grouped": (Trainer, False, "group_by_length"),
        "Seq2SeqTrainer bfloat16, grouped": (Trainer, True, "group_by_length"),
        "nn.Transformer float32": (PlainTransformer, False),
        "nn.Transformer bfloat16": (PlainTransformer, True),
        "Marian, plain loop, bfloat16": (PlainMarian,),
    }
    return {name: Apart(made[name][0], setting, *made[name][1:], threads=setting.threads) for name in made if wanted in name}


def ratios(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """guerdon's better rate to the best of each kind of peer."""

    def best(*beginnings: str) -> float:
        return max(one["tokens/s"] for name, one in found.items() if name.startswith(beginnings))

    own = best("guerdon")
    return {"Seq2SeqTrainer's best": own / best("Seq2Seq"), "the best plain loop": own / best("nn.Transformer", "Marian")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="the folder of a guerdon model or run that holds tokenizer.json")
    parser.add_argument("records", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--max-tokens", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--engines", default="", help="only those with this in their name")
    parser.add_argument("--output", type=Path, default=Path("training.json"))
    options = parser.parse_args()
    setting = Setting(
        options.tokenizer, options.records, *SIZES[options.size], options.max_tokens, options.rows, options.steps,
        options.threads, options.device,
    )  # fmt: skip
    every = engines(setting, options.engines)
    all_made(every)

    def ask(name: str, repetition: int) -> tuple[float, float]:
        found: tuple[float, float] = every[name].call("rate", repetition)
        every[name].rest()
        return found

    answers = in_turn(every, options.repetitions, ask)
    for engine in every.values():
        engine.close()
    found = {
        name: {**summary([rate for rate, _ in own], "tokens/s"), "fill": round(own[-1][1], 3)} for name, own in answers.items()
    }
    print(table(found))
    against = ratios(found) if not options.engines else {}
    print("\n".join(f"guerdon's better, × {name}: {ratio:.2f}" for name, ratio in against.items()))
    record = {"size": options.size, "engines": found, "ratios": against, "threads": options.threads, **device(options.device)}
    write_atomically(options.output, [json.dumps(record, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
