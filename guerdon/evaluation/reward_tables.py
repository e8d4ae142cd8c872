"""What the evaluation of a reward found, in words and tables."""

from __future__ import annotations

from collections.abc import Sequence

from guerdon.evaluation.audit_results import Agreement
from guerdon.evaluation.audit_wording import interval_of, percent
from guerdon.evaluation.calibration import Calibration
from guerdon.evaluation.reward_results import RewardEvaluation
from guerdon.evaluation.wording import number, signed
from guerdon.metrics.significance import Comparison, Interval


def best_group(found: RewardEvaluation) -> str:
    """The group that verdicts are about: the unanimous pairs where there are some."""
    return "unanimous" if "unanimous" in found.own.groups else "all"


def accuracy_table(found: RewardEvaluation) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: a scorer a row, a group of pairs a column, people below."""
    groups = list(found.own.groups)
    columns = ["", *(f"{name} ({found.own.groups[name].pairs})" for name in groups)]
    rows = [[scorer.label, *(_agreement(scorer.groups.get(name)) for name in groups)] for scorer in found.scorers]
    votes = [found.ceilings[name].leave_one_out if name in found.ceilings else None for name in groups]
    best = [found.ceilings[name].best if name in found.ceilings else None for name in groups]
    if any(votes):
        rows.append(["one person with the majority of the others", *map(_share, votes)])
    if any(best):
        rows.append(["at most, for any scorer", *map(_share, best)])
    return columns, rows


def sentences(found: RewardEvaluation) -> list[str]:
    """What it comes to: accuracy, what it beats, calibration, length."""
    name = best_group(found)
    kind = "unanimous pairs" if name == "unanimous" else "pairs"
    own = found.own.groups[name]
    told = [f"Agrees with people on {percent(own.agrees.value)} {interval_of(own.agrees)} of {number(own.pairs, 0)} {kind}."]
    if own.tied >= 0.05:
        told.append(f"Scores both outputs alike in {percent(own.tied)} of them, which counts half.")
    told += [_against(scorer.label, scorer.ahead[name]) for scorer in found.scorers[1:] if name in scorer.ahead]
    best = found.ceilings[name].best if name in found.ceilings else None
    if best is not None:
        told.append(f"No scorer can be expected to pass {percent(best.value)} {interval_of(best)}: people differ.")
    if name in found.calibration:
        told.append(_calibrated(found.calibration[name]))
    return [*told, *_length(found)]


def facts(found: RewardEvaluation) -> list[tuple[str, str]]:
    """Label and value of what else was measured, and on what."""
    known = [
        ("reward", found.reward),
        ("judgements", f"{number(found.pairs, 0)} pairs of {number(found.sources, 0)} sources" + _of(found.data)),
        ("aspect", found.aspect),
        ("left out", ", ".join(f"{number(count, 0)} ({reason})" for reason, count in found.dropped.items())),
        ("linear model trained on", found.training),
        *((f"calibration, {name}", _figures(made)) for name, made in found.calibration.items()),
        ("correlation with length", _signed(found.length.correlation)),
        *_correlations(found),
        ("systems ranked as people rank them (Kendall's τ)", _signed(found.system_correlation)),
    ]  # fmt: skip
    return [(label, value) for label, value in known if value]


def percents(found: Interval) -> str:
    """A share with its interval."""
    return f"{100 * found.value:.1f}% {interval_of(found)}"


def correlation_text(found: Interval | None) -> str:
    """A correlation with its interval."""
    return "–" if found is None else f"{signed(found.value)} [{signed(found.low)}, {signed(found.high)}]"


def gap_text(found: Comparison) -> str:
    """A difference of shares in points, with its interval."""
    return f"{signed(100 * found.difference, 1)} [{signed(100 * found.low, 1)}, {signed(100 * found.high, 1)}]"


def _agreement(found: Agreement | None) -> str:
    return "–" if found is None else percents(found.agrees)


def _share(found: Interval | None) -> str:
    return "–" if found is None else percents(found)


def _against(label: str, ahead: Comparison) -> str:
    gap = f"{gap_text(ahead)} points"
    if ahead.low > 0:
        return f"Better than {label}: {gap}."
    return f"Worse than {label}: {gap}." if ahead.high < 0 else f"Cannot be told from {label}: {gap}."


def _calibrated(made: Calibration) -> str:
    excess = made.ece.value - made.ece_by_chance
    verdict = "which is little more than chance gives" if excess < 0.02 else "more than chance gives"
    return (
        f"With a temperature fitted on other sources, its confidence is off by {made.ece.value:.3f} on average (ECE), "
        f"{verdict} ({made.ece_by_chance:.3f})."
    )


def _length(found: RewardEvaluation) -> list[str]:
    reward, people = found.length.reward_longer, found.length.people_longer
    if reward is None or people is None:
        return []
    return [
        f"Prefers the longer of two outputs in {percent(reward.value)} {interval_of(reward)} of pairs; "
        f"people in {percent(people.value)} {interval_of(people)}."
    ]


def _figures(made: Calibration) -> str:
    return (
        f"ECE {made.ece.value:.3f} [{made.ece.low:.3f}, {made.ece.high:.3f}] (by chance {made.ece_by_chance:.3f}), "
        f"Brier {made.brier.value:.3f} [{made.brier.low:.3f}, {made.brier.high:.3f}], temperature {made.temperature:.3g}"
    )


def _correlations(found: RewardEvaluation) -> Sequence[tuple[str, str]]:
    if found.ratings is None:
        return []
    about = f"{number(found.ratings.outputs, 0)} rated outputs"
    return [
        (
            f"{made.name.capitalize()} with ratings of {about}",
            f"{correlation_text(made.within)} within sources, {correlation_text(made.pooled)} over all",
        )
        for made in found.ratings.correlations
    ]


def _signed(value: float | None) -> str:
    return "" if value is None else signed(value)


def _of(data: str) -> str:
    return f" of {data}" if data else ""
