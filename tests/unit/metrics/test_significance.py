import math

import numpy as np
import pytest
import sacrebleu
from sacrebleu.significance import PairedTest
from scipy.stats import binomtest, kstest, norm, ttest_rel

from guerdon.errors import ConfigurationError, InputError
from guerdon.metrics.base import MeanMetric
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.metrics.diversity import Distinct, Types
from guerdon.metrics.significance import (
    bootstrap_interval,
    jackknife_interval,
    paired_bootstrap,
    paired_jackknife,
    wilson_interval,
)
from tests.unit.metrics.metric_texts import columns

MEAN = MeanMetric("reward")


def _numbers(seed, n=100, mean=0.0):
    return np.random.default_rng(seed).normal(mean, 1, n)


def test_interval_of_a_mean_is_the_normal_one():
    values = _numbers(0, 400)
    interval = bootstrap_interval(MEAN, MEAN.statistics_of(values), samples=10_000)
    half = norm.ppf(0.975) * values.std() / math.sqrt(400)
    assert interval.value == pytest.approx(values.mean(), rel=1e-12)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    covered = 0
    for seed in range(400):
        interval = bootstrap_interval(MEAN, MEAN.statistics_of(_numbers(seed)), samples=400, seed=seed)
        covered += interval.low <= 0 <= interval.high
    # 95% less the known small-sample shortfall of the percentile interval; the standard error of 400 trials is 1.1%
    assert 0.91 <= covered / 400 <= 0.98


def test_p_is_uniform_under_the_null_and_close_to_the_t_test():
    ours, theirs = [], []
    for seed in range(300):
        a, b = _numbers(2 * seed), _numbers(2 * seed + 1)
        ours.append(paired_bootstrap(MEAN, MEAN.statistics_of(a), MEAN.statistics_of(b), samples=1000, seed=seed).p)
        theirs.append(ttest_rel(a, b).pvalue)
    assert kstest(ours, "uniform").pvalue > 0.01
    assert np.abs(np.subtract(ours, theirs)).max() < 0.12
    assert np.abs(np.subtract(ours, theirs)).mean() < 0.02


def test_p_agrees_with_the_interval():
    for seed in range(60):
        shift = seed / 150
        a, b = MEAN.statistics_of(_numbers(seed, mean=shift)), MEAN.statistics_of(_numbers(seed + 1000))
        found = paired_bootstrap(MEAN, a, b, samples=999, seed=seed)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0) or abs(found.p - 0.05) < 0.005


def test_pairing_removes_what_systems_share():
    shared = 100 * _numbers(0)
    a, b = MEAN.statistics_of(shared + 0.5 + 0.1 * _numbers(1)), MEAN.statistics_of(shared)
    found = paired_bootstrap(MEAN, a, b)
    assert 0.4 < found.low < found.difference < found.high < 0.6
    assert found.p < 0.01


def test_equal_systems_and_turned_sides():
    a, b = MEAN.statistics_of(_numbers(3)), MEAN.statistics_of(_numbers(4))
    same = paired_bootstrap(MEAN, a, a)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    there, back = paired_bootstrap(MEAN, a, b, seed=5), paired_bootstrap(MEAN, b, a, seed=5)
    assert (there.difference, there.low, there.high, there.p) == pytest.approx(
        (-back.difference, -back.high, -back.low, back.p)
    )


def test_draws_depend_on_the_seed_alone():
    statistics = MEAN.statistics_of(_numbers(0))
    assert bootstrap_interval(MEAN, statistics, seed=1) == bootstrap_interval(MEAN, statistics, seed=1)
    assert bootstrap_interval(MEAN, statistics, seed=1) != bootstrap_interval(MEAN, statistics, seed=2)


def test_blocks_of_resamples_are_cut_without_a_trace(monkeypatch):
    statistics = MEAN.statistics_of(_numbers(0))
    whole = bootstrap_interval(MEAN, statistics)
    monkeypatch.setattr("guerdon.metrics.significance._DRAWS_AT_ONCE", 777)
    again = bootstrap_interval(MEAN, statistics)
    assert (again.low, again.high) == pytest.approx((whole.low, whole.high), rel=1e-12)


