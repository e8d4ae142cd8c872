"""``comparison.html``: one page, in one file, on what a grid of runs shows and what it does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guerdon.data.files import write_atomically
from guerdon.evaluation.charts import title
from guerdon.evaluation.comparison import REWARD, ComparedCell, Comparison
from guerdon.evaluation.comparison_tables import noise_rows, reaching_rows, system_rows
from guerdon.evaluation.pages import render_page
from guerdon.evaluation.plots import WIDE, Chart, Series, line_chart
from guerdon.evaluation.seeds import Spread
from guerdon.evaluation.tables import recipe_facts
from guerdon.evaluation.wording import between, decimals_between, decimals_for, listed, number, short

PAGE = "comparison.html"
_STYLES = (0, 1, 3, 4, 5, 6, 7)  # of cells; the grey ones are those of the controls
_CONTROL_STYLES = (2, 8)


def write_page(comparison: Comparison, folder: Path) -> Path:
    """Writes ``comparison.html`` and returns its path. The page asks for nothing from elsewhere.

    Raises:
        InputError, GuerdonError: when it cannot be written (see `guerdon.data.files.write_atomically`).
    """
    path = folder / PAGE
    write_atomically(path, [render(comparison).encode()])
    return path


def render(comparison: Comparison) -> str:
    """The page as HTML. All texts are escaped, those of recipes included."""
    target = comparison.reachable if comparison.target is None else comparison.target
    noises = [cell.noise for cell in comparison.cells if cell.noise is not None]
    return render_page(
        "comparison.html",
        c=comparison,
        verdict=verdict(comparison),
        notes=notes(comparison),
        rows=system_rows(comparison),
        curves=curves(comparison),
        target=target,
        target_told="" if target is None else _target_told(comparison, target),
        reaching=[] if target is None else reaching_rows(comparison, target),
        noise=noises[0] if noises else None,
        noises=noise_rows(comparison),
        unequal=len({noise.samples for noise in noises}) > 1,
        facts=facts(comparison),
    )


def facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What the recipe asks for, in a few lines."""
    own = "Reinforcement" if len(comparison.cells) == 1 else "Reinforcement (first cell)"
    found = [(own if name == "Reinforcement" else name, value) for name, value in recipe_facts(comparison.recipe)]
    return [(name, value) for name, value in found if name != "Seed"]


# --- in words


def verdict(comparison: Comparison) -> list[str]:
    """Which cell is best, whether by more than seeds differ, and whether it is a gain at all."""
    best, measure = comparison.ranked[0], comparison.judged_by
    values = _figures(comparison.spread(best.name, measure.name))
    over = f"over {len(comparison.seeds)} seeds" if len(comparison.seeds) > 1 else "of a single seed"
    sentences = [f"Highest {measure.label} on the test sources: {best.label}, {values} {over}."]
    if len(comparison.ranked) > 1:
        sentences[0] += f" {_against_next(comparison)}"
    gained = [f for f in comparison.verdicts[best.name].findings if f.measure == measure.name]
    sentences += [f"Against the start policy, {best.label}: {finding.sentence}" for finding in gained]
    return sentences


def _against_next(comparison: Comparison) -> str:
    """Whether the best cell leads by more than the spread over seeds."""
    _, second, *others = comparison.ranked
    ahead = comparison.ahead(second)
    if ahead.mean == 0:
        return f"It is level with {second.label}."
    if ahead.low is None or ahead.high is None:
        lead = short(ahead.mean)
        return f"The next, {second.label}, stands {lead} lower; one seed does not tell whether that is more than seeds differ."
    places = decimals_between(ahead.low, ahead.high)
    lead = f"{number(ahead.mean, places)} {between(ahead.low, ahead.high, places)}"
    if ahead.low > 0:
        return f"That is {lead} above the next, {second.label}: more than seeds differ."
    alike = [cell.label for cell in others if (low := comparison.ahead(cell).low) is not None and low <= 0]
    told = f" Nor can these be told from it: {listed(alike)}." if alike else ""
    return f"The next, {second.label}, stands {lead} lower: no more than seeds differ.{told}"


