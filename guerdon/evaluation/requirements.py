"""What a reward must hold in its audit, as ``empty<=0.05`` or as a mapping, so that a pipeline can gate on it."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from guerdon.errors import ConfigurationError
from guerdon.evaluation.probes import PROBES

FURTHER = {
    "length": "the size of the rank correlation with length, over references",
    "disagreement": "the share of human pairs that it decides otherwise, a tie counting half",
    "nondeterministic": "the share of outputs whose score changes when they are scored again",
    "batch_dependent": "the share of outputs whose score depends on what else is in the batch",
    "applies_by_output": "the share of probes to which a part applies otherwise than to the reference of the same source",
}
"""What can be bounded beside the probes."""
_TEXT = re.compile(r"\s*(\w+)\s*<=\s*(\S+)\s*")


@dataclass(frozen=True)
class Requirement:
    """An upper bound on something that an audit measures.

    Attributes:
        probe: a name of `guerdon.evaluation.probes.PROBES`, of which the share of sources is bounded where the reward prefers
            the probe to the reference, a tie counting half (a reward that cannot tell is not one that is right); or one of
            `FURTHER`.
        at_most: the bound, from 0 to 1.
    """

    probe: str
    at_most: float

    def __post_init__(self) -> None:
        known = [*PROBES, *FURTHER]
        if self.probe not in known:
            near = difflib.get_close_matches(self.probe, known, 1)
            cure = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known)}"
            raise ConfigurationError(f"nothing is called {self.probe!r} in an audit", where="requirement", cure=cure)
        number = isinstance(self.at_most, int | float) and not isinstance(self.at_most, bool)
        if not number or not math.isfinite(self.at_most) or not 0 <= self.at_most <= 1:
            raise ConfigurationError(
                f"the bound is {self.at_most!r}", where=f"requirement {self.probe!r}", cure="give a share from 0 to 1"
            )

    @classmethod
    def from_text(cls, text: str) -> Requirement:
        """Reads ``probe<=share``.

        Raises:
            ConfigurationError: when the text has another form, or what it says cannot be.
        """
        found = _TEXT.fullmatch(text)
        try:
            return cls(found[1], float(found[2])) if found else _refuse(text)
        except ValueError:
            return _refuse(text)

    def __str__(self) -> str:
        return f"{self.probe} <= {self.at_most:g}"


def requirements_of(section: Mapping[str, float]) -> list[Requirement]:
    """The requirements of a mapping from names to bounds, as a recipe holds them; raises as `Requirement`.

    >>> [str(requirement) for requirement in requirements_of({"empty": 0.05, "shuffled": 0.2})]
    ['empty <= 0.05', 'shuffled <= 0.2']
    """
    return [Requirement(name, bound) for name, bound in section.items()]


@dataclass(frozen=True)
class Outcome:
    """A requirement, and what was measured: None where there was nothing to measure, which meets no requirement."""

    requirement: Requirement
    measured: float | None

    @property
    def met(self) -> bool:
        """Whether what was measured is within the bound."""
        return self.measured is not None and self.measured <= self.requirement.at_most


def outcomes(requirements: Sequence[Requirement], measured: Mapping[str, float | None]) -> list[Outcome]:
    """Each requirement beside what was measured by its name."""
    return [Outcome(requirement, measured.get(requirement.probe)) for requirement in requirements]


def _refuse(text: str) -> Requirement:
    raise ConfigurationError(f"{text!r} is no requirement", where="requirement", cure="write for example empty<=0.05")
