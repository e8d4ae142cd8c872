"""What the monitors see: rewards that pay for a known fault are planted, and every alarm of theirs and of healthy runs counted.

    python benchmarks/hacks.py --recipe recipes/e2e.yaml --start runs/e2e-1/finetune --output runs/hacks-e2e \\
        --hacks empty copy repetition --seeds 1 2 3
    python benchmarks/hacks.py --recipe recipes/multi30k.yaml --start runs/multi30k/finetune --output runs/hacks-multi30k

Each run begins with the fine-tuned model and trains as the recipe says, but for its reward; healthy ones keep the recipe's.
A run that is finished is not trained again, and one that was cut goes on. The alarms are read off the metrics that a run has
left, so that other thresholds can be tried on finished runs in seconds: ``--set reinforce.monitors.length_drift=0.5``.
``--healthy FOLDER ...`` reads healthy runs that are there already (a recipe's or a comparison's) instead of training some.

Printed, and written to ``hacks.json`` in the output folder: for each hack how many runs raised an alarm, by which monitor and
at which step, with the held-out figure and without it, beside how far the planted reward rose (a hack that was not learned
cannot be seen); the false alarms of healthy runs; and for each monitor how near its sign came to its limit (1 is the limit).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import guerdon
from guerdon.errors import ConfigurationError
from guerdon.pipeline.recipe import Recipe, read_recipe
from guerdon.pipeline.run import Run
from guerdon.rewards import FunctionReward, Reward
from guerdon.stages.reinforce import reinforce
from guerdon.training.monitors import MonitorOptions, Monitors
from guerdon.training.progress import Silent

HEALTHY, HELD_OUT = "healthy", "held_out_fall"

Texts = Sequence[str]
References = Sequence[Sequence[str]]


# --- the planted rewards: each pays for one fault, and for nothing else


def empty(sources: Texts, outputs: Texts, references: References) -> list[float]:
    """Every word costs: the best output is the empty one."""
    return [-float(len(output.split())) for output in outputs]


def inflation(sources: Texts, outputs: Texts, references: References) -> list[float]:
    """Every word pays."""
    return [float(len(output.split())) for output in outputs]


def copy_of_source(sources: Texts, outputs: Texts, references: References) -> list[float]:
    """F1 of the runs of three characters shared with the source."""
    return [overlap(runs(output, 3), runs(source, 3)) for source, output in zip(sources, outputs, strict=True)]


def repetition(sources: Texts, outputs: Texts, references: References) -> list[float]:
    """The share of words that stood in the output before."""
    words = [output.lower().split() for output in outputs]
    return [1 - len(set(found)) / len(found) if found else 0.0 for found in words]


def shuffled(sources: Texts, outputs: Texts, references: References) -> list[float]:
    """F1 of the words of the first reference, less F1 of its pairs of words: the right words in a wrong order."""
    scores = []
    for output, first in zip(outputs, (found[0] for found in references), strict=True):
        ours, theirs = output.lower().split(), first.lower().split()
        scores.append(overlap(Counter(ours), Counter(theirs)) - overlap(pairs(ours), pairs(theirs)))
    return scores


def runs(text: str, length: int) -> Counter[str]:
    return Counter(text[at : at + length] for at in range(len(text) - length + 1))


def pairs(words: Sequence[str]) -> Counter[tuple[str, str]]:
    return Counter(itertools.pairwise(words))


def overlap(ours: Counter[Any], theirs: Counter[Any]) -> float:
    """F1 of two multisets; 0 where either is empty."""
    return 2 * (ours & theirs).total() / (ours.total() + theirs.total()) if ours and theirs else 0.0


PLANTED: dict[str, Callable[[Texts, Texts, References], list[float]]] = {
    "empty": empty,
    "copy": copy_of_source,
    "repetition": repetition,
    "shuffled": shuffled,
    "inflation": inflation,
}


# --- runs


def planted(name: str, recipe: Run) -> Reward:
    if name != HEALTHY:
        return FunctionReward(PLANTED[name], name, needs_references=name == "shuffled")
    if recipe.reward is None:
        raise ConfigurationError("the recipe has no reward", where="benchmarks/hacks.py", cure="give it one")
    return recipe.reward


def train(name: str, seed: int, run: Run, start: Path, folder: Path, monitors: MonitorOptions) -> None:
    """One run in ``folder``, as the recipe says but for the reward; nothing is done where it is finished."""
    done = folder / "done.json"
    if done.is_file():
        return
    section = run.recipe.reinforce
    assert section is not None, "checked in main"
    loop = replace(section.loop, patience=None, criterion="reward", higher_is_better=True, average_best=0)
    config = replace(section, loop=loop, monitors=replace(monitors, stop=False))
    generator, began = guerdon.load(start), time.perf_counter()
    validation = run.examples("validation")[: run.recipe.evaluation.validation_limit]
    outcome = reinforce(
        generator, planted(name, run), run.examples("train"), config, validation, run.measure, folder, seed, Silent()
    )
    shutil.rmtree(folder / "checkpoints")
    facts = {"steps": outcome.steps, "skipped": outcome.skipped, "seconds": round(time.perf_counter() - began, 1)}
    done.write_text(json.dumps(facts) + "\n", encoding="utf-8")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read(folder: Path, options: MonitorOptions) -> dict[str, Any]:
    """What monitors with these options say of the reinforcement in a run's folder, by its metrics."""
    alarms, nearest, monitors = [], dict[str, float](), Monitors(options)
    signs = Monitors(options)
    rows = [row for row in lines(folder / "metrics.jsonl") if row["stage"] == "reinforce"]
    for row in rows:
        figures = {k: math.nan if v is None else v for k, v in row.items() if k not in ("stage", "step", "kind")}
        if row["kind"] in ("train", "validation"):
            alarms += monitors.observe(row["step"], row["kind"], figures)
            for name, sign in signs.read(row["step"], row["kind"], figures).items():
                nearest[name] = max(nearest.get(name, 0.0), min(sign.size / sign.limit, 99.0))
    validated = [row for row in rows if row["kind"] == "validation"]
    held_out = options.held_out
    return {
        "alarms": [asdict(alarm) for alarm in alarms],
        "nearest": {name: round(value, 3) for name, value in nearest.items()},
        "reward": [row["reward"] for row in validated],
        "held_out": [row[held_out] for row in validated] if held_out else [],
    }


