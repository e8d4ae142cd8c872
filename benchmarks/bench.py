"""Runs every comparison of speed, one after the other, and draws what came out: ``make bench``.

    python benchmarks/bench.py --model runs/multi30k/finetune --data ../shared/data --output runs/bench

The model is that of ``guerdon run recipes/multi30k.yaml`` (German to English). Each part can be run by itself; see there
for what it measures. What is written: a JSON file of each part, ``bench.json`` with the machine, the versions and all parts,
``bench.svg``, and ``scaling.svg`` of the part `scaling`. Nothing else should run on the machine meanwhile: rates are compared
within a part, never between runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from guerdon.data.files import write_atomically

HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "ctranslate2", "trl", "accelerate", "sentence-transformers")
ROW, LEFT, BAR = 22, 330, 460  # of the picture, in its own units


def parts(options: argparse.Namespace) -> dict[str, list[str]]:
    """The arguments of each part."""
    data, model = options.data, options.model
    train = str(data / "multi30k" / "train.jsonl")
    return {
        "imports": [],
        "decoding": [str(model), str(data / "multi30k" / "val.jsonl"), "--field", "reference", *_repeated(options)],
        "training": [str(model), train, *_repeated(options)],
        "reinforcing": [str(model), train, *_repeated(options)],
        "scaling": [train, *_repeated(options)],
        "similarity": [str(data / "e2e" / "dev.jsonl"), *_repeated(options)],
    }


def _repeated(options: argparse.Namespace) -> list[str]:
    return ["--repetitions", str(options.repetitions), "--threads", str(options.threads)]


def rates(found: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Of each comparison, each engine's median rate, least and most: more is better."""
    compared: dict[str, dict[str, tuple[float, float, float]]] = {}
    for work, engines in found.get("decoding", {}).get("works", {}).items():
        compared[f"{work}, tokens a second"] = {
            name: (one["tokens/s"], one["least"], one["most"]) for name, one in engines.items()
        }
    for part, unit in (("training", "tokens/s"), ("reinforcing", "outputs/s"), ("similarity", "texts/s")):
        if part in found:
            compared[f"{part}, {unit.replace('/s', ' a second')}"] = {
                name: (one[unit], one["least"], one["most"]) for name, one in found[part]["engines"].items()
            }
    return compared


def picture(compared: Mapping[str, Mapping[str, tuple[float, float, float]]]) -> str:
    """Bars, each comparison scaled to its fastest engine; whiskers from the least to the most."""
    lines, y = [], 10
    for title, engines in compared.items():
        lines.append(f'<text x="10" y="{y + 15}" font-weight="bold">{title}</text>')
        y += ROW
        largest = max(most for _, _, most in engines.values())
        for name, (median, least, most) in engines.items():
            low, middle, high = (LEFT + BAR * value / largest for value in (least, median, most))
            colour = "#2a6f97" if name.startswith("guerdon") else "#9aa5b1"
            lines.append(f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{name}</text>')
            lines.append(f'<rect x="{LEFT}" y="{y + 3}" width="{middle - LEFT:.1f}" height="{ROW - 6}" fill="{colour}"/>')
            lines.append(f'<path d="M{low:.1f} {y + ROW / 2}H{high:.1f}" stroke="#222" stroke-width="1.5"/>')
            lines.append(f'<text x="{high + 8:.1f}" y="{y + 15}">{median:,.0f}</text>')
            y += ROW
        y += 12
    size = f'width="{LEFT + BAR + 90}" height="{y}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return "\n".join([head, f'<rect width="100%" height="{y}" fill="#fff"/>', *lines, "</svg>"])


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "machine": platform.processor() or platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/multi30k/finetune"))
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="+", help="parts to run; those left out keep what they measured last")
    options = parser.parse_args()
    if not (options.model / "config.json").exists():
        parser.error(
            f"{options.model}: no model there; train it with guerdon run recipes/multi30k.yaml, or name another by --model"
        )
    if not options.data.is_dir():
        parser.error(f"{options.data}: no such folder; name that of the data sets by --data")
    options.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for name, arguments in parts(options).items():
        target = options.output / f"{name}.json"
        if not options.only or name in options.only:
            print(f"\n{name}", flush=True)
            done = subprocess.run([sys.executable, str(HERE / f"{name}.py"), *arguments, "--output", str(target)])
            if done.returncode:
                sys.exit(f"{name} failed: see above; what was measured before it is kept in {options.output}")
        if target.exists():
            found[name] = json.loads(target.read_text("utf-8"))
    record = {"versions": versions(), "threads": options.threads, **found}
    write_atomically(options.output / "bench.json", [json.dumps(record, indent=1).encode(), b"\n"])
    write_atomically(options.output / "bench.svg", [picture(rates(found)).encode(), b"\n"])
    print(f"\nwritten to {options.output / 'bench.json'} and {options.output / 'bench.svg'}")


if __name__ == "__main__":
    main()
