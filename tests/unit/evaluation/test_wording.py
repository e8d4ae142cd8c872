import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.evaluation.wording import (
    between,
    decimals,
    decimals_between,
    decimals_for,
    duration,
    listed,
    number,
    probability,
    short,
    signed,
)


@pytest.mark.parametrize(
    ("half", "places"), [(0.5, 2), (0.047, 3), (1.2, 1), (14, 0), (2500, 0), (1e-9, 4), (0, 2), (math.inf, 2), (math.nan, 2)]
)
def test_two_digits_of_the_uncertainty(half, places):
    assert decimals(half) == places


@pytest.mark.parametrize(
    ("low", "high", "places"),
    [(0.04, 2.7, 2), (-2.7, -0.04, 2), (0.06, 2.7, 1), (0.0, 2.7, 1), (1e-9, 2.7, 4), (0.3, 40.0, 1), (-14.0, 14.0, 0)],
)
def test_an_end_that_is_not_0_is_not_written_as_0_where_four_decimals_can_help(low: float, high: float, places: int):
    assert decimals_between(low, high) == places


def test_a_row_takes_its_median_interval():
    assert decimals_for([(0, 1), (0, 1), (0, 100)]) == 2
    assert decimals_for([(3, 3)]) == decimals_for([]) == 2


def test_numbers():
    assert (number(-1234.5, 1), number(-0.001), number(0.126)) == ("−1,234.5", "0.00", "0.13")
    assert (signed(1.5, 1), signed(-1.5, 1), signed(0), signed(0.001)) == ("+1.5", "−1.5", "0.00", "0.00")
    assert between(-0.2, 1.3, 1) == "[−0.2, +1.3]"


_SHORT = {0: "0", 600: "600", -8.25: "−8.25", 0.001: "0.001", 1e-4: "1e−4", 2.5e7: "2.5e7", 123456: "123,456", 0.9999: "0.9999"}


@pytest.mark.parametrize(("value", "text"), _SHORT.items())
def test_short(value, text):
    assert short(value) == text


@given(st.floats(-1e12, 1e12).filter(lambda value: value == 0 or abs(value) > 1e-12))
def test_short_is_within_its_digits(value):
    read = float(short(value).replace("−", "-").replace(",", ""))
    assert read == pytest.approx(value, rel=0.06)


def test_words():
    assert (probability(0.0004), probability(0.0123)) == ("p < 0.001", "p = 0.012")
    assert [duration(s) for s in (4.2, 59, 99.4, 640, 7260)] == ["4.2 s", "59 s", "99 s", "10 min 40 s", "2 h 01 min"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
