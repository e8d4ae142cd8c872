"""The linear model: a planted preference, an independent optimiser, and what it reaches on real judgements."""

from __future__ import annotations

import doctest
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from guerdon.data.judgements import ComparisonFields, read_comparisons
from guerdon.errors import ConfigurationError, DataError
from guerdon.evaluation import linear_preference
from guerdon.evaluation.human_pairs import HumanPair, voted_pairs
from guerdon.evaluation.linear_preference import LinearOptions, grams, train_linear
from guerdon.training.convex import fit_weights

DATA = Path(os.environ.get("GUERDON_DATA", Path(__file__).resolve().parents[4] / "shared" / "data")) / "e2e_human"
OPTIONS = LinearOptions(strengths=(0.1, 1.0), folds=3)
WORDS = [f"w{i}" for i in range(12)]


def planted(n=240, sources=24, noise=0.0, seed=0, unanimous=True):
    """People prefer the text with more of w0 and fewer of w1; a share of pairs is turned round."""
    rng = np.random.default_rng(seed)
    pairs = []
    while len(pairs) < n:
        texts = [list(rng.choice(WORDS, size=6)) for _ in range(2)]
        value = [text.count("w0") - text.count("w1") for text in texts]
        if value[0] == value[1]:
            continue
        first = (value[0] > value[1]) != (rng.random() < noise)
        chosen, rejected = texts if first else texts[::-1]
        votes = (2, 0) if unanimous else (1, 0)
        pairs.append(HumanPair(f"s{len(pairs) % sources}", " ".join(chosen), " ".join(rejected), (), *votes))
    return pairs


def accuracy(model, pairs):
    scores = model(["s"] * 2 * len(pairs), [*(p.chosen for p in pairs), *(p.rejected for p in pairs)])
    return float((scores[: len(pairs)] > scores[len(pairs) :]).double().mean())


def test_a_planted_preference_is_learnt():
    model = train_linear(planted(), OPTIONS)
    assert accuracy(model, planted(seed=9)) > 0.9
    assert model.weights[("w0",)] > 0 > model.weights[("w1",)]
    assert (model.pairs, model.unanimous) == (240, True)


def test_noise_asks_for_a_stronger_penalty_and_a_higher_temperature():
    options = LinearOptions(strengths=(0.01, 30.0), folds=3)
    clean, noisy = train_linear(planted(600), options), train_linear(planted(600, noise=0.3), options)
    assert (clean.strength, noisy.strength) == (0.01, 30.0)


def test_the_temperature_makes_up_for_shrunken_weights():
    weak, strong = (
        train_linear(planted(noise=0.2), LinearOptions(strengths=(strength,), folds=3)) for strength in (1.0, 300.0)
    )
    assert strong.temperature < 0.3 * weak.temperature


def test_the_optimum_is_that_of_another_optimiser():
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    features = rng.integers(-2, 3, size=(60, 9)).astype(float)
    found = fit_weights(csr_matrix(features), 2.0)
    weights, x = torch.zeros(9, dtype=torch.float64, requires_grad=True), torch.tensor(features)
    for _ in range(60):  # Newton's method on the objective as it is written, derivatives by autograd

        def objective(w):
            return -torch.nn.functional.logsigmoid(x @ w).sum() + w.square().sum()

        gradient = torch.autograd.functional.jacobian(objective, weights)
        hessian = torch.autograd.functional.hessian(objective, weights)
        weights = (weights - torch.linalg.solve(hessian, gradient)).detach()
    assert np.allclose(found, weights.numpy(), atol=1e-4)


def test_grams_are_counted():
    found = grams("A pub, a pub")
    assert found[("a", "pub")] == 2
    assert found[("pub", ",", "a")] == 1
    assert found[("a",)] == 2
    assert sum(count for gram, count in found.items() if len(gram) == 1) == 7  # five tokens and both marks
    assert len(grams("")) == 3


def test_scores_are_sums_of_weights_and_pickle():
    model = train_linear(planted(), OPTIONS)
    text = "w0 w3 w0"
    expected = sum(count * model.weights.get(gram, 0.0) for gram, count in grams(text).items())
    again = pickle.loads(pickle.dumps(model))
    assert again(["x"], [text]).item() == model(["x"], [text]).item() == pytest.approx(expected, rel=1e-6)
    assert model(["x"], ["unseen tokens"]).isfinite().all()


def test_only_unanimous_pairs_teach_where_they_suffice():
    few = planted(120, sources=12)
    misled = [HumanPair(p.source, p.rejected, p.chosen, (), 1, 0) for p in planted(480, sources=12, seed=4)]
    model = train_linear([*few, *misled], OPTIONS)
    assert (model.pairs, model.unanimous) == (120, True)
    assert accuracy(model, planted(seed=9)) > 0.8
    everything = train_linear([*few, *misled], LinearOptions(strengths=(1.0,), folds=3, unanimous=False))
    assert (everything.pairs, everything.unanimous) == (600, False)
    assert accuracy(everything, planted(seed=9)) < 0.5
    without = train_linear(planted(60, sources=12, unanimous=False), OPTIONS)
    assert (without.pairs, without.unanimous) == (60, False)


@pytest.mark.parametrize("wrong", [{"strengths": ()}, {"strengths": (0.0,)}, {"folds": 1}])
def test_options_that_cannot_be(wrong):
    with pytest.raises(ConfigurationError):
        LinearOptions(**wrong)


def test_too_few_sources_are_refused():
    with pytest.raises(DataError, match="2 sources cannot be cut into 3 folds"):
        train_linear(planted(20, sources=2), OPTIONS)


def test_examples():
    assert doctest.testmod(linear_preference).failed == 0


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
@pytest.mark.parametrize(("aspect", "least"), [("naturalness", 0.78), ("quality", 0.85)])
def test_real_unanimous_pairs(aspect, least):
    fields = ComparisonFields(source="prompt", weight="votes_for", against="votes_against")
    read = read_comparisons(DATA / f"pairs_{aspect}.jsonl", fields).comparisons
    split = {name: voted_pairs([c for c in read if c.meta["split"] == name]).pairs for name in ("train", "valid")}
    model = train_linear(split["train"], LinearOptions(strengths=(30.0,), folds=2))
    assert accuracy(model, [pair for pair in split["valid"] if pair.unanimous]) > least
