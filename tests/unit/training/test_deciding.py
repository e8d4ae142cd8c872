"""What is measured before step 1, and what is made of it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from guerdon.errors import CheckpointError, ConfigurationError
from guerdon.training.deciding import Decision, check_rollout_precision, measured


@pytest.mark.parametrize(
    ("float32", "bfloat16", "chosen"),
    [
        ([100.0, 100.0, 100.0], [106.0, 106.0, 106.0], "bfloat16"),
        ([100.0, 100.0, 100.0], [104.0, 104.0, 104.0], "float32"),  # not clearly
        ([100.0, 100.0, 100.0], [90.0, 90.0, 9000.0], "float32"),  # one lucky draw is no median
        ([100.0, 1.0, 100.0], [106.0, 1.0, 106.0], "bfloat16"),  # one slow moment of the machine neither
        ([100.0, 100.0], [50.0, 50.0], "float32"),
    ],
)
def test_bfloat16_is_taken_only_where_its_median_is_clearly_higher(float32: Any, bfloat16: Any, chosen: str) -> None:
    assert Decision.of({"float32": float32, "bfloat16": bfloat16}).chosen == chosen


class Clocked:
    """A draw that takes known times, and keeps what it was asked for."""

    def __init__(self, seconds: dict[str, float], first: float = 0.0) -> None:
        self.seconds, self.first, self.asked = seconds, first, []

    def __call__(self, precision: str) -> int:
        time.sleep(self.seconds[precision] + (self.first if precision not in self.asked else 0.0))
        self.asked.append(precision)
        return 60


def test_each_precision_has_its_turn_and_the_first_of_each_does_not_count() -> None:
    draw = Clocked({"float32": 0.03, "bfloat16": 0.01}, first=0.3)
    rates = measured(draw, rounds=3)
    assert draw.asked == ["float32", "bfloat16"] * 4
    assert {precision: len(found) for precision, found in rates.items()} == {"float32": 3, "bfloat16": 3}
    assert all(rate > 60 / 0.3 for found in rates.values() for rate in found)  # those with the warm-up are slower than this
    assert all(a < b for a, b in zip(rates["float32"], rates["bfloat16"], strict=True))


def test_a_slow_draw_is_not_repeated_without_end() -> None:
    draw = Clocked({"float32": 0.1, "bfloat16": 0.1})
    rates = measured(draw, rounds=50, seconds=0.45)
    assert draw.asked == ["float32", "bfloat16"] * 2  # a third round would end too late
    assert [len(found) for found in rates.values()] == [1, 1]


def test_a_draw_that_is_slower_than_all_the_time_there_is_counts_at_once() -> None:
    draw = Clocked({"float32": 0.1, "bfloat16": 0.05})
    rates = measured(draw, seconds=0.12)
    assert draw.asked == ["float32", "bfloat16"]
    assert [len(found) for found in rates.values()] == [1, 1]


def test_it_survives_a_checkpoint() -> None:
    decision = Decision.of({"float32": [1.5, 2.5], "bfloat16": [3.0]})
    assert Decision.from_plain(decision.plain()) == decision
    assert decision.rates == {"float32": 2.0, "bfloat16": 3.0}
    assert "drawn in bfloat16; measured: 2 in float32" in decision.sentence


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"chosen": "bfloat16"},
        {"chosen": "bfloat16", "rates": {"float32": 1.0}},
        {"chosen": "int8", "rates": {"float32": 1.0, "bfloat16": 2.0}},
        {"chosen": "float32", "rates": {"float32": "fast", "bfloat16": 2.0}},
        {"chosen": "float32", "rates": None},
    ],
)
def test_a_damaged_state_is_told(state: Any) -> None:
    with pytest.raises(CheckpointError, match="precision is damaged"):
        Decision.from_plain(state)


def test_there_is_no_other_precision() -> None:
    with pytest.raises(ConfigurationError, match="choose float32, bfloat16, auto"):
        check_rollout_precision("int8")
