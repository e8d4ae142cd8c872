"""``guerdon compare``: a grid of reinforcement runs over several seeds, all from one policy, and a page on what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from guerdon.data.rows import read_rows
from guerdon.errors import ConfigurationError, DataError
from guerdon.evaluation.comparison import ComparedCell, Comparison, Noise
from guerdon.evaluation.comparison_page import summary, verdict, write_page
from guerdon.evaluation.evaluate import evaluate_outputs
from guerdon.evaluation.measures import SystemOutputs
from guerdon.evaluation.results import CONTROLS, FINETUNED, Evaluation
from guerdon.evaluation.runfolder import read_run
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.pipeline.execute import optimised
from guerdon.pipeline.grid import Cell, Plan, drawn, reinforcement, samples_per_step
from guerdon.pipeline.gridfolder import GridFolder
from guerdon.pipeline.gridruns import WARMUP, GridRuns
from guerdon.pipeline.prepare import measured_data
from guerdon.pipeline.systems import LABELS, Writer, Written, describe
from guerdon.rewards.base import Judgement
from guerdon.rewards.normalise import joined
from guerdon.training.progress import Progressing
from guerdon.training.reinforcement import Control

BEST = "best_of_n"


@dataclass(frozen=True)
class Compared:
    """What a comparison has left.

    Attributes:
        page: on what came of it.
        comparison: in figures.
    """

    page: Path
    comparison: Comparison

    def summary(self) -> Mapping[str, object]:
        """For machines."""
        return {"folder": str(self.page.parent), "page": str(self.page), **summary(self.comparison)}

    def lines(self) -> Sequence[str]:
        """For a person."""
        return [*verdict(self.comparison), f"page: {self.page}"]


def compare(plan: Plan, folder: Path, progress: Progressing, target: float | None = None) -> Compared:
    """Trains what a plan asks for and is not there yet, measures it, and writes the page.

    Args:
        plan: what is compared.
        folder: where; a comparison that was cut goes on, one that is finished only gets its page anew.
        progress: what a person sees.
        target: the validation reward that the page counts steps to; None takes the lowest that a cell ends with.

    Raises:
        InputError: when a cell cannot be run, or the folder holds another comparison; nothing is written then.
        GuerdonError: as the stages do; what is finished by then is kept, and the next call goes on from there.
    """
    where = GridFolder(plan, folder)
    if target is not None and not abs(target) < float("inf"):
        raise ConfigurationError(f"{target} is no reward", where="--target", cure="give a finite number")
    if where.evaluated():
        evaluation = Evaluation.read(folder)
    else:
        work, began = GridRuns(where, progress), time.perf_counter()
        work.check()
        try:
            where.files.hold()
            where.note(evaluated=False)
            work.train()
            work.sample()
            work.measure_gradients()
            evaluation = evaluate(where, work.writer)
            where.note(evaluated=True)
        finally:
            where.files.release()
        progress.say(f"compared in {time.perf_counter() - began:.0f} s")
    comparison = _comparison(where, evaluation, target)
    return Compared(write_page(comparison, folder), comparison)


def evaluate(where: GridFolder, writer: Writer) -> Evaluation:
    """Measures the outputs that were written, each system's over all seeds; ``evaluation.json`` at the end."""
    plan, recipe = where.plan, where.recipe
    first, count = plan.cells[0], len(plan.seeds)

    def system(name: str, label: str, paths: Sequence[Path], decoding: str, generated: int = 1) -> SystemOutputs:
        read = [writer.system(name, label, _written(path, writer), decoding) for path in paths]
        return _pooled(read * (count // len(read)), generated)

    def of_runs(name: str, label: str, cell: Cell, control: Control) -> SystemOutputs:
        paths = [where.outputs(where.run_folder(cell, seed), control) for seed in plan.seeds]
        return system(name, label, paths, describe(recipe.decoding))

    systems = [system(FINETUNED, "start policy", [where.start_outputs], describe(recipe.decoding))]
    systems += [of_runs(cell.name, cell.label, cell, "none") for cell in plan.cells]
    systems += [of_runs(control, LABELS[control], first, control) for control in where.controls]
    if plan.controls:
        choices = plan.choices(len(writer.examples))
        label = LABELS[BEST].format(n=choices)
        chosen = f"the best of {choices} samples at temperature {recipe.controls.temperature:g}"
        systems.append(system(BEST, label, list(map(where.best_outputs, plan.seeds)), chosen, choices))
    references = [list(example.references) for example in writer.examples] * count
    others = [name for name in (*CONTROLS, BEST) if plan.controls]
    evaluation = evaluate_outputs(
        systems,
        references if any(references) else None,
        metrics=[Bleu(recipe.evaluation.lowercase), Chrf(lowercase=recipe.evaluation.lowercase)],
        numbers=writer.numbers,
        optimised=optimised(recipe),
        data=measured_data(recipe),
        resamples=recipe.evaluation.bootstrap,
        seed=recipe.seed,
        runs=count,
        pairs=[(one.name, FINETUNED) for one in systems[1:]] + [(cell.name, other) for cell in plan.cells for other in others],
    )
    where_lie = {cell.name: f"cells/{cell.name}/seed-*/outputs/reinforced.jsonl" for cell in plan.cells}
    where_lie |= {name: f"cells/{first.name}/seed-*/outputs/{name}.jsonl" for name in others}
    where_lie[FINETUNED] = str(where.start_outputs.relative_to(where.folder))
    evaluation = replace(evaluation, systems=[replace(one, outputs=where_lie[one.name]) for one in evaluation.systems])
    evaluation.write(where.folder)
    return evaluation


def _written(path: Path, writer: Writer) -> list[Written]:
    """Outputs as they were kept."""
    rows = [row.fields for row in read_rows(path)]
    if [row.get("source") for row in rows] != writer.sources:
        raise DataError("holds outputs for other sources", where=str(path), cure="remove it: it is written again")
    return [Written(row["output"], row["finished"]) for row in rows]


def _pooled(runs: Sequence[SystemOutputs], generated: int) -> SystemOutputs:
    """One system of the outputs of several runs, one after the other; ``generated`` for each that was kept."""
    first = runs[0]
    judged = [run.judgement.parts for run in runs if run.judgement is not None]
    return replace(
        first,
        outputs=[text for run in runs for text in run.outputs],
        generated=generated * sum(len(run.outputs) for run in runs),
        finished=[ended for run in runs for ended in run.finished or ()],
        judgement=Judgement({name: joined([parts[name] for parts in judged]) for name in judged[0]}) if judged else None,
        numbers={name: [value for run in runs for value in run.numbers[name]] for name in first.numbers},
    )


def _comparison(where: GridFolder, evaluation: Evaluation, target: float | None) -> Comparison:
    """All that the page shows, read from the folder."""
    plan, recipe = where.plan, where.recipe
    first, size = plan.cells[0], samples_per_step(plan.cells[0])
    folders = {cell.name: [read_run(where.run_folder(cell, seed)) for seed in plan.seeds] for cell in plan.cells}
    names = ("samples", "estimates", "covariance", "signal", "cosine")
    noises = {c.name: Noise(**{name: found[name] for name in names}) for c in plan.cells if (found := where.noise(c))}
    return Comparison(
        name=recipe.name,
        seeds=plan.seeds,
        cells=[
            ComparedCell(cell.name, cell.label, samples_per_step(cell), folders[cell.name], noise=noises.get(cell.name))
            for cell in plan.cells
        ],
        controls=[
            ComparedCell(control, LABELS[control], size, folders[first.name], f"reinforce-{control}")
            for control in where.controls
        ],
        evaluation=evaluation,
        recipe=recipe.plain(),
        start=f"the policy in {plan.start}" if plan.start else "the recipe's fine-tuned policy, trained once",
        best_of=_best_of(plan, evaluation.sources) if plan.controls else "",
        target=target,
        warmup=WARMUP,
    )


def _best_of(plan: Plan, sources: int) -> str:
    """How n was chosen, in a sentence."""
    config, choices = reinforcement(plan.cells[0]), plan.choices(sources)
    whole = drawn(plan.cells[0])
    sentence = (
        f"Best-of-n chooses among {choices} samples of the start policy for each source, {choices * sources:,} in all. A full "
        f"run of the first cell draws {config.steps} × {config.sources_per_step} × {config.samples_per_source} = {whole:,}."
    )
    even = round(whole / sources)
    if even == choices:
        return sentence
    bound = "at most 64 are drawn here" if even > choices else "fewer than 2 leave no choice"
    return f"{sentence} As many would be {even} for each source: {bound}."
