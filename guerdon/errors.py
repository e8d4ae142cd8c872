"""Every error that guerdon raises on purpose.

::

    GuerdonError                exit 1   work that failed
    ├── RewardError                      a reward raised, or returned nan, inf or the wrong number of scores
    ├── TrainingError                    training cannot go on (non-finite too often, disk full, ...)
    ├── CheckpointError                  a stored model or checkpoint is damaged or does not fit
    └── InputError              exit 2   bad usage or bad input
        ├── DataError                    a record, file or field that cannot be used
        ├── ConfigurationError           an option, or a pair of options, that cannot be
        ├── CapabilityError              this policy or reward cannot do what is asked
        └── MissingExtraError            an optional dependency is not installed

A message is one line that says what is wrong, where, and how to cure it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GuerdonError(Exception):
    """The root of the tree.

    Args:
        what: what is wrong, in one sentence without a full stop.
        where: the file, line, field, option, reward or sample concerned.
        cure: what the reader can do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, cure: str | None = None) -> None:
        self.what, self.where, self.cure = what, where, cure
        super().__init__(what)

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}" if self.where else self.what
        if self.cure:
            line = f"{line}; {self.cure}"
        return " ".join(line.split())


class RewardError(GuerdonError):
    """A reward raised, or returned something that is not one finite number per sample."""


class TrainingError(GuerdonError):
    """Training cannot go on."""


class CheckpointError(GuerdonError):
    """A stored model or checkpoint is damaged, incomplete or of other dimensions."""


class InputError(GuerdonError):
    """Bad usage or bad input; the command line answers it with exit code 2."""

    exit_code = 2


class DataError(InputError):
    """A record, file or field that cannot be used."""


class ConfigurationError(InputError):
    """An option, or a pair of options, that cannot be."""


class CapabilityError(InputError):
    """This policy or reward cannot do what is asked of it."""


class MissingExtraError(InputError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed",
            cure=f"run: pip install 'guerdon[{extra}]'",
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """The cure for a name that does not exist: the nearest one that does, else all of them."""
    names = list(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}"
