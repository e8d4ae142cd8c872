"""Figures over seeds: against scipy's own intervals, and against loops."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from guerdon.errors import InputError
from guerdon.evaluation.seeds import Spread, band, first_reaching, t_interval, welch_interval

_NUMBERS = st.floats(-1e3, 1e3).map(lambda value: round(value, 4))
_SAMPLES = st.lists(_NUMBERS, min_size=2, max_size=8).filter(lambda values: len(set(values)) > 1)


@given(_SAMPLES)
def test_the_interval_of_a_mean_is_scipys(values):
    found = t_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert found.mean == pytest.approx(sum(values) / len(values), abs=1e-9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-8, abs=1e-8)


@given(_SAMPLES, _SAMPLES)
def test_the_interval_of_a_difference_is_welchs(a, b):
    found = welch_interval(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-7, abs=1e-7)
    assert found.low < found.mean < found.high


def test_three_seeds_by_the_table():
    """t(2) at 97.5% is 4.303 in every table of Student's distribution; s of 1, 2, 3 is 1."""
    low, high = t_interval([1.0, 2.0, 3.0])[1:]
    assert (high - low) / 2 == pytest.approx(4.3027 / math.sqrt(3), abs=1e-4)


def test_the_interval_holds_the_mean_of_further_seeds_95_times_in_100():
    drawn = stats.norm(loc=3.0, scale=2.0).rvs(size=(4000, 4), random_state=7)
    held = sum(low <= 3.0 <= high for low, high in (t_interval(list(map(float, row)))[1:] for row in drawn))
    assert 0.94 < held / len(drawn) < 0.96


def test_one_seed_gives_no_interval():
    assert t_interval([0.4]) == Spread(0.4, None, None)
    difference = welch_interval([0.4], [0.1, 0.2])
    assert difference.mean == pytest.approx(0.25)
    assert difference.low is difference.high is None


def test_seeds_that_agree_leave_no_width():
    assert t_interval([2.0, 2.0, 2.0]) == Spread(2.0, 2.0, 2.0)
    assert welch_interval([2.0, 2.0], [1.5, 1.5]) == Spread(0.5, 0.5, 0.5)
    one, both = welch_interval([2.0, 2.0], [1.0, 3.0]), t_interval([1.0, 3.0])
    assert (one.low, one.high) == pytest.approx((2.0 - both.high, 2.0 - both.low))


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf, 2.0]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(InputError, match="no mean"):
        t_interval(values)
    with pytest.raises(InputError, match="no mean"):
        welch_interval([1.0, 2.0], values)


@given(st.lists(st.dictionaries(st.integers(0, 6), _NUMBERS, min_size=1), min_size=1, max_size=5))
def test_a_band_holds_every_curve_where_all_are_known(curves):
    found = band([sorted(curve.items()) for curve in curves])
    shared = [x for x in range(7) if all(x in curve for curve in curves)]
    assert [b.x for b in found] == shared
    for b in found:
        at = [curve[b.x] for curve in curves]
        assert b.low in at
        assert b.high in at
        assert all(b.low <= value <= b.high for value in at)
        assert b.mean == pytest.approx(sum(at) / len(at), abs=1e-9)


def test_no_curve_has_no_band():
    assert band([]) == []


def test_the_first_point_that_reaches_a_target():
    curve = [(0.0, 1.0), (10.0, 3.0), (20.0, 2.0), (30.0, 4.0)]
    assert [first_reaching(curve, target) for target in (0.5, 2.0, 3.0, 3.5, 4.1)] == [0.0, 10.0, 10.0, 30.0, None]
