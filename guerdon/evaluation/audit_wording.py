"""An audit in words and tables: what a person reads first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from guerdon.evaluation.audit_judging import Check
from guerdon.evaluation.audit_results import Agreement, Audit, Preference, ScoreAudit
from guerdon.evaluation.probes import PROBES
from guerdon.evaluation.wording import listed, number, short, signed
from guerdon.metrics.significance import Interval

_OFTEN, _SOMETIMES = 0.2, 0.1  # of sources: a probe that fools a reward less often is told of in the table alone
_NO_GAP = 0.5  # of the spread: a smaller mean gap hardly tells two texts apart, and then sometimes is worth telling
_WITH_LENGTH = 0.3  # of a rank correlation


class Finding(NamedTuple):
    """A sentence, and whether it is bad news."""

    sentence: str
    bad: bool


def percent(share: float) -> str:
    """A share as people say it; one that is not quite none or all is not written as 0% or 100%.

    >>> percent(0.984), percent(0.999), percent(0.0)
    ('98%', '>99%', '0%')
    """
    rounded = round(100 * share)
    if rounded in (0, 100) and share not in (0, 1):
        return "<1%" if rounded == 0 else ">99%"
    return f"{rounded}%"


def findings(audit: Audit) -> list[Finding]:
    """The sentences at the top: what fools the reward, how it fails otherwise, and what it agrees with."""
    told = [Finding(f"Does not meet {listed(str(o.requirement) for o in audit.failed)}.", True)] if audit.failed else []
    told += [Finding(sentence, True) for sentence in fooled_by(audit.total)]
    for part in audit.parts:
        bare = [PROBES[name].label for name, found in _worst(part) if found.fooled >= 0.5]
        if bare:
            told.append(Finding(f"Its part {part.name} by itself does not hold against {listed(bare)}.", False))
    told += [Finding(sentence, True) for sentence in _faults(audit)]
    told += [Finding(sentence, False) for sentence in _relations(audit)]
    told.append(Finding(_rest(audit.total), False))
    return told


def fooled_by(scores: ScoreAudit) -> list[str]:
    """A sentence for each probe that fools a score often, the worst first."""
    return [_sentence(PROBES[name].label, found) for name, found in _worst(scores)]


def _worst(scores: ScoreAudit) -> list[tuple[str, Preference]]:
    told = [(name, found) for name, found in scores.probes.items() if _worth_telling(found)]
    return sorted(told, key=lambda pair: -pair[1].fooled)


def _worth_telling(found: Preference) -> bool:
    return found.fooled >= (_SOMETIMES if _no_gap(found) else _OFTEN)


def _no_gap(found: Preference) -> bool:
    return found.gap is not None and abs(found.gap.value) < _NO_GAP


def _sentence(label: str, found: Preference) -> str:
    if found.tied >= 0.5:
        more = f"; for {percent(found.preferred.value)} it prefers the former" if found.preferred.value else ""
        return f"Cannot tell {label} from the reference: scores both alike for {percent(found.tied)} of sources{more}."
    sentence = f"Prefers {label} to the reference for {percent(found.preferred.value)} of sources"
    if found.tied:
        sentence += f", and scores both alike for {percent(found.tied)}"
    if found.gap is not None and _no_gap(found):
        sentence += f"; it hardly tells the two apart (mean gap {signed(found.gap.value)} of its spread)"
    return f"{sentence}."


def _faults(audit: Audit) -> list[str]:
    checks = (
        (audit.nondeterministic, "Is not deterministic: the same batch, scored again, gives other scores"),
        (audit.batch_dependent, "Depends on the batch: alone, or in another order, outputs get other scores"),
        (audit.applies_by_output, "Lets the output decide whether a part applies: to a probe otherwise than to its reference"),
    )  # fmt: skip
    return [f"{what} ({_extent(check)})." for check, what in checks if check.share]


def _extent(check: Check) -> str:
    size = f", by up to {short(check.largest)} of the spread" if check.largest is not None else ""
    parts = f"; at fault: {listed(check.parts)}"
    return f"{percent(check.share)} of {check.tried} outputs{size}{parts}"


def _relations(audit: Audit) -> list[str]:
    told, total = [], audit.total
    if total.length_references is not None and abs(total.length_references) >= _WITH_LENGTH:
        way = "longer" if total.length_references > 0 else "shorter"
        told.append(f"Prefers {way} references (rank correlation with length {signed(total.length_references)}).")
    if total.agreement is not None:
        one = (
            ""
            if total.unanimous is None
            else f"; of the {number(total.unanimous.pairs, 0)} unanimous ones {agreement_of(total.unanimous)}"
        )
        told.append(f"Agrees with people on {agreement_of(total.agreement)} of {number(total.agreement.pairs, 0)} pairs{one}.")
    if audit.counts.alone:
        told.append(
            f"{number(audit.counts.alone, 0)} of {number(audit.counts.sources, 0)} sources have one reference alone: a reward "
            "that reads references sees there the very text that it judges, so that the reference is trivially perfect."
        )
    return told


def _rest(scores: ScoreAudit) -> str:
    others = [found.fooled for found in scores.probes.values() if not _worth_telling(found)]
    if not others:
        return "There is no probe that it holds against."
    all_of_them = len(others) == len(scores.probes)
    which = f"all {len(others)} probes" if all_of_them else f"the other {len(others)} probes"
    return f"Prefers the reference to {which} (fooled for at most {percent(max(others))} of sources)."


def agreement_of(found: Agreement) -> str:
    """The share with its interval."""
    return f"{percent(found.agrees.value)} {interval_of(found.agrees)}"


def interval_of(found: Interval) -> str:
    """An interval of shares, in percent.

    >>> interval_of(Interval(0.5, 0.421, 0.579))
    '[42, 58]'
    """
    return f"[{100 * found.low:.0f}, {100 * found.high:.0f}]"


def correlation(value: float | None) -> str:
    """A rank correlation, or that there is none."""
    return "none (constant)" if value is None else signed(value)


def probe_table(audit: Audit) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a probe a row; behind the total, what each part prefers."""
    columns = ["probe", "prefers it", "95% interval", "ties", "mean gap (σ)", *(part.name for part in audit.parts), "sources"]
    rows = []
    for name, found in audit.total.probes.items():
        gap = "–" if found.gap is None else signed(found.gap.value)
        parts = [_part_cell(part.probes.get(name)) for part in audit.parts]
        figures = [percent(found.preferred.value), interval_of(found.preferred), percent(found.tied), gap]
        rows.append([name, *figures, *parts, str(found.compared)])
    return columns, rows


