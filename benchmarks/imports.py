"""How long a Python process takes to import guerdon, and what it is measured against.

    python benchmarks/imports.py --output imports.json

Each import is a process of its own, in turn; the time of a process that imports nothing is taken off. Heavy parts are imported
at their first use: "guerdon, with what trains" asks for them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from figures import table

from guerdon.data.files import write_atomically

IMPORTS = {
    "nothing": "pass",
    "guerdon": "import guerdon",
    "torch": "import torch",
    "guerdon, with what trains": "from guerdon import Generator, finetune, load, reinforce",
    "transformers' Seq2SeqTrainer": "from transformers import Seq2SeqTrainer",
    "sentence-transformers": "import sentence_transformers",
    "ctranslate2": "import ctranslate2",
}


def seconds(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--output", type=Path, default=Path("imports.json"))
    options = parser.parse_args()
    for code in IMPORTS.values():
        seconds(code)  # the first time reads from the disk
    times: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(options.repetitions):
        for name, code in IMPORTS.items():
            times[name].append(seconds(code))
    bare = statistics.median(times.pop("nothing"))
    medians = {name: max(0.0, statistics.median(values) - bare) for name, values in times.items()}
    found = {
        name: {
            "seconds, median": round(median, 2),
            "least": round(min(times[name]) - bare, 2),
            "most": round(max(times[name]) - bare, 2),
            "× torch": round(median / medians["torch"], 2),
        }
        for name, median in medians.items()
    }
    print(table(found, "import"))
    write_atomically(options.output, [json.dumps(found, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
