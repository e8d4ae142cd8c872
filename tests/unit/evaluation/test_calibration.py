"""Calibration: known temperatures and errors, float loops, and that no pair helps to fit its own temperature."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data.selection import folds_of
from guerdon.errors import InputError
from guerdon.evaluation.calibration import (
    calibration,
    chance_error,
    cross_fitted,
    equal_mass,
    error_interval,
    fitted_temperature,
    log_loss,
    probabilities,
)
from guerdon.evaluation.folds import sums_by_source


def made(n, temperature, seed=0):
    """Margins whose chance to be positive is that of sigma(|margin| / temperature)."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(size=n)) * 3
    right = rng.random(n) < 1 / (1 + np.exp(-size / temperature))
    return np.where(right, size, -size)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    assert fitted_temperature(made(40_000, temperature)) == pytest.approx(temperature, rel=0.06)


@given(st.lists(st.floats(-5, 5).filter(lambda x: abs(x) > 1e-3), min_size=3, max_size=30), st.floats(0.01, 1000))
def test_the_temperature_follows_the_scale_and_is_a_minimum(margins, scale):
    given_ = np.array(margins)
    fitted = fitted_temperature(given_)
    scaled = fitted_temperature(scale * given_)  # where the loss is flat, another T may be found that is as good
    assert log_loss(scale * given_, scaled) == pytest.approx(log_loss(given_, fitted), abs=1e-6)
    size = float(np.sqrt(np.mean(given_**2)))
    for other in np.exp(np.linspace(-8, 12, 200)) * size:
        assert log_loss(given_, fitted) <= log_loss(given_, float(other)) + 1e-6


def test_margins_that_say_nothing_or_the_contrary():
    assert fitted_temperature(np.zeros(5)) == 1.0
    against = fitted_temperature(-np.ones(5))
    assert probabilities(-np.ones(5), against).tolist() == pytest.approx([0.5] * 5, abs=1e-4)
    agreeing = fitted_temperature(np.ones(5))
    assert probabilities(np.ones(5), agreeing).min() > 0.999


def test_log_loss_and_probabilities_are_those_of_the_formula():
    margins = np.array([0.3, -2.0, 0.0])
    assert log_loss(margins, 0.5) == pytest.approx(sum(math.log(1 + math.exp(-m / 0.5)) for m in margins) / 3)
    assert probabilities(margins, 0.5).tolist() == pytest.approx([1 / (1 + math.exp(-m / 0.5)) for m in margins])


def test_no_pair_helps_to_fit_its_own_temperature():
    margins, sources = made(200, 1.0), [f"s{i % 20}" for i in range(200)]
    fitted = cross_fitted(margins, sources, 5, 1)
    fold = folds_of(sources, 5, 1)
    changed = margins.copy()
    changed[fold == 2] *= -10
    again = cross_fitted(changed, sources, 5, 1)
    assert again[fold == 2].tolist() == fitted[fold == 2].tolist()
    assert (again[fold != 2] != fitted[fold != 2]).all()
    assert fitted[fold == 2][0] == fitted_temperature(margins[fold != 2])


@given(st.lists(st.sampled_from("abcdefg"), min_size=2, max_size=30).filter(lambda s: len(set(s)) > 1), st.integers(2, 7))
def test_folds_keep_sources_whole_and_even(sources, folds):
    if folds > len(set(sources)):
        with pytest.raises(InputError, match="cannot be cut into"):
            folds_of(sources, folds, 1)
        return
    fold = folds_of(sources, folds, 1)
    own = {source: {int(f) for s, f in zip(sources, fold, strict=True) if s == source} for source in sources}
    assert all(len(found) == 1 for found in own.values())
    sizes = [sum(found == {number} for found in own.values()) for number in range(folds)]
    assert max(sizes) - min(sizes) <= 1
    assert folds_of(sources[::-1], folds, 1).tolist() == fold.tolist()[::-1]


def test_sums_by_source():
    values = np.array([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0]])
    assert sums_by_source(["b", "a", "b"], values).tolist() == [[5.0, 2.0], [2.0, 1.0]]


