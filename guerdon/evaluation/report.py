"""``report.html``: one page, in one file, on what a run did and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from guerdon.data.files import write_atomically
from guerdon.evaluation.audit_page import probe_rows
from guerdon.evaluation.audit_wording import findings
from guerdon.evaluation.charts import (
    health_charts,
    learning_charts,
    reward_against_kl,
    reward_charts,
    stage_label,
    teaching_stages,
    validation_charts,
)
from guerdon.evaluation.pages import render_page
from guerdon.evaluation.results import REINFORCED, Evaluation
from guerdon.evaluation.runfolder import RunFolder, read_run
from guerdon.evaluation.tables import (
    alarms_table,
    differences_table,
    quiet_stages,
    recipe_facts,
    samples_of,
    timings_table,
    values_table,
    watching,
)
from guerdon.evaluation.verdict import judge

REPORT = "report.html"
_MISSING = {
    "recipe.yaml": "the recipe",
    "environment.json": "the versions it ran with",
    "metrics.jsonl": "the figures of training",
    "timings.jsonl": "timings",
    "samples.jsonl": "samples of validation",
    "outputs": "the systems' outputs",
    "evaluation.json": "an evaluation",
}


def write_report(run_folder: Path) -> Path:
    """Writes the run's ``report.html`` from the files of its folder, and returns its path.

    Everything that is absent is said to be absent, so that a run that is still going on has a report as well. The page holds
    its style, charts and texts itself and asks for nothing from elsewhere.

    Raises:
        DataError: when the folder is no run folder, or a file in it is damaged.
        InputError, GuerdonError: when the report cannot be written (see `guerdon.data.files.write_atomically`).
    """
    path = run_folder / REPORT
    write_atomically(path, [render(read_run(run_folder)).encode()])
    return path


def render(run: RunFolder) -> str:
    """The page as HTML. All texts are escaped, those of models and of users included."""
    return render_page("report.html", **_context(run))


def _context(run: RunFolder) -> dict[str, Any]:
    """All that the template shows."""
    evaluation = run.evaluation
    return {
        "name": run.recipe.get("name") or run.path.resolve().name,
        "folder": run.path.as_posix(),
        "run": run,
        "note": (run.recipe.get("data") or {}).get("note") or "",
        "facts": recipe_facts(run.recipe),
        "unfinished": [stage_label(stage) for stage in run.unfinished()],
        "missing": [_MISSING[name] for name in run.absent],
        "endings": [(stage_label(stage), done) for stage, done in run.done.items() if "reason" in done],
        "learning": [(stage_label(stage), learning_charts(run, stage)) for stage in teaching_stages(run)],
        "reinforced": "reinforce" in run.stages,
        "frontier": reward_against_kl(run),
        "rewards": reward_charts(run),
        "beside": validation_charts(run),
        "health": health_charts(run),
        "alarms": alarms_table(run),
        "quiet": quiet_stages(run),
        "watching": watching(run.recipe),
        "samples": samples_of(run),
        "timings": timings_table(run),
        "audit": run.audit,
        "audit_sentences": findings(run.audit) if run.audit else [],
        "audit_rows": probe_rows(run.audit) if run.audit else [],
        "evaluation": evaluation,
        "verdict": judge(evaluation) if evaluation else None,
        **(_tables(evaluation) if evaluation else {"values": [], "against_baseline": None, "against_others": None}),
    }


def _tables(evaluation: Evaluation) -> dict[str, Any]:
    """Values, differences to the baseline, and differences of the reinforced system to all others."""
    labels = {system.name: system.label for system in evaluation.systems}
    compared = dict.fromkeys((c.system, c.baseline) for c in evaluation.comparisons)
    to_baseline = [pair for pair in compared if pair[1] == evaluation.baseline]
    to_others = [pair for pair in compared if pair[1] != evaluation.baseline and pair[0] == REINFORCED]
    return {
        "values": values_table(evaluation),
        "baseline": labels[evaluation.baseline],
        "against_baseline": ([labels[a] for a, _ in to_baseline], differences_table(evaluation, to_baseline)),
        "against_others": ([labels[b] for _, b in to_others], differences_table(evaluation, to_others)),
    }