def _part_cell(found: Preference | None) -> str:
    if found is None:
        return "–"
    return percent(found.preferred.value) + (f" ({percent(found.tied)} ties)" if found.tied else "")


def facts(audit: Audit) -> list[tuple[str, str]]:
    """Label and value of what else was measured, and on what."""
    counts, total = audit.counts, audit.total
    known = [
        ("reward", audit.reward),
        ("records", f"{number(counts.sources, 0)} sources" + (f" of {audit.data}" if audit.data else "")),
        ("scale of the parts", f"normalised: {audit.normalisation}" if audit.normalisation else ""),
        ("correlation with length, references", correlation(total.length_references)),
        ("correlation with length, probes", correlation(total.length_probes)),
        ("deterministic", _passed(audit.nondeterministic)),
        ("batch invariant", _passed(audit.batch_dependent)),
        ("applies by the source alone", _passed(audit.applies_by_output)),
        ("outputs a second", number(audit.outputs_per_second, 0)),
        ("seed", str(audit.seed)),
        ("records left out, their source repeated", number(counts.repeated, 0) if counts.repeated else ""),
        ("pairs left out, without references", number(counts.pairs_left_out, 0) if counts.pairs_left_out else ""),
        ("probes that do not apply everywhere", _not_built(audit)),
    ]
    return [(label, value) for label, value in known if value]


def _passed(check: Check) -> str:
    return f"no: {_extent(check)}" if check.share else f"yes ({check.tried} outputs tried)"


def _not_built(audit: Audit) -> str:
    lacking = [f"{name} (not to {count} sources)" for name, count in audit.counts.not_built.items() if count]
    return listed(lacking) if lacking else ""


def requirement_lines(audit: Audit) -> Sequence[str]:
    """A line for each declared requirement."""
    lines = []
    for outcome in audit.outcomes:
        measured = "nothing to measure" if outcome.measured is None else f"measured: {outcome.measured:.4g}"
        lines.append(f"{'met' if outcome.met else 'FAILED'}: {outcome.requirement} ({measured})")
    return lines