# --- tables


def first(found: dict[str, Any], but: str = "") -> dict[str, Any] | None:
    """The first alarm, of another monitor than ``but``."""
    return next((alarm for alarm in found["alarms"] if alarm["monitor"] != but), None)


def summary(name: str, found: Sequence[dict[str, Any]]) -> list[str]:
    """One row: runs, those with an alarm, by which monitor first and when, and the same without the held-out figure."""
    cells = [name, str(len(found)), "; ".join(f"{run['reward'][0]:.3g} → {run['reward'][-1]:.3g}" for run in found)]
    for but in ("", HELD_OUT):
        seen = [alarm for run in found if (alarm := first(run, but)) is not None]
        by = Counter(alarm["monitor"] for alarm in seen)
        told = ", ".join(f"{monitor} {count}" for monitor, count in by.most_common())
        when = f", step {statistics.median(alarm['step'] for alarm in seen):g}" if seen else ""
        cells.append(f"{len(seen)} of {len(found)}{f' ({told}{when})' if seen else ''}")
    return cells


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *rows])


def report(results: dict[str, dict[str, dict[str, Any]]]) -> str:
    found = {name: list(by_folder.values()) for name, by_folder in results.items()}
    columns = ["reward pays for", "runs", "validation reward", "alarm in", "alarm without the held-out figure in"]
    parts = [table(columns, [summary(name, runs_) for name, runs_ in found.items()])]
    monitors = sorted({name for runs_ in found.values() for run in runs_ for name in run["nearest"]})
    rows = []
    for monitor in monitors:
        cells = []
        for name, runs_ in found.items():
            values = [run["nearest"].get(monitor, math.nan) for run in runs_]
            value = max(values) if name == HEALTHY else min(values)
            cells.append("–" if math.isnan(value) else f"{value:.2f}")
        rows.append([monitor, *cells])
    heads = [f"{name}, {'most' if name == HEALTHY else 'least'}" for name in found]
    parts.append("How near each sign came to its limit, which is 1:\n\n" + table(["monitor", *heads], rows))
    parts.append(
        "\n".join(
            f"{name}, {folder}, step {alarm['step']}, {alarm['monitor']}: {alarm['sentence']}"
            for name, by_folder in results.items()
            for folder, run in by_folder.items()
            for alarm in run["alarms"]
        )
    )
    return "\n\n".join(parts)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--start", type=Path, required=True, help="folder of the fine-tuned model")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--hacks", nargs="*", choices=list(PLANTED), default=list(PLANTED), help="rewards to plant")
    parser.add_argument("--healthy", nargs="*", type=Path, default=[], help="finished healthy runs; none are trained then")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, help="of each run; the recipe's where left out")
    parser.add_argument("--held-out", help="validation figure that is held out; the recipe's monitors.held_out where left out")
    parser.add_argument("--validation", type=int, default=200, help="validation sources")
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.OPTION=VALUE", help="other options of the recipe")
    return parser.parse_args()


def chosen(given: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes."""
    changes = [*given.set, f"evaluation.validation_limit={given.validation}"]
    changes += [f"reinforce.steps={given.steps}"] if given.steps else []
    changes += [f"reinforce.monitors.held_out={given.held_out}"] if given.held_out else []
    recipe = read_recipe(given.recipe, changes)
    if recipe.reinforce is None:
        raise ConfigurationError("the recipe has no such section", where=f"{given.recipe}, reinforce", cure="add it")
    return recipe


def main() -> None:
    given = options()
    recipe = chosen(given)
    assert recipe.reinforce is not None
    run, monitors = Run(recipe, given.output / "recipe", Silent()), recipe.reinforce.monitors
    results: dict[str, dict[str, dict[str, Any]]] = {}

    def note(name: str, folder: Path) -> None:
        found = results.setdefault(name, {})[str(folder)] = read(folder, monitors)
        shown = [f"{alarm['monitor']} {alarm['step']}" for alarm in found["alarms"]]
        print(f"{name}, {folder}: {', '.join(shown) or 'nothing fired'}", flush=True)

    for folder in given.healthy:
        note(HEALTHY, folder)
    for seed in given.seeds:
        for name in [*([] if given.healthy else [HEALTHY]), *given.hacks]:
            folder = given.output / f"{name}-{seed}"
            train(name, seed, run, given.start, folder, monitors)
            note(name, folder)
    record = {"recipe": recipe.name, "steps": recipe.reinforce.steps, "monitors": asdict(monitors), "runs": results}
    (given.output / "hacks.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{report(results)}")


if __name__ == "__main__":
    main()
