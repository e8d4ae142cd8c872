"""The signs, each against numbers worked out by hand."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import CheckpointError
from guerdon.training import signs
from guerdon.training.signs import Track, Validated


def track(values: list[float], window: int = 3) -> Track:
    made = Track(window)
    for value in values:
        made.add(value)
    return made


def of(window: int = 3, **figures: list[float]) -> dict[str, Track]:
    return {name.replace("__", "/"): track(values, window) for name, values in figures.items()}


# --- levels


@given(st.lists(st.floats(-1e6, 1e6), max_size=30), st.integers(1, 5))
def test_levels_are_medians_of_windows(values: list[float], window: int) -> None:
    made = track(values, window)
    for ago in range(3):
        end = len(values) - ago * window
        assert made.level(ago) == (statistics.median(values[end - window : end]) if end >= window else None)
    assert made.begin == (statistics.median(values[:window]) if len(values) >= window else None)
    assert len(made.last) <= 3 * window


@given(st.lists(st.floats(-1e300, 1e300), max_size=20), st.integers(1, 4))  # a median of two sums them
def test_a_track_is_restored(values: list[float], window: int) -> None:
    made, again = track(values, window), Track(window)
    again.load_state_dict(made.state_dict())
    assert again == made


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"begin": None, "last": "12"},
        {"begin": None, "last": [1.0, None]},
        {"begin": None, "last": [1.0, True]},
        {"begin": None, "last": [math.nan]},
        {"begin": math.inf, "last": [1.0, 2.0, 3.0]},
        {"begin": None, "last": [1.0, 2.0, 3.0]},  # a full window has a beginning
        {"begin": 1.0, "last": [1.0, 2.0]},
        {"begin": 1.0, "last": [1.0] * 10},  # more than three windows
    ],
)
def test_a_damaged_track_is_refused(state: dict) -> None:
    with pytest.raises(CheckpointError):
        Track(3).load_state_dict(state)


def test_nothing_is_said_before_the_first_window_is_full() -> None:
    names = (
        "length",
        "entropy",
        "flat_groups",
        "finished",
        "copied",
        "repeated",
        "generic",
        "anchor_nll",
        "spread__a",
        "spread__b",
    )
    short = of(**{name: [0.5, 9.0] for name in names})
    for measure in (
        signs.length_drift, signs.entropy_collapse, signs.flat_groups, signs.unfinished, signs.copying, signs.repetition,
        signs.generic, signs.anchor_nll, signs.dominance,
    ):  # fmt: skip
        assert measure(short, 0.1) is None
        assert measure({}, 0.1) is None
    assert signs.kl_acceleration(of(kl=[1.0] * 8), 3.0, 1.0, 0.5) is None
    assert signs.kl_acceleration({}, 3.0, 1.0, 0.5) is None


# --- sizes by hand


def test_dominance_by_hand() -> None:
    """Variances 9, 1 and 0: nine tenths."""
    sign = signs.dominance(of(spread__bleu=[3.0, 3.0, 100.0], spread__rare=[0.0] * 3, spread__similarity=[1.0] * 3), 0.8)
    assert sign.size == pytest.approx(0.9)
    assert sign.limit == 0.8
    assert "the reward part bleu makes 90% of the variance" in sign.sentence
    assert "(similarity 10%, rare 0%)" in sign.sentence


def test_one_part_cannot_dominate_and_no_variance_has_no_share() -> None:
    assert signs.dominance(of(spread__a=[1.0] * 3), 0.8) is None
    assert signs.dominance(of(spread__a=[0.0] * 3, spread__b=[0.0] * 3), 0.8) is None


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=5), st.floats(1e-3, 1e3))
def test_dominance_does_not_depend_on_the_scale(levels: list[float], scale: float) -> None:
    one = signs.dominance(of(**{f"spread__{i}": [level] * 3 for i, level in enumerate(levels)}), 0.9)
    other = signs.dominance(of(**{f"spread__{i}": [level * scale] * 3 for i, level in enumerate(levels)}), 0.9)
    assert other.size == pytest.approx(one.size)
    assert one.size == pytest.approx(max(v * v for v in levels) / sum(v * v for v in levels))


@pytest.mark.parametrize(("now", "lesson"), [(30.0, "long"), (13.333333333333334, "short")])
def test_length_drift_is_the_same_both_ways(now: float, lesson: str) -> None:
    """20 tokens, then 1.5 times as many or as few: a drift of one half."""
    sign = signs.length_drift(of(length=[20.0, 20.0, 90.0, now, now, now]), 0.5)
    assert sign.size == pytest.approx(sign.limit)
    assert f"outputs are now {now:.1f} tokens long on average, 20.0 at the beginning" in sign.sentence
    assert f"that {lesson} pays" in sign.sentence


def test_entropy_by_hand() -> None:
    quarter = signs.entropy_collapse(of(entropy=[1.2] * 3 + [0.3] * 3), 0.25)
    assert quarter.size == pytest.approx(quarter.limit)
    assert "now 0.3 nats per token, 1.2 at the beginning" in quarter.sentence
    assert signs.entropy_collapse(of(entropy=[1.0] * 3 + [2.0] * 3), 0.25).size == 0.0
    gone = signs.entropy_collapse(of(entropy=[1.0] * 3 + [0.0] * 3), 0.25)
    assert gone.size == math.inf
    assert signs.entropy_collapse(of(entropy=[0.0] * 6), 0.25) is None


def test_kl_acceleration_by_hand() -> None:
    """Levels 0, 1 and 5: a rise of 4 after one of 1."""
    kl = [0.0] * 3 + [1.0] * 3 + [5.0] * 3
    sign = signs.kl_acceleration(of(kl=kl), 3.0, 2.0, 0.5)
    assert (sign.size, sign.limit) == (4.0, 3.0)
    assert "rose by 4.00 nats per output within 3 steps, to 5.00, and by 1.00 in the 3 before" in sign.sentence
    assert signs.kl_acceleration(of(kl=kl), 3.0, 6.0, 0.5).size == 2.0  # the earlier rise counts as 6 / 3
    assert signs.kl_acceleration(of(kl=kl[::-1]), 3.0, 2.0, 0.5).size == 0.0


def test_a_kl_that_goes_up_and_down_at_a_height_does_not_accelerate() -> None:
    """70, 69, 74: a rise of 5 after none is less than half of 69, and that counts as 34.5 / 3."""
    kl = [70.0] * 3 + [69.0] * 3 + [74.0] * 3
    assert signs.kl_acceleration(of(kl=kl), 3.0, 2.0, 0.5).size == pytest.approx(5 / 11.5)
    assert signs.kl_acceleration(of(kl=kl), 3.0, 2.0, 0.01).size == pytest.approx(5 / (2 / 3))


@given(st.floats(0.01, 50), st.integers(2, 8))
def test_a_kl_that_grows_with_the_square_of_the_steps_does_not_accelerate(rate: float, window: int) -> None:
    """A policy that moves at one speed: KL ~ t², whose rises over windows in a row are about as 2 to 1."""
    for steps in range(3 * window, 12 * window):
        sign = signs.kl_acceleration(of(window, kl=[rate * t * t for t in range(steps)]), 3.0, 0.01, 0.01)
        assert sign.size <= 2.5


def test_shares_by_hand() -> None:
    flat = signs.flat_groups(of(flat_groups=[0.125] * 3 + [0.75] * 3), 0.5)
    assert (flat.size, flat.limit) == (0.75, 0.5)
    assert "of 75% of the sample groups have no spread, of 12% at the beginning" in flat.sentence
    cut = signs.unfinished(of(finished=[1.0] * 3 + [0.69] * 3), 0.2)
    assert cut.size == pytest.approx(0.31)
    assert "31% of the outputs reach the length limit before they end, 0% at the beginning" in cut.sentence


@pytest.mark.parametrize(
    ("measure", "figure", "words"),
    [
        (signs.copying, "copied", "80% of an output is copied from its source, 5.0% at the beginning"),
        (signs.repetition, "repeated", "80% of an output's pairs of words stood in it before, 5.0% at the beginning"),
        (signs.generic, "generic", "80% of the outputs were written word for word for another source as well, 5.0%"),
        (signs.anchor_nll, "anchor_nll", "a token of the outputs now costs 0.80 nats, 0.05 at the beginning"),
    ],
)
def test_rises_by_hand(measure: object, figure: str, words: str) -> None:
    sign = measure(of(**{figure: [0.05] * 3 + [0.8] * 3}), 0.2)
    assert sign.size == pytest.approx(0.75)
    assert words in sign.sentence
    assert measure(of(**{figure: [0.8] * 3 + [0.05] * 3}), 0.2).size == 0.0


# --- held out


def seen(*pairs: tuple[float, float]) -> list[Validated]:
    return [Validated(10 * i, reward, held_out) for i, (reward, held_out) in enumerate(pairs)]


def test_a_held_out_figure_that_falls_from_its_best_while_the_reward_rises() -> None:
    found = signs.held_out_fall(seen((0.1, 50.0), (0.2, 60.0), (0.3, 45.0)), "bleu", True, 1, 0.1)
    assert found.size == pytest.approx(0.25)
    assert "since step 10 the reward rose from 0.2 to 0.3" in found.sentence
    assert "bleu, which is held out, fell from 60 to 45" in found.sentence


def test_both_falling_is_another_trouble() -> None:
    assert signs.held_out_fall(seen((0.2, 60.0), (0.1, 30.0)), "bleu", True, 1, 0.1).size == 0.0
    assert signs.held_out_fall(seen((0.2, 60.0), (0.2, 30.0)), "bleu", True, 1, 0.1).size == 0.0


def test_smaller_may_be_better() -> None:
    found = signs.held_out_fall(seen((0.1, 2.0), (0.2, 3.0)), "ter", False, 1, 0.1)
    assert found.size == pytest.approx(0.5)
    assert "rose from 2 to 3" in found.sentence
    assert signs.held_out_fall(seen((0.1, 3.0), (0.2, 2.0)), "ter", False, 1, 0.1).size == 0.0


def test_smoothing_takes_means_of_what_there_is() -> None:
    """Held out 50, 60, 40, 50: means of two 50, 55, 50, 45; the best is the second."""
    found = signs.held_out_fall(seen((0.1, 50.0), (0.2, 60.0), (0.3, 40.0), (0.4, 50.0)), "bleu", True, 2, 0.1)
    assert found.size == pytest.approx(10 / 55)
    assert "rose from 0.15 to 0.35" in found.sentence


def test_of_equal_bests_the_earlier_one_counts() -> None:
    found = signs.held_out_fall(seen((0.1, 60.0), (0.3, 60.0), (0.2, 40.0)), "bleu", True, 1, 0.1)
    assert found.size == pytest.approx(1 / 3)
    assert "since step 0" in found.sentence


def test_a_best_of_zero_has_no_share() -> None:
    assert signs.held_out_fall(seen((0.1, 0.0), (0.2, 0.0)), "bleu", True, 1, 0.1) is None


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.floats(1, 100)), min_size=1, max_size=10),
    st.sampled_from([0.25, 2.0, 1024.0]),
    st.sampled_from([-8.0, 0.0, 16.0]),
    st.integers(1, 3),
)
def test_the_held_out_fall_depends_on_no_scale(pairs: list, scale: float, shift: float, smoothing: int) -> None:
    """Rewards have no zero and no unit, and a share of a figure has no unit either."""
    rounded = [(round(reward, 2), held_out) for reward, held_out in pairs]
    one = signs.held_out_fall(seen(*rounded), "x", True, smoothing, 0.1)
    other = signs.held_out_fall(seen(*((r * scale, h * scale) for r, h in rounded)), "x", True, smoothing, 0.1)
    assert other.size == pytest.approx(one.size)
    if smoothing == 1:  # a sum of shifted rewards rounds otherwise
        moved = signs.held_out_fall(seen(*((r + shift, h) for r, h in rounded)), "x", True, 1, 0.1)
        assert moved.size == pytest.approx(one.size)