def notes(comparison: Comparison) -> list[str]:
    """What the verdict cannot tell."""
    found = []
    if len(comparison.seeds) > 1:
        found.append(
            "Leads are differences of means over seeds with Welch's 95% interval; they say what further seeds would give on "
            "these sources. Differences to the start policy are paired over sources, the outputs of all seeds together."
        )
    for labels in comparison.twins:
        found.append(f"{listed(labels)} came out alike in every figure of every seed: their options mean the same here.")
    if len(comparison.cells) > 2:
        found.append(f"The best of {len(comparison.cells)} cells is picked after looking, which flatters it.")
    if not comparison.controls:
        found.append("No control was run, so that gains may owe nothing to what the reward said.")
    return found


def _figures(spread: Spread) -> str:
    if spread.low is None or spread.high is None or spread.low == spread.high:
        return short(spread.mean)
    places = decimals_for([(spread.low, spread.high)])
    return f"{number(spread.mean, places)} [{number(spread.low, places)}, {number(spread.high, places)}]"


def _target_told(comparison: Comparison, target: float) -> str:
    chosen = "the lowest that a cell's final weights have, on average" if comparison.target is None else "as asked for"
    told = f"To a validation reward of {short(target)} ({chosen})."
    first = comparison.first_reward
    if first is not None and first >= target:
        return f"{told} The start policy has it already ({short(first)}): give a higher target to tell the cells apart."
    return told if first is None else f"{told} The start policy stands at {short(first)}."


# --- drawn


def curves(comparison: Comparison) -> list[Chart]:
    """The validation reward over steps and over samples; more cells than colours go on in further charts."""
    found = []
    for first in range(0, len(comparison.cells), len(_STYLES)):
        drawn = [
            *zip(comparison.cells[first : first + len(_STYLES)], _STYLES, strict=False),
            *zip(comparison.controls, _CONTROL_STYLES, strict=False),
        ]
        for samples in (False, True):
            lines = [_line(cell, style, samples) for cell, style in drawn]
            found.append(line_chart(title(REWARD), lines, "samples drawn" if samples else "step", size=WIDE))
    return [chart for chart in found if chart is not None]


def _line(cell: ComparedCell, style: int, samples: bool) -> Series:
    bands = cell.curve(samples)
    shade = [(b.x, b.low, b.high) for b in bands] if len(cell.runs) > 1 else []
    return Series(cell.label, [(b.x, b.mean) for b in bands], style, markers=True, band=shade)


# --- for machines


def summary(comparison: Comparison) -> Mapping[str, object]:
    """Every system's measures for each seed, what was logged and measured of each cell, and the verdict."""
    measures = [measure.name for measure in comparison.evaluation.measures]
    target = comparison.reachable if comparison.target is None else comparison.target
    return {
        "seeds": list(comparison.seeds),
        "systems": {
            system.name: {name: list(comparison.values(system.name, name)) for name in measures}
            for system in comparison.evaluation.systems
        },
        "cells": {cell.name: _logged(cell, target) for cell in [*comparison.cells, *comparison.controls]},
        "target": target,
        "best": comparison.ranked[0].name,
        "verdict": verdict(comparison),
    }


def _logged(cell: ComparedCell, target: float | None) -> dict[str, Any]:
    noise = cell.noise
    return {
        "label": cell.label,
        "steps": cell.steps(),
        "samples": cell.samples(),
        "kl": cell.final("kl"),
        "seconds_per_step": cell.seconds_per_step(),
        "steps_to_target": [] if target is None else [None if one is None else one[0] for one in cell.reaching(target)],
        "noise_to_signal": None if noise is None else noise.ratio(noise.samples),
    }
