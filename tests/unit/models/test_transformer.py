"""The Transformer as a policy: no result depends on padding, company or order, and stepping is teacher forcing."""

from __future__ import annotations

import itertools

import pytest
import torch
from helpers.tiny_policies import padded_further, random_rows, tiny_policy

from guerdon.data.padded import Padded
from guerdon.errors import ConfigurationError
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer

SOURCES = random_rows([3, 9, 1, 6, 9, 2], seed=1)
TARGETS = random_rows([4, 1, 7, 7, 2, 5], seed=2)
KINDS = list(itertools.product(("sinusoidal", "rotary", "learned"), ("pre", "post"), ("relu", "gelu", "swiglu"), (True, False)))
VIEWS = [[0], [2, 1], [5, 4, 3, 2, 1, 0], [1, 3, 1]]
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def policy(request: pytest.FixtureRequest) -> Transformer:
    positions, norm, activation, tied = request.param
    return tiny_policy(positions=positions, norm=norm, activation=activation, tied_embeddings=tied)


def logits_by_row(policy: Transformer, sources: Padded, targets: Padded) -> list[torch.Tensor]:
    return list(policy.logits(sources, targets).split(targets.lengths.tolist()))


@torch.no_grad()
def test_nothing_depends_on_padding_company_or_order(policy: Transformer) -> None:
    whole = logits_by_row(policy, SOURCES, TARGETS)
    anchor = tiny_policy(seed=7, tied_embeddings=False)
    judged = policy.evaluate(SOURCES, TARGETS, anchor)
    batches = [(padded_further(SOURCES), padded_further(TARGETS), list(range(6)))]
    batches += [(SOURCES.select(torch.tensor(view)), TARGETS.select(torch.tensor(view)), view) for view in VIEWS]
    for sources, targets, view in batches:
        seen = policy.evaluate(sources, targets, anchor)
        for row, (found, number) in enumerate(zip(logits_by_row(policy, sources, targets), view, strict=True)):
            torch.testing.assert_close(found, whole[number], **CLOSE)
            length = int(targets.lengths[row])
            for field in ("log_prob", "entropy", "kl", "anchor_log_prob"):
                one, all_of_it = getattr(seen, field)[row], getattr(judged, field)[number]
                torch.testing.assert_close(one[:length], all_of_it[:length], **CLOSE)
                assert not one[length:].any()


@torch.no_grad()
def test_stepping_is_teacher_forcing(policy: Transformer) -> None:
    """Three copies of each source, each fed another target; every step's logits are those of the whole sequence."""
    rows = torch.arange(len(SOURCES)).repeat_interleave(3)
    targets = random_rows([6] * len(rows), seed=3)
    expected = torch.stack(logits_by_row(policy, SOURCES.select(rows), targets))
    torch.testing.assert_close(torch.stack(list(policy.logits(SOURCES, targets, rows).split(6))), expected, **CLOSE)
    for sources in (SOURCES, padded_further(SOURCES)):
        state, tokens = policy.start(sources, copies=3)
        assert tokens.tolist() == [policy.start_id] * len(rows)
        assert state.rows == len(rows)
        for position in range(6):
            torch.testing.assert_close(policy.step(state, tokens), expected[:, position], **CLOSE)
            tokens = targets.ids[:, position]


@torch.no_grad()
def test_forward_has_every_position_and_logits_those_that_count(policy: Transformer) -> None:
    every = policy(SOURCES, TARGETS)
    assert every.shape == (6, 7, 19)
    torch.testing.assert_close(policy.logits(SOURCES, TARGETS), every[TARGETS.mask], **CLOSE)


def test_disallowed_tokens_have_probability_0_and_finite_gradients(policy: Transformer) -> None:
    """Padding, start and mask are never written; the end may be."""
    assert policy.allowed.tolist() == [False, False, True, False] + [True] * 15
    logits = policy.logits(SOURCES, TARGETS)
    assert bool((logits[:, ~policy.allowed] == -torch.inf).all())
    assert bool(torch.isfinite(logits[:, policy.allowed]).all())
    state, tokens = policy.start(SOURCES)
    assert bool((policy.step(state, tokens)[:, ~policy.allowed] == -torch.inf).all())
    seen = policy.evaluate(SOURCES, TARGETS, tiny_policy(seed=5))
    (seen.log_prob.sum() + seen.entropy.sum() + seen.kl.sum()).backward()
    for name, parameter in policy.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
    assert policy.embedding.weight.grad.abs().sum() > 0


