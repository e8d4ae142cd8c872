"""Best-of-n: against every subset, against closed forms of uniform samples, and where a known judge is best."""

from __future__ import annotations

import doctest
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, InputError
from guerdon.evaluation import best_of_n
from guerdon.evaluation.best_of_n import best_of_n_weights, expected_best, kl_of_best_of_n, powers_of_two
from guerdon.evaluation.overoptimisation import (
    PROXY,
    OveroptimisationOptions,
    SampledSource,
    best_of_n_course,
    course,
    root_kl,
)
from guerdon.evaluation.overoptimisation_page import chart, points_table, sentences


def by_enumeration(proxy, judged, n):
    """The mean over all subsets of n samples; of several best ones, the mean of these."""
    total, subsets = Fraction(0), 0
    for subset in itertools.combinations(range(len(proxy)), n):
        top = max(proxy[i] for i in subset)
        best = [Fraction(judged[i]) for i in subset if proxy[i] == top]
        total += sum(best) / len(best)
        subsets += 1
    return float(total / subsets)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(-9, 9)), min_size=1, max_size=8).flatmap(
        lambda rows: st.tuples(st.just(rows), st.integers(1, len(rows)))
    )
)
def test_equals_enumeration_of_subsets_ties_included(drawn):
    rows, n = drawn
    proxy, judged = [row[0] for row in rows], [row[1] for row in rows]
    found = expected_best(np.array(proxy, dtype=float), np.array(judged, dtype=float)[:, None], [n])
    assert found.item() == pytest.approx(by_enumeration(proxy, judged, n), abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 100, 255, 256])
def test_weights_are_the_exact_ratio_of_binomials(n):
    exact = [Fraction(math.comb(i - 1, n - 1), math.comb(256, n)) for i in range(1, 257)]
    assert sum(exact) == 1
    assert np.allclose(best_of_n_weights(256, n), [float(weight) for weight in exact], rtol=1e-11, atol=0)


def test_n_of_one_is_the_mean_and_n_of_all_the_best():
    proxy, judged = np.array([3.0, 1.0, 2.0]), np.array([[10.0, 3.0], [20.0, 1.0], [60.0, 2.0]])
    assert expected_best(proxy, judged, [1, 3]).tolist() == [pytest.approx([30.0, 2.0]), [10.0, 3.0]]


def test_more_than_there_are_is_refused():
    with pytest.raises(InputError, match="no best of 4 out of 3 samples"):
        best_of_n_weights(3, 4)
    with pytest.raises(InputError, match="no best of 0"):
        best_of_n_weights(3, 0)


def test_the_kl_is_that_of_a_continuous_reward():
    """KL(best-of-n || policy) = the mean of log(n u^(n-1)) over the density n u^(n-1) of the best of n uniform ones."""
    u = (np.arange(400_000) + 0.5) / 400_000
    for n in (1, 2, 7, 64):
        density = n * u ** (n - 1)
        assert kl_of_best_of_n(n) == pytest.approx(float((density * (np.log(n) + (n - 1) * np.log(u))).mean()), abs=2e-4)


def test_powers_and_examples():
    assert powers_of_two(256) == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert powers_of_two(21) == [1, 2, 4, 8, 16]
    assert doctest.testmod(best_of_n).failed == 0


# --- curves


NS = [1, 2, 4, 8, 16, 32, 64]
OPTIONS = OveroptimisationOptions(most=64, resamples=200)


def uniform_sources(sources=300, samples=64, centre=0.8):
    """The proxy is uniform, and the judge -(x - centre)^2 of it, so that over-optimisation begins at a known n."""
    draws = np.random.default_rng(4).random((sources, samples))
    return [SampledSource(row, {"held out": -((row - centre) ** 2), "alike": 2 * row}) for row in draws]


def expected_judge(n, centre=0.8):
    """Of the best of n uniform ones, E[x] = n / (n + 1) and E[x^2] = n / (n + 2)."""
    return -(n / (n + 2) - 2 * centre * n / (n + 1) + centre**2)


