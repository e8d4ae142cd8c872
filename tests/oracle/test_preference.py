"""Preference losses against what their papers prove of the optimum, on a policy whose every output is enumerated.

The policy is a table: logits of the next token (end, a, b) after each prefix; outputs are cut at three tokens, and those cut
off are outputs like others. The losses see it as training does, through `sequence_log_prob`. Their minimum over the *whole
population* of preferences is found numerically in float64, and compared with the closed form.

Axes: y outputs (Y = 15), pairs (i, j) with i preferred.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.objectives.preference import (
    PreferenceSums,
    dpo_loss,
    ipo_loss,
    orpo_loss,
    sequence_log_prob,
)

LIMIT, TOKENS = 3, (0, 1, 2)  # 0 ends
PREFIXES = [p for n in range(LIMIT) for p in itertools.product((1, 2), repeat=n)]
FINISHED = [(*p, 0) for n in range(LIMIT) for p in itertools.product((1, 2), repeat=n)]
OUTPUTS = [*FINISHED, *itertools.product((1, 2), repeat=LIMIT)]
TARGETS = Padded.from_lists(OUTPUTS)
WON, LOST = (torch.tensor(side) for side in zip(*itertools.permutations(range(len(OUTPUTS)), 2), strict=True))


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_probs(table: Tensor) -> Tensor:
    """Of every output, [Y]; table: [prefixes, tokens]."""
    rows = [PREFIXES.index(output[:i]) for output in OUTPUTS for i in range(len(output))]
    return sequence_log_prob(table[rows], TARGETS)


def minimised(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The log-probabilities of the table that minimises ``loss``, [Y]."""
    table = torch.zeros(len(PREFIXES), len(TOKENS), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [table], max_iter=2000, tolerance_grad=1e-13, tolerance_change=1e-18, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(log_probs(table))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    assert table.grad is not None
    assert float(table.grad.norm()) < 1e-8
    return log_probs(table).detach()


def test_the_table_is_a_distribution() -> None:
    found = log_probs(draw(len(PREFIXES), 3, seed=1))
    assert len(OUTPUTS) == 15
    assert float(found.exp().sum()) == pytest.approx(1.0, abs=1e-14)
    first = torch.log_softmax(draw(len(PREFIXES), 3, seed=1)[0], -1)
    assert float(found[0]) == pytest.approx(float(first[0]), abs=1e-15)  # the empty output is the end token


@pytest.mark.parametrize("beta", [0.3, 1.0, 4.0])
def test_dpo_ends_at_the_optimum_of_reinforcement_with_kl(beta: float) -> None:
    """Rafailov et al. 2023, theorem 1: p(y) = q(y) exp(r(y) / β) / Z, where preferences are Bradley-Terry of r."""
    anchor, reward = log_probs(draw(len(PREFIXES), 3, seed=2)), draw(len(OUTPUTS), seed=3)
    preferred = torch.sigmoid(reward[WON] - reward[LOST])

    def loss(seen: Tensor) -> Tensor:
        return dpo_loss(seen[WON], seen[LOST], anchor[WON], anchor[LOST], beta, weight=preferred).loss / len(WON)

    weighed = np.exp(anchor.numpy()) * np.exp(reward.numpy() / beta)
    assert np.abs(minimised(loss).exp().numpy() - weighed / weighed.sum()).max() < 1e-6


def test_conservative_dpo_ends_at_the_smoothed_odds() -> None:
    """Mitchell 2023: where all agree on a pair, its margin ends at log (1 - s) / s; without smoothing it has no end."""
    anchor = log_probs(draw(len(PREFIXES), 3, seed=2))
    pair = (torch.tensor([3]), torch.tensor([8]))

    def sums(seen: Tensor) -> PreferenceSums:
        return dpo_loss(seen[pair[0]], seen[pair[1]], anchor[pair[0]], anchor[pair[1]], 0.5, label_smoothing=0.1)

    assert float(sums(minimised(lambda seen: sums(seen).loss)).margin) == pytest.approx(math.log(9), abs=1e-6)


@pytest.mark.parametrize("tau", [0.5, 2.0])
def test_ipo_ends_at_the_preference_over_the_mean_opponent(tau: float) -> None:
    """Azar et al. 2024, eq. 13: log p(y)/q(y) - log p(y')/q(y') = (P(y beats μ) - P(y' beats μ)) / τ, any P whatever."""
    count = len(OUTPUTS)
    anchor = log_probs(draw(len(PREFIXES), 3, seed=2))
    beats = torch.sigmoid(3 * draw(count, count, seed=4))
    beats = torch.where(torch.ones(count, count).tril().bool(), beats, 1 - beats.T)  # P(i beats j) = 1 - P(j beats i)
    beats.fill_diagonal_(0.5)

    def loss(seen: Tensor) -> Tensor:
        return ipo_loss(seen[WON], seen[LOST], anchor[WON], anchor[LOST], tau, weight=beats[WON, LOST]).loss / len(WON)

    found, of_mean = minimised(loss), beats.mean(1)
    expected = (of_mean[WON] - of_mean[LOST]) / tau
    margins = ipo_loss(found[WON], found[LOST], anchor[WON], anchor[LOST], tau).margin
    assert float((margins / tau - expected).abs().max()) < 1e-6


@pytest.mark.parametrize("share", [1.0, 0.75])
def test_ipo_on_one_pair_ends_at_its_margin(share: float) -> None:
    """Eq. 17 itself: h = (2π - 1) / 2τ, finite where all agree (π = 1), unlike that of DPO."""
    anchor, tau = log_probs(draw(len(PREFIXES), 3, seed=2)), 0.4
    won, lost = torch.tensor([1, 6]), torch.tensor([6, 1])
    votes = torch.tensor([share, 1 - share], dtype=torch.float64)

    def sums(seen: Tensor) -> PreferenceSums:
        return ipo_loss(seen[won], seen[lost], anchor[won], anchor[lost], tau, weight=votes)

    margin = sums(minimised(lambda seen: sums(seen).loss)).margin[0]
    assert float(margin) / tau == pytest.approx((2 * share - 1) / (2 * tau), abs=1e-6)


def orpo_by_hand(table: np.ndarray, pairs: list[tuple[int, int, float]], odds_weight: float) -> float:
    """Hong et al. 2024, eq. 3 to 7, one pair and one token at a time."""
    total = 0.0
    for won, lost, weight in pairs:
        mean, odds = [], []
        for output in (OUTPUTS[won], OUTPUTS[lost]):
            log_prob = 0.0
            for i, token in enumerate(output):
                weights = np.exp(table[PREFIXES.index(output[:i])])
                log_prob += np.log(weights[token] / weights.sum())
            mean.append(log_prob / len(output))
            probability = np.exp(mean[-1])
            odds.append(probability / (1 - probability))
        total += weight * (-mean[0] - odds_weight * np.log(1 / (1 + np.exp(-np.log(odds[0] / odds[1])))))
    return total


def test_orpo_is_its_formula_and_so_is_its_gradient() -> None:
    table, pairs = draw(len(PREFIXES), 3, seed=6).requires_grad_(), [(3, 8, 1.0), (14, 0, 2.5), (0, 1, 0.3)]
    won, lost = torch.tensor([pair[0] for pair in pairs]), torch.tensor([pair[1] for pair in pairs])
    weight = torch.tensor([pair[2] for pair in pairs], dtype=torch.float64)
    seen = log_probs(table)
    sums = orpo_loss(seen[won], seen[lost], TARGETS.lengths[won], TARGETS.lengths[lost], 0.7, weight)
    sums.loss.backward()  # type: ignore[no-untyped-call]
    plain = table.detach().numpy()
    assert sums.loss.item() == pytest.approx(orpo_by_hand(plain, pairs, 0.7), rel=1e-12)
    assert table.grad is not None
    for row, column in itertools.product(range(len(PREFIXES)), range(3)):
        step = np.zeros_like(plain)
        step[row, column] = 1e-6
        slope = (orpo_by_hand(plain + step, pairs, 0.7) - orpo_by_hand(plain - step, pairs, 0.7)) / 2e-6
        assert float(table.grad[row, column]) == pytest.approx(slope, abs=1e-8)
