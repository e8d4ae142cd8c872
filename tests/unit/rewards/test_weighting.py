from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import CheckpointError, ConfigurationError, RewardError
from guerdon.rewards.base import Judged, Judgement, Part
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.normalise import Normaliser, NormaliserOptions
from guerdon.rewards.weighting import ConstraintOptions, ScheduleOptions, Weighting

NAMES = ["fluency", "content", "length"]
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def judgement(applies=None, **columns):
    """One part per column of scores; the weights are 1, 2, 3, ..."""
    parts = {}
    for weight, (name, column) in enumerate(columns.items(), start=1):
        mask = torch.tensor((applies or {}).get(name, [True] * len(column)), dtype=torch.bool)
        parts[name] = Part(torch.tensor(column, dtype=torch.float32), mask, float(weight))
    return Judgement(parts)


def all_parts(content=(0.5,)):
    return judgement(fluency=[0.0] * len(content), content=list(content), length=[1.0] * len(content))


def constrained(**options):
    return Weighting({}, {"content": ConstraintOptions(**options)}, NAMES)


def weights_of(judged):
    return {name: part.weight for name, part in judged.parts.items()}


# --- schedules


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 1.0), (2, 1.0), (3, 1.5), (4, 2.0), (5, 2.5), (6, 3.0), (7, 3.0), (10**9, 3.0)]
)
def test_a_linear_schedule_by_hand(step, expected):
    assert ScheduleOptions(to=3.0, steps=4, start=2).weight(1.0, step) == expected


def test_a_cosine_schedule_by_hand():
    """(1 - cos(π/4)) / 2 = (2 - √2) / 4 of the way after a quarter of the steps."""
    found = [ScheduleOptions(to=-1.0, steps=4, shape="cosine").weight(1.0, step) for step in range(6)]
    quarter = (2.0 - math.sqrt(2.0)) / 4.0
    assert found == pytest.approx([1.0, 1.0 - 2.0 * quarter, 0.0, 2.0 * quarter - 1.0, -1.0, -1.0], abs=1e-15)
    assert found[5] == found[4] == -1.0


@given(
    st.floats(-100, 100), st.floats(-100, 100), st.integers(1, 50), st.integers(0, 50), st.sampled_from(["linear", "cosine"])
)
def test_a_schedule_goes_one_way_between_its_ends_and_is_symmetric(own, to, steps, start, shape):
    schedule = ScheduleOptions(to, steps, start, shape)
    way = [schedule.weight(own, step) for step in range(start + steps + 3)]
    assert way[: start + 1] == [own] * (start + 1)
    assert way[start + steps :] == [to] * 3
    steepness = np.diff(way) * np.sign(to - own)
    assert (steepness >= -1e-12).all()
    for i in range(steps + 1):
        assert way[start + i] + way[start + steps - i] == pytest.approx(own + to, abs=1e-9)


def test_a_part_gets_the_weight_of_the_step_and_all_else_stays():
    weighting = Weighting({"content": ScheduleOptions(to=0.0, steps=4)}, {}, NAMES)
    judged = judgement(fluency=[1.0, 2.0], content=[3.0, 4.0], length=[5.0, 6.0])
    weighed = weighting.weigh(judged, 1)
    assert weights_of(weighed) == {"fluency": 1.0, "content": 1.5, "length": 3.0}
    assert weights_of(judged) == {"fluency": 1.0, "content": 2.0, "length": 3.0}
    for name, part in judged.parts.items():
        assert weighed.parts[name].scores is part.scores
        assert weighed.parts[name].applies is part.applies
    assert weighed.total().tolist() == [1.0 + 4.5 + 15.0, 2.0 + 6.0 + 18.0]
    assert weights_of(weighting.weigh(judged, 4))["content"] == 0.0


def test_without_schedules_and_constraints_nothing_moves():
    weighting, judged = Weighting({}, {}, NAMES), all_parts()
    weighting.update(judged)
    assert weights_of(weighting.weigh(judged, 7)) == weights_of(judged)
    assert weighting.metrics(7) == {}
    assert weighting.state_dict() == {}


# --- constraints


def test_the_multiplier_takes_the_place_of_the_weight():
    weighted = constrained(at_least=1.0, initial=0.25).weigh(all_parts(), 1)
    assert weights_of(weighted) == {"fluency": 1.0, "content": 0.25, "length": 3.0}


