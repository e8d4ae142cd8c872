"""What packed linear layers are worth: the products of one decoding step, plain and packed, in turn, by the number of rows.

    python benchmarks/packed.py
    python benchmarks/packed.py --width 512 --feed-forward 2048 --layers 6 --vocabulary 8000

Prints, for each number of rows, the median milliseconds of both and their ratio; float32, the weights of a whole decoder in
turn, so that they do not stay in the processor's nearest cache as those of one layer would.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from torch import Tensor, nn

from guerdon.models.packed import pack


def products(layers: list[nn.Module], inputs: dict[int, Tensor]) -> float:
    began = time.perf_counter()
    for layer in layers:
        layer(inputs[layer.in_features])
    return 1000 * (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--feed-forward", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--vocabulary", type=int, default=3000)
    parser.add_argument("--repetitions", type=int, default=30)
    options = parser.parse_args()
    wide, deep = options.width, options.feed_forward
    shapes = [(wide, 3 * wide), (wide, wide), (wide, wide), (wide, wide), (wide, deep), (deep, wide)] * options.layers
    plain: list[nn.Module] = [nn.Linear(*shape) for shape in [*shapes, (wide, options.vocabulary)]]
    with torch.no_grad():
        for rows in (128, 64, 32, 16, 8, 4, 1):
            packed = pack(plain)
            for layer, source in zip(packed, plain, strict=True):
                layer.in_features = source.in_features
            inputs = {size: torch.randn(rows, size) for size in (wide, deep)}
            times = [(products(plain, inputs), products(packed, inputs)) for _ in range(options.repetitions + 3)][3:]
            one, other = (statistics.median(column) for column in zip(*times, strict=True))
            print(
                json.dumps(
                    {"rows": rows, "plain_ms": round(one, 2), "packed_ms": round(other, 2), "ratio": round(one / other, 2)}
                )
            )


if __name__ == "__main__":
    main()
