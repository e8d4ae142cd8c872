import json
from dataclasses import replace

import pytest
import sacrebleu
import torch

from guerdon.errors import DataError, InputError
from guerdon.evaluation.evaluate import evaluate_outputs
from guerdon.evaluation.measures import SystemOutputs, WeightedReward, default_metrics
from guerdon.evaluation.results import ComparisonResult, Evaluation
from guerdon.metrics.base import MeanMetric
from guerdon.metrics.bleu import Bleu
from guerdon.metrics.chrf import Chrf
from guerdon.rewards.base import Judgement, Part

OUTPUTS = ["a pub near the river", "the pub is cheap", "no", "a nice old pub"]
OTHERS = ["a pub near a river", "a cheap pub", "no pub", "one nice old pub"]
REFERENCES = [
    ["a pub near the river", "a riverside pub"],
    ["the pub is cheap"],
    ["nothing at all"],
    ["a nice pub", "an old pub"],
]


def system(name, outputs, **further):
    return SystemOutputs(name, name, outputs, **further)


def part(scores, applies=None, weight=1.0):
    return Part(torch.tensor(scores), torch.tensor(applies or [True] * len(scores)), weight)


def test_values_are_those_of_the_metrics():
    found = evaluate_outputs([system("a", OUTPUTS)], REFERENCES, [Bleu(lowercase=True), Chrf()], resamples=200)
    columns = [[group[0] for group in REFERENCES], [group[1] if len(group) > 1 else None for group in REFERENCES]]
    metrics = found.system("a").metrics
    assert metrics["bleu"].value == sacrebleu.corpus_bleu(OUTPUTS, columns, lowercase=True).score
    assert metrics["chrf"].value == sacrebleu.corpus_chrf(OUTPUTS, columns).score
    assert metrics["chrf"].low < metrics["chrf"].value < metrics["chrf"].high
    assert (found.baseline, found.comparisons, found.sources) == ("a", [], 4)


def test_default_metrics():
    found = evaluate_outputs([system("a", OUTPUTS)], REFERENCES, resamples=100)
    names = ["bleu", "chrf", "rouge_l", "ter", "length", "distinct_1", "distinct_2", "word_entropy"]
    assert [measure.name for measure in found.measures] == names
    assert [m.higher_is_better for m in found.measures] == [True, True, True, False, None, None, None, None]
    assert "rouge_l" not in [metric.name for metric in default_metrics(tokenize="zh")]


def test_without_references_only_what_needs_none_is_measured():
    for references in (None, [[]] * 4):
        found = evaluate_outputs([system("a", OUTPUTS)], references, resamples=100)
        assert [measure.name for measure in found.measures] == ["length", "distinct_1", "distinct_2", "word_entropy"]


def test_every_system_is_compared_with_the_fine_tuned_one_and_the_reinforced_with_all():
    names = ["pretrained", "finetuned", "reinforced", "constant"]
    found = evaluate_outputs([system(name, OUTPUTS) for name in names], REFERENCES, [Bleu()], resamples=100)
    pairs = [(c.system, c.baseline) for c in found.comparisons]
    assert found.baseline == "finetuned"
    assert pairs == [
        ("pretrained", "finetuned"),
        ("reinforced", "finetuned"),
        ("constant", "finetuned"),
        ("reinforced", "pretrained"),
        ("reinforced", "constant"),
    ]
    assert all((c.difference, c.low, c.high, c.p) == (0, 0, 0, 1) for c in found.comparisons)


def test_differences_are_those_of_the_values():
    found = evaluate_outputs([system("finetuned", OTHERS), system("reinforced", OUTPUTS)], REFERENCES, resamples=300)
    for measure in found.measures:
        comparison = found.comparison("reinforced", "finetuned", measure.name)
        values = [found.system(name).metrics[measure.name].value for name in ("reinforced", "finetuned")]
        assert comparison.difference == pytest.approx(values[0] - values[1])
        assert comparison.low <= comparison.high
        assert 0 < comparison.p <= 1


def test_rewards_are_averaged_over_what_they_apply_to():
    applies = [True, False, True, True]
    judgement = Judgement({"overlap": part([0.25, 0.5, 0.75, 1.0], weight=2.0), "slots": part([3.0, 9.0, 6.0, 0.0], applies)})
    found = evaluate_outputs([system("a", OUTPUTS, judgement=judgement)], None, [], resamples=100)
    values = {name: interval.value for name, interval in found.system("a").metrics.items()}
    assert values == {"reward": 2 * 0.625 + 3.0, "reward/overlap": 0.625, "reward/slots": 3.0}
    assert all(measure.optimised for measure in found.measures)


