"""How near decoding and training come to what a GPU can do: the bytes that it reads, the products that it makes.

    python benchmarks/gpu_limits.py --output gpu_limits.json
    python benchmarks/gpu_limits.py --models small base

Both limits are measured first, on this GPU: what a sum over 2 GiB reads a second, and the rate of a product of two bfloat16
matrices of 8,192 rows and columns. Models have random weights by which no output ends, so that every work has the length that
it is asked for.

- A position of a decode (greedy, 256 sources of 32 tokens, bfloat16): the difference of outputs of 96 and of 32 tokens, divided
  by 64, so that what is done once counts nothing. Its bytes are those that cannot be spared: the decoder's and the output's
  weights once, the keys and values of all positions so far and of the source once for each row. Beside it the same without
  CUDA graphs.
- A training step (`guerdon.finetune`'s, bfloat16), on rows of 16 to 64 tokens in batches of ``--max-tokens`` positions, each
  of another shape: six operations for each weight of a matrix and each position that it is multiplied by; attention's own
  products are not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from figures import device, table
from scaling import endless
from torch import nn

from guerdon.data.batches import BatchOptions
from guerdon.data.files import write_atomically
from guerdon.data.padded import Padded
from guerdon.data.tokenizer import Tokenizer
from guerdon.decoding import greedy
from guerdon.generator import Generator
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer
from guerdon.training.schedule import OptimiserOptions, build_optimiser
from guerdon.training.supervised import Pairs, Supervised, SupervisedOptions

MODELS = {  # width, heads, layers each way, feed-forward, vocabulary
    "small": (256, 4, 3, 1024, 8000),
    "base": (512, 8, 6, 2048, 8000),
    "1B": (2048, 32, 8, 8192, 32000),
}
ROWS, SOURCE, SHORT, LONG = 256, 32, 32, 96
PASSES, STEPS = 5, 12


def milliseconds(work: Callable[[], object], passes: int = PASSES) -> list[float]:
    """What it takes, as often as asked, after a time that is not counted."""
    found = []
    for _ in range(passes + 1):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - began) * 1e3)
    return found[1:]


def limits() -> tuple[float, float]:
    """Bytes read and operations in bfloat16, of a second."""
    words = torch.empty(2**28, dtype=torch.int64, device="cuda").random_()
    read = 20 * words.nbytes / min(milliseconds(lambda: [words.sum() for _ in range(20)])) * 1e3
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return read, 20 * 2 * 8192**3 / min(milliseconds(lambda: [left @ right for _ in range(20)])) * 1e3


def made(shape: tuple[int, int, int, int, int]) -> Transformer:
    """A model on the GPU that ends no output."""
    width, heads, layers, feed_forward, vocabulary = shape
    torch.manual_seed(1)
    with torch.device("cuda"):
        options = TransformerOptions(
            vocabulary, width, heads, layers, layers, feed_forward, dropout=0.1, max_source=128, max_target=128
        )
        return endless(Transformer(options))


def ids(lengths: list[int], vocabulary: int, seed: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(8, vocabulary, (length,), generator=draw).tolist() for length in lengths]


def decoding(policy: Transformer, read: float) -> dict[str, float]:
    """A position of a decode, and the share of the limit that it reaches."""
    sources = Padded.from_lists(ids([SOURCE] * ROWS, policy.vocabulary_size, 1), policy.pad_id, "cuda")

    def position(graphs: str) -> float:
        os.environ["GUERDON_GRAPHS"] = graphs

        def write(length: int) -> object:
            return greedy(policy, sources, torch.full((ROWS,), length), precision="bfloat16")

        long, short = (statistics.median(milliseconds(lambda length=length: write(length))) for length in (LONG, SHORT))
        return (long - short) / (LONG - SHORT)

    with_graphs, without = position("1"), position("0")
    read_once = bytes_of_a_position(policy, (SHORT + LONG + 1) / 2)
    return {
        "ms a position": with_graphs, "without graphs": without, "tokens/s": ROWS / with_graphs * 1e3,
        "GB a position": read_once / 1e9, "share of bandwidth": read_once / (with_graphs / 1e3) / read,
    }  # fmt: skip


def bytes_of_a_position(policy: Transformer, written: float) -> float:
    """What a position of the decode cannot do without, in bfloat16, when each row has written so many."""
    cached = 2 * len(policy.decoder) * policy.width * (written + SOURCE) * ROWS
    return 2 * (weights_of(policy)[1] + cached)


def training(policy: Transformer, rate: float, max_tokens: int) -> dict[str, float]:
    """A training step, and the share of the rate of products that it reaches."""
    count = 20 * max_tokens // 64
    lengths = torch.randint(16, 65, (count,), generator=torch.Generator().manual_seed(1)).tolist()
    pairs = Pairs(*(ids(lengths, policy.vocabulary_size, seed) for seed in (2, 3)))
    tokenizer = Tokenizer.train(["a few words"], 300)  # is not asked
    options = SupervisedOptions(steps=1, batch=BatchOptions(max_tokens), precision="bfloat16")
    trainee = Supervised("limits", Generator(policy, tokenizer), pairs, Pairs([], []), options, 1)
    optimiser = build_optimiser(policy, OptimiserOptions(learning_rate=1e-6, warmup_steps=0, schedule="constant"))
    taken, tokens = list[float](), list[float]()
    for step in range(1, STEPS + 1):

        def update(step: int = step) -> None:
            for losses in trainee.updates(step):
                optimiser.zero_grad(set_to_none=True)
                for loss in losses:
                    loss.backward()
                nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
                optimiser.step()

        torch.cuda.synchronize()
        began = time.perf_counter()
        update()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
        tokens.append(trainee.metrics()["tokens"])
    seconds, written = sum(taken[2:]), sum(tokens[2:])
    of_sources, of_targets = weights_of(policy)
    operations = 6 * (of_sources + of_targets) * written  # sources have the lengths of their targets
    return {
        "target tokens/s": written / seconds, "ms a step": seconds / (STEPS - 2) * 1e3,
        "share of products": operations / seconds / rate, "GiB": torch.cuda.max_memory_allocated() / 2**30,
    }  # fmt: skip


def weights_of(policy: Transformer) -> tuple[int, int]:
    """Of matrices that source positions are multiplied by, and target positions."""

    def of(module: nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters() if weight.ndim == 2)

    memory = sum(of(layer.cross.project_memory) for layer in policy.decoder_layers)
    return of(policy.encoder) + memory, of(policy.decoder) - memory + policy.output_weight.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--max-tokens", type=int, default=32768)
    parser.add_argument("--output", type=Path, default=Path("gpu_limits.json"))
    given = parser.parse_args()
    read, rate = limits()
    print(f"{torch.cuda.get_device_name()}: reads {read / 1e9:.0f} GB/s, multiplies at {rate / 1e12:.0f} TFLOP/s in bfloat16")
    record: dict[str, Any] = {"read": read, "rate": rate, **device("cuda"), "decoding": {}, "training": {}}
    for name in given.models:
        policy = made(MODELS[name])
        record["decoding"][name] = decoding(policy, read)
        torch.cuda.reset_peak_memory_stats()
        record["training"][name] = training(policy, rate, given.max_tokens)
        del policy
        torch.cuda.empty_cache()
        write_atomically(given.output, [json.dumps(record, indent=1).encode(), b"\n"])
    for work in ("decoding", "training"):
        print(f"\n{work}\n{table(rounded(record[work]), 'model')}")


def rounded(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: {key: float(f"{value:.3g}") for key, value in row.items()} for name, row in rows.items()}


if __name__ == "__main__":
    main()
