"""Rows dealt out to threads: the values and gradients of one thread, the same bits at each call, and dropout in every share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial

import pytest
import torch
from helpers.tiny_policies import random_rows, tiny_policy
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from guerdon.models import together as module
from guerdon.models.dropout import Dropout
from guerdon.models.together import deal, together
from guerdon.models.transformer import Transformer

SOURCES, TARGETS = random_rows([9, 2, 5, 7, 3]), random_rows([4, 1, 7, 3, 6], seed=1)


@pytest.fixture(autouse=True)
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(module, "_LEAST", 2)
    yield
    torch.set_num_threads(before)


def log_prob(policy: Transformer, rows: Tensor) -> tuple[Tensor, Tensor]:
    seen = policy.evaluate(SOURCES.select(rows), TARGETS.select(rows))
    return seen.log_prob.sum(1), seen.mask


def gradients(policy: nn.Module) -> dict[str, Tensor]:
    return {name: weight.grad.clone() for name, weight in policy.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("tied", [True, False])
def test_values_and_gradients_are_those_of_one_thread(norm: str, tied: bool) -> None:
    policy = tiny_policy(norm=norm, tied_embeddings=tied)
    weights = torch.linspace(-1, 2, 5, dtype=torch.float64)
    (log_prob(policy, torch.arange(5))[0] * weights).sum().backward()
    wanted, values = gradients(policy), log_prob(policy, torch.arange(5))[0]
    policy.zero_grad()
    shares = deal(policy, TARGETS.lengths)
    assert len(shares) == 3
    found = together(policy, [partial(log_prob, policy, rows) for rows in shares])
    assert all(not mask.requires_grad and mask.dtype == torch.bool for _, mask in found)
    sum((part * weights[rows]).sum() for (part, _), rows in zip(found, shares, strict=True)).backward()
    for (part, _), rows in zip(found, shares, strict=True):
        torch.testing.assert_close(part, values[rows], rtol=1e-12, atol=1e-12)
    assert gradients(policy).keys() == wanted.keys()
    for name, gradient in gradients(policy).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-10, atol=1e-12)


def test_a_share_that_the_loss_leaves_out_and_weights_that_a_share_leaves_out() -> None:
    one, other = nn.Linear(2, 1).double(), nn.Linear(2, 1).double()
    both = nn.ModuleList([one, other])
    given = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    first, second, third = together(
        both, [lambda: [one(given)], lambda: [one(given), other(3 * given)], lambda: [other(given)]]
    )
    (2 * first[0] + second[1]).sum().backward()
    assert one.weight.grad is not None
    assert other.weight.grad is not None
    assert one.weight.grad.tolist() == [[2.0, 4.0]]
    assert other.weight.grad.tolist() == [[3.0, 6.0]]
    assert third[0].requires_grad


def test_each_share_draws_its_own_dropout_and_the_global_seed_decides() -> None:
    layer = nn.Sequential(nn.Linear(1, 1, bias=False), Dropout(0.5)).train()
    ones = torch.ones(4000, 1)

    def drawn(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [share for (share,) in together(layer, [lambda: [layer(ones)] for _ in range(3)])]

    first, again, other = drawn(1), drawn(1), drawn(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    kept = torch.stack([(share != 0).double()[:, 0] for share in first])
    assert (torch.corrcoef(kept) - torch.eye(3)).abs().max() < 0.08  # five standard errors
    assert ((kept.mean(1) - 0.5).abs() < 0.04).all()


def test_the_backward_pass_reads_the_mask_of_the_forward_pass() -> None:
    layer = nn.Sequential(nn.Linear(1, 1, bias=False), Dropout(0.5)).double().train()
    ones = torch.ones(50, 1, dtype=torch.float64)
    found = together(layer, [lambda: [layer(ones)], lambda: [layer(ones)]])
    total = sum(share.sum() for (share,) in found)
    total.backward()
    weight = layer[0].weight
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx(total.item() / weight.item(), rel=1e-12)


def test_runs_at_once_each_with_its_part_of_the_threads_and_leaves_the_callers() -> None:
    torch.set_num_threads(4)
    met, threads = threading.Barrier(2, timeout=60), []

    def work() -> list[Tensor]:
        met.wait()
        threads.append(torch.get_num_threads())
        return [torch.ones(1)]

    together(nn.Linear(1, 1), [work, work])
    assert threads == [2, 2]
    assert torch.get_num_threads() == 4


def test_without_gradients_there_are_none_and_errors_come_through() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        found = together(layer, [lambda: [layer(torch.ones(1, 2))]] * 2)
    assert not any(share.requires_grad for (share,) in found)

    def fail() -> list[Tensor]:
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        together(layer, [lambda: [torch.ones(1)], fail])


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_every_row_once_in_shares_of_about_one_size(lengths: list[int]) -> None:
    shares = deal(tiny_policy(), torch.tensor(lengths))
    assert sorted(torch.cat(shares).tolist()) == list(range(len(lengths)))
    assert len(shares) == max(1, min(3, len(lengths), sum(lengths) // 2))
    sizes = [int(torch.tensor(lengths)[share].sum()) for share in shares]
    assert max(sizes) - min(sizes) <= max(lengths)


def test_alone_where_threads_are_not_welcome() -> None:
    lengths, policy = torch.tensor([5, 5, 5, 5]), tiny_policy()
    assert len(deal(policy, lengths)) == 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert len(deal(policy, lengths)) == 1
    assert len(deal(nn.Linear(1, 1), lengths)) == 1
    policy.recompute = True
    assert len(deal(policy, lengths)) == 1
    torch.set_num_threads(1)
    assert len(deal(tiny_policy(), lengths)) == 1
