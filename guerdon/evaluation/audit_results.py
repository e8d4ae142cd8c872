"""What an audit found, as it stands in ``audit.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from guerdon.data.files import write_atomically
from guerdon.errors import DataError
from guerdon.evaluation.audit_judging import Check
from guerdon.evaluation.requirements import Outcome
from guerdon.metrics.significance import Interval

AUDIT = "audit.json"


@dataclass(frozen=True)
class Preference:
    """How one score takes one probe against the references.

    Attributes:
        compared: sources.
        preferred: the share of them where the probe scores higher than the reference, with Wilson's 95% interval.
        tied: the share where both score alike: within 1e-4 of the spread, or rounding.
        gap: the mean of probe − reference in units of the score's spread over references, with its 95% bootstrap
            interval over sources; None where the references have no spread.
    """

    compared: int
    preferred: Interval
    tied: float
    gap: Interval | None

    @property
    def fooled(self) -> float:
        """The share of sources where the probe is preferred, a tie counting half."""
        return self.preferred.value + self.tied / 2


@dataclass(frozen=True)
class Agreement:
    """How often one score prefers what people preferred.

    Attributes:
        pairs: how many.
        agrees: the share of them, a tie counting half, with its 95% bootstrap interval over sources.
        tied: the share of ties.
    """

    pairs: int
    agrees: Interval
    tied: float


@dataclass(frozen=True)
class ScoreAudit:
    """The findings on one score: the total that training sees, or one raw part of it.

    Attributes:
        name: the part's; the reward's for the total.
        weight: the part's factor; 1 for the total.
        sources: to which it applies.
        spread: its standard deviation over references.
        probes: by the probe's name; without those that no source has.
        length_references: Spearman's rank correlation with the number of words, over references; None where one is constant.
        length_probes: likewise over all probes.
        agreement: with human pairs, all of them.
        unanimous: with the pairs that at least two voted for and nobody against.
    """

    name: str
    weight: float
    sources: int
    spread: float
    probes: Mapping[str, Preference]
    length_references: float | None
    length_probes: float | None
    agreement: Agreement | None = None
    unanimous: Agreement | None = None


@dataclass(frozen=True)
class Shown:
    """One real probe with its scores: that whose gap is the median one."""

    source: str
    reference: str
    probe: str
    reference_score: float
    probe_score: float


@dataclass(frozen=True)
class Counts:
    """What was audited.

    Attributes:
        sources: compared; each counts once.
        repeated: records left out, because their source had been seen.
        alone: sources with one distinct reference: a reward that reads references sees there the very text that it judges.
        outputs: scored: references and probes.
        not_built: for each probe, the sources to which it does not apply.
        pairs_left_out: human pairs without references, where the reward needs some.
    """

    sources: int
    repeated: int
    alone: int
    outputs: int
    not_built: Mapping[str, int]
    pairs_left_out: int = 0


@dataclass(frozen=True)
class Audit:
    """All that an audit found.

    Attributes:
        reward: its name.
        needs_references: whether it says that it reads references.
        data: what was judged, in words.
        seed: of the draws.
        normalisation: how the parts of a composed reward come to one scale, in words; empty for a reward of one part.
        counts: what was audited.
        total: the score that training sees.
        parts: of a composed reward, raw.
        shown: one example of each probe.
        nondeterministic, batch_dependent, applies_by_output: checks that any reward has to pass.
        outcomes: the declared requirements.
        outputs_per_second: in batches of 512; the only figure here that another run changes.
    """

    reward: str
    needs_references: bool
    data: str
    seed: int
    normalisation: str
    counts: Counts
    total: ScoreAudit
    parts: Sequence[ScoreAudit]
    shown: Mapping[str, Shown]
    nondeterministic: Check
    batch_dependent: Check
    applies_by_output: Check
    outcomes: Sequence[Outcome]
    outputs_per_second: float

    @property
    def failed(self) -> list[Outcome]:
        """The requirements that are not met."""
        return [outcome for outcome in self.outcomes if not outcome.met]

    def plain(self) -> dict[str, Any]:
        """For machines."""
        values = asdict(self)
        values["outcomes"] = [
            {"probe": o.requirement.probe, "at_most": o.requirement.at_most, "measured": o.measured, "met": o.met}
            for o in self.outcomes
        ]
        return values

    @classmethod
    def read(cls, folder: Path) -> Audit:
        """Reads what `write` wrote.

        Raises:
            DataError: when the file is missing, or is not an audit.
        """
        path = folder / AUDIT
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            values["outcomes"] = [
                {"requirement": {"probe": o["probe"], "at_most": o["at_most"]}, "measured": o["measured"]}
                for o in values["outcomes"]
            ]
            return TypeAdapter(cls).validate_python(values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"is not an audit ({error})", where=str(path), cure="audit again") from error

    def write(self, folder: Path) -> Path:
        """Writes ``audit.json`` whole or not at all, and returns its path; raises as `guerdon.data.files.write_atomically`."""
        path = folder / AUDIT
        write_atomically(path, [json.dumps(self.plain(), ensure_ascii=False, allow_nan=False, indent=1).encode(), b"\n"])
        return path
