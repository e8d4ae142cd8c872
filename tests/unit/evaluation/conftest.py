"""A run folder as a run leaves it: real texts where the data folder is there, else a few lines written by hand."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path

import pytest
import torch
import yaml

from guerdon.data.files import write_jsonl
from guerdon.evaluation.evaluate import evaluate_outputs
from guerdon.evaluation.measures import SystemOutputs
from guerdon.metrics.base import MeanMetric
from guerdon.rewards.base import Judgement, Part

FALLBACK = [
    (
        f"name[{name}], eatType[{kind}], area[{area}]",
        [f"{name} is a {kind} in the {area}.", f"In the {area} there is a {kind}: {name}.", f"{name}, a {kind}, is {area}."],
    )
    for name in ("Blue Spice", "The Mill", "Zizzi", "Aromi")
    for kind in ("pub", "coffee shop", "restaurant")
    for area in ("riverside", "city centre")
]
RECIPE = {
    "name": "e2e",
    "seed": 1,
    "data": {
        "folder": "data/e2e",
        "train": "train.jsonl",
        "validation": "dev.jsonl",
        "test": "test.jsonl",
        "note": "A corpus that a program wrote: it shows that the pipeline works, not how well it writes.",
    },
    "model": {"layers": 3, "width": 256, "heads": 4},
    "reward": [{"type": "frequency", "weight": 0.5}, {"type": "similarity", "weight": 0.5}],
    "reinforce": {
        "steps": 200,
        "sources_per_step": 32,
        "samples_per_source": 4,
        "baseline": "leave_one_out",
        "kl": {"coefficient": 0.05, "place": "reward"},
        "monitors": {"enabled": True, "held_out": "bleu"},
    },
}


SHORT = "outputs are now 5.1 tokens long on average, 21.3 at the beginning: the policy may be learning that short pays"
ALARMS = [
    {"stage": "reinforce", "step": 41, "monitor": "length_drift", "sentence": SHORT},
    {"stage": "reinforce-constant", "step": 8, "monitor": "flat_groups", "sentence": "the rewards of 100% have no spread"},
]


def texts():
    """(sources, references) of up to 120 examples."""
    folder = Path(os.environ.get("GUERDON_DATA") or Path(__file__).parents[3] / "../shared/data")
    path = folder / "e2e" / "dev.jsonl"
    if not path.exists():
        return [source for source, _ in FALLBACK], [references for _, references in FALLBACK]
    with path.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if len(row["references"]) > 2][:120]
    return [row["source"] for row in rows], [row["references"] for row in rows]


def judgement(outputs, references):
    """Two parts with scores that depend on the texts alone."""
    overlap = [len(set(o.split()) & set(r[0].split())) / (1 + len(o.split())) for o, r in zip(outputs, references, strict=True)]
    lengths = [-8.0 + len(output.split()) / 40 for output in outputs]
    every = torch.ones(len(outputs), dtype=torch.bool)
    parts = {"similarity": overlap, "frequency": lengths}
    return Judgement({name: Part(torch.tensor(scores), every, 0.5) for name, scores in parts.items()})


def system(name, label, outputs, references, generated=None, decoding="beam 5"):
    return SystemOutputs(
        name=name,
        label=label,
        outputs=outputs,
        decoding=decoding,
        generated=generated,
        finished=[True] * len(outputs),
        judgement=judgement(outputs, references),
        numbers={"slot_errors": [float(len(output) % 3 == 0) for output in outputs]},
    )


def systems_of(sources, groups):
    """Six systems: each writes a human text now and then, and a damaged one else."""
    drawn = random.Random(7)
    references = [group[:-1] for group in groups]

    def write(share):
        return [_damaged(g[-1], drawn) if drawn.random() > share else drawn.choice(g[:-1]) for g in groups]

    finetuned = write(0.1)
    near = [text if drawn.random() > 0.12 else group[0] for text, group in zip(finetuned, references, strict=True)]
    return references, [
        system("finetuned", "fine-tuned", finetuned, references),
        system("reinforced", "reinforced", write(0.6), references),
        system("shuffled", "control: shuffled rewards", near, references),
        system("constant", "control: constant reward", near[::-1][::-1], references),
        system("best_of_n", "best of 16", write(0.5), references, 16 * len(sources), "best of 16 samples by the reward"),
        system("mbr", "minimum Bayes risk", write(0.3), references, 16 * len(sources), "16 samples, expected chrF"),
    ]


def _damaged(text, drawn):
    words = text.split()
    del words[drawn.randrange(len(words))]
    return " ".join(words)


def metric_rows():
    """Curves of the usual shapes."""
    noise = random.Random(3)
    rows = []
    for stage, steps, start in (("pretrain", 300, 6.0), ("finetune", 600, 3.0)):
        for step in range(1, steps + 1):
            nll = 0.9 + start * math.exp(-step / 90) + noise.gauss(0, 0.08)
            norm = 1 + abs(noise.gauss(0, 0.4))
            rows.append(_row(stage, step, "train", loss=nll + 0.3, nll=nll, grad_norm=norm, tokens=4096))
            if step % 60 == 0:
                found = {"nll": nll + 0.1}
                if stage == "finetune":
                    found |= {"bleu": 70 - 40 * math.exp(-step / 120), "chrf": 72 - 30 * math.exp(-step / 120)}
                rows.append(_row(stage, step, "validation", **found))
    for stage, pull in (("reinforce", 1.0), ("reinforce-shuffled", 0.06), ("reinforce-constant", 0.02)):
        for step in range(201):
            rise = pull * (1 - math.exp(-step / 70))
            parts = {"reward/similarity": 0.72 + 0.1 * rise, "reward/frequency": -8.2 + 0.9 * rise}
            kl = 0.002 + 2.4 * rise + 0.4 * step / 200
            if step:
                seen = {name: value + noise.gauss(0, 0.03) for name, value in parts.items()}
                rows.append(_reinforce_row(stage, step, "train", seen, kl, rise, noise))
            if step % 20 == 0:
                row = _reinforce_row(stage, step, "validation", parts, kl, rise, noise)
                rows.append(row | {"bleu": 66.3 + 1.3 * rise + noise.gauss(0, 0.15), "chrf": 69 + rise})
    return rows


def _reinforce_row(stage, step, kind, parts, kl, rise, noise):
    reward = {"reward": 0.5 * sum(parts.values()), **parts}
    row = _row(stage, step, kind, **reward, kl=kl, length=24 - 3 * rise, finished=1.0)
    if kind == "train":
        row |= {"loss": noise.gauss(0, 0.2), "entropy": 1.1 - 0.4 * rise, "advantage_std": 0.8 + noise.gauss(0, 0.05)}
        row |= {"grad_norm": 2 + abs(noise.gauss(0, 0.5))}
    return row


def _row(stage, step, kind, **values):
    return {"stage": stage, "step": step, "kind": kind, **values}


def timing_rows():
    rows = []
    for stage, steps in (("pretrain", 300), ("finetune", 600)):
        rows += [{"stage": stage, "step": step, "seconds": 1.4} for step in range(1, steps + 1)]
    for stage in ("reinforce", "reinforce-shuffled", "reinforce-constant"):
        parts = {"seconds": 3.0, "rollout": 1.8, "reward": 0.3, "update": 0.9}
        rows += [{"stage": stage, "step": step, **parts} for step in range(1, 201)]
    stages = dict.fromkeys(row["stage"] for row in rows)
    return rows + [{"stage": stage, "event": "finished", "seconds": 640.5} for stage in stages]


@pytest.fixture(scope="session")
def evaluated():
    """(sources, references, systems, evaluation)."""
    sources, groups = texts()
    references, systems = systems_of(sources, groups)
    numbers = [MeanMetric("slot_errors", label="slot errors", higher_is_better=False)]
    evaluation = evaluate_outputs(systems, references, numbers=numbers, data="test.jsonl", resamples=400)
    return sources, references, systems, evaluation


@pytest.fixture
def run_folder(tmp_path, evaluated):
    """A whole run, finished."""
    sources, references, systems, evaluation = evaluated
    folder = tmp_path / "e2e"
    (folder / "outputs").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE, sort_keys=False), encoding="utf-8")
    environment = {"python": "3.11.7", "torch": "2.13.0", "sacrebleu": "2.6.0", "device": "cpu", "threads": "2"}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    (folder / "run.json").write_text(json.dumps({"counts": {"training records": 4862, "test records": 630}}), encoding="utf-8")
    write_jsonl(folder / "metrics.jsonl", metric_rows())
    write_jsonl(folder / "timings.jsonl", timing_rows())
    write_jsonl(folder / "samples.jsonl", sample_rows(sources, references))
    write_jsonl(folder / "alarms.jsonl", ALARMS)
    write_jsonl(folder / "skipped.jsonl", [{"split": "train", "line": 17, "reason": "source is empty", "text": "{}"}])
    for one in systems:
        columns = zip(sources, references, one.outputs, strict=True)
        rows = ({"id": None, "source": s, "references": r, "output": o} for s, r, o in columns)
        write_jsonl(folder / "outputs" / f"{one.name}.jsonl", rows)
    (folder / "finetune").mkdir()
    done = {"steps": 600, "reason": "all steps done", "skipped_steps": 2}
    (folder / "finetune" / "done.json").write_text(json.dumps(done), encoding="utf-8")
    evaluation.write(folder)
    return folder


def sample_rows(sources, references):
    return [
        {"stage": "reinforce", "step": step, "source": source, "output": group[step > 0], "reference": group[0]}
        for step in (0, 200)
        for source, group in list(zip(sources, references, strict=True))[:8]
    ]
