"""Signs that a policy is learning what nobody meant: each a pure function from a few logged figures to a number and a sentence.

A figure is followed by a `Track`; its level is the median over a window of steps, which one odd step does not move. "The
beginning" is the level of the first window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median

from guerdon.errors import CheckpointError

SPREAD = "spread/"  # the spread of a part of the reward is logged under this and the part's name
_WINDOWS = 3  # that a track remembers: two rises can be compared


@dataclass
class Track:
    """One figure over the steps.

    Attributes:
        window: steps of a level.
        begin: the level of the first window; None before it is full.
        last: the last values, three windows of them at the most.
    """

    window: int
    begin: float | None = None
    last: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        """Takes in the value of one more step."""
        self.last = [*self.last, value][-_WINDOWS * self.window :]
        if self.begin is None and len(self.last) == self.window:
            self.begin = median(self.last)

    def level(self, ago: int = 0) -> float | None:
        """The level so many windows ago (0 is the present one); None where the figure is not known for so long."""
        end = len(self.last) - ago * self.window
        return median(self.last[end - self.window : end]) if end >= self.window else None

    def now(self) -> tuple[float, float] | None:
        """The present level and that of the beginning; None before the first window is full."""
        level = self.level()
        return None if level is None or self.begin is None else (level, self.begin)

    def state_dict(self) -> dict[str, object]:
        """JSON values."""
        return {"begin": self.begin, "last": list(self.last)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: when it is something else.
        """
        begin, last = state.get("begin"), state.get("last")
        if not isinstance(last, list) or not all(map(is_number, last if begin is None else [begin, *last])):
            raise CheckpointError(f"a monitor's figures are no numbers: {state}")
        if len(last) > _WINDOWS * self.window or (begin is None) != (len(last) < self.window):
            raise CheckpointError(f"a monitor's figures cannot come of windows of {self.window} steps: {state}")
        self.begin, self.last = begin, list(last)  # type: ignore[assignment]  # a number, as was checked


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Sign:
    """How far something has gone.

    Attributes:
        size: at least 0; monotone in how bad it is.
        limit: an alarm is due above it.
        sentence: in plain words, with the numbers.
    """

    size: float
    limit: float
    sentence: str


Tracks = Mapping[str, Track]


def dominance(tracks: Tracks, limit: float) -> Sign | None:
    """The largest share that one part has of the summed variances of the parts as they are trained on, covariances left out."""
    levels = {name.removeprefix(SPREAD): track.level() for name, track in tracks.items() if name.startswith(SPREAD)}
    variances = {name: level * level for name, level in levels.items() if level is not None}
    total = math.fsum(variances.values())
    if len(variances) < 2 or not total > 0:
        return None
    ranked = sorted(variances, key=lambda name: (-variances[name], name))
    shares = [f"{name} {_percent(variances[name] / total)}" for name in ranked[1:]]
    sentence = (
        f"the reward part {ranked[0]} makes {_percent(variances[ranked[0]] / total)} of the variance of the reward that is"
        f" trained on ({', '.join(shares)}): the rest hardly counts"
    )
    return Sign(variances[ranked[0]] / total, limit, sentence)


def length_drift(tracks: Tracks, limit: float) -> Sign | None:
    """Size of the logarithm of the mean length over that at the beginning; ``limit`` 0.5 is 1.5 times as long, or 1 / 1.5."""
    found = _pair(tracks, "length")
    if found is None or not min(found) > 0:
        return None
    now, begin = found
    size = abs(math.log(now / begin))
    lesson = "short" if now < begin else "long"
    sentence = (
        f"outputs are now {now:.1f} tokens long on average, {begin:.1f} at the beginning:"
        f" the policy may be learning that {lesson} pays"
    )
    return Sign(size, math.log1p(limit), sentence)


def entropy_collapse(tracks: Tracks, limit: float) -> Sign | None:
    """The log of the entropy at the beginning over the present one; ``limit`` is the share that must be left."""
    found = _pair(tracks, "entropy")
    if found is None or not found[1] > 0:
        return None
    now, begin = found
    size = math.log(begin / now) if now > 0 else math.inf
    sentence = (
        f"the policy's entropy is now {now:.3g} nats per token, {begin:.3g} at the beginning:"
        " its samples become alike, and there is little left to learn from"
    )
    return Sign(max(0.0, size), -math.log(limit), sentence)


