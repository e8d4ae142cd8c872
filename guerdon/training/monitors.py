"""Monitors: they read what reinforcement logs and say, in one plain sentence, when a policy seems to learn what nobody meant.

Each fires once when its sign passes its limit, and again only after it has cleared. They draw nothing and change no weight; a
run that is resumed fires the same alarms at the same steps. `guerdon.training.signs` holds what each measures, and
``docs/monitors.md`` what to do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from guerdon.errors import CheckpointError, ConfigurationError, TrainingError
from guerdon.training import signs
from guerdon.training.figures import check_direction
from guerdon.training.signs import SPREAD, Sign, Track, Tracks, Validated, is_number

_ABOVE = {"length_drift": 0.0, "kl_acceleration": 1.0, "kl_rise": 0.0, "kl_growth": 0.0, "anchor_nll": 0.0}
NOT_FINITE = "not_finite"
_FIGURES = ("length", "entropy", "kl", "flat_groups", "finished", "copied", "repeated", "generic", "anchor_nll")
_SHARES = (
    "dominance", "entropy_collapse", "flat_groups", "unfinished", "held_out_fall", "copying", "repetition", "generic", "clear",
)  # fmt: skip


@dataclass(frozen=True)
class MonitorOptions:
    """What the monitors of reinforcement watch for. A threshold of None turns its monitor off.

    Attributes:
        enabled: whether anything is watched.
        window: steps over which a figure's median is its level; "the beginning" is the level of the first so many steps.
        clear: an alarm that has fired may fire again once its sign has fallen below this share of its limit.
        dominance: the share of the reward's variance that one part may have, as trained on; a share.
        length_drift: how much longer outputs may become than at the beginning, or by how much the beginning's may be longer
            than they; a share (0.35: 1.35 times as many tokens).
        entropy_collapse: the share of the beginning's entropy per token that must be left.
        kl_acceleration: how many times the KL's rise of one window may be that of the window before.
        kl_rise: nats per output; a smaller rise within a window is never an alarm.
        kl_growth: a share of the KL before the window; nor is a smaller rise than this.
        flat_groups: the share of sample groups whose rewards may have no spread.
        unfinished: the share of outputs that may reach the length limit before they end.
        copying: how much more of an output may be copied from its source than at the beginning; a share of its characters.
        repetition: how much more of an output may repeat itself than at the beginning; a share of its pairs of words.
        generic: how many more outputs may be written word for word for several sources than at the beginning; a share of them.
        anchor_nll: how many nats per token the outputs may become less likely to the anchor than at the beginning.
        held_out: a validation figure that is not optimised, e.g. "bleu" or "chrf"; None watches none.
        higher_is_better: the direction of ``held_out``.
        held_out_fall: how much worse ``held_out`` may become than at its best while the reward rises; a share of the best.
        held_out_smoothing: validations over which it and the reward are averaged.
        stop: whether the run stops when ``held_out_fall`` is passed.
    """

    enabled: bool = True
    window: int = 8
    clear: float = 0.8
    dominance: float | None = 0.95
    length_drift: float | None = 0.35
    entropy_collapse: float | None = 0.25
    kl_acceleration: float | None = 2.5
    kl_rise: float = 3.0
    kl_growth: float = 0.5
    flat_groups: float | None = 0.5
    unfinished: float | None = 0.2
    copying: float | None = 0.2
    repetition: float | None = 0.1
    generic: float | None = 0.2
    anchor_nll: float | None = 0.7
    held_out: str | None = None
    higher_is_better: bool = True
    held_out_fall: float | None = 0.05
    held_out_smoothing: int = 2
    stop: bool = False

    def __post_init__(self) -> None:
        for name in _SHARES:
            value = getattr(self, name)
            if value is not None and not 0.0 < value < 1.0:
                raise _refused(name, f"{value} is not a share", "give a number between 0 and 1")
        for name, least in _ABOVE.items():
            value = getattr(self, name)
            if value is not None and not least < value < math.inf:
                raise _refused(name, f"{value} is no threshold", f"give more than {least:g}")
        for name in ("window", "held_out_smoothing"):
            if getattr(self, name) < 1:
                raise _refused(name, f"{getattr(self, name)} is too few", "give at least 1")
        self._check_held_out()

    def _check_held_out(self) -> None:
        name = self.held_out
        if name is not None and (name == "reward" or name.startswith("reward/")):
            raise _refused("held_out", f"{name} is what is optimised", "name a figure that is not, e.g. bleu or chrf")
        if name is not None:
            check_direction(name, self.higher_is_better, "reinforce.monitors.higher_is_better")
        if self.stop and (name is None or self.held_out_fall is None or not self.enabled):
            raise _refused("stop", "nothing would stop the run", "name held_out, and leave held_out_fall and enabled on")


def _refused(name: str, what: str, cure: str) -> ConfigurationError:
    return ConfigurationError(what, where=f"reinforce.monitors.{name}", cure=cure)


@dataclass(frozen=True)
class Alarm:
    """What a monitor says: which one, at which step, and one sentence with the numbers."""

    monitor: str
    step: int
    sentence: str


_Measure = Callable[[Tracks, float], Sign | None]
_OF_STEPS: dict[str, _Measure] = {
    "dominance": signs.dominance,
    "length_drift": signs.length_drift,
    "entropy_collapse": signs.entropy_collapse,
    "flat_groups": signs.flat_groups,
    "unfinished": signs.unfinished,
    "copying": signs.copying,
    "repetition": signs.repetition,
    "generic": signs.generic,
    "anchor_nll": signs.anchor_nll,
}
MONITORS = (*_OF_STEPS, "kl_acceleration", "held_out_fall", NOT_FINITE)


class Monitors:
    """Follows the figures of one stage.

    Figures that it knows are followed where they are logged: those of steps in training (``spread/<part>``, ``length``,
    ``entropy``, ``kl``, ``flat_groups``, ``finished``, ``copied``, ``repeated``, ``generic``, ``anchor_nll``), and ``reward``
    beside the held-out figure in validation.
    """

    def __init__(self, options: MonitorOptions) -> None:
        self.options = options
        self.tracks: dict[str, Track] = {}
        self.validations: list[Validated] = []
        self.standing: set[str] = set()  # the monitors that have fired and not cleared
        self._stop_reason: str | None = None

    @property
    def stop_reason(self) -> str | None:
        """Why the run should stop; None where it should go on."""
        return self._stop_reason

    def observe(self, step: int, kind: Literal["train", "validation"], figures: Mapping[str, float]) -> list[Alarm]:
        """Takes in what was logged of a step or of a validation.

        Returns:
            The alarms that this raises, most often none.

        Raises:
            TrainingError: when validation does not measure the held-out figure.
        """
        found = self.read(step, kind, figures)
        return [Alarm(name, step, sign.sentence) for name, sign in found.items() if self._fires(name, sign)]

    def read(self, step: int, kind: Literal["train", "validation"], figures: Mapping[str, float]) -> dict[str, Sign]:
        """Takes in the figures as `observe` does, and returns each monitor's sign, whether it fires or not."""
        if not self.options.enabled:
            return {}
        return self._of_step(figures) if kind == "train" else self._of_validation(step, figures)

    def _of_step(self, figures: Mapping[str, float]) -> dict[str, Sign]:
        options = self.options
        watched = {name: value for name, value in figures.items() if name in _FIGURES or name.startswith(SPREAD)}
        finite = {name: value for name, value in watched.items() if math.isfinite(value)}
        for name, value in finite.items():
            self.tracks.setdefault(name, Track(options.window)).add(value)
        found: dict[str, Sign | None] = {NOT_FINITE: _not_finite(watched)}
        for name, measure in _OF_STEPS.items():
            limit = getattr(options, name)
            found[name] = None if limit is None else measure(self.tracks, limit)
        if options.kl_acceleration is not None:
            kl = (options.kl_acceleration, options.kl_rise, options.kl_growth)
            found["kl_acceleration"] = signs.kl_acceleration(self.tracks, *kl)
        return {name: sign for name, sign in found.items() if sign is not None}

    def _of_validation(self, step: int, figures: Mapping[str, float]) -> dict[str, Sign]:
        options = self.options
        if options.held_out is None or options.held_out_fall is None:
            return {}
        pair = {name: figures.get(name) for name in ("reward", options.held_out)}
        reward, held_out = pair.values()
        if reward is None or held_out is None:
            raise TrainingError(
                f"validation does not measure {options.held_out!r} (it gave: {', '.join(figures)})",
                where=f"reinforce.monitors.held_out, step {step}",
                cure="name a figure that it measures, or give the validation records references",
            )
        if not (math.isfinite(reward) and math.isfinite(held_out)):
            return {NOT_FINITE: _not_finite({"reward": reward, options.held_out: held_out})}
        self.validations.append(Validated(step, reward, held_out))
        sign = signs.held_out_fall(
            self.validations, options.held_out, options.higher_is_better, options.held_out_smoothing, options.held_out_fall
        )
        return {} if sign is None else {"held_out_fall": sign}

    def _fires(self, name: str, sign: Sign) -> bool:
        """Whether this is the moment at which a monitor fires."""
        if name in self.standing:
            if sign.size < self.options.clear * sign.limit:
                self.standing.discard(name)
            return False
        if not sign.size > sign.limit:
            return False
        self.standing.add(name)
        if name == "held_out_fall" and self.options.stop:
            self._stop_reason = f"the reward rises while {self.options.held_out}, which is held out, gets worse"
        return True

    # --- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """JSON values, which hold every number exactly."""
        return {
            "tracks": {name: track.state_dict() for name, track in self.tracks.items()},
            "validations": [[v.step, v.reward, v.held_out] for v in self.validations],
            "standing": sorted(self.standing),
            "stop_reason": self._stop_reason,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave.

        Raises:
            CheckpointError: when it is something else.
        """
        try:
            tracks = {str(name): Track(self.options.window) for name in state["tracks"]}
            for name, track in tracks.items():
                track.load_state_dict(state["tracks"][name])
            rows, standing, reason = state["validations"], set(state["standing"]), state["stop_reason"]
            if not all(len(row) == 3 and all(map(is_number, row)) for row in rows):
                raise CheckpointError(f"the monitors' validations are impossible: {rows}")
            if not standing <= set(MONITORS) or not isinstance(reason, str | None):
                raise CheckpointError(f"the monitors' alarms are impossible: {sorted(standing)}, {reason!r}")
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the monitors' state is damaged ({error})") from error
        self.tracks, self.standing, self._stop_reason = tracks, standing, reason
        self.validations = [Validated(int(step), reward, held_out) for step, reward, held_out in rows]


def _not_finite(figures: Mapping[str, float]) -> Sign:
    """Fires where a figure that is followed is no number; it is left out of the levels."""
    broken = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
    return Sign(float(bool(broken)), 0.5, f"{', '.join(broken)}: what the policy learns from is no longer a number")
