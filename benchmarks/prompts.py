"""What a benchmark of reinforcement is asked on the command line, and the prompts that follow from it."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

PROMPTS = 2048  # read at most


def asked(about: str | None, output: str) -> tuple[argparse.Namespace, list[str]]:
    """The arguments, of a benchmark that says this about itself and writes to ``output``; and its prompts."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="the folder of a guerdon model or run that holds tokenizer.json")
    parser.add_argument("records", type=Path, help="their field source gives the prompts")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--output", type=Path, default=Path(output))
    given = parser.parse_args()
    lines = given.records.read_text("utf-8").splitlines()[:PROMPTS]
    return given, [json.loads(line)["source"] for line in lines]
