"""Prints the tables of `docs/results.md` from what `benchmarks/publish.py` has left in ``runs/``, as Markdown.

    python benchmarks/tables.py e2e
    python benchmarks/tables.py multi30k

Every figure is read from ``evaluation.json``, ``timings.jsonl`` and ``publish.jsonl``; nothing is computed but means and
standard deviations over seeds. Differences to a peer: ``guerdon evaluate runs/e2e-1/outputs/finetuned.jsonl --against
runs/peer-e2e-1/outputs-beam5.jsonl --lowercase``.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RUNS = Path(__file__).parents[1] / "runs"
MEASURES = ("bleu", "chrf", "rouge_l", "ter", "slot_errors", "reward", "length")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def spread(values: Sequence[float], digits: int = 2) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.{digits}f}" if len(values) == 1 else f"{mean:.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def digits(name: str) -> int:
    """Rewards and slot errors are small numbers."""
    return 4 if name.startswith("reward") else 3 if name == "slot_errors" else 2


def systems(folders: Sequence[Path]) -> None:
    """Each system's measures: mean and standard deviation over the runs."""
    found = [json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) for folder in folders]
    shown = [m["name"] for m in found[0]["measures"] if m["name"] in MEASURES or m["name"].startswith("reward/")]
    print("| system | " + " | ".join(shown) + " | outputs generated |\n" + "|---" * (len(shown) + 2) + "|")
    for number, system in enumerate(found[0]["systems"]):
        cells = [spread([run["systems"][number]["metrics"][name]["value"] for run in found], digits(name)) for name in shown]
        print(f"| {system['label']} | " + " | ".join(cells) + f" | {system['generated']} |")


def comparisons(folders: Sequence[Path]) -> None:
    """Paired differences of each run: bootstrap over sources."""
    print("\n| run | system | against | measure | difference | 95% interval | p |\n" + "|---" * 7 + "|")
    for folder in folders:
        for c in json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["comparisons"]:
            if c["metric"] in ("bleu", "chrf", "slot_errors", "reward"):
                places = digits(c["metric"])
                interval = f"[{c['low']:+.{places}f}, {c['high']:+.{places}f}]"
                row = [
                    folder.name,
                    c["system"],
                    c["baseline"],
                    c["metric"],
                    f"{c['difference']:+.{places}f}",
                    interval,
                    f"{c['p']:.3f}",
                ]
                print("| " + " | ".join(row) + " |")


def costs(folders: Sequence[Path]) -> None:
    """Wall time of each stage, and of the whole with its peak memory."""
    ledger = {row["piece"]: row for row in lines(RUNS / "publish.jsonl")}
    print("\n| run | stage | minutes |\n|---|---|---|")
    for folder in folders:
        for row in lines(folder / "timings.jsonl"):
            if row.get("event") == "finished":
                print(f"| {folder.name} | {row['stage']} | {row['seconds'] / 60:.1f} |")
        if whole := ledger.get(folder.name):
            print(f"| {folder.name} | whole process; peak {whole['peak_gb']} GB | {whole['seconds'] / 60:.1f} |")
    rates = sorted(row["tokens"] / seconds for folder in folders for row, seconds in rollouts(folder))
    print(
        f"\nRollouts, tokens/s: median {statistics.median(rates):.0f} of {len(rates)} steps, {rates[0]:.0f} to {rates[-1]:.0f}."
    )


def rollouts(folder: Path) -> list[tuple[dict[str, Any], float]]:
    """The metrics of each step of reinforcement, with the seconds that its rollout took."""
    taken = {
        row["step"]: row["rollout"]
        for row in lines(folder / "timings.jsonl")
        if row["stage"] == "reinforce" and "rollout" in row
    }
    steps = [row for row in lines(folder / "metrics.jsonl") if row["stage"] == "reinforce" and row["kind"] == "train"]
    return [(row, taken[row["step"]]) for row in steps]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="e2e or multi30k: the runs whose folder begins so")
    name = parser.parse_args().name
    folders = [folder for folder in sorted(RUNS.glob(f"{name}*")) if (folder / "evaluation.json").exists()]
    systems(folders)
    comparisons(folders)
    costs(folders)


if __name__ == "__main__":
    main()