@pytest.mark.parametrize(("ours", "theirs"), [(Bleu(), sacrebleu.BLEU()), (Chrf(), sacrebleu.CHRF())])
def test_agrees_with_sacrebleus_paired_bootstrap(e2e, ours, theirs):
    worse, references = e2e
    better = [group[-1] if i % 3 else text for i, (group, text) in enumerate(zip(references, worse, strict=True))]
    references = [group[:-1] for group in references]
    worse, better = zip(*[(w, b) for w, b, r in zip(worse, better, references, strict=True) if r], strict=True)
    references = [group for group in references if group]
    test = PairedTest(
        [("worse", worse), ("better", better)], {"BLEU or chrF": theirs}, columns(references), test_type="bs", n_samples=1000
    )
    result = next(scores for name, scores in test()[1].items() if name != "System")[1]
    a, b = ours.statistics(better, references), ours.statistics(worse, references)
    interval, found = bootstrap_interval(ours, a), paired_bootstrap(ours, a, b)
    assert interval.value == result.score
    assert interval.high - interval.low == pytest.approx(2 * result.ci, rel=0.15)
    assert found.difference == pytest.approx(ours.corpus(better, references) - ours.corpus(worse, references))
    assert (found.p < 0.05) == (result.p_value < 0.05)


def _texts(seed, n, vocabulary=300):
    """Sentences of 8 words drawn by Zipf's law."""
    draws = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocabulary + 1)
    return [" ".join(map(str, draws.choice(vocabulary, 8, p=weights / weights.sum()))) for _ in range(n)]


def test_jackknife_errs_on_the_side_of_caution():
    corpora = [_texts(seed, 40) for seed in range(300)]
    values = [Types().value(corpus) for corpus in corpora]
    intervals = [jackknife_interval(Types(), corpus) for corpus in corpora]
    covered = np.mean([found.low <= np.mean(values) <= found.high for found in intervals])
    assert covered >= 0.93
    halves = np.mean([(found.high - found.low) / 2 for found in intervals])
    assert 1.96 * np.std(values) * 0.98 <= halves <= 1.96 * np.std(values) * 1.6  # not too cautious either


def test_paired_jackknife():
    rich, poor = _texts(0, 80, vocabulary=2000), _texts(1, 80, vocabulary=50)
    found = paired_jackknife(Distinct(1), rich, poor)
    assert 0 < found.low < found.difference < found.high
    assert found.p < 0.001
    same = paired_jackknife(Distinct(1), rich, rich)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    rates = [paired_jackknife(Types(), _texts(2 * seed, 40), _texts(2 * seed + 1, 40)).p for seed in range(200)]
    assert np.mean(np.array(rates) < 0.05) <= 0.09


def test_one_output_tells_nothing():
    found = jackknife_interval(Types(), ["a b"])
    assert (found.value, found.low, found.high) == (2, -math.inf, math.inf)


def test_refusals():
    a = MEAN.statistics_of([1, 2, 3])
    with pytest.raises(ConfigurationError, match="give at least 100"):
        bootstrap_interval(MEAN, a, samples=10)
    with pytest.raises(InputError, match="cannot pair 3 samples with 2"):
        paired_bootstrap(MEAN, a, a[:2])
    with pytest.raises(InputError, match="cannot pair 2 outputs with 1"):
        paired_jackknife(Types(), ["a", "b"], ["a"])
    with pytest.raises(InputError, match="sample 1 has the value nan"):
        MEAN.statistics_of([1, math.nan])
    with pytest.raises(InputError, match="no value"):
        MEAN.statistics_of([])


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 300), (300, 300), (1, 300), (37, 100), (50, 100)])
def test_wilson_is_scipys(successes, trials):
    expected = binomtest(successes, trials).proportion_ci(method="wilson")
    found = wilson_interval(successes, trials)
    assert found.value == successes / trials
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (2, 1), (-1, 5)])
def test_no_share_no_interval(successes, trials):
    with pytest.raises(InputError, match="is no share"):
        wilson_interval(successes, trials)
