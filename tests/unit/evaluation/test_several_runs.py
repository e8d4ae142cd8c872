"""Systems whose outputs are those of several runs: pooled by source, and each run's own value beside."""

from dataclasses import replace

import numpy as np
import pytest
import sacrebleu
import torch
from scipy import stats

from guerdon.errors import InputError
from guerdon.evaluation.evaluate import evaluate_outputs
from guerdon.evaluation.measures import SystemOutputs, default_metrics
from guerdon.evaluation.results import Evaluation
from guerdon.metrics.base import MeanMetric
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.rewards.base import Judgement, Part

SOURCES = 40
WORDS = ["the", "pub", "by", "river", "is", "cheap", "and", "old", "near", "a", "mill"]


def written(seed):
    drawn = np.random.default_rng(seed)
    return [" ".join(drawn.choice(WORDS, size=drawn.integers(3, 9))) for _ in range(SOURCES)]


REFERENCES = [[text] for text in written(0)]
RUNS = [written(1), written(2), written(3)]
NUMBER = MeanMetric("number", label="number")


def pooled(name, runs, applies=None):
    texts = [text for run in runs for text in run]
    scores = torch.tensor([float(len(text)) for text in texts])
    mask = torch.ones(len(texts), dtype=torch.bool) if applies is None else torch.tensor(applies * len(runs))
    parts = {"length": Part(scores * mask, mask, 2.0)}
    return SystemOutputs(name, name, texts, judgement=Judgement(parts), numbers={"number": [float(len(t)) for t in texts]})


def evaluated(systems, runs, **changes):
    asked = {"metrics": [Bleu(), Chrf()], "numbers": [NUMBER], "resamples": 1000, **changes}
    return evaluate_outputs(systems, REFERENCES * runs, runs=runs, **asked)


def test_values_are_those_of_each_run_and_of_all_together():
    found = evaluated([pooled("a", RUNS)], 3)
    assert found.sources == SOURCES
    system = found.system("a")
    streams = [[group[0] for group in REFERENCES]]
    bleu = [sacrebleu.corpus_bleu(run, streams).score for run in RUNS]
    chrf = [sacrebleu.corpus_chrf(run, streams).score for run in RUNS]
    assert system.runs["bleu"] == pytest.approx(bleu, abs=1e-9)
    assert system.runs["chrf"] == pytest.approx(chrf, abs=1e-9)
    assert system.runs["number"] == pytest.approx([np.mean([len(text) for text in run]) for run in RUNS])
    assert system.runs["reward"] == pytest.approx([2 * value for value in system.runs["number"]])
    whole = sacrebleu.corpus_bleu([text for run in RUNS for text in run], [streams[0] * 3]).score
    assert system.metrics["bleu"].value == pytest.approx(whole, abs=1e-9)
    assert system.generated == 3 * SOURCES


def test_a_run_that_is_repeated_tells_no_more_than_once():
    """Were (source, run) pairs resampled, three copies would seem to narrow the interval by √3."""
    once = evaluated([pooled("a", RUNS[:1]), pooled("b", RUNS[1:2])], 1)
    thrice = evaluated([pooled("a", RUNS[:1] * 3), pooled("b", RUNS[1:2] * 3)], 3)
    for measure in ("chrf", "number", "reward/length"):  # BLEU smooths by counts: it is no function of ratios alone
        one, other = once.system("a").metrics[measure], thrice.system("a").metrics[measure]
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
        one, other = once.comparison("b", "a", measure), thrice.comparison("b", "a", measure)
        assert (one.difference, one.low, one.high) == pytest.approx((other.difference, other.low, other.high))
    assert once.system("a").runs == {}


def test_the_interval_of_a_mean_is_that_of_means_by_source():
    found = evaluated([pooled("a", RUNS)], 3, resamples=4000).system("a").metrics["number"]
    by_source = np.mean([[len(text) for text in run] for run in RUNS], axis=0)
    expected = stats.sem(by_source, ddof=0) * stats.norm.ppf(0.975)
    assert found.high - found.low == pytest.approx(2 * expected, rel=0.08)


def test_parts_that_do_not_apply_everywhere_are_pooled_alike():
    applies = [number % 3 != 0 for number in range(SOURCES)]
    found = evaluated([pooled("a", RUNS, applies)], 3).system("a").runs["reward/length"]
    expected = [np.mean([len(text) for text, kept in zip(run, applies, strict=True) if kept]) for run in RUNS]
    assert found == pytest.approx(expected)


def test_pairs_are_those_that_are_asked_for(tmp_path):
    systems = [pooled(name, RUNS[:2]) for name in ("finetuned", "a", "b")]
    found = evaluated(systems, 2, pairs=[("a", "b"), ("b", "finetuned")])
    assert list(dict.fromkeys((c.system, c.baseline) for c in found.comparisons)) == [("a", "b"), ("b", "finetuned")]
    assert Evaluation.read(found.write(tmp_path).parent) == found


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(InputError, match="several runs"):
        evaluated([pooled("a", RUNS)], 3, metrics=default_metrics())
    with pytest.raises(InputError, match="not those of 7 runs"):
        evaluate_outputs([pooled("a", RUNS)], None, runs=7)
    short = replace(pooled("a", RUNS), outputs=RUNS[0][:3])
    with pytest.raises(InputError, match="no interval"):
        evaluate_outputs([short], None, runs=3)
