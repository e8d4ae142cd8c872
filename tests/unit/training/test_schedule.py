"""The learning rate's course, and which parameters decay."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.tiny_policies import tiny_policy
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError
from guerdon.training.schedule import OptimiserOptions, build_optimiser, learning_rate

KINDS = ["constant", "cosine", "linear", "inverse_sqrt"]


def rates(steps: int, **options: object) -> list[float]:
    chosen = OptimiserOptions(learning_rate=2.0, **options)
    return [learning_rate(chosen, step, steps) for step in range(1, steps + 1)]


@pytest.mark.parametrize("schedule", KINDS)
def test_the_warm_up_is_a_line_from_0_that_ends_on_the_highest_rate(schedule: str) -> None:
    found = rates(20, warmup_steps=8, schedule=schedule)
    assert found[:8] == pytest.approx([2.0 * step / 8 for step in range(1, 9)])
    assert max(found) == 2.0


def test_each_course_by_its_closed_form() -> None:
    after = range(5, 11)  # steps behind a warm-up of 4, of 10 in all
    share = [(step - 4) / 6 for step in after]
    assert rates(10, warmup_steps=4, schedule="constant")[4:] == [2.0] * 6
    linear = rates(10, warmup_steps=4, schedule="linear", final_share=0.1)[4:]
    assert linear == pytest.approx([2.0 * (1 - 0.9 * s) for s in share])
    cosine = rates(10, warmup_steps=4, schedule="cosine", final_share=0.1)[4:]
    assert cosine == pytest.approx([2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * s)) / 2) for s in share])
    assert rates(10, warmup_steps=4, schedule="inverse_sqrt")[4:] == pytest.approx([2.0 * math.sqrt(4 / n) for n in after])


@given(
    schedule=st.sampled_from(KINDS),
    steps=st.integers(1, 60),
    warmup=st.integers(1, 40),
    final_share=st.floats(0, 1),
)
def test_it_rises_then_never_rises_again_and_ends_where_it_should(schedule, steps, warmup, final_share) -> None:
    found = rates(steps, warmup_steps=warmup, schedule=schedule, final_share=final_share)
    assert all(0 <= rate <= 2.0 for rate in found)
    rising, falling = found[:warmup], found[warmup:]
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(falling))
    if falling and schedule in ("cosine", "linear"):
        assert falling[-1] == pytest.approx(2.0 * final_share, abs=1e-12)


def test_no_warm_up_begins_at_once() -> None:
    assert rates(4, warmup_steps=0, schedule="constant") == [2.0] * 4
    assert rates(4, warmup_steps=0, schedule="linear") == pytest.approx([1.5, 1.0, 0.5, 0.0])


REFUSED = [
    ("learning_rate", 0.0), ("learning_rate", float("nan")), ("learning_rate", float("inf")), ("learning_rate", -1.0),
    ("warmup_steps", -1), ("final_share", -0.1), ("final_share", 1.1), ("weight_decay", -0.1),
    ("weight_decay", float("nan")), ("clip_norm", 0.0), ("clip_norm", float("nan")), ("clip_norm", -1.0),
    ("beta1", 1.0), ("beta2", 1.0), ("epsilon", 0.0), ("schedule", "cosin"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_options_that_cannot_be_are_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"optimiser.{name}") as caught:
        OptimiserOptions(**{name: value})
    assert "\n" not in str(caught.value)


def test_inverse_sqrt_needs_a_warm_up() -> None:
    with pytest.raises(ConfigurationError, match="warm-up"):
        OptimiserOptions(schedule="inverse_sqrt", warmup_steps=0)


def test_matrices_decay_and_biases_and_norms_do_not() -> None:
    policy = tiny_policy()
    policy.decoder_norm.weight.requires_grad_(False)
    optimiser = build_optimiser(policy, OptimiserOptions(weight_decay=0.3, beta1=0.8, beta2=0.95, epsilon=1e-6))
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in optimiser.param_groups)
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.3, 0.0]
    assert decayed == {n for n, p in policy.named_parameters() if p.ndim >= 2}
    assert kept == {n for n, p in policy.named_parameters() if p.ndim < 2} - {"decoder_norm.weight"}
    assert "embedding.weight" in decayed
    assert {"encoder.0.around_attention.norm.weight", "encoder.0.attention.project_in.bias"} <= kept
    assert all(g["betas"] == (0.8, 0.95) and g["eps"] == 1e-6 for g in optimiser.param_groups)


def test_a_step_is_adamws() -> None:
    """Two steps of the paper's algorithm (Loshchilov and Hutter 2019, algorithm 2), by hand."""
    weight = torch.nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        weight.weight.fill_(1.5)
    optimiser = build_optimiser(weight, OptimiserOptions(0.1, 0, "constant", weight_decay=0.2, beta1=0.9, beta2=0.98))
    value, m, v = 1.5, 0.0, 0.0
    for t, gradient in enumerate((3.0, -1.0), 1):
        weight.weight.grad = torch.full((1, 1), gradient, dtype=torch.float64)
        optimiser.step()
        m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
        value -= 0.1 * (m / (1 - 0.9**t) / (math.sqrt(v / (1 - 0.98**t)) + 1e-8) + 0.2 * value)
        assert weight.weight.item() == pytest.approx(value, rel=1e-12)