def test_dual_ascent_by_hand():
    weighting = constrained(at_least=1.0, rate=0.5, initial=0.25, most=2.0)
    found = []
    for mean in (0.5, 0.0, 1.0, 2.5, 4.0, -20.0, 1.5):
        weighting.update(all_parts([mean - 0.25, mean + 0.25]))
        found.append(weighting.multipliers["content"])
    assert found == [0.5, 1.0, 1.0, 0.25, 0.0, 2.0, 1.75]


def test_only_the_samples_that_the_part_applies_to_count():
    weighting = constrained(at_least=1.0, rate=1.0, initial=0.5)
    columns = {"fluency": [0.0] * 3, "content": [0.75, 0.0, 0.25], "length": [0.0] * 3}
    weighting.update(judgement({"content": [True, False, True]}, **columns))
    assert weighting.multipliers["content"] == 1.0  # the mean is 1/2, not 1/3
    weighting.update(judgement({"content": [False] * 3}, **columns))
    assert weighting.multipliers["content"] == 1.0


def test_a_float64_loop_agrees():
    """Sums of float32 scores in float32 would be off in the sixth digit."""
    generator = np.random.default_rng(3)
    weighting, multiplier = constrained(at_least=0.4, rate=0.3, initial=0.1, most=1.5), 0.1
    for _ in range(200):
        scores = generator.uniform(-2.0, 2.5, size=17).astype(np.float32)
        mask = generator.uniform(size=17) < 0.6
        columns = {"fluency": [0.0] * 17, "content": scores.tolist(), "length": [0.0] * 17}
        weighting.update(judgement({"content": mask.tolist()}, **columns))
        total = count = 0.0
        for score, counts in zip(scores.astype(np.float64), mask, strict=True):
            total, count = total + score * counts, count + counts
        multiplier += 0.3 * (0.4 - total / count)
        multiplier = 0.0 if multiplier < 0.0 else 1.5 if multiplier > 1.5 else multiplier
        assert weighting.multipliers["content"] == pytest.approx(multiplier, rel=1e-12, abs=1e-12)


@given(
    st.lists(st.lists(st.tuples(FLOAT32, st.booleans()), min_size=1, max_size=4), max_size=6),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(min_value=1e-308, allow_infinity=False),
    st.floats(min_value=1e-308, allow_infinity=False),
    st.floats(0, 1),
)
def test_a_multiplier_is_always_from_0_to_most(batches, at_least, rate, most, share):
    weighting = constrained(at_least=at_least, rate=rate, most=most, initial=share * most)
    for batch in batches:
        scores, mask = [score for score, _ in batch], [counts for _, counts in batch]
        zeros = [0.0] * len(batch)
        weighting.update(judgement({"content": mask}, fluency=zeros, content=scores, length=zeros))
        assert 0.0 <= weighting.multipliers["content"] <= most
        resumed = constrained(at_least=at_least, rate=rate, most=most, initial=share * most)
        resumed.load_state_dict(json.loads(json.dumps(weighting.state_dict())))
        assert resumed.state_dict() == weighting.state_dict()


def test_scores_that_are_no_numbers_move_nothing():
    weighting = constrained(at_least=1.0, initial=0.5)
    with pytest.raises(RewardError, match="constraint of 'content': its mean is nan"):
        weighting.update(all_parts([float("nan"), 1.0]))
    assert weighting.multipliers == {"content": 0.5}


# --- what is logged and stored


def test_what_is_logged_is_what_the_step_was_weighed_with():
    schedules = {"length": ScheduleOptions(to=1.0, steps=2)}
    weighting = Weighting(schedules, {"content": ConstraintOptions(at_least=1.0, rate=0.5)}, NAMES)
    assert weighting.metrics(1) == {}
    for step, logged in ((1, (0.0, 2.0)), (2, (0.25, 1.0)), (3, (0.5, 1.0))):
        weighed = weighting.weigh(all_parts(), step)
        weighting.update(weighed)
        weighting.weigh(all_parts(), step)  # validation, say, which the step's samples did not see
        assert weighting.metrics(step) == {"weight/content": logged[0], "weight/length": logged[1]}
        assert {name: weights_of(weighed)[name] for name in ("content", "length")} == dict(
            zip(("content", "length"), logged, strict=True)
        )
        assert weighting.metrics(step + 1) == {}


