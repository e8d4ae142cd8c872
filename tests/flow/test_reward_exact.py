"""Reward models at their optimum: what is found has no gradient left, depends on no seed, and leaves the policy as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flow.test_reward_model import NGRAMS, TINY, config, policy
from helpers.judged import comparisons
from torch.nn import functional

from guerdon.errors import ConfigurationError, DataError
from guerdon.models.reward_model import RewardBatch, read_texts
from guerdon.models.reward_options import NgramOptions, RewardModelOptions
from guerdon.rewards.learned import LearnedOptions, LearnedReward
from guerdon.stages.reward_model import train_reward_model
from guerdon.training.convex import ExactOptions, best_strength, fit_weights
from guerdon.training.judged import Collector, EncodedJudgements
from guerdon.training.reward_training import RewardModelConfig

LINEAR = RewardModelOptions("linear", ngrams=replace(NGRAMS, gain=2.0))
FROZEN = replace(TINY, scratch=None, trunk="frozen", pooling=("last", "mean"), surprisal=True, ngrams=NgramOptions(2, 512))


def exact(model: RewardModelOptions, **changes: Any) -> RewardModelConfig:
    return config(model=model, steps=None, **{"exact": ExactOptions((0.5,), folds=2), **changes})


def around(model: RewardModelOptions) -> dict[str, Any]:
    frozen = model.trunk == "frozen"
    return {"start": policy() if frozen else None, "likelihood": policy() if model.surprisal else None}


@pytest.mark.parametrize("model", [LINEAR, FROZEN], ids=["linear", "frozen"])
def test_no_gradient_is_left(model: RewardModelOptions) -> None:
    given = [*comparisons("order", 40), *comparisons("tone", 20)]
    held = comparisons("order", 60)[40:]
    (scorer,) = train_reward_model(given, exact(model), held, **around(model)).scorers
    judged = Collector(scorer.heads, exact(model).select).comparisons(given, ties=False, rankings=False)
    encoded = EncodedJudgements.of(judged, scorer.text)
    own = scorer.model
    weights = [part.weight for part in (own.head, own.wide) if part is not None]
    scores = own(RewardBatch.of(encoded.texts, list(range(len(encoded.texts))), own.pad_id))
    better, worse = (scores[[i.outputs[place] for i in encoded.items], [i.head for i in encoded.items]] for place in (0, 1))
    votes = torch.tensor([item.weight for item in encoded.items])
    loss = (votes * functional.softplus(worse - better)).sum() + sum(0.25 * weight.square().sum() for weight in weights)
    gradients = torch.autograd.grad(loss, weights)
    assert max(float(weight.detach().abs().max()) for weight in weights) > 0.05
    assert max(float(gradient.abs().max()) for gradient in gradients) < 2e-3


def test_a_frozen_policy_is_as_it_was_and_comes_back_from_its_folder(tmp_path: Path) -> None:
    given, begun = comparisons(), around(FROZEN)
    trained = train_reward_model(given, exact(FROZEN, exact=ExactOptions()), folder=tmp_path, **begun)
    assert trained.outcomes[0].validation["accuracy"] > 0.75
    assert trained.outcomes[0].reason == "the optimum was found"
    assert json.dumps(trained.facts())
    backbone = trained.scorers[0].model.backbone.state_dict()
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in begun["start"].policy.state_dict().items())
    trained.scorers[0].save(tmp_path / "model")
    sources, outputs = [c.source for c in given], [c.outputs[0] for c in given]
    again = LearnedReward.load(tmp_path / "model")(sources, outputs)
    assert torch.equal(again, LearnedReward(trained.scorers)(sources, outputs))
    other = train_reward_model(given[::-1], exact(FROZEN, exact=ExactOptions()), held_out(given), seed=8, **begun)
    same = train_reward_model(given, exact(FROZEN, exact=ExactOptions()), held_out(given), seed=8, **begun)
    assert torch.allclose(*(LearnedReward(t.scorers)(sources, outputs) for t in (other, same)), atol=2e-3)


def held_out(given: list[Any]) -> list[Any]:
    return [replace(c, source=f"{c.source} again") for c in given[:5]]


def test_a_frozen_trunk_learns_by_steps_too() -> None:
    begun = around(FROZEN)
    trained = train_reward_model(comparisons(), config(model=FROZEN, steps=40), **begun)
    assert trained.outcomes[0].validation["accuracy"] > 0.7
    backbone = trained.scorers[0].model.backbone.state_dict()
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in begun["start"].policy.state_dict().items())


def test_a_frozen_trunk_is_scaled_by_the_training_outputs_and_draws_nothing() -> None:
    given, begun = comparisons(), around(FROZEN)
    noisy = replace(FROZEN, backbone_dropout=0.5)
    (scorer,) = train_reward_model(given, exact(noisy), held_out(given), **begun).scorers
    judged = Collector(scorer.heads, exact(noisy).select).comparisons(given, ties=False, rankings=False)
    texts = EncodedJudgements.of(judged, scorer.text).texts
    states = read_texts(scorer.model, texts, lambda batch: scorer.model.norm(scorer.model.pooled(batch)))
    assert torch.allclose(states.mean(0), torch.zeros(states.shape[1]), atol=1e-4)
    assert torch.allclose(states.std(0, correction=0), torch.ones(states.shape[1]), atol=1e-3)
    batch = RewardBatch.of(texts, [0, 1, 2], scorer.model.pad_id)
    scorer.model.train()
    assert torch.equal(scorer.model.pooled(batch), scorer.model.pooled(batch))


def test_temperatures_are_fitted_by_folds_here_as_well() -> None:
    weak = exact(LINEAR, exact=ExactOptions((0.01,), folds=2), temperature_folds=3)
    (scorer,) = train_reward_model(comparisons(), weak).scorers
    assert scorer.moments[0].temperature != 1.0
    assert LearnedReward([scorer], LearnedOptions())(["a"], ["b"]).isfinite().all()


def test_weights_of_comparisons_are_as_so_many_comparisons() -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(1)
    rows, counts = rng.normal(size=(30, 5)), rng.integers(1, 4, 30)
    weighed = fit_weights(csr_matrix(rows), 3.0, counts.astype(float))
    repeated = fit_weights(csr_matrix(rows.repeat(counts, axis=0)), 3.0)
    assert np.allclose(weighed, repeated, atol=1e-4)


def test_noise_asks_for_strength() -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(2)
    rows, truth, fold = rng.normal(size=(400, 30)), rng.normal(size=30), np.arange(400) % 5
    chosen = []
    for noise in (0.1, 1e3):
        margins = rows @ truth / np.abs(rows @ truth).mean() + noise * rng.logistic(size=400)
        found = best_strength(csr_matrix(rows * np.sign(margins)[:, None]), fold, (0.01, 1.0, 100.0, 1e4))
        chosen.append(found)
    assert chosen[0] <= 1.0 < 100.0 <= chosen[1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 5}, "reward_model.steps: is not for an exact optimum; take it out"),
        ({"label_smoothing": 0.1}, "reward_model.label_smoothing"),
        ({"members": 2}, "reward_model.members"),
        ({"loss": "plackett_luce"}, "the loss is plackett_luce"),
        ({"model": TINY}, "there is no optimum to find; choose bradley_terry, and the kind linear or a frozen trunk"),
        ({"model": replace(FROZEN, hidden=4)}, "reward_model.model.hidden"),
    ],
)
def test_what_has_no_optimum_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        replace(exact(LINEAR), **changes)
    assert said in str(refused.value)


def test_options_that_cannot_be() -> None:
    for wrong in ({"strengths": ()}, {"strengths": (0.0,)}, {"folds": 1}):
        with pytest.raises(ConfigurationError, match=r"reward_model\.exact"):
            ExactOptions(**wrong)
    for kind in (LINEAR, TINY):
        with pytest.raises(ConfigurationError, match="trunk: 'frozen' cannot be"):
            replace(kind, trunk="frozen")
    with pytest.raises(ConfigurationError, match="trunk: 'melted' cannot be"):
        replace(TINY, trunk="melted")
    with pytest.raises(DataError, match="reward is judged for 3 sources, which cannot be cut into 5 folds"):
        train_reward_model(comparisons()[:3], exact(LINEAR, exact=ExactOptions()), comparisons()[9:12])
