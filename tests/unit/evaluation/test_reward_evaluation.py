"""A reward against people: planted judgements with known accuracies, what is beside them, and the page."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from scipy.stats import kendalltau

import guerdon
from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.records import Example
from guerdon.errors import ConfigurationError, DataError, InputError
from guerdon.evaluation.linear_preference import LinearOptions
from guerdon.evaluation.rating_agreement import rated_outputs
from guerdon.evaluation.reward_evaluation import RewardEvaluationOptions, evaluate_reward
from guerdon.evaluation.reward_page import render, write_reward_evaluation
from guerdon.evaluation.reward_tables import accuracy_table, facts, sentences
from guerdon.rewards import FunctionReward, RequiredContent, SentenceChrf
from guerdon.rewards.base import Reward
from tests.unit.evaluation.test_report import Page

OPTIONS = RewardEvaluationOptions(resamples=100, folds=4, bins=4, curve=(0.5, 1.0), linear=LinearOptions((1.0,), folds=3))
SOURCES = 24


def good(sources, outputs, references):
    return [float(output.count("good")) for output in outputs]


GOOD = FunctionReward(good)


def pair(number, right=True, votes=(2, 0), source="source"):
    """People prefer the good text, or, where they are wrong, the bad one, which is as long."""
    texts = (f"<b>good</b> text {number}", f"<b>poor</b> text {number}")
    meta = {"id": number, "chosen_system": "x" if right else "y", "rejected_system": "y" if right else "x"}
    return [
        Comparison(f"{source} {number % SOURCES}", texts if right else texts[::-1], ranks, "fluency", weight, meta=meta)
        for ranks, weight in (((1, 2), votes[0]), ((2, 1), votes[1]))
        if weight
    ]


def judged(source="source"):
    """96 pairs: of the 48 unanimous ones, all right; of 24 of three votes, 18; of 24 of one vote, 12."""
    kinds = [((2, 0), 48, 48), ((2, 1), 24, 18), ((1, 0), 24, 12)]
    pairs, number = [], 0
    for votes, count, right in kinds:
        for place in range(count):
            pairs += pair(number, place < right, votes, source)
            number += 1
    return pairs


def evaluated(reward=GOOD, **more):
    return evaluate_reward(reward, judged(), options=OPTIONS, **more)


def test_accuracies_by_group_are_those_that_were_planted():
    own = evaluated().own.groups
    shares = {name: (found.pairs, found.agrees.value) for name, found in own.items()}
    assert shares == {
        "all": (96, pytest.approx(78 / 96)),
        "unanimous": (48, 1.0),
        "1 vote": (24, 0.5),
        "2 votes": (48, 1.0),
        "3 votes": (24, 0.75),
    }
    assert own["all"].agrees.low < 78 / 96 < own["all"].agrees.high


def test_ties_count_half_and_are_told():
    constant = FunctionReward(lambda s, o, r: [1.0] * len(o), name="constant")
    found = evaluated(constant)
    assert (found.own.groups["all"].agrees.value, found.own.groups["all"].tied) == (0.5, 1.0)
    assert "Scores both outputs alike in 100% of them" in " ".join(sentences(found))
    assert found.length.correlation is None


def test_baselines_are_turned_by_other_sources_and_paired():
    pairs = [
        Comparison(f"s{n}", ("a long text here" + " x" * (n % 3), "short"), (1, 2), weight=2.0, meta={"id": n})
        for n in range(30)
    ]
    found = evaluate_reward(GOOD, pairs, options=OPTIONS)
    by_name = {scorer.name: scorer for scorer in found.scorers}
    assert by_name["length"].groups["all"].agrees.value == 1.0
    assert found.own.groups["all"].agrees.value == 0.5
    gap = by_name["length"].ahead["all"]
    assert (gap.difference, gap.low, gap.high) == (-0.5, -0.5, -0.5)
    assert set(by_name) == {"reward", "length", "frequency", "overlap"}
    assert found.length.people_longer is not None
    assert found.length.people_longer.value == 1.0


def test_who_prefers_the_longer_output():
    texts = ("a long text here", "short")
    pairs = [Comparison(f"s{n}", texts if n % 3 else texts[::-1], (1, 2), meta={"id": n}) for n in range(30)]
    found = evaluate_reward(FunctionReward(lambda s, o, r: [-len(t) for t in o], name="brevity"), pairs, options=OPTIONS)
    assert found.length.reward_longer is not None
    assert found.length.people_longer is not None
    assert (found.length.reward_longer.value, found.length.people_longer.value) == (0.0, pytest.approx(20 / 30))
    assert found.length.correlation == pytest.approx(-1.0)


def test_the_linear_model_is_trained_on_other_sources_alone():
    found = evaluated(training=judged("training"))
    (linear,) = (scorer for scorer in found.scorers if scorer.name == "linear")
    assert linear.groups["unanimous"].agrees.value == 1.0  # it has learnt the word
    assert linear.ahead["unanimous"].difference == 0.0
    assert (found.training_pairs, "unanimous" in found.training) == (48, True)
    assert [point.sources for point in found.curve] == [12, 24]
    assert found.curve[-1].groups["all"] == linear.groups["all"]
    assert {"all", "unanimous", "linear, all", "linear, unanimous"} == set(found.calibration)
    with pytest.raises(DataError, match="24 sources are both trained on and evaluated"):
        evaluated(training=judged())


def test_the_learning_curve_measures_whatever_is_trained():
    asked = []

    def train(pairs) -> Reward:
        asked.append(len({p.source for p in pairs}))
        return GOOD if len(asked) > 1 else FunctionReward(lambda s, o, r: [0.0] * len(o), name="nothing")

    found = evaluated(training=judged("training"), train=train)
    assert asked == [12, 24]
    assert [point.groups["unanimous"].agrees.value for point in found.curve] == [0.5, 1.0]


def test_shares_of_few_sources_are_no_points():
    options = dataclasses.replace(OPTIONS, curve=(0.1, 1.0))
    found = evaluate_reward(GOOD, judged(), training=judged("training"), options=options)
    assert [point.sources for point in found.curve] == [24]


def test_systems():
    found = evaluated()
    (between,) = found.system_pairs
    assert (between.systems, between.pairs) == (("x", "y"), 96)
    assert between.people == pytest.approx(78 / 96)  # x wrote the good texts
    assert between.reward == 1.0
    assert between.agrees.value == pytest.approx(78 / 96)
    assert [(rank.system, rank.people, rank.reward) for rank in found.system_ranks] == [
        ("x", pytest.approx(78 / 96), 1.0),
        ("y", pytest.approx(18 / 96), 0.0),
    ]
    assert found.system_correlation is None  # of two systems


def test_ratings_are_compared_within_sources_and_over_all():
    rng = np.random.default_rng(0)
    ratings, scores = [], {}
    for source in range(12):
        for place in range(5):
            text = f"output {source} {place}"
            scores[text] = float(rng.normal() + 3 * source)
            for annotator, scale in (("a", 1.0), ("b", 1000.0)):
                ratings.append(Rating(f"s{source}", text, scale * (scores[text] + rng.normal()), annotator=annotator))
    reward = FunctionReward(lambda s, o, r: [scores.get(text, 0.0) for text in o], name="planted")
    found = evaluate_reward(reward, judged(), ratings, options=OPTIONS).ratings
    assert found is not None
    assert (found.ratings, found.outputs, found.sources, found.left_out) == (120, 60, 12, 0)
    rated = rated_outputs(ratings, "annotator")
    assert all(0 < value < 1 for value in rated.values())
    texts = [text for _, text in rated]
    expected = kendalltau([scores[text] for text in texts], list(rated.values())).statistic
    kendall, spearman, pearson = found.correlations
    assert kendall.pooled is not None
    assert kendall.pooled.value == pytest.approx(expected)
    assert kendall.within is not None
    assert kendall.within.value < kendall.pooled.value  # most of the agreement is between sources
    assert [c.name for c in found.correlations] == ["kendall", "spearman", "pearson"]
    for made in (spearman.within, spearman.pooled, pearson.within, pearson.pooled):
        assert made is not None
        assert made.low < made.value < made.high


def test_raw_ratings_are_the_numbers_themselves():
    given = [Rating("s", "a", 1.0, annotator="x"), Rating("s", "a", 3.0, annotator="y"), Rating("s", "b", 9.0, annotator="x")]
    assert rated_outputs(given, "raw") == {("s", "a"): 2.0, ("s", "b"): 9.0}
    assert rated_outputs(given, "annotator") == {("s", "a"): (0.25 + 0.5) / 2, ("s", "b"): 0.75}


def test_references_come_from_the_examples():
    examples = [Example(f"source {n}", (f"<b>good</b> text {n} of old",)) for n in range(SOURCES)]
    found = evaluated(SentenceChrf(), examples=examples)
    assert found.own.groups["unanimous"].agrees.value > 0.9
    assert "references" in next(scorer.label for scorer in found.scorers if scorer.name == "overlap")
    with pytest.raises(InputError, match="no references"):
        evaluated(SentenceChrf())


def test_where_a_reward_does_not_apply_pairs_are_left_out():
    patterns = {"name": {}, "kind": {"pub": ["pubs?"]}}
    pairs = [
        Comparison(
            "name[Zizzi], kind[pub]" if n % 2 else f"no slots {n}", ("Zizzi is a pub", f"A bar {n}"), (1, 2), meta={"n": n}
        )
        for n in range(8)
    ]
    pairs += [Comparison(f"name[Cotto{n}]", (f"Cotto{n}", f"Zizzi {n}"), (1, 2)) for n in range(4)]
    found = evaluate_reward(RequiredContent(patterns), pairs, options=OPTIONS)
    assert found.pairs == 8
    assert found.dropped == {"to which the reward does not apply": 4}
    assert found.own.groups["all"].agrees.value == 1.0
    with pytest.raises(DataError, match="applies to no pair"):
        evaluate_reward(RequiredContent(patterns), [c for c in pairs if c.source.startswith("no slots")], options=OPTIONS)


def test_nothing_decided_is_refused():
    with pytest.raises(DataError, match="no pair that people decided"):
        evaluate_reward(GOOD, [Comparison("s", ("a", "b"), (1, 1))], options=OPTIONS)


@pytest.mark.parametrize(
    "wrong",
    [{"resamples": 99}, {"folds": 1}, {"bins": 1}, {"curve": (0.5,)}, {"curve": (0.5, 0.5, 1.0)}, {"rating_scale": "stars"}],
)
def test_options_that_cannot_be(wrong):
    with pytest.raises(ConfigurationError):
        RewardEvaluationOptions(**wrong)


def test_the_same_call_gives_the_same_numbers():
    assert evaluated(training=judged("training")).plain() == evaluated(training=judged("training")).plain()


def test_page_and_json(tmp_path):
    ratings = [Rating(f"source {n % SOURCES}", f"<i>good</i> {n}", n % 7, annotator="w") for n in range(60)]
    found = evaluated(training=judged("training"), ratings=ratings, data="some <pairs>")
    path = write_reward_evaluation(found, tmp_path / "made")
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert "some <pairs>" in page.text
    assert "<pairs>" not in html
    assert "A reward against people" in page.text
    for section in ("Pair accuracy", "Calibration", "Ratings", "Learning curve", "Systems"):
        assert section in page.text
    assert "100.0%" in page.text
    assert json.loads((tmp_path / "made" / "reward_evaluation.json").read_text(encoding="utf-8"))["pairs"] == 96
    bare = render(dataclasses.replace(evaluated(), calibration={}, system_ranks=[], system_pairs=[]))
    for section in ("Calibration", "Ratings", "Learning curve", "Systems"):
        assert f"<h2>{section}</h2>" not in bare


def test_words():
    found = evaluated(training=judged("training"))
    columns, rows = accuracy_table(found)
    assert columns == ["", "all (96)", "unanimous (48)", "1 vote (24)", "2 votes (48)", "3 votes (24)"]
    assert [row[0] for row in rows][:3] == ["good", "linear model on 1–3-grams", "length only"]
    assert rows[0][2].startswith("100.0% [100, 100]")
    assert rows[-2][0].startswith("one person")
    assert rows[-1][0].startswith("at most")
    told = sentences(found)
    assert told[0] == "Agrees with people on 100% [100, 100] of 48 unanimous pairs."
    assert "Cannot be told from linear model on 1–3-grams: 0.0 [0.0, 0.0] points." in told
    assert any(sentence.startswith("Better than length only") for sentence in told)
    known = dict(facts(found))
    assert known["reward"] == "good"
    assert known["aspect"] == "fluency"


def test_public_names():
    assert guerdon.evaluate_reward is evaluate_reward
    assert guerdon.RewardEvaluationOptions is RewardEvaluationOptions
