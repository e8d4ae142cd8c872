"""A recipe from records to report."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from guerdon.data.files import write_jsonl
from guerdon.evaluation.evaluate import evaluate_outputs
from guerdon.evaluation.measures import SystemOutputs, default_metrics
from guerdon.evaluation.report import write_report
from guerdon.evaluation.results import Evaluation
from guerdon.evaluation.verdict import Verdict, judge
from guerdon.pipeline.prepare import measured_data, measured_split, normalisation
from guerdon.pipeline.recipe import Recipe
from guerdon.pipeline.run import Run
from guerdon.pipeline.systems import Writer
from guerdon.rewards.base import Reward
from guerdon.rewards.learned import LearnedReward
from guerdon.training.progress import Progressing
from guerdon.training.reinforcement import Control
from guerdon.training.runlog import writing

_TRAINED_CONTROLS: tuple[Control, ...] = ("shuffled", "constant")
_CHOSEN_CONTROLS = ("best_of_n", "mbr")
_OVERLAP = {"bleu": "bleu", "chrf": "chrf", "rouge_l": "rouge_l"}  # a reward of this type optimises the metric of this name


@dataclass(frozen=True)
class Result:
    """What a run has left.

    Attributes:
        folder: the run folder.
        report: the page.
        evaluation: the systems, measured.
        verdict: what may be said of the reinforced policy; None without one.
    """

    folder: Path
    report: Path
    evaluation: Evaluation
    verdict: Verdict | None

    def summary(self) -> Mapping[str, object]:
        """For machines."""
        values = {s.name: {name: found.value for name, found in s.metrics.items()} for s in self.evaluation.systems}
        return {"folder": str(self.folder), "report": str(self.report), "systems": values, "verdict": list(self.sentences())}

    def lines(self) -> Sequence[str]:
        """For a person."""
        return [*self.sentences(), f"report: {self.report}"]

    def sentences(self) -> Sequence[str]:
        """The verdict in plain sentences."""
        if self.verdict is None:
            return []
        return [self.verdict.headline, *(finding.sentence for finding in self.verdict.findings), *self.verdict.notes]


def execute(recipe: Recipe, folder: Path, progress: Progressing) -> Result:
    """Runs every stage of a recipe, measures the systems that come of it, and writes the report.

    Raises:
        GuerdonError: as the stages do; what is finished by then is kept, and the next call goes on from there.
    """
    run = Run(recipe, folder, progress)
    if run.files.evaluated():
        evaluation = Evaluation.read(folder)
    else:
        began = time.perf_counter()
        try:
            run.begin()
            evaluation = evaluate(run)
            run.files.mark_evaluated()
            run.log.timing("run", event="finished", seconds=time.perf_counter() - began)
        finally:
            run.files.release()
    return Result(folder, write_report(folder), evaluation, judge(evaluation))


def evaluate(run: Run) -> Evaluation:
    """Trains what is not yet trained, writes every system's outputs, and measures them; ``evaluation.json`` at the end."""
    recipe = run.recipe
    run.ready()
    examples = run.examples(measured_split(recipe))
    writer = Writer(examples, run.reward, normalisation(recipe), run.slots, recipe.decoding, run.progress, judges(run))
    systems = _systems(run, writer)
    began = time.perf_counter()
    with writing(run.folder / "outputs"):
        (run.folder / "outputs").mkdir(exist_ok=True)
    for system in systems:
        write_jsonl(run.folder / "outputs" / f"{system.name}.jsonl", writer.rows(system))
    references = [list(example.references) for example in writer.examples]
    evaluation = evaluate_outputs(
        systems,
        references if any(references) else None,
        metrics=default_metrics(recipe.evaluation.lowercase),
        numbers=writer.numbers,
        optimised=optimised(recipe),
        data=measured_data(recipe),
        resamples=recipe.evaluation.bootstrap,
        seed=recipe.seed,
    )
    evaluation.write(run.folder)
    run.log.timing("evaluation", event="finished", seconds=time.perf_counter() - began)
    return evaluation


def judges(run: Run) -> dict[str, Reward]:
    """Each head of the run's judge, which is trained where it is not yet; nothing where the recipe has none."""
    if run.recipe.judge is None:
        return {}
    folder = run.scorer("judge")
    return {f"judge_{head}": LearnedReward.load(folder, heads={head: 1.0}) for head in LearnedReward.load(folder).heads}


def _systems(run: Run, writer: Writer) -> list[SystemOutputs]:
    """Every system's outputs; training comes first, as far as it is needed."""
    recipe, chosen = run.recipe, run.recipe.controls.run
    if recipe.reinforce is None and recipe.prefer is None:
        name = "finetuned" if recipe.finetune is not None else "pretrained"
        return [writer.of_policy(name, run.finetuned())]
    systems = [writer.of_policy("finetuned", run.finetuned())]
    if recipe.prefer is not None:
        systems.append(writer.of_policy("preferred", run.preferred()))
    if recipe.reinforce is None:
        return systems
    systems.append(writer.of_policy("reinforced", run.reinforced()))
    systems += [writer.of_policy(name, run.reinforced(name)) for name in _TRAINED_CONTROLS if name in chosen]
    choices = [name for name in _CHOSEN_CONTROLS if name in chosen]
    if choices:
        systems += writer.of_samples(choices, run.finetuned(), recipe.controls.samples, recipe.controls.temperature)
    return systems


def optimised(recipe: Recipe) -> set[str]:
    """The measures that the reward contains, by the types of its parts."""
    types = {cast("str", part.get("type")) for part in recipe.reward}
    found = {metric for kind, metric in _OVERLAP.items() if kind in types}
    return found | ({"slot_errors"} if "required_content" in types else set())
