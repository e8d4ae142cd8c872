"""Learned rewards: heads, ensembles, averaged weights, length, centre, clip; against the raw scores, by hand."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.reward_models import OUTPUTS, SOURCES, saved, scorer

from guerdon.errors import ConfigurationError, DataError, RewardError
from guerdon.models.reward_folder import HeadMoments, RewardScorer, save_scorers
from guerdon.models.reward_options import NgramOptions
from guerdon.rewards import build_reward
from guerdon.rewards.build import RewardContext
from guerdon.rewards.learned import LearnedOptions, LearnedReward, average_weights

MOMENTS = [HeadMoments(0.5, 6.0, 0.1, 2.0), HeadMoments(-1.0, 3.0, -0.2, 0.5)]
WORDS = [len(output.split()) for output in OUTPUTS]


def raw(made: RewardScorer) -> list[list[float]]:
    return [made.scores([s], [o])[0].tolist() for s, o in zip(SOURCES, OUTPUTS, strict=True)]


def test_heads_are_centred_cooled_and_weighed() -> None:
    made = scorer(moments=MOMENTS)
    found = LearnedReward([made], LearnedOptions({"b": 2.0, "a": 0.5}))(SOURCES, OUTPUTS).tolist()
    expected = [0.5 * (a - 0.5) / 2.0 + 2.0 * (b + 1.0) / 0.5 for a, b in raw(made)]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    plain = LearnedReward([made], LearnedOptions(centre=False))(SOURCES, OUTPUTS).tolist()
    assert plain == pytest.approx([0.5 * a / 2.0 + 0.5 * b / 0.5 for a, b in raw(made)], rel=1e-5, abs=1e-6)


def test_what_length_explains_is_taken_off() -> None:
    made = scorer(moments=MOMENTS)
    found = LearnedReward([made], LearnedOptions({"b": 1.0}, debias_length=True))(SOURCES, OUTPUTS).tolist()
    expected = [(b + 1.0 + 0.2 * (n - 3.0)) / 0.5 for (_, b), n in zip(raw(made), WORDS, strict=True)]
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_debiased_score_does_not_go_with_length_on_what_it_was_measured_on() -> None:
    made = scorer("linear", ngrams=NgramOptions(longest=1, buckets=4096))
    outputs = [" ".join(f"w{i}" for i in range(n)) for n in range(1, 30)]
    sources = ["s"] * len(outputs)
    with torch.no_grad():
        made.model.wide.weight.add_(0.5)  # type: ignore[union-attr]  # every word is worth something
    words = [len(output.split()) for output in outputs]
    moments = [HeadMoments.measure(made.scores(sources, outputs)[:, head], words) for head in (0, 1)]
    biased, fair = (
        LearnedReward([RewardScorer(made.model, made.text, moments)], LearnedOptions(debias_length=debias))(sources, outputs)
        for debias in (False, True)
    )
    lengths = torch.tensor(words).float()
    assert torch.corrcoef(torch.stack([biased, lengths]))[0, 1] > 0.8
    assert abs(float(torch.corrcoef(torch.stack([fair, lengths]))[0, 1])) < 1e-4
    assert abs(float(fair.mean())) < 1e-4


def test_ensembles_by_hand() -> None:
    members = [scorer(seed=seed, moments=MOMENTS) for seed in (1, 2, 3)]
    head = {"a": 1.0}
    each = torch.stack([LearnedReward([m], LearnedOptions(head))(SOURCES, OUTPUTS) for m in members]).double()
    mean, spread = each.mean(0), each.std(0, correction=0)
    assert float(spread.max()) > 0.1
    for options, expected in (
        (LearnedOptions(head), mean),
        (LearnedOptions(head, "worst"), each.min(0).values),
        (LearnedOptions(head, "mean_minus_std", 0.7), mean - 0.7 * spread),
        (LearnedOptions(head, clip=0.2), mean.clamp(-0.2, 0.2)),
    ):
        found = LearnedReward(members, options)(SOURCES, OUTPUTS)
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def test_averaged_weights_of_linear_models_are_averaged_scores() -> None:
    members = [scorer("linear", seed=seed, moments=[replace(m, mean=seed * m.mean) for m in MOMENTS]) for seed in (1, 2)]
    one = LearnedReward(members, LearnedOptions({"a": 1.0}, "average_weights"))
    assert len(one.scorers) == 1
    expected = LearnedReward(members, LearnedOptions({"a": 1.0}))(SOURCES, OUTPUTS)
    assert one(SOURCES, OUTPUTS).tolist() == pytest.approx(expected.tolist(), rel=1e-5, abs=1e-6)


def test_averaged_weights_of_networks_are_means() -> None:
    members = [scorer(seed=seed) for seed in (1, 2)]
    mean = average_weights(members).model.state_dict()
    for name, weight in mean.items():
        first, second = (m.model.state_dict()[name].double() for m in members)
        assert torch.allclose(weight.double(), (first + second) / 2, rtol=0, atol=1e-6)
    before = scorer(seed=1).model.state_dict()
    assert all(torch.equal(before[name], weight) for name, weight in members[0].model.state_dict().items())


def test_it_is_a_reward(tmp_path: Path) -> None:
    reward = LearnedReward.load(saved(scorer(moments=MOMENTS), tmp_path / "m"), clip=3.0)
    scores = reward(SOURCES, OUTPUTS, finished=[False, *[True] * 5])
    assert scores.dtype == torch.float32
    assert bool(torch.isfinite(scores).all())
    assert torch.equal(pickle.loads(pickle.dumps(reward))(SOURCES, OUTPUTS), scores)
    assert not reward.needs_references
    assert torch.equal(reward([], []), torch.zeros(0))
    half = 0.5 * reward + 0.5 * reward
    assert torch.allclose(half(SOURCES, OUTPUTS), scores)


def test_a_weight_that_is_not_finite_is_reported_under_the_rewards_name() -> None:
    made = scorer()
    with torch.no_grad():
        made.model.head.bias.fill_(torch.inf)  # type: ignore[union-attr]
    with pytest.raises(RewardError, match=r"reward 'learned': returned .* for sample 0"):
        LearnedReward([made])(SOURCES, OUTPUTS)


def test_a_function_opens_it_when_it_is_first_asked() -> None:
    opened = []

    def open_() -> list[RewardScorer]:
        opened.append(1)
        return [scorer(moments=MOMENTS)]

    reward = LearnedReward(open_)
    assert opened == []
    expected = LearnedReward([scorer(moments=MOMENTS)])(SOURCES, OUTPUTS)
    assert torch.equal(reward(SOURCES, OUTPUTS), expected)
    reward(SOURCES, OUTPUTS)
    assert opened == [1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ensemble": "median"}, "learned.ensemble: there is no 'median'; choose mean, worst"),
        ({"penalty": 1.0}, "learned.penalty: penalty is 1.0, and ensemble is mean"),
        ({"ensemble": "mean_minus_std"}, "learned.penalty: penalty is None, and ensemble is mean_minus_std"),
        ({"ensemble": "mean_minus_std", "penalty": -1.0}, "learned.penalty"),
        ({"clip": 0.0}, "learned.clip: 0.0 is no bound"),
        ({"heads": {"a": float("nan")}}, "learned.heads.a: its weight is nan"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        LearnedOptions(**options)
    assert said in str(caught.value)


def test_members_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="there is no reward model"):
        LearnedReward([])
    with pytest.raises(ConfigurationError, match=r"learned\.heads: the reward model has no head 'c'; choose of a, b"):
        LearnedReward([scorer()], LearnedOptions({"c": 1.0}))
    with pytest.raises(ConfigurationError, match="the members have other heads: a, b, and x"):
        LearnedReward([scorer(), scorer(heads=("x",))])
    with pytest.raises(ConfigurationError, match="worst needs several reward models, and there is one"):
        LearnedReward([scorer()], LearnedOptions(ensemble="worst"))
    with pytest.raises(ConfigurationError, match="of other options or tokenizers"):
        LearnedReward([scorer(), scorer(pooling=("mean",))], LearnedOptions(ensemble="average_weights"))


# --- in a recipe's reward section


def test_a_recipes_section_names_folders(tmp_path: Path) -> None:
    saved(scorer(seed=1), tmp_path / "one")
    saved(scorer(seed=2), tmp_path / "two")
    save_scorers([scorer(seed=1), scorer(seed=2)], tmp_path / "both")
    context = RewardContext(folder=tmp_path)
    part = {"type": "learned", "heads": {"a": 1.0}, "ensemble": "worst", "clip": 2.0}
    apart = build_reward({**part, "from": ["one", "two"]}, context)(SOURCES, OUTPUTS)
    together = build_reward({**part, "from": "both"}, context)(SOURCES, OUTPUTS)
    assert torch.equal(apart, together)
    members = [scorer(seed=1), scorer(seed=2)]
    assert torch.equal(apart, LearnedReward(members, LearnedOptions({"a": 1.0}, "worst", clip=2.0))(SOURCES, OUTPUTS))


def test_the_reward_model_of_a_run_is_made_when_it_is_needed(tmp_path: Path) -> None:
    made = []

    def train() -> Path:
        made.append(1)
        return saved(scorer(), tmp_path / "run" / "reward_model")

    reward = build_reward({"type": "learned", "from": "reward_model"}, RewardContext(folder=tmp_path, reward_model=train))
    assert made == []
    assert torch.equal(reward(SOURCES, OUTPUTS), LearnedReward([scorer()])(SOURCES, OUTPUTS))
    assert made == [1]


@pytest.mark.parametrize(
    ("part", "error", "said"),
    [
        ({}, ConfigurationError, "reward part 1 (learned): the option 'from' is missing"),
        ({"from": "nowhere"}, DataError, "nowhere: no such folder; name the folder of a reward model"),
        ({"from": "reward_model"}, ConfigurationError, "this reward model is trained by a run of the recipe"),
        ({"from": 3}, ConfigurationError, "from is 3"),
        ({"from_": "one"}, ConfigurationError, "there is no option 'from_'"),
        ({"from": "one", "ensembel": "worst"}, ConfigurationError, "did you mean 'ensemble'?"),
    ],
)
def test_a_section_that_cannot_be_is_one_line(part: dict[str, Any], error: type[Exception], said: str, tmp_path: Path) -> None:
    saved(scorer(), tmp_path / "one")
    with pytest.raises(error) as caught:
        build_reward({"type": "learned", **part}, RewardContext(folder=tmp_path))(["a"], ["b"])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
