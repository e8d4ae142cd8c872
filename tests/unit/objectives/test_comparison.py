"""The losses of human judgement: against choix, enumeration, float64 loops and closed forms."""

from __future__ import annotations

import itertools
import math
import random

import choix
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from guerdon.errors import ConfigurationError
from guerdon.objectives.comparison import (
    bradley_terry_loss,
    centring_loss,
    davidson_loss,
    ordinal_loss,
    plackett_luce_loss,
    rao_kupper_loss,
    regression_loss,
)

NUMBERS = st.floats(-8, 8)


def wide(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def minimised(loss_of: object, *parameters: Tensor, steps: int = 300) -> None:
    """Newton-like descent to the bottom of a convex loss."""
    optimiser = torch.optim.LBFGS(
        parameters, max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of()  # type: ignore[operator]
        loss.backward()
        return loss

    for _ in range(3):
        optimiser.step(closure)


# --- against choix


def test_bradley_terry_finds_the_strengths_that_choix_finds() -> None:
    draw = random.Random(1)
    truth = [0.0, 0.8, -0.5, 1.5, 0.3]
    pairs = []
    for i, j in itertools.permutations(range(5), 2):
        for _ in range(12):
            first = draw.random() < 1 / (1 + math.exp(truth[j] - truth[i]))
            pairs.append((i, j) if first else (j, i))
    expected = choix.opt_pairwise(5, pairs, tol=1e-12)
    scores = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    better, worse = torch.tensor(pairs).T
    minimised(lambda: bradley_terry_loss(scores[better], scores[worse]).loss, scores)
    found = scores.detach().numpy()
    assert found - found.mean() == pytest.approx(expected - np.mean(expected), abs=1e-5)


def test_plackett_luce_finds_the_strengths_that_choix_finds() -> None:
    draw = random.Random(2)
    truth = [0.0, 0.7, -0.9, 1.2]
    rankings = []
    for _ in range(150):
        left, order = list(range(4)), list[int]()
        while left:
            order.append(draw.choices(left, [math.exp(truth[i]) for i in left])[0])
            left.remove(order[-1])
        rankings.append(order[: draw.choice([2, 3, 4])])
    expected = choix.opt_rankings(4, [tuple(order) for order in rankings], tol=1e-12)
    scores = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([order + [0] * (4 - len(order)) for order in rankings])
    mask = torch.arange(4) < torch.tensor([len(order) for order in rankings])[:, None]
    minimised(lambda: plackett_luce_loss(scores[rows], mask), scores)
    found = scores.detach().numpy()
    assert found - found.mean() == pytest.approx(expected - np.mean(expected), abs=1e-5)


# --- probabilities of all outcomes sum to 1


def likelihood(loss: Tensor) -> float:
    return math.exp(-float(loss))


@given(NUMBERS, NUMBERS)
def test_two_outcomes_of_a_comparison(a: float, b: float) -> None:
    one, other = bradley_terry_loss(wide(a), wide(b)).loss, bradley_terry_loss(wide(b), wide(a)).loss
    assert likelihood(one) + likelihood(other) == pytest.approx(1, rel=1e-12)
    trusted = [bradley_terry_loss(wide(*p), wide(*q), reliability=wide(0.7)).loss for p, q in (((a,), (b,)), ((b,), (a,)))]
    assert sum(map(likelihood, trusted)) == pytest.approx(1, rel=1e-12)


@given(NUMBERS, NUMBERS, st.floats(0.01, 5), st.sampled_from([rao_kupper_loss, davidson_loss]))
def test_three_outcomes_with_ties(a: float, b: float, parameter: float, loss: object) -> None:
    won, drawn, lost = (
        likelihood(loss(wide(p), wide(q), torch.tensor([tie]), wide(parameter)).loss)  # type: ignore[operator]
        for p, q, tie in ((a, b, False), (a, b, True), (b, a, False))
    )
    assert won + drawn + lost == pytest.approx(1, rel=1e-10)
    assert likelihood(loss(wide(b), wide(a), torch.tensor([True]), wide(parameter)).loss) == pytest.approx(drawn)  # type: ignore[operator]


@given(st.lists(NUMBERS, min_size=2, max_size=5))
def test_all_rankings(scores: list[float]) -> None:
    rows = torch.tensor(list(itertools.permutations(scores)), dtype=torch.float64)
    mask = torch.ones_like(rows, dtype=torch.bool)
    total = sum(likelihood(plackett_luce_loss(row[None], full[None])) for row, full in zip(rows, mask, strict=True))
    assert total == pytest.approx(1, rel=1e-10)


@given(NUMBERS, st.lists(st.floats(0.05, 3), min_size=1, max_size=5))
def test_all_levels_of_a_rating(score: float, steps: list[float]) -> None:
    thresholds = torch.tensor(steps, dtype=torch.float64).cumsum(0) - 2
    levels = range(len(steps) + 1)
    total = sum(likelihood(ordinal_loss(wide(score), torch.tensor([level]), thresholds)) for level in levels)
    assert total == pytest.approx(1, rel=1e-10)


# --- closed forms, and loops over the formulas in plain floats


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_bradley_terry_by_hand() -> None:
    better, worse, weight, margin, trust = [1.2, -0.3, 0.5], [0.2, 0.4, 0.5], [1.0, 3.0, 0.5], [0.0, 0.5, 1.0], [0.9, 0.5, 0.1]
    smooth = 0.2
    expected = 0.0
    for b, w, v, m, r in zip(better, worse, weight, margin, trust, strict=True):
        p = r * sigmoid(b - w - m) + (1 - r) / 2
        expected -= v * ((1 - smooth) * math.log(p) + smooth * math.log(1 - p))
    found = bradley_terry_loss(wide(*better), wide(*worse), wide(*weight), wide(*margin), smooth, wide(*trust))
    assert float(found.loss) == pytest.approx(expected, rel=1e-12)
    assert found.correct.tolist() == [1.0, 0.0, 0.5]
    assert found.margin.tolist() == pytest.approx([1.0, -0.7, 0.0])


def test_chen_et_al_write_the_same_reliability_otherwise() -> None:
    """Their η is the probability that an annotator follows the truth: η σ(d) + (1 - η) σ(-d)."""
    for d, eta in itertools.product((-2.0, 0.3, 4.0), (0.55, 0.8, 0.99)):
        found = likelihood(bradley_terry_loss(wide(d), wide(0), reliability=wide(2 * eta - 1)).loss)
        assert found == pytest.approx(eta * sigmoid(d) + (1 - eta) * sigmoid(-d), rel=1e-12)


def test_rao_kupper_by_its_strengths() -> None:
    a, b, theta = math.exp(0.4), math.exp(-0.7), 1.8
    eta = wide(math.log(theta))
    won = likelihood(rao_kupper_loss(wide(0.4), wide(-0.7), torch.tensor([False]), eta).loss)
    drawn = likelihood(rao_kupper_loss(wide(0.4), wide(-0.7), torch.tensor([True]), eta).loss)
    assert won == pytest.approx(a / (a + theta * b), rel=1e-12)
    assert drawn == pytest.approx((theta**2 - 1) * a * b / ((a + theta * b) * (theta * a + b)), rel=1e-12)


def test_davidson_by_its_strengths() -> None:
    a, b, nu = math.exp(0.4), math.exp(-0.7), 0.6
    total = a + b + nu * math.sqrt(a * b)
    weighed = davidson_loss(wide(0.4, 0.4), wide(-0.7, -0.7), torch.tensor([False, True]), wide(math.log(nu)), wide(1, 3))
    expected = -math.log(a / total) - 3 * math.log(nu * math.sqrt(a * b) / total)
    assert float(weighed.loss) == pytest.approx(expected, rel=1e-12)


def test_plackett_luce_by_hand_and_its_padding() -> None:
    rows = torch.tensor([[0.5, 1.5, -1.0, 9.0], [2.0, -3.0, 7.0, 7.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, True, False], [True, True, False, False]])
    expected = 0.0
    for row, count, weight in ((rows[0], 3, 2.0), (rows[1], 2, 0.5)):
        strengths = [math.exp(s) for s in row[:count].tolist()]
        expected -= weight * sum(math.log(strengths[j] / sum(strengths[j:])) for j in range(count))
    loss = plackett_luce_loss(rows, mask, wide(2.0, 0.5))
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    assert rows.grad is not None
    assert bool(torch.isfinite(rows.grad).all())
    assert bool((rows.grad[~mask] == 0).all())
    two = bradley_terry_loss(wide(2.0), wide(-3.0), wide(0.5)).loss
    assert plackett_luce_loss(rows[1:], mask[1:], wide(0.5)).item() == pytest.approx(float(two), rel=1e-12)


def test_ordinal_by_hand_and_far_from_the_thresholds() -> None:
    thresholds = wide(-1.0, 0.2, 2.0)
    scores, levels, expected = [0.3, -4.0, 2.5], [1, 3, 2], 0.0
    cumulative = [-math.inf, -1.0, 0.2, 2.0, math.inf]
    for score, level in zip(scores, levels, strict=True):
        upper, lower = cumulative[level + 1] - score, cumulative[level] - score
        expected -= math.log((1.0 if upper == math.inf else sigmoid(upper)) - (0.0 if lower == -math.inf else sigmoid(lower)))
    assert float(ordinal_loss(wide(*scores), torch.tensor(levels), thresholds)) == pytest.approx(expected, rel=1e-12)
    far = torch.tensor([60.0, -60.0, 60.0], requires_grad=True)
    edges = thresholds.float().requires_grad_()
    loss = ordinal_loss(far, torch.tensor([0, 3, 1]), edges)
    loss.backward()
    assert loss.item() == pytest.approx(61 + 62 + 59.8 - math.log(1 - math.exp(-1.2)), rel=1e-5)
    for gradient in (far.grad, edges.grad):
        assert gradient is not None
        assert bool(torch.isfinite(gradient).all())


def test_regression_and_centring() -> None:
    scores, targets = wide(1.0, 2.0), wide(0.0, 5.0)
    assert float(regression_loss(scores, targets, wide(2.0, 1.0))) == 0.5 * (2 * 1 + 9)
    rows = torch.tensor([[1.0, 3.0, 50.0], [1.0, 2.0, 6.0]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert float(centring_loss(rows, mask)) == 4 + 9
    assert float(centring_loss(rows, mask, torch.tensor([0.5, 2.0]))) == 2 + 18


def test_ties_tell_how_near_two_are() -> None:
    """The tie parameter that fits a share of ties between equal outputs is the closed form of each model."""
    for loss, of_share in (
        (rao_kupper_loss, lambda share: math.log((1 + share) / (1 - share))),
        (davidson_loss, lambda share: math.log(2 * share / (1 - share))),
    ):
        parameter = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
        tie, zero = torch.tensor([True] * 3 + [False] * 7), torch.zeros(10, dtype=torch.float64)
        minimised(lambda: loss(zero, zero, tie, parameter).loss, parameter)  # noqa: B023
        assert parameter.item() == pytest.approx(of_share(0.3), abs=1e-6)


def test_a_cut_into_micro_batches_changes_nothing() -> None:
    torch.manual_seed(0)
    better, worse, weight = torch.randn(3, 8, dtype=torch.float64)
    weight, tie, eta = weight.exp(), torch.arange(8) % 3 == 0, wide(0.4)
    for loss in (
        lambda i: bradley_terry_loss(better[i], worse[i], weight[i], label_smoothing=0.1).loss,
        lambda i: rao_kupper_loss(better[i], worse[i], tie[i], eta, weight[i]).loss,
        lambda i: davidson_loss(better[i], worse[i], tie[i], eta, weight[i]).loss,
    ):
        parts = sum(float(loss(part)) for part in torch.arange(8).chunk(3))
        assert parts == pytest.approx(float(loss(torch.arange(8))), rel=1e-12)


def test_a_share_of_wrong_labels_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"label_smoothing: 0\.5 is out of range"):
        bradley_terry_loss(wide(1.0), wide(0.0), label_smoothing=0.5)


def test_the_reliability_of_simulated_annotators_is_found() -> None:
    """Twelve annotators of known reliability judge pairs of eight outputs; scores and reliabilities are fitted together."""
    draw = random.Random(3)
    truth = [-2.1, -1.5, -0.9, -0.3, 0.3, 0.9, 1.5, 2.1]
    known = [0.98, 0.9, 0.8, 0.6, 0.4, 0.1] * 2
    votes = []
    for annotator, r in enumerate(known):
        for i, j in [pair for pair in itertools.combinations(range(8), 2) for _ in range(14)]:
            p = r * sigmoid(truth[i] - truth[j]) + (1 - r) / 2
            votes.append((i, j, annotator) if draw.random() < p else (j, i, annotator))
    better, worse, of = torch.tensor(votes).T
    scores = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    logits = torch.full((len(known),), 2.0, dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        trust = 0.999 * torch.sigmoid(logits)[of]
        return bradley_terry_loss(scores[better], scores[worse], reliability=trust).loss + 0.01 * logits.square().sum()

    minimised(loss, scores, logits)
    found = torch.sigmoid(logits).detach()
    assert float((found - torch.tensor(known)).abs().mean()) < 0.1
    assert found[5] < 0.35 < 0.75 < found[0]
    plain = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    minimised(lambda: bradley_terry_loss(plain[better], plain[worse]).loss, plain)
    true = torch.tensor(truth, dtype=torch.float64)
    errors = [float((s.detach() - s.detach().mean() - true).abs().max()) for s in (scores, plain)]
    assert errors[0] < 0.5 < errors[1]  # who tosses coins makes all outputs look alike
