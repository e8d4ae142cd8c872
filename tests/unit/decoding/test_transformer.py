"""Decoding with the real Transformer, tiny and in float64: padding, company and order change nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.decoding import BeamOptions, LengthLimit, SamplingOptions, beam_search, greedy, sample
from guerdon.models.transformer import Transformer, TransformerOptions

LENGTHS = [3, 9, 1, 6, 9, 2]
LIMIT = LengthLimit(14, ratio=1.5, offset=3)
PREFIXES = Padded.from_lists([[], [7, 8], [9], [], [5, 5, 5], [6]])


@pytest.fixture(params=["sinusoidal", "rotary", "learned"])
def policy(request: pytest.FixtureRequest) -> Transformer:
    torch.manual_seed(5)
    options = TransformerOptions(23, 16, 2, 2, 2, 32, dropout=0.3, positions=request.param, max_source=24, max_target=20)
    return Transformer(options).double()


@pytest.fixture
def sources() -> Padded:
    generator = torch.Generator().manual_seed(1)
    return Padded.from_lists([torch.randint(4, 23, (n,), generator=generator).tolist() for n in LENGTHS])


def padded_further(sources: Padded) -> Padded:
    """Wider by five columns; what stands beyond a row's length is noise, which nobody may read."""
    ids = torch.randint(4, 23, (len(sources), sources.ids.shape[1] + 5), generator=torch.Generator().manual_seed(2))
    ids[:, : sources.ids.shape[1]] = torch.where(sources.mask, sources.ids, ids[:, : sources.ids.shape[1]])
    return Padded(ids, sources.lengths)


VIEWS = [[0], [2, 1], [5, 4, 3, 2, 1, 0], [1, 3, 1]]


@pytest.mark.parametrize("prefixes", [None, PREFIXES])
@pytest.mark.parametrize("ngram_block", [0, 2])
def test_greedy_and_beam_do_not_depend_on_the_batch(policy, sources, prefixes, ngram_block) -> None:
    options = BeamOptions(3, returned=3, ngram_block=ngram_block)

    def decode(batch: Padded, forced: Padded | None):
        limits = LIMIT.of(batch, policy)
        beams = beam_search(policy, batch, limits, options, forced)
        return [[*found, best] for found, best in zip(beams, greedy(policy, batch, limits, forced, ngram_block), strict=True)]

    whole = decode(sources, prefixes)
    views = [(padded_further(sources), prefixes, list(range(6)))]
    for view in VIEWS:
        rows = torch.tensor(view)
        views.append((sources.select(rows), None if prefixes is None else prefixes.select(rows), view))
    for batch, forced, view in views:
        for found, row in zip(decode(batch, forced), view, strict=True):
            assert [(one.tokens, one.finished) for one in found] == [(one.tokens, one.finished) for one in whole[row]]
            for one, other in zip(found, whole[row], strict=True):
                assert one.log_prob == pytest.approx(other.log_prob, rel=1e-12)
                assert one.score == pytest.approx(other.score, rel=1e-12)


def test_samples_do_not_depend_on_the_batch(policy, sources) -> None:
    keys = row_keys(3, "rollout", 1, torch.arange(6).repeat_interleave(4), torch.arange(4).repeat(6))
    whole = sample(policy, sources, LIMIT.of(sources, policy), SamplingOptions(), keys, copies=4)
    rows = whole.tokens.to_lists()
    views = [(padded_further(sources), list(range(6)))] + [(sources.select(torch.tensor(view)), view) for view in VIEWS]
    for batch, view in views:
        chosen = torch.tensor([4 * row + copy for row in view for copy in range(4)])
        found = sample(policy, batch, LIMIT.of(batch, policy), SamplingOptions(), keys[chosen], copies=4)
        assert found.tokens.to_lists() == [rows[i] for i in chosen.tolist()]
        expected = whole.log_prob[chosen, : found.log_prob.shape[1]]
        torch.testing.assert_close(found.log_prob, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_sampling_and_scoring_agree(policy, sources, temperature) -> None:
    keys = row_keys(4, "rollout", 1, torch.arange(6).repeat_interleave(3), torch.arange(3).repeat(6))
    drawn = sample(policy, sources, LIMIT.of(sources, policy), SamplingOptions(temperature), keys, copies=3)
    repeated = sources.select(torch.arange(6).repeat_interleave(3))
    evaluated = policy.eval().evaluate(repeated, drawn.tokens, temperature=temperature)
    torch.testing.assert_close(drawn.log_prob, evaluated.log_prob.detach(), rtol=1e-10, atol=1e-10)
    assert torch.equal(drawn.tokens.mask, evaluated.mask)


def test_searching_and_scoring_agree(policy, sources) -> None:
    limits = LIMIT.of(sources, policy)
    beams = [one for (one,) in beam_search(policy, sources, limits, BeamOptions(4), PREFIXES)]
    for found in (beams, greedy(policy, sources, limits, PREFIXES)):
        targets = Padded.from_lists([[*one.tokens, *[policy.end_id] * one.finished] for one in found])
        evaluated = policy.eval().evaluate(sources, targets).log_prob.sum(1).tolist()
        assert [one.log_prob for one in found] == pytest.approx(evaluated, rel=1e-10)
        assert [one.tokens[: len(prefix)] for one, prefix in zip(found, PREFIXES.to_lists(), strict=True)] == [
            tuple(prefix) for prefix in PREFIXES.to_lists()
        ]


def test_decoding_is_without_dropout_and_leaves_the_modes_alone(policy, sources) -> None:
    limits = LIMIT.of(sources, policy)
    policy.eval()
    expected = greedy(policy, sources, limits)
    policy.train()
    policy.encoder[0].eval()
    modes = [module.training for module in policy.modules()]
    assert greedy(policy, sources, limits) == expected
    assert [module.training for module in policy.modules()] == modes


def test_modes_come_back_after_an_error(policy, sources) -> None:
    policy.train()
    nn.init.constant_(policy.decoder_norm.weight, float("nan"))
    with pytest.raises(Exception, match="nan"):
        greedy(policy, sources, LIMIT.of(sources, policy))
    assert policy.training
    assert torch.is_grad_enabled()


def test_sampled_ids_can_be_trained_on(policy, sources) -> None:
    drawn = sample(policy, sources, LIMIT.of(sources, policy), SamplingOptions(), row_keys(0, "rollout", 0, range(6), [0] * 6))
    policy.evaluate(sources, drawn.tokens).log_prob.sum().backward()
    assert policy.embedding.weight.grad is not None
    assert not drawn.log_prob.requires_grad