@given(st.lists(st.floats(0.5, 1), min_size=1, max_size=40), st.integers(2, 12))
def test_bins_have_equal_mass_and_are_ordered(values, bins):
    places = equal_mass(np.array(values), bins)
    counts = np.bincount(places)
    assert len(counts) == min(bins, len(values))
    assert counts.max() - counts.min() <= 1
    for place in range(len(counts) - 1):
        assert max(np.array(values)[places == place]) <= min(np.array(values)[places == place + 1])


def by_loop(margins, temperature, bins):
    """ECE and Brier score, pair by pair."""
    confidences = [(max(p, 1 - p), (m > 0) + (m == 0) / 2) for m, p in
                   ((m, 1 / (1 + math.exp(-m / temperature))) for m in margins)]  # fmt: skip
    ordered = sorted(confidences, key=lambda entry: entry[0])
    size = len(ordered) // bins
    total = 0.0
    for number in range(bins):
        inside = ordered[number * size : (number + 1) * size]
        total += abs(sum(right for _, right in inside) - sum(c for c, _ in inside))
    brier = sum((1 - 1 / (1 + math.exp(-m / temperature))) ** 2 for m in margins) / len(margins)
    return total / len(margins), brier


def test_error_and_brier_score_are_those_of_a_loop():
    margins, sources = made(200, 2.0), [f"s{i % 40}" for i in range(200)]
    found = calibration(margins, np.full(200, 0.7), sources, 10, 100, 1)
    ece, brier = by_loop(margins.tolist(), 0.7, 10)
    assert found.ece.value == pytest.approx(ece)
    assert found.brier.value == pytest.approx(brier)
    assert found.brier.low < brier < found.brier.high
    assert (found.pairs, found.temperature) == (200, pytest.approx(0.7))
    assert [b.pairs for b in found.bins] == [20] * 10
    assert sum(b.pairs * b.right for b in found.bins) == pytest.approx(float((margins > 0).sum()))


def test_what_is_calibrated_has_the_error_of_chance_and_what_is_not_has_more():
    errors, chances = [], []
    for seed in range(30):
        margins = made(500, 1.0, seed)
        found = calibration(margins, np.ones(500), [str(i) for i in range(500)], 10, 100, 1)
        errors.append(found.ece.value)
        chances.append(found.ece_by_chance)
    assert np.mean(errors) == pytest.approx(np.mean(chances), rel=0.12)
    bold = calibration(made(500, 1.0), np.full(500, 0.2), [str(i) for i in range(500)], 10, 100, 1)
    assert bold.ece.value > 3 * bold.ece_by_chance


def test_chance_of_one_sure_bin_is_none_and_of_coins_is_their_mean_deviation():
    assert chance_error(np.ones(8), np.zeros(8, dtype=np.int64), 1) == 0.0
    n = 100
    expected = sum(math.comb(n, k) / 2**n * abs(k / n - 0.5) for k in range(n + 1))
    assert chance_error(np.full(n, 0.5), np.zeros(n, dtype=np.int64), 1) == pytest.approx(expected, rel=0.08)


def test_the_interval_of_the_error_is_about_the_error():
    """In each bin the sources cancel: no error, yet none of the resamples has so little."""
    excess = np.random.default_rng(0).choice([-1.0, 1.0], size=(20, 6))
    sums = np.concatenate([np.concatenate([excess, -excess]), np.full((40, 1), 6.0)], axis=1)
    found = error_interval(sums, 400, 1)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high > 0


def test_the_interval_of_the_error_covers_a_known_one():
    """All pairs have the confidence 0.8 and are right in half of cases: the error is 0.3."""
    size, held = math.log(4), 0
    for seed in range(60):
        signs = np.where(np.random.default_rng(seed).random(100) < 0.5, 1.0, -1.0)
        found = calibration(size * signs, np.ones(100), [str(i) for i in range(100)], 2, 200, 1).ece
        held += found.low <= 0.3 <= found.high
    assert held >= 52
