"""What all metrics hold to, whatever they measure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import InputError
from guerdon.metrics.base import MeanMetric
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.metrics.diversity import Length
from guerdon.metrics.rouge import RougeL
from guerdon.metrics.ter import Ter
from tests.unit.metrics.metric_texts import GROUPS

METRICS = [Bleu(), Bleu(lowercase=True), Chrf(), Chrf(2), RougeL(), Ter(), Length()]
BY_NAME = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


@BY_NAME
@given(groups=GROUPS)
def test_sums_of_parts_are_the_sum_of_the_whole(metric, groups):
    outputs, references = map(list, zip(*groups, strict=True))
    statistics = metric.statistics(outputs, references)
    assert statistics.dtype == np.float64
    assert statistics.shape[0] == len(groups)
    rows = np.stack([metric.statistics([output], [own])[0] for output, own in groups])
    assert np.array_equal(statistics, rows)
    assert float(metric.aggregate(statistics.sum(0))) == metric.corpus(outputs, references)
    assert np.isfinite(metric.aggregate(statistics)).all()


@BY_NAME
@given(groups=GROUPS)
def test_a_batch_of_sums_scores_as_its_rows(metric, groups):
    outputs, references = map(list, zip(*groups, strict=True))
    statistics = metric.statistics(outputs, references)
    resamples = np.stack([statistics.sum(0), 2 * statistics.sum(0), statistics[0]])
    assert metric.aggregate(resamples).tolist() == pytest.approx([metric.score(row) for row in resamples.tolist()], rel=1e-12)
    if metric.name != "bleu":  # a corpus written twice scores as once, but for BLEU, whose smoothing sees absolute counts
        once, twice = metric.aggregate(resamples)[:2]
        assert once == pytest.approx(twice, rel=1e-12)


@BY_NAME
@given(groups=GROUPS)
def test_a_reference_itself_scores_best(metric, groups):
    _, references = map(list, zip(*groups, strict=True))
    copied = metric.sentence([own[0] for own in references], references)
    other = metric.sentence([output for output, _ in groups], references)
    if metric.higher_is_better is not None:
        sign = 1 if metric.higher_is_better else -1
        has_words = [score != 0 or sign < 0 for score in copied]
        assert all(sign * a >= sign * b - 1e-9 for a, b, counts in zip(copied, other, has_words, strict=True) if counts)


@BY_NAME
def test_another_metric_before_changes_nothing(metric, e2e):
    outputs, references = (part[:8] for part in e2e)
    first = metric.sentence(outputs, references)
    metric.corpus(outputs[::-1], references[::-1])
    assert metric.sentence(outputs, references) == first
    assert [metric.sentence([output], [own])[0] for output, own in zip(outputs, references, strict=True)] == first


@BY_NAME
def test_no_output_is_refused(metric):
    with pytest.raises(InputError, match="no output"):
        metric.corpus([], [])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_mean(values):
    metric = MeanMetric("x")
    assert float(metric.aggregate(metric.statistics_of(values).sum(0))) == pytest.approx(np.mean(values), abs=1e-6)
    assert metric.aggregate(metric.statistics_of(values)).tolist() == values


def test_names():
    assert [metric.name for metric in METRICS] == ["bleu", "bleu", "chrf", "chrf++", "rouge_l", "ter", "length"]
    assert (MeanMetric("x").label, MeanMetric("x", label="X").label) == ("x", "X")