@torch.no_grad()
def test_a_source_is_read_whole_and_a_target_only_to_the_left() -> None:
    policy = tiny_policy()
    base = policy(SOURCES, TARGETS)
    changed = Padded(TARGETS.ids.clone(), TARGETS.lengths)
    changed.ids[3, 4] = 18 if TARGETS.ids[3, 4] != 18 else 17
    other = policy(SOURCES, changed)
    torch.testing.assert_close(other[3, :5], base[3, :5], **CLOSE)
    assert (other[3, 5:][:, policy.allowed] - base[3, 5:][:, policy.allowed]).abs().max() > 1e-3
    sources = Padded(SOURCES.ids.clone(), SOURCES.lengths)
    sources.ids[1, 8] = 18 if SOURCES.ids[1, 8] != 18 else 17
    assert (policy(sources, TARGETS)[1, 0] - base[1, 0])[policy.allowed].abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("positions", ["sinusoidal", "rotary", "learned"])
def test_order_matters_on_both_sides(positions: str) -> None:
    policy = tiny_policy(positions=positions)
    one, other = Padded.from_lists([[5, 6, 7, 2]]), Padded.from_lists([[6, 5, 7, 2]])
    target, turned = Padded.from_lists([[8, 9, 10, 2]]), Padded.from_lists([[9, 8, 10, 2]])
    allowed = policy.allowed
    assert (policy(one, target) - policy(other, target))[..., allowed].abs().max() > 1e-3
    assert (policy(one, target) - policy(one, turned))[0, 3][allowed].abs().max() > 1e-3


@torch.no_grad()
def test_no_source_at_all() -> None:
    policy, none = tiny_policy(), Padded.from_lists([])
    assert policy.logits(none, none).shape == (0, 19)
    state, tokens = policy.start(none, copies=2)
    assert policy.step(state, tokens).shape == (0, 19)


def test_embeddings_begin_with_the_variance_that_their_scale_asks_for() -> None:
    torch.manual_seed(0)
    policy = Transformer(TransformerOptions(2000, width=64, heads=4))
    assert policy.embedding.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
    logits = policy.eval().logits(random_rows([9] * 8), random_rows([9] * 8))[:, policy.allowed]
    assert 0.5 < logits.std().item() < 1.5
    assert {name for name, _ in policy.named_parameters() if "embedding" in name or "output" in name} == {"embedding.weight"}


REFUSED = [
    ({"width": 0}, "model.width"),
    ({"heads": 3}, "model.heads"),
    ({"heads": 0}, "model.heads"),
    ({"width": 6, "heads": 2, "positions": "rotary"}, "even"),
    ({"encoder_layers": 0}, "model.encoder_layers"),
    ({"decoder_layers": -1}, "model.decoder_layers"),
    ({"feed_forward": 0}, "model.feed_forward"),
    ({"max_source": 0}, "model.max_source"),
    ({"max_target": 0}, "model.max_target"),
    ({"dropout": 1.0}, "model.dropout"),
    ({"dropout": -0.1}, "model.dropout"),
    ({"dropout": float("nan")}, "model.dropout"),
    ({"vocabulary_size": 4}, "vocabulary"),
    ({"positions": "absolute"}, "sinusoidal, rotary, learned"),
    ({"norm": "Pre"}, "pre, post"),
    ({"activation": "tanh"}, "relu, gelu, swiglu"),
]


@pytest.mark.parametrize(("options", "named"), REFUSED)
def test_options_that_cannot_be_are_refused(options: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        TransformerOptions(**{"vocabulary_size": 19, "width": 16, "heads": 2, **options})
    assert "\n" not in str(caught.value)


def _gradient_and_bytes_kept(policy: Transformer, sources: Padded, targets: Padded) -> tuple[torch.Tensor, int]:
    """The gradient of all logits that count, and how much autograd keeps for it."""
    kept = 0

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    torch.manual_seed(5)
    policy.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = policy.logits(sources, targets)
    logits[:, policy.allowed].square().sum().backward()
    gradients = [weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None]
    return torch.cat(gradients), kept


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recomputed_activations_give_the_same_gradient_and_are_not_kept(dropout: float) -> None:
    sources, targets = random_rows([12] * 8, seed=1), random_rows([12] * 7 + [3], seed=2)
    policy = tiny_policy(dropout=dropout, encoder_layers=3, decoder_layers=3).train()
    expected, all_of_it = _gradient_and_bytes_kept(policy, sources, targets)
    policy.recompute = True
    found, kept = _gradient_and_bytes_kept(policy, sources, targets)
    assert torch.equal(found, expected)
    assert float(expected.norm()) > 0
    assert kept < all_of_it / 3
