"""The monitors on streams of figures made by hand: what must fire, once, and what must not."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.errors import CheckpointError, ConfigurationError, TrainingError
from guerdon.training.monitors import MONITORS, Alarm, MonitorOptions, Monitors

Stream = Sequence[tuple[int, str, Mapping[str, float]]]
STEPS, EVERY = 120, 15


def drifting(**towards: float) -> Callable[[int], dict[str, float]]:
    """Healthy figures, some of which go in a straight line to another value at the last step."""
    begin = {
        "spread/bleu": 0.6, "spread/similarity": 0.3, "length": 24.0, "entropy": 1.1, "flat_groups": 0.05, "finished": 0.99,
        "copied": 0.2, "repeated": 0.02, "generic": 0.01, "anchor_nll": 1.0,
    }  # fmt: skip

    def at(step: int) -> dict[str, float]:
        return {name: value + (towards.get(name, value) - value) * step / STEPS for name, value in begin.items()}

    return at


HEALTHY = drifting()


def stream(
    at: Callable[[int], dict[str, float]] = HEALTHY, kl: Callable[[int], float] = lambda step: 0.02 * step,
    held_out: Callable[[int], float] = lambda step: 66 + step / 60, noise: float = 0.0, seed: int = 0,
) -> Stream:  # fmt: skip
    """What the loop would show: every step, and a validation every fifteen; ``noise`` is a relative standard deviation."""
    drawn = random.Random(seed)

    def shaken(value: float) -> float:
        return value * (1 + drawn.gauss(0, noise))

    rows: list[tuple[int, str, Mapping[str, float]]] = []
    for step in range(STEPS + 1):
        if step:
            rows.append((step, "train", {name: shaken(value) for name, value in {**at(step), "kl": kl(step)}.items()}))
        if step % EVERY == 0:
            rows.append((step, "validation", {"reward": 0.3 + step / 1000, "bleu": shaken(held_out(step)), "length": 22.0}))
    return rows


def run(rows: Stream, monitors: Monitors | None = None, **options: object) -> list[Alarm]:
    monitors = monitors or Monitors(MonitorOptions(**{"held_out": "bleu", **options}))
    return [alarm for step, kind, figures in rows for alarm in monitors.observe(step, kind, figures)]


# --- what must fire, and what must not

BAD: dict[str, Stream] = {
    "dominance": stream(drifting(**{"spread/similarity": 0.02})),
    "length_drift": stream(drifting(length=5.0)),
    "entropy_collapse": stream(drifting(entropy=0.05)),
    "kl_acceleration": stream(kl=lambda step: 25 / (1 + math.exp((60 - step) / 4))),
    "flat_groups": stream(drifting(flat_groups=0.9)),
    "unfinished": stream(drifting(finished=0.5)),
    "copying": stream(drifting(copied=0.9)),
    "repetition": stream(drifting(repeated=0.5)),
    "generic": stream(drifting(generic=0.9)),
    "anchor_nll": stream(drifting(anchor_nll=4.0)),
    "held_out_fall": stream(held_out=lambda step: 66 - step / 4),
    "not_finite": [(step, kind, {**row, **({"kl": math.nan} if step == 40 else {})}) for step, kind, row in stream()],
}


def test_every_monitor_has_a_stream() -> None:
    assert set(BAD) == set(MONITORS)


@pytest.mark.parametrize("name", BAD)
def test_each_fires_once_and_alone(name: str) -> None:
    alarms = run(BAD[name])
    assert [alarm.monitor for alarm in alarms] == [name]
    assert 1 < alarms[0].step <= STEPS
    assert "\n" not in alarms[0].sentence
    assert any(letter.isdigit() or letter == "n" for letter in alarms[0].sentence)


@pytest.mark.parametrize("name", [name for name in BAD if name != "not_finite"])
def test_a_threshold_of_none_turns_it_off(name: str) -> None:
    assert run(BAD[name], **{name: None}) == []


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_watched_where_nothing_is_enabled(name: str) -> None:
    assert run(BAD[name], enabled=False) == []


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_healthy_noise_does_not_fire(seed: int) -> None:
    """Figures of a batch shake by several percent; a healthy policy becomes shorter and surer, and leaves its anchor."""
    better = drifting(length=21.0, entropy=0.6, copied=0.24, anchor_nll=0.8, flat_groups=0.2)
    assert run(stream(better, noise=0.05, held_out=lambda step: 66.0, seed=seed), held_out=None) == []
    assert run(stream(better, noise=0.01, seed=seed)) == []


@pytest.mark.parametrize("name", [name for name in BAD if name not in ("not_finite", "held_out_fall")])
def test_one_odd_step_does_not_fire(name: str) -> None:
    worst = {key: value for key, value in BAD[name][-2][2].items() if key != "kl"}
    rows = [(step, kind, {**row, **(worst if kind == "train" and step % 20 == 0 else {})}) for step, kind, row in stream()]
    assert run(rows) == []


def test_the_numbers_are_in_the_sentence() -> None:
    alarm = run([(step, "train", {"length": 21.3 if step < 20 else 5.1}) for step in range(1, 60)], window=7, held_out=None)[0]
    assert alarm == Alarm(
        "length_drift",
        alarm.step,
        "outputs are now 5.1 tokens long on average, 21.3 at the beginning: the policy may be learning that short pays",
    )
    assert alarm.step == 23  # the fourth short one of seven


def test_it_fires_again_only_after_it_has_cleared() -> None:
    """Shares of 0.6 and 0.45 around a threshold of 0.5 with clear 0.8: 0.45 does not clear, 0.1 does."""
    levels = [0.1] * 10 + [0.6] * 10 + [0.45] * 10 + [0.6] * 10 + [0.1] * 10 + [0.6] * 10
    rows = [(step, "train", {"flat_groups": level}) for step, level in enumerate(levels, 1)]
    steps = [alarm.step for alarm in run(rows, held_out=None, window=3)]
    assert steps == [12, 52]
    assert [alarm.step for alarm in run(rows, held_out=None, window=3, clear=0.95)] == [12, 32, 52]


def test_what_is_not_finite_is_said_and_kept_out_of_the_levels() -> None:
    rows = [(step, "train", {"length": 20.0, "kl": math.inf if step in (5, 6, 30) else 0.1}) for step in range(1, 40)]
    monitors = Monitors(MonitorOptions())
    alarms = run(rows, monitors)
    assert [(alarm.monitor, alarm.step) for alarm in alarms] == [("not_finite", 5), ("not_finite", 30)]
    assert alarms[0].sentence.startswith("kl is inf: ")
    assert len(monitors.tracks["kl"].last) == 24
    assert monitors.tracks["kl"].level() == 0.1
    broken = [(0, "validation", {"reward": 0.1, "bleu": 60.0}), (5, "validation", {"reward": math.nan, "bleu": 50.0})]
    assert [alarm.monitor for alarm in run(broken)] == ["not_finite"]


def test_figures_that_are_not_logged_are_not_missed() -> None:
    rows = [(step, "train", {"loss": 9.0 * step, "reward": 0.1, "advantage_std": 0.0}) for step in range(1, 60)]
    assert run(rows, held_out=None) == []


# --- held out


def test_it_asks_to_stop_only_where_it_was_told_to() -> None:
    for stop in (False, True):
        monitors = Monitors(MonitorOptions(held_out="bleu", stop=stop))
        alarms = run(BAD["held_out_fall"], monitors)
        assert len(alarms) == 1
        assert (monitors.stop_reason is not None) == stop
    assert "bleu" in str(monitors.stop_reason)
    healthy = Monitors(MonitorOptions(held_out="bleu", stop=True))
    assert run(stream(), healthy) == []
    assert healthy.stop_reason is None


def test_other_alarms_do_not_stop() -> None:
    monitors = Monitors(MonitorOptions(held_out="bleu", stop=True))
    assert run(BAD["length_drift"], monitors)
    assert monitors.stop_reason is None


def test_a_held_out_figure_that_nobody_measures_stops_with_one_clear_line() -> None:
    with pytest.raises(TrainingError, match=r"step 0: validation does not measure 'chrf' \(it gave: reward, bleu") as caught:
        run(stream(), held_out="chrf")
    assert "\n" not in str(caught.value)


# --- resuming


@pytest.mark.parametrize("name", BAD)
def test_taken_up_at_any_step_it_raises_the_same_alarms(name: str) -> None:
    rows = BAD[name]
    options = MonitorOptions(held_out="bleu", stop=True)
    whole = Monitors(options)
    expected = run(rows, whole)
    for cut in range(0, len(rows), 7):
        first = Monitors(options)
        alarms = run(rows[:cut], first)
        second = Monitors(options)
        second.load_state_dict(json.loads(json.dumps(first.state_dict(), allow_nan=False)))
        assert alarms + run(rows[cut:], second) == expected
        assert second.state_dict() == whole.state_dict()
        assert second.stop_reason == whole.stop_reason


@given(
    st.lists(st.tuples(st.floats(0.1, 99), st.floats(-9, 99), st.floats(0, 1)), max_size=60),
    st.integers(0, 60),
    st.integers(1, 6),
)
@settings(max_examples=60)
def test_taken_up_amid_any_stream_it_raises_the_same_alarms(values: list, cut: int, window: int) -> None:
    rows: list[tuple[int, str, dict[str, float]]] = []
    for step, (length, kl, share) in enumerate(values, 1):
        rows.append(
            (
                step,
                "train",
                {"length": length, "kl": kl, "entropy": share, "flat_groups": share, "spread/a": length, "spread/b": kl},
            )
        )
        if step % 4 == 0:
            rows.append((step, "validation", {"reward": kl, "chrf": length}))
    options = MonitorOptions(window=window, held_out="chrf", stop=True)
    first, second = Monitors(options), Monitors(options)
    alarms = run(rows[:cut], first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert alarms + run(rows[cut:], second) == run(rows, Monitors(options))


STATE = {
    "tracks": {"kl": {"begin": None, "last": [1.0]}},
    "validations": [[0, 0.1, 60.0]],
    "standing": ["copying"],
    "stop_reason": None,
}


@pytest.mark.parametrize(
    "change",
    [
        {"tracks": {"kl": {"begin": None}}},
        {"tracks": {"kl": {"begin": None, "last": ["1"]}}},
        {"tracks": {"kl": 3}},
        {"tracks": 3},
        {"validations": [[0, 0.1]]},
        {"validations": [[0, 0.1, math.nan]]},
        {"validations": [[0, "0.1", 1.0]]},
        {"validations": 3},
        {"standing": ["nonsense"]},
        {"standing": None},
        {"stop_reason": 3},
    ],
)
def test_a_damaged_state_is_refused_and_nothing_is_changed(change: dict) -> None:
    monitors = Monitors(MonitorOptions())
    monitors.load_state_dict(STATE)
    assert monitors.state_dict() == STATE
    with pytest.raises(CheckpointError):
        monitors.load_state_dict({**STATE, **change})
    assert monitors.state_dict() == STATE
    for name in STATE:
        with pytest.raises(CheckpointError):
            monitors.load_state_dict({key: value for key, value in STATE.items() if key != name})


# --- options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"window": 0}, "window"),
        ({"held_out_smoothing": 0}, "held_out_smoothing"),
        ({"clear": 0.0}, "clear"),
        ({"dominance": 1.5}, "dominance"),
        ({"flat_groups": -0.1}, "flat_groups"),
        ({"unfinished": math.nan}, "unfinished"),
        ({"entropy_collapse": 1.0}, "entropy_collapse"),
        ({"length_drift": 0.0}, "length_drift"),
        ({"length_drift": math.inf}, "length_drift"),
        ({"kl_acceleration": 1.0}, "kl_acceleration"),
        ({"kl_rise": -1.0}, "kl_rise"),
        ({"kl_growth": 0.0}, "kl_growth"),
        ({"anchor_nll": 0.0}, "anchor_nll"),
        ({"held_out": "reward"}, "held_out.*what is optimised"),
        ({"held_out": "reward/bleu"}, "held_out.*what is optimised"),
        ({"held_out": "bleu", "higher_is_better": False}, "higher_is_better.*worst bleu"),
        ({"held_out": "nll"}, "higher_is_better.*worst nll"),
        ({"stop": True}, "stop.*nothing would stop"),
        ({"stop": True, "held_out": "bleu", "held_out_fall": None}, "stop"),
        ({"stop": True, "held_out": "bleu", "enabled": False}, "stop"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=f"reinforce.monitors.{named}") as caught:
        MonitorOptions(**options)
    assert "\n" not in str(caught.value)


def test_each_monitor_but_one_is_a_threshold_of_its_name() -> None:
    assert {field.name for field in fields(MonitorOptions)} >= set(MONITORS) - {"not_finite"}
    assert replace(MonitorOptions(), held_out="ter", higher_is_better=False).held_out == "ter"
