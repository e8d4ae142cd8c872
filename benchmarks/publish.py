"""Runs what `docs/results.md` reports, one after the other, and measures wall time and peak memory of each.

    python benchmarks/publish.py                 # all of it: about six hours on two cores
    python benchmarks/publish.py e2e-1 multi30k  # some of it
    python benchmarks/publish.py --list

Each finished piece is a line of ``runs/publish.jsonl``; a piece that stands there is not run again, and one that was cut goes
on where it stopped (the peers begin anew). Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs"
LEDGER = RUNS / "publish.jsonl"
SEEDS, RATES = (1, 2, 3), ("3e-4", "5e-4", "1e-3")


def pieces(data: Path) -> dict[str, list[str]]:
    """The command of each piece, by its name, in the order in which they run."""
    guerdon, python = str(Path(sys.executable).with_name("guerdon")), sys.executable
    found = {}
    for seed in SEEDS:
        options = ["--set", f"seed={seed}", "--set", f"data.folder={data / 'e2e'}", "--folder", f"runs/e2e-{seed}"]
        found[f"e2e-{seed}"] = [guerdon, "run", "recipes/e2e.yaml", *options]
    options = ["--set", f"data.folder={data / 'multi30k'}", "--folder", "runs/multi30k"]
    found["multi30k"] = [guerdon, "run", "recipes/multi30k.yaml", *options]
    peer = [python, "benchmarks/peers/e2e_marian.py", "--data", str(data)]
    for seed in SEEDS:
        found[f"peer-e2e-{seed}"] = [*peer, "--seed", str(seed), "--output", f"runs/peer-e2e-{seed}"]
    options = ["--data", str(data), "--tokenizer", "runs/multi30k/tokenizer", "--dropout", "0.2"]
    budget = ["--minutes", str(fine_tuning_minutes(RUNS / "multi30k")), "--learning-rate", *RATES]
    peer = [python, "benchmarks/peers/multi30k_seq2seqtrainer.py", *options, *budget]
    found["peer-multi30k"] = [*peer, "--output", "runs/peer-multi30k"]
    return found


def fine_tuning_minutes(run: Path) -> float:
    """How long the run's own fine-tuning took: the peer's budget. 0 before it has run."""
    timings = run / "timings.jsonl"
    rows = [json.loads(line) for line in timings.read_text().splitlines()] if timings.exists() else []
    seconds = [row["seconds"] for row in rows if row["stage"] == "finetune" and row.get("event") == "finished"]
    return round(seconds[-1] / 60, 2) if seconds else 0.0


def measured(name: str, command: list[str]) -> dict[str, object]:
    """Runs one piece with its output in ``runs/<name>.log``; wall seconds, and peak memory of the process in GB."""
    began = time.time()
    with (RUNS / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
    return {
        "piece": name,
        "command": " ".join(part.replace(str(ROOT), ".") for part in command),
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.time() - began, 1),
        "peak_gb": round(usage.ru_maxrss / 1024**2, 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="pieces to run; all where left out")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    options = parser.parse_args()
    RUNS.mkdir(exist_ok=True)
    lines = LEDGER.read_text().splitlines() if LEDGER.exists() else []
    done = {row["piece"] for row in map(json.loads, lines) if row["exit"] == 0}
    for name in options.names or list(pieces(options.data)):
        command = pieces(options.data)[name]  # made anew: the peers' budget is known once guerdon's run has ended
        if options.list:
            print(f"{name}{' (done)' if name in done else ''}: {' '.join(command)}")
        elif name not in done:
            row = measured(name, command)
            with LEDGER.open("a") as ledger:
                ledger.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