def test_resuming_from_json_is_exact():
    generator = np.random.default_rng(0)
    batches = [all_parts(generator.uniform(size=5).tolist()) for _ in range(8)]
    whole, first = (constrained(at_least=0.7, rate=1 / 3) for _ in range(2))
    for batch in batches[:4]:
        whole.update(batch)
        first.update(batch)
    resumed = constrained(at_least=0.7, rate=1 / 3)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for step, batch in enumerate(batches[4:], start=5):
        assert weights_of(resumed.weigh(batch, step)) == weights_of(whole.weigh(batch, step))
        assert resumed.metrics(step) == whole.metrics(step)
        whole.update(batch)
        resumed.update(batch)
    assert resumed.state_dict() == whole.state_dict() != {"content": 0.0}


@pytest.mark.parametrize(
    "state",
    [{}, {"length": 1.0}, {"content": 1.0, "length": 1.0}, [1.0], None, {"content": "1"}, {"content": None},
     {"content": True}, {"content": -0.1}, {"content": 10.5}, {"content": float("nan")}, {"content": float("inf")}],
)  # fmt: skip
def test_a_damaged_state_is_refused_and_changes_nothing(state):
    weighting = constrained(at_least=1.0, initial=0.5)
    with pytest.raises(CheckpointError, match="multiplier"):
        weighting.load_state_dict(state)
    assert weighting.state_dict() == {"content": 0.5}


# --- what cannot be


