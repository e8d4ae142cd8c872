"""The audit of a reward: tested on probes built from real records, before anybody trains on it.

For every source one reference is drawn, and each probe (`guerdon.evaluation.probes`) is set against it. Both are judged with
the **other** references of the source, so that a reward that reads references does not see the text that it judges.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from guerdon.data.records import Example
from guerdon.errors import ConfigurationError
from guerdon.evaluation.audit_judging import Check, Scale, applies_by_output, judge_all, part_spreads, rebatched, repeated
from guerdon.evaluation.audit_results import Audit, Counts, ScoreAudit
from guerdon.evaluation.audit_scores import Resampling, Scores, all_scores, median_examples, score_audit
from guerdon.evaluation.audit_texts import Row, Subjects, pairs_judged
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.evaluation.probes import PROBES, Corpus
from guerdon.evaluation.requirements import Requirement, outcomes
from guerdon.evaluation.rewording import language_of
from guerdon.metrics.significance import check_resamples
from guerdon.metrics.slots import SlotPatterns
from guerdon.rewards.base import Judged, Judgement, Reward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.training.progress import Progressing, Silent


@dataclass(frozen=True)
class AuditOptions:
    """How an audit is done.

    Attributes:
        seed: of the draws.
        resamples: of each bootstrap interval.
        language: of the outputs, for filler and negation: "en", "de", or "none" to leave those probes out.
        normalisation: how training brings the parts of a composed reward to one scale.
    """

    seed: int = 1
    resamples: int = 1000
    language: str = "en"
    normalisation: NormaliserOptions = field(default_factory=NormaliserOptions)

    def __post_init__(self) -> None:
        language_of(self.language)
        check_resamples(self.resamples, "resamples")


def audit(
    reward: Reward,
    examples: Sequence[Example],
    requirements: Sequence[Requirement] = (),
    pairs: Sequence[HumanPair] = (),
    patterns: SlotPatterns | None = None,
    options: AuditOptions | None = None,
    data: str = "",
    progress: Progressing | None = None,
) -> Audit:
    """Tests a reward on probes built from records.

    >>> import guerdon
    >>> texts = {"Zizzi, pub": ("Zizzi is a pub.", "A pub called Zizzi."), "Cotto, pub": ("Cotto is a pub.", "The pub Cotto.")}
    >>> examples = [guerdon.Example(source, references) for source, references in texts.items()]
    >>> silent = guerdon.rewards.WordFrequency.from_texts(sum(texts.values(), ()), reduction="sum")
    >>> guerdon.audit(silent, examples).total.probes["empty"].preferred.value
    1.0

    Args:
        reward: any reward.
        examples: records with references; of several with the same source the first counts.
        requirements: what must hold; see ``Audit.outcomes``.
        pairs: outputs of which people preferred one.
        patterns: how slot values are worded, where sources are meaning representations.
        options: how it is done.
        data: what the examples are, in words, for the page.
        progress: is told how far the work has come.

    Raises:
        DataError: for an example without references, or a damaged meaning representation where patterns are given.
        InputError: for fewer than two sources.
        ConfigurationError: for a requirement of disagreement without pairs.
        RewardError: as the reward's own ``judge``: where its score of a probe is not finite, for one.
    """
    chosen = options or AuditOptions()
    _check_requirements(requirements, pairs)
    subjects = Subjects.of(examples, chosen.seed)
    sources, rows = len(subjects.examples), _rows(subjects, patterns, chosen)
    judged, places = subjects.judged(rows), [row.subject for row in rows]
    judgement, speed = _judge(reward, judged, progress or Silent())
    scale = Scale(chosen.normalisation, judgement, sources)
    series = all_scores(judgement, scale, places, name_of(judgement))
    known, left_out = _usable(pairs, subjects.examples, reward.needs_references)
    found = _findings(series, rows, sources, _decided(reward, known, scale), Resampling(chosen.resamples, chosen.seed))
    checks = _checks(reward, judged, judgement, places, sources, chosen.seed)
    return Audit(
        reward=series[0].name,
        needs_references=reward.needs_references,
        data=data,
        seed=chosen.seed,
        normalisation=f"{chosen.normalisation.kind}, {chosen.normalisation.order}" if found[1:] else "",
        counts=Counts(sources, subjects.repeated, subjects.alone, len(rows), _not_built(rows, sources), left_out),
        total=found[0],
        parts=found[1:],
        shown=median_examples(series[0], rows, subjects),
        **checks,
        outcomes=outcomes(requirements, _measured(found[0], checks)),
        outputs_per_second=speed,
    )


def name_of(judgement: Judgement) -> str:
    """A reward by its parts and their weights."""
    return " + ".join(name if part.weight == 1 else f"{part.weight:g} {name}" for name, part in judgement.parts.items())


def _check_requirements(requirements: Sequence[Requirement], pairs: Sequence[HumanPair]) -> None:
    for requirement in requirements:
        if requirement.probe == "disagreement" and not pairs:
            raise ConfigurationError(
                "there are no human pairs to disagree with", where=f"requirement {requirement.probe!r}", cure="give pairs"
            )


def _rows(subjects: Subjects, patterns: SlotPatterns | None, options: AuditOptions) -> list[Row]:
    return subjects.rows(Corpus(subjects.examples, patterns, language_of(options.language)), options.seed)


def _judge(reward: Reward, judged: Judged, progress: Progressing) -> tuple[Judgement, float]:
    """The raw parts, and how many outputs a second it took."""
    progress.begin("audit", len(judged))
    begun = time.perf_counter()
    judgement = judge_all(reward, judged, lambda done: progress.advance(done, {}))
    speed = len(judged) / (time.perf_counter() - begun)
    progress.end()
    return judgement, speed


def _usable(
    pairs: Sequence[HumanPair], examples: Sequence[Example], needed: bool
) -> tuple[list[tuple[HumanPair, Mapping[str, Any]]], int]:
    """The pairs, with the references and further fields of their source where the examples know it; and how many lack both."""
    by_source = {example.source: example for example in examples}
    found = []
    for pair in pairs:
        example = by_source.get(pair.source)
        if example is not None and not pair.references:
            pair = replace(pair, references=example.references)
        if pair.references or not needed:
            found.append((pair, example.meta if example else {}))
    return found, len(pairs) - len(found)


def _decided(
    reward: Reward, pairs: Sequence[tuple[HumanPair, Mapping[str, Any]]], scale: Scale
) -> tuple[list[HumanPair], list[Scores]] | None:
    """The pairs, and every score of their chosen outputs and, behind them, their rejected ones; None where there is no pair."""
    if not pairs:
        return None
    given = [pair for pair, _ in pairs]
    judgement = judge_all(reward, pairs_judged(given, [meta for _, meta in pairs]))
    return given, all_scores(judgement, scale, [*range(len(given))] * 2, name_of(judgement))


def _findings(
    series: Sequence[Scores],
    rows: Sequence[Row],
    sources: int,
    decided: tuple[list[HumanPair], list[Scores]] | None,
    resampling: Resampling,
) -> list[ScoreAudit]:
    pairs = [None] * len(series) if decided is None else [(scores, decided[0]) for scores in decided[1]]
    return [score_audit(scores, rows, sources, own, resampling) for scores, own in zip(series, pairs, strict=True)]


def _checks(
    reward: Reward, judged: Judged, judgement: Judgement, places: Sequence[int], sources: int, seed: int
) -> dict[str, Check]:
    spreads = part_spreads(judgement, sources)
    return {
        "nondeterministic": repeated(reward, judged, spreads),
        "batch_dependent": rebatched(reward, judged, spreads, seed),
        "applies_by_output": applies_by_output(judgement, places, sources),
    }


def _not_built(rows: Sequence[Row], sources: int) -> dict[str, int]:
    built = Counter(row.probe for row in rows)
    return {name: sources - built[name] for name in PROBES}


def _measured(total: ScoreAudit, checks: Mapping[str, Check]) -> dict[str, float | None]:
    """What requirements can bound, by its name."""
    return {
        **{name: preference.fooled for name, preference in total.probes.items()},
        "length": None if total.length_references is None else abs(total.length_references),
        "disagreement": None if total.agreement is None else 1 - total.agreement.agrees.value,
        **{name: check.share for name, check in checks.items()},
    }