def kl_acceleration(tracks: Tracks, limit: float, rise: float, growth: float) -> Sign | None:
    """The rise of the KL in the last window over that in the window before.

    The latter counts as large enough that a rise of fewer than ``rise`` nats is within the limit, and so is one of less than
    the share ``growth`` of the level: a KL that goes up and down at a height does not accelerate.
    """
    track = tracks.get("kl")
    levels = [track.level(ago) for ago in range(_WINDOWS)] if track else [None]
    if track is None or any(level is None for level in levels):
        return None
    now, before, first = (float(level or 0.0) for level in levels)
    last, earlier = now - before, before - first
    size = max(0.0, last / max(earlier, rise / limit, growth * before / limit))
    sentence = (
        f"the divergence from the anchor rose by {last:.2f} nats per output within {track.window} steps, to {now:.2f},"
        f" and by {earlier:.2f} in the {track.window} before: the policy is running away"
    )
    return Sign(size, limit, sentence)


def flat_groups(tracks: Tracks, limit: float) -> Sign | None:
    """The share of sample groups whose rewards have no spread."""
    found = _pair(tracks, "flat_groups")
    if found is None:
        return None
    sentence = (
        f"the rewards of {_percent(found[0])} of the sample groups have no spread, of {_percent(found[1])} at the beginning:"
        " these sources teach nothing"
    )
    return Sign(max(0.0, found[0]), limit, sentence)


def unfinished(tracks: Tracks, limit: float) -> Sign | None:
    """The share of outputs that were cut at the length limit."""
    found = _pair(tracks, "finished")
    if found is None:
        return None
    sentence = (
        f"{_percent(1 - found[0])} of the outputs reach the length limit before they end, {_percent(1 - found[1])} at the"
        " beginning: the policy is unlearning to stop, or the limit is too low"
    )
    return Sign(max(0.0, 1 - found[0]), limit, sentence)


def copying(tracks: Tracks, limit: float) -> Sign | None:
    """The rise of the share of an output that is copied from its source."""
    told = (
        "{now} of an output is copied from its source, {begin} at the beginning: the policy may be learning that copying pays"
    )
    return _rise(tracks, "copied", limit, told)


def repetition(tracks: Tracks, limit: float) -> Sign | None:
    """The rise of the share of an output that repeats itself."""
    told = (
        "{now} of an output's pairs of words stood in it before, {begin} at the beginning:"
        " the policy may be learning that repetition pays"
    )
    return _rise(tracks, "repeated", limit, told)


def generic(tracks: Tracks, limit: float) -> Sign | None:
    """The rise of the share of outputs that were written for several sources."""
    told = (
        "{now} of the outputs were written word for word for another source as well, {begin} at the beginning:"
        " the policy may be learning one answer for all"
    )
    return _rise(tracks, "generic", limit, told)


def anchor_nll(tracks: Tracks, limit: float) -> Sign | None:
    """The rise of the negative log-likelihood per token that the anchor gives to the outputs, in nats."""
    found = _pair(tracks, "anchor_nll")
    if found is None:
        return None
    sentence = (
        f"to the anchor a token of the outputs now costs {found[0]:.2f} nats, {found[1]:.2f} at the beginning:"
        " the policy is leaving the language that it was taught"
    )
    return Sign(max(0.0, found[0] - found[1]), limit, sentence)


@dataclass(frozen=True)
class Validated:
    """A validation: its step, the reward, and the held-out figure."""

    step: int
    reward: float
    held_out: float


def held_out_fall(seen: Sequence[Validated], name: str, higher_is_better: bool, smoothing: int, limit: float) -> Sign | None:
    """By what share the held-out figure is worse than at its best, where the reward is higher than it was then; else 0.

    Both are means over ``smoothing`` validations; of the first ones, over as many as there are.
    """
    parts = [seen[max(0, end - smoothing) : end] for end in range(1, len(seen) + 1)]
    smooth = [(fmean(v.reward for v in part), fmean(v.held_out for v in part)) for part in parts]
    sign = 1.0 if higher_is_better else -1.0
    at = max(range(len(smooth)), key=lambda i: (sign * smooth[i][1], -i))
    (then, best), (now, present) = smooth[at], smooth[-1]
    if best == 0:
        return None
    size = sign * (best - present) / abs(best) if now > then else 0.0
    verb = "fell" if higher_is_better else "rose"
    sentence = (
        f"since step {seen[at].step} the reward rose from {then:.4g} to {now:.4g} on validation sources, while {name}, which is"
        f" held out, {verb} from {best:.4g} to {present:.4g}: the policy may be exploiting the reward"
    )
    return Sign(size, limit, sentence)


def _rise(tracks: Tracks, name: str, limit: float, told: str) -> Sign | None:
    found = _pair(tracks, name)
    if found is None:
        return None
    sentence = told.format(now=_percent(found[0]), begin=_percent(found[1]))
    return Sign(max(0.0, found[0] - found[1]), limit, sentence)


def _pair(tracks: Tracks, name: str) -> tuple[float, float] | None:
    return tracks[name].now() if name in tracks else None


def _percent(share: float) -> str:
    """A share, with a decimal where it is small."""
    percent = 100 * share
    return f"{percent:.1f}%" if 0 < abs(percent) < 9.95 else f"{percent:.0f}%"