def test_the_known_optimum_is_found():
    found = best_of_n_course(uniform_sources(), OPTIONS)
    assert [point.at for point in found.points] == NS
    for point in found.points:
        assert point.values[PROXY].value == pytest.approx(point.at / (point.at + 1), abs=0.01)
        judged = point.values["held out"]
        assert judged.value == pytest.approx(expected_judge(point.at), abs=0.005)
        assert judged.low < judged.value < judged.high
        assert point.gains[PROXY].value == pytest.approx(point.values[PROXY].value - found.points[0].values[PROXY].value)
    best = max(NS, key=expected_judge)
    stop = found.stops["held out"]
    assert best not in (1, 64)
    assert (stop.at, stop.overoptimised) == (best, True)
    assert stop.low <= best <= stop.high
    assert stop.gain.value == pytest.approx(expected_judge(best) - expected_judge(1), abs=0.01)
    assert stop.lost.value == pytest.approx(expected_judge(best) - expected_judge(64), abs=0.01)
    alike = found.stops["alike"]
    assert (alike.at, alike.overoptimised, alike.lost.value) == (64, False, 0.0)


def test_intervals_cover_the_truth():
    """Of a hundred small sets of sources, the interval of the judge at n = 4 holds its expectation in about 95."""
    held = 0
    for number in range(100):
        draws = np.random.default_rng(number).random((40, 8))
        sources = [SampledSource(row, {"j": row**2}) for row in draws]
        point = best_of_n_course(sources, OveroptimisationOptions(most=4, resamples=200)).points[-1]
        held += point.values["j"].low <= 4 / 6 <= point.values["j"].high
    assert 87 <= held <= 99


def test_a_judge_that_is_noise_is_not_called_over_optimised():
    rng = np.random.default_rng(1)
    sources = [SampledSource(rng.random(32), {"noise": rng.random(32)}) for _ in range(60)]
    stop = best_of_n_course(sources, OveroptimisationOptions(most=32, resamples=400)).stops["noise"]
    assert not stop.overoptimised
    assert stop.low < stop.high


def test_sources_with_fewer_samples_bound_n():
    sources = [SampledSource(np.arange(float(n)), {"j": np.arange(float(n))}) for n in (9, 5, 30)]
    assert [point.at for point in best_of_n_course(sources, OPTIONS).points] == [1, 2, 4]
    with pytest.raises(InputError, match="2 sources with 1 samples"):
        best_of_n_course([SampledSource(np.ones(1), {}), *sources[:1]], OPTIONS)
    with pytest.raises(InputError, match="1 sources"):
        best_of_n_course(sources[:1], OPTIONS)


@pytest.mark.parametrize("wrong", [{"most": 1}, {"resamples": 99}])
def test_options_that_cannot_be(wrong):
    with pytest.raises(ConfigurationError):
        OveroptimisationOptions(**wrong)


def run_like():
    values = np.random.default_rng(0).normal(size=(8, 3, 1)) * 0.01 + np.array([0.0, 1.0, 0.5])[None, :, None]
    return course("e2e", "step", [15, 30, 45], [0.0, 1.0, 4.0], ["bleu"], values, OPTIONS, {PROXY: [1.0, 2.0, 4.0]})


def test_a_run_has_a_proxy_without_interval_and_stops_where_its_judge_does():
    found = run_like()
    assert [point.values[PROXY].value for point in found.points] == [1.0, 2.0, 4.0]
    assert found.points[2].gains[PROXY].low == found.points[2].gains[PROXY].high == 3.0
    assert (found.stops["bleu"].at, found.stops["bleu"].kl, found.stops["bleu"].overoptimised) == (30, 1.0, True)
    assert set(found.stops) == {"bleu"}
    assert [root_kl(point) for point in found.points] == [0.0, 1.0, 2.0]


def test_words_and_chart():
    found = run_like()
    (told,) = sentences(found)
    assert told.startswith("e2e: judge bleu is best at step 30 [30, 30], a gain of +1.0")
    assert told.endswith("over-optimised.")
    columns, rows = points_table(found)
    assert columns == ["step", "KL", "bleu", PROXY]
    assert rows[0][:2] == ["15", "0.000"]
    drawn = chart(found, {"bleu": 0.5, PROXY: 1.0})
    assert drawn is not None
    assert [label for label, _, _ in drawn.legend] == [PROXY, "bleu"]
    assert "bleu: 2.0" in drawn.svg or "bleu: 1.9" in drawn.svg  # 1 over 0.5: in standard deviations
    straight = best_of_n_course(uniform_sources(20), OPTIONS)
    assert "no over-optimisation as far as was measured" in sentences(straight)[1]
