"""Leaving out padding changes neither values nor gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.tiny_policies import random_rows, tiny_policy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guerdon.data.padded import Padded
from guerdon.models import filled as module
from guerdon.models.filled import Filled, spans
from guerdon.models.transformer import Transformer

SOURCES, TARGETS = random_rows([9, 2, 5]), random_rows([4, 1, 7, 3, 3], seed=1)
ROWS = torch.tensor([0, 0, 1, 2, 2])


def gradients(policy: Transformer) -> tuple[Tensor, dict[str, Tensor]]:
    policy.zero_grad()
    log_prob = policy.evaluate(SOURCES, TARGETS, rows=ROWS).log_prob
    weights = torch.linspace(-1, 1, log_prob.numel(), dtype=torch.float64).view_as(log_prob)
    (log_prob * weights).sum().backward()
    return log_prob.detach(), {name: weight.grad for name, weight in policy.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "learned"])
def test_values_and_gradients(norm: Any, positions: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(norm=norm, positions=positions)
    assert Filled.of(SOURCES) is not None
    assert Filled.of(TARGETS) is not None
    values, found = gradients(policy)
    memory, _ = policy.encode(SOURCES)
    hidden = policy.decode(*policy.encode(SOURCES), TARGETS, ROWS)
    monkeypatch.setattr(module, "_WORTH", -1.0)  # no rectangle is taken apart any more
    assert Filled.of(TARGETS) is None
    wanted_values, wanted = gradients(policy)
    torch.testing.assert_close(values, wanted_values, rtol=1e-12, atol=1e-12)
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(memory[SOURCES.mask], policy.encode(SOURCES)[0][SOURCES.mask], rtol=1e-12, atol=1e-12)
    plain = policy.decode(*policy.encode(SOURCES), TARGETS, ROWS)
    torch.testing.assert_close(hidden[TARGETS.mask], plain[TARGETS.mask], rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_spread_and_collect_are_adjoint(lengths: list[int]) -> None:
    rows = Padded.from_lists([[1] * length for length in lengths])
    filled = Filled(rows.mask.flatten().nonzero()[:, 0], (len(lengths), rows.ids.shape[1]))
    count = rows.tokens()
    values = torch.randn(count, 3, dtype=torch.float64, requires_grad=True)
    rectangle = torch.randn(*filled.shape, 3, dtype=torch.float64, requires_grad=True)
    spread = filled.spread(values)
    assert torch.equal(spread[rows.mask], values)
    assert not spread[~rows.mask].any()
    assert torch.equal(filled.collect(rectangle), rectangle[rows.mask])
    assert torch.autograd.gradcheck(filled.spread, values)
    assert torch.autograd.gradcheck(filled.collect, rectangle)


def test_a_full_rectangle_is_left_alone() -> None:
    assert Filled.of(random_rows([4, 4, 4])) is None
    assert Filled.of(random_rows([10] * 9 + [9])) is None
    assert Filled.of(Padded.from_lists([])) is None


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200), st.booleans())
def test_spans_cover_the_sources_and_reach_as_far_as_their_longest(lengths: list[int], sort: bool) -> None:
    lengths = sorted(lengths, reverse=True) if sort else lengths
    found = spans(torch.tensor(lengths))
    assert [source for first, last, _ in found for source in range(first, last)] == list(range(len(lengths)))
    assert [n for _, _, n in found] == [max(1, *lengths[first:last]) for first, last, _ in found]
    assert len(found) == 1 or all(last - first >= 8 for first, last, _ in found)
    if sort:  # what is read is little more than what counts, but for the few of a smallest span
        assert all(lengths[last - 1] >= 0.85 * n for first, last, n in found if last - first > 16 and last < len(lengths))