def test_a_single_reward_is_not_listed_twice():
    found = evaluate_outputs([system("a", OUTPUTS, judgement=Judgement({"r": part([1.0, 2, 3, 4])}))], None, [], resamples=100)
    assert [measure.name for measure in found.measures] == ["reward/r"]


def test_a_weighted_reward_of_a_resample_without_a_part():
    assert WeightedReward([2.0, 3.0]).score([4.0, 2.0, 0.0, 0.0]) == 4.0


def test_numbers_finished_and_what_was_optimised():
    numbers = [MeanMetric("slot_errors", label="slot errors", higher_is_better=False)]
    one = system("a", OUTPUTS, finished=[True, True, True, False], numbers={"slot_errors": [0, 1, 2, 1]}, generated=64)
    found = evaluate_outputs([one], REFERENCES, [Bleu()], numbers, optimised={"bleu"}, resamples=100)
    assert [(m.name, m.optimised) for m in found.measures] == [("slot_errors", False), ("bleu", True), ("finished", False)]
    metrics = found.system("a").metrics
    assert (metrics["slot_errors"].value, metrics["finished"].value) == (1.0, 75.0)
    assert found.system("a").generated == 64
    assert evaluate_outputs([system("a", OUTPUTS)], None, resamples=100).system("a").generated == 4


def test_the_same_seed_gives_the_same_evaluation(evaluated):
    systems = [system("finetuned", OTHERS), system("reinforced", OUTPUTS)]
    made = [evaluate_outputs(systems, REFERENCES, resamples=100, seed=seed) for seed in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0].comparisons != made[2].comparisons


def test_written_and_read_again(tmp_path, evaluated):
    evaluation = evaluated[-1]
    path = evaluation.write(tmp_path)
    assert path.name == "evaluation.json"
    assert Evaluation.read(tmp_path) == evaluation
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert stored["systems"][0]["outputs"] == "outputs/finetuned.jsonl"
    assert set(stored["comparisons"][0]) == {"system", "baseline", "metric", "difference", "low", "high", "p"}


@pytest.mark.parametrize("text", ["", "[]", '{"systems": 3}', '{"data": "x"}', "{"])
def test_a_damaged_evaluation(tmp_path, text):
    (tmp_path / "evaluation.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="is not an evaluation"):
        Evaluation.read(tmp_path)


def test_no_evaluation(tmp_path):
    with pytest.raises(DataError, match="there is no evaluation"):
        Evaluation.read(tmp_path)


@pytest.mark.parametrize(("low", "high", "sign"), [(0.1, 1, 1), (-1, -0.1, -1), (-1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_sign_of_a_comparison(low, high, sign):
    assert ComparisonResult("a", "b", "m", 0.0, low, high, 0.5).sign == sign


_FINE = system("a", OUTPUTS, finished=[True] * 4, judgement=Judgement({"r": part([1.0] * 4)}))


@pytest.mark.parametrize(
    ("systems", "references", "message"),
    [
        ([], None, "no system"),
        ([system("a", OUTPUTS[:1])], None, "1 sources give no interval"),
        ([system("a", OUTPUTS)], [["x"]], "4 outputs but 1 lists of references"),
        ([system("a", OUTPUTS), system("a", OTHERS)], None, "two systems of this name"),
        ([system("a", OUTPUTS), system("b", OTHERS[:2])], None, "2 outputs, where 'a' has 4"),
        ([_FINE, replace(_FINE, name="b", judgement=None)], None, "other figures"),
        ([_FINE, replace(_FINE, name="b", finished=None)], None, "other figures"),
        ([_FINE, replace(_FINE, name="b", judgement=Judgement({"s": part([1.0] * 4)}))], None, "do not apply to the same"),
        (
            [_FINE, replace(_FINE, name="b", judgement=Judgement({"r": part([1.0] * 4, [True, True, True, False])}))],
            None,
            "do not apply to the same",
        ),
        ([system("a", OUTPUTS)], [["x"], [], ["y"], ["z"]], "sample 1 .* has no references"),
    ],
)
def test_refusals(systems, references, message):
    with pytest.raises(InputError, match=message):
        evaluate_outputs(systems, references, resamples=100)


def test_missing_numbers():
    with pytest.raises(InputError, match="no numbers for 'slots'"):
        evaluate_outputs([system("a", OUTPUTS)], None, numbers=[MeanMetric("slots")], resamples=100)
