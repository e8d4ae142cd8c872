"""``reward_evaluation.html``: one page, in one file, on how a reward agrees with people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from guerdon.evaluation.audit_wording import interval_of, percent
from guerdon.evaluation.calibration import Calibration
from guerdon.evaluation.pages import render_page, write_with_page
from guerdon.evaluation.plots import Chart, Series, line_chart, share_bar, whisker
from guerdon.evaluation.reward_results import RewardEvaluation, Scorer
from guerdon.evaluation.reward_tables import best_group, correlation_text, facts, gap_text, percents, sentences
from guerdon.evaluation.wording import signed
from guerdon.metrics.significance import Comparison, Interval

PAGE = "reward_evaluation.html"
_MOST_SYSTEM_PAIRS = 15


class Cell(NamedTuple):
    """A share: its bar, the figures, and whether it stands out."""

    bar: Markup
    share: str
    interval: str
    ties: str


class Gap(NamedTuple):
    """The reward less another scorer, in one group."""

    group: str
    drawn: Markup
    text: str
    kind: str


class Row(NamedTuple):
    """A scorer with a cell for each group (None where there is nothing)."""

    label: str
    cells: list[Cell | None]
    bound: bool


def write_reward_evaluation(found: RewardEvaluation, folder: Path) -> Path:
    """Writes ``reward_evaluation.json`` and ``reward_evaluation.html`` into ``folder`` (made where it is missing).

    Returns:
        The page's path. The page holds its style itself and asks for nothing from elsewhere.

    Raises:
        InputError, GuerdonError: when they cannot be written (see `guerdon.data.files.write_atomically`).
    """
    return write_with_page(found, folder, PAGE, render(found))


def render(found: RewardEvaluation) -> str:
    """The page as HTML. All texts are escaped."""
    name = best_group(found)
    return render_page(
        "reward.html",
        found=found,
        sentences=sentences(found),
        groups=[(group, made.pairs) for group, made in found.own.groups.items()],
        rows=_rows(found),
        gaps=[(scorer.label, _gaps(scorer)) for scorer in found.scorers[1:]],
        charts=_calibration_charts(found),
        calibrations=[(label, calibration_cells(made)) for label, made in found.calibration.items()],
        correlations=_correlations(found),
        length=[(who, percents(made)) for who, made in _lengths(found) if made is not None],
        curve=_curve(found),
        systems=found.system_pairs[:_MOST_SYSTEM_PAIRS],
        more_systems=max(0, len(found.system_pairs) - _MOST_SYSTEM_PAIRS),
        percents=percents,
        percent=percent,
        signed=signed,
        ranks=found.system_ranks,
        facts=facts(found),
        best=name,
    )


def _rows(found: RewardEvaluation) -> list[Row]:
    groups = list(found.own.groups)
    rows = []
    for scorer in found.scorers:
        cells = [_cell(made.agrees, made.tied) if (made := scorer.groups.get(g)) else None for g in groups]
        rows.append(Row(scorer.label, cells, False))
    people = [found.ceilings[group].leave_one_out if group in found.ceilings else None for group in groups]
    best = [found.ceilings[group].best if group in found.ceilings else None for group in groups]
    for label, ends in (("one person, with the majority of the others", people), ("at most, for any scorer", best)):
        if any(ends):
            rows.append(Row(label, [None if end is None else _cell(end, 0.0) for end in ends], True))
    return rows


def _cell(share: Interval, tied: float) -> Cell:
    drawn = share_bar(share.value - tied / 2, share.low, share.high, tied)
    return Cell(drawn, f"{100 * share.value:.1f}%", interval_of(share), f"{percent(tied)} ties" if tied else "")


def _gaps(scorer: Scorer) -> list[Gap]:
    return [_gap(group, ahead) for group, ahead in scorer.ahead.items() if group in ("all", "unanimous")]


def _gap(group: str, ahead: Comparison) -> Gap:
    kind = "better" if ahead.low > 0 else "worse" if ahead.high < 0 else "other"
    return Gap(group, whisker(ahead.low, ahead.difference, ahead.high, 0.5), gap_text(ahead), kind)


def _calibration_charts(found: RewardEvaluation) -> list[Chart]:
    """Reliability plots: the reward's, and the linear model's beside it."""
    charts = []
    for name in ("all", "unanimous"):
        lines = [
            Series(label, [(b.confidence, b.right) for b in found.calibration[key].bins], style, markers=True)
            for label, key, style in (("the reward", name, 0), ("linear model", f"linear, {name}", 1))
            if key in found.calibration
        ]
        perfect = Series("calibrated", [(0.5, 0.5), (1.0, 1.0)], 2)
        kind = "all pairs" if name == "all" else "unanimous pairs"
        chart = line_chart(f"Share right, {kind}", [perfect, *lines], "confidence", limits=(0.0, 1.0)) if lines else None
        charts += [] if chart is None else [chart]
    return charts


def _curve(found: RewardEvaluation) -> Chart | None:
    """Accuracy over the training pairs, with its interval as a band."""
    lines = []
    for style, name in enumerate(("unanimous", "all")):
        points = [(float(p.pairs), p.groups[name].agrees) for p in found.curve if name in p.groups]
        band = [(x, agrees.low, agrees.high) for x, agrees in points]
        label = "unanimous pairs" if name == "unanimous" else "all pairs"
        lines.append(Series(label, [(x, agrees.value) for x, agrees in points], style, markers=True, band=band))
    return line_chart("Pair accuracy", lines, "training pairs")


def _correlations(found: RewardEvaluation) -> list[tuple[str, str, str]]:
    if found.ratings is None:
        return []
    names = {"kendall": "Kendall’s τ-b", "spearman": "Spearman’s ρ", "pearson": "Pearson’s r"}
    return [
        (names[made.name], correlation_text(made.within), correlation_text(made.pooled)) for made in found.ratings.correlations
    ]


def _lengths(found: RewardEvaluation) -> Sequence[tuple[str, Interval | None]]:
    return (("the reward", found.length.reward_longer), ("people", found.length.people_longer))


def calibration_cells(made: Calibration) -> list[str]:
    """Pairs, temperature, ECE, ECE by chance and Brier score of a calibration, as text."""
    ece, brier = made.ece, made.brier
    return [
        str(made.pairs),
        f"{made.temperature:.3g}",
        f"{ece.value:.3f} [{ece.low:.3f}, {ece.high:.3f}]",
        f"{made.ece_by_chance:.3f}",
        f"{brier.value:.3f} [{brier.low:.3f}, {brier.high:.3f}]",
    ]
