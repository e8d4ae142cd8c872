"""``audit.html``: one page, in one file, on what fools a reward."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from guerdon.evaluation.audit_results import Audit, Preference, Shown
from guerdon.evaluation.audit_wording import facts, findings, interval_of, percent
from guerdon.evaluation.pages import render_page, write_with_page
from guerdon.evaluation.plots import share_bar
from guerdon.evaluation.probes import PROBES, Probe
from guerdon.evaluation.wording import short, signed

AUDIT_PAGE = "audit.html"


class Cell(NamedTuple):
    """What one score makes of one probe: its bar, the figures, and whether it is bad news."""

    bar: Markup
    preferred: str
    interval: str
    ties: str
    gap: str
    bad: bool


class ProbeRow(NamedTuple):
    """A probe with the cells of the total and of each part (None where nothing was compared), and an example."""

    probe: Probe
    cells: list[Cell | None]
    shown: Shown | None
    reference_score: str
    probe_score: str


def write_audit(audit: Audit, folder: Path) -> Path:
    """Writes ``audit.json`` and ``audit.html`` into ``folder`` (made where it is missing), and returns the page's path.

    The page holds its style itself and asks for nothing from elsewhere.

    Raises:
        InputError, GuerdonError: when they cannot be written (see `guerdon.data.files.write_atomically`).
    """
    return write_with_page(audit, folder, AUDIT_PAGE, render_audit(audit))


def render_audit(audit: Audit) -> str:
    """The page as HTML. All texts are escaped."""
    return render_page("audit.html", audit=audit, findings=findings(audit), facts=facts(audit), rows=probe_rows(audit))


def probe_rows(audit: Audit) -> list[ProbeRow]:
    """The rows of the table of probes."""
    failed = {outcome.requirement.probe for outcome in audit.failed}
    rows = []
    for name, probe in PROBES.items():
        scores = [audit.total, *audit.parts]
        cells = [_cell(s.probes.get(name), name in failed and s is audit.total) for s in scores]
        shown = audit.shown.get(name)
        figures = ("", "") if shown is None else (short(shown.reference_score), short(shown.probe_score))
        rows.append(ProbeRow(probe, cells, shown, *figures))
    return rows


def _cell(found: Preference | None, failed: bool) -> Cell | None:
    if found is None:
        return None
    gap = "" if found.gap is None else f"{signed(found.gap.value)}\N{NO-BREAK SPACE}σ"
    ties = f"{percent(found.tied)} ties" if found.tied else ""
    bad = failed or found.fooled >= 0.5
    return Cell(bar(found), percent(found.preferred.value), interval_of(found.preferred), ties, gap, bad)


def bar(found: Preference) -> Markup:
    """A bar: the share that is preferred, ties fainter behind it, half way marked, and the interval drawn over it."""
    return share_bar(found.preferred.value, found.preferred.low, found.preferred.high, found.tied)