@pytest.mark.parametrize(
    ("schedules", "constraints", "message"),
    [
        (["contents"], [], "schedule of 'contents': the reward has no part 'contents'; did you mean 'content'"),
        ([], ["lenght"], "constraint of 'lenght': the reward has no part 'lenght'; did you mean 'length'"),
        ([], ["xyz"], "choose one of fluency, content, length"),
        (["content"], ["length", "content"], "part 'content' has a schedule and a constraint.*; leave out the one"),
    ],
)
def test_names_that_cannot_be(schedules, constraints, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        Weighting(
            {name: ScheduleOptions(to=0.0, steps=1) for name in schedules},
            {name: ConstraintOptions(at_least=0.0) for name in constraints},
            NAMES,
        )
    assert "\n" not in str(caught.value)


def test_a_part_that_was_not_judged_is_named():
    judged = judgement(fluency=[1.0], contents=[1.0])
    with pytest.raises(RewardError, match="no part 'content' was judged, whose weight moves; did you mean 'contents'"):
        constrained(at_least=1.0).update(judged)
    for weighting in (constrained(at_least=1.0), Weighting({"content": ScheduleOptions(to=0.0, steps=1)}, {}, NAMES)):
        with pytest.raises(RewardError, match="no part 'content'"):
            weighting.weigh(judged, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": float("nan")}, r"schedule\.to: the weight goes to nan"),
        ({"to": float("inf")}, r"schedule\.to"),
        ({"steps": 0}, r"schedule\.steps: 0 is too few"),
        ({"start": -1}, r"schedule\.start: there is no step -1"),
        ({"shape": "square"}, r"schedule\.shape: there is no shape 'square'; choose linear or cosine"),
    ],
)
def test_schedules_that_cannot_be(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ScheduleOptions(**{"to": 1.0, "steps": 10, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_least": float("-inf")}, r"constraint\.at_least: -inf is no bound"),
        ({"rate": 0.0}, r"constraint\.rate: rate is 0.0"),
        ({"rate": -1.0}, r"constraint\.rate"),
        ({"rate": float("nan")}, r"constraint\.rate"),
        ({"rate": float("inf")}, r"constraint\.rate"),
        ({"most": 0.0}, r"constraint\.most: most is 0.0"),
        ({"most": float("inf")}, r"constraint\.most"),
        ({"initial": -0.5}, r"constraint\.initial: the multiplier begins at -0.5"),
        ({"initial": 11.0}, r"constraint\.initial: .*from 0 to most, 10.0"),
        ({"initial": float("nan")}, r"constraint\.initial"),
    ],
)
def test_constraints_that_cannot_be(options, message):
    with pytest.raises(ConfigurationError, match=message):
        ConstraintOptions(**{"at_least": 1.0, **options})


def test_the_edges_can_be():
    assert ConstraintOptions(at_least=-1.0, initial=10.0).initial == 10.0
    assert ScheduleOptions(to=0.0, steps=1).weight(5.0, 1) == 0.0


# --- with a normaliser, and in a closed loop


def test_what_the_multiplier_weighs_under_each_order():
    """Two samples at ±1 of each part once normalised; raw, 1 ± 1 and 10 ± 4."""
    judged = constrained(at_least=0.0, initial=0.5).weigh(judgement(fluency=[0.0, 2.0], content=[14.0, 6.0]), 1)
    groups = torch.tensor([0, 0])
    each, _ = Normaliser(NormaliserOptions("batch", "each")).apply(judged, groups)
    assert each.tolist() == [-1.0 + 0.5, 1.0 - 0.5]
    summed, _ = Normaliser(NormaliserOptions("batch", "sum")).apply(judged, groups)
    assert summed.tolist() == [1.0, -1.0]  # raw, 0 + 7 against 2 + 3
    raw, _ = Normaliser(NormaliserOptions("none")).apply(judged, groups)
    assert raw.tolist() == [7.0, 5.0]


ARMS = {"terse": (1.0, 0.0), "middling": (0.6, 0.5), "full": (0.0, 1.0)}
TEMPERATURE, SAMPLES = 0.25, 200


def fluency(sources, outputs, references):
    return [ARMS[output][0] for output in outputs]


def content(sources, outputs, references):
    return [ARMS[output][1] for output in outputs]


def optimum(multiplier):
    """The mean content of the policy that is best for fluency + λ content + T entropy, which is the softmax."""
    odds = [math.exp((a + multiplier * b) / TEMPERATURE) for a, b in ARMS.values()]
    return sum(odd * b for odd, (_, b) in zip(odds, ARMS.values(), strict=True)) / sum(odds)


def bandit(constraint, options=None, steps=500, speed=2.0):
    """Policy gradient with an entropy bonus on three arms, drawn as often as they are probable; the last content and λ."""
    reward = 1.0 * FunctionReward(fluency) + 1.0 * FunctionReward(content)
    weighting = Weighting({}, {"content": constraint}, [part.name for part in reward.parts])
    normaliser, logits, contents = Normaliser(options or NormaliserOptions("none")), torch.zeros(3, dtype=torch.float64), []
    for step in range(1, steps + 1):
        probs = logits.softmax(0)
        edges = (probs.cumsum(0) * SAMPLES).round().long().clamp(max=SAMPLES)
        drawn = torch.bucketize(torch.arange(SAMPLES), edges, right=True).clamp(max=2)
        judged = Judged.of(["s"] * SAMPLES, [list(ARMS)[arm] for arm in drawn.tolist()])
        judgement = weighting.weigh(reward.judge(judged), step)
        rewards, _ = normaliser.apply(judgement, torch.zeros(SAMPLES, dtype=torch.int64))
        values = rewards.double() - TEMPERATURE * probs.log()[drawn]
        values = values - values.mean()
        gradient = torch.zeros(3, dtype=torch.float64).index_add(0, drawn, values) / SAMPLES
        logits = logits + speed * gradient
        weighting.update(judgement)
        contents.append(float(judgement.parts["content"].scores.mean()))
    return sum(contents[-100:]) / 100, weighting.multipliers["content"]


def test_dual_ascent_reaches_the_bound_with_the_multiplier_of_the_problem():
    low, high = 0.0, 10.0
    for _ in range(60):  # λ* by bisection, from the closed form alone
        middle = (low + high) / 2
        low, high = (middle, high) if optimum(middle) < 0.7 else (low, middle)
    assert optimum(0.0) < 0.25
    mean, multiplier = bandit(ConstraintOptions(at_least=0.7, rate=0.1))
    assert mean == pytest.approx(0.7, abs=0.005)
    assert multiplier == pytest.approx(low, abs=0.03)


def test_a_bound_that_holds_anyway_costs_nothing():
    mean, multiplier = bandit(ConstraintOptions(at_least=0.05, initial=2.0, rate=0.1))
    assert multiplier == 0.0
    assert mean == pytest.approx(optimum(0.0), abs=0.005)


def test_a_bound_out_of_reach_stops_at_the_most():
    _, multiplier = bandit(ConstraintOptions(at_least=2.0, rate=0.05, most=1.5), steps=200)
    assert multiplier == 1.5


@pytest.mark.parametrize(("kind", "order"), [("batch", "each"), ("running", "each"), ("running", "sum")])
def test_the_bound_is_on_the_raw_scale_whatever_the_normalisation(kind, order):
    mean, multiplier = bandit(ConstraintOptions(at_least=0.7, rate=0.1), NormaliserOptions(kind, order), 1000, speed=0.2)
    assert mean == pytest.approx(0.7, abs=0.01)
    assert 0.5 < multiplier < 2.0
