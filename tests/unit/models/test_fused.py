"""Log-probability and entropy, and both gradients, against torch's own operations in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from guerdon.models import fused
from guerdon.models.fused import log_prob_and_entropy


def plain(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_probs = torch.log_softmax(logits.double() / temperature, -1)
    chances = log_probs.exp()
    return log_probs.gather(1, ids[:, None])[:, 0], torch.special.entr(chances).sum(-1)


def drawn(rows: int, vocabulary: int = 11, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(3, vocabulary, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_over_all_portions(rows: int, temperature: float) -> None:
    logits, ids = drawn(rows)
    weights = torch.randn(2, rows, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for function in (log_prob_and_entropy, plain):
        free = logits.clone().requires_grad_()
        values = function(free, ids, temperature)
        (weights[0] @ values[0] + weights[1] @ values[1]).backward()
        found.append((*values, free.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("part", [0, 1])
def test_either_gradient_alone(part: int) -> None:
    logits, ids = drawn(5)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda free: log_prob_and_entropy(free, ids, 0.7)[part], logits)


def test_disallowed_tokens_add_nothing_and_get_no_gradient() -> None:
    logits, ids = drawn(4)
    logits[:, :3] = -torch.inf
    free = logits.clone().requires_grad_()
    log_prob, entropy = log_prob_and_entropy(free, ids)
    wanted = plain(logits[:, 3:], ids - 3, 1.0)
    torch.testing.assert_close((log_prob, entropy), wanted, rtol=1e-12, atol=1e-12)
    (log_prob.sum() + entropy.sum()).backward()
    assert free.grad is not None
    assert not free.grad[:, :3].any()
    assert free.grad.isfinite().all()


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits, ids = drawn(70, 3000)
    rounded = logits.bfloat16().requires_grad_()
    log_prob, entropy = log_prob_and_entropy(rounded, ids)
    assert log_prob.dtype == entropy.dtype == torch.float32
    wanted = plain(rounded.detach(), ids, 1.0)
    torch.testing.assert_close(log_prob.double(), wanted[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy.double(), wanted[1], rtol=1e-5, atol=1e-5)
    log_prob.sum().backward()
    assert rounded.grad is not None
    assert rounded.grad.dtype == torch.bfloat16


def test_nothing_wide_is_kept() -> None:
    """Of a float32 tensor of [tokens, vocabulary] no copy outlives the forward pass."""
    logits, ids = drawn(1024, 500)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        free = logits.float().requires_grad_()
        log_prob_and_entropy(free, ids)
    assert [tensor.data_ptr() for tensor in kept if tensor.dim() == 2] == [free.data_ptr()]
    assert fused._CPU_ROWS < 1024


def test_no_rows() -> None:
    log_prob, entropy = log_prob_and_entropy(torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64))
    assert log_prob.shape == entropy.shape == (0,)
