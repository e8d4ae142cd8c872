"""Beam search by a recorded step finds what single steps find. Without a GPU nothing is recorded; kernels are interpreted."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from helpers.ending_policy import DEVICE, larger, policy_of

from guerdon.data.padded import Padded
from guerdon.decoding import BeamOptions, beam_search
from guerdon.decoding import beam as module
from guerdon.decoding import replay as replaying
from guerdon.decoding.outputs import Hypothesis
from guerdon.errors import GuerdonError
from guerdon.models.transformer import Transformer

ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
SOURCES = Padded.from_lists([[5, 6, 7], [8] * 9, [9, 10]], 0, DEVICE)
LIMITS = torch.tensor([8, 3, 6])


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, wherever this is."""
    monkeypatch.setattr(module, "replays", lambda policy, sources, ngram_block: not ngram_block)


def searched(policy: Transformer, options: BeamOptions, limits: torch.Tensor = LIMITS) -> list[list[Hypothesis]]:
    return beam_search(policy, SOURCES, limits, options)


def same(found: list[list[Hypothesis]], wanted: list[list[Hypothesis]]) -> None:
    for own, other in zip(found, wanted, strict=True):
        assert [(one.tokens, one.finished) for one in own] == [(one.tokens, one.finished) for one in other]
        assert [one.log_prob for one in own] == pytest.approx([one.log_prob for one in other], abs=1e-4)
        assert [one.score for one in own] == pytest.approx([one.score for one in other], abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        BeamOptions(3, returned=3, length_penalty=4.0),  # what is found late and is long comes first
        BeamOptions(2, returned=2, patience=2.0, length_normalisation="gnmt", length_penalty=0.6),
        BeamOptions(4, returned=2, patience=0.5, length_penalty=0.0),
        BeamOptions(1),
    ],
)
@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_what_is_found_is_what_single_steps_find(
    options: BeamOptions, positions: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(positions=positions)
    with torch.no_grad():
        policy.embedding.weight[policy.end_id] *= -2.0  # hypotheses end early, late and not at all
    monkeypatch.setenv("GUERDON_GRAPHS", "0")
    wanted = searched(policy, options)
    assert policy not in replaying._RECORDINGS
    request.getfixturevalue("replayed")
    same(searched(policy, options), wanted)
    assert policy in replaying._RECORDINGS
    same(searched(policy, options), wanted)  # from buffers that have been written to
    assert any(own.finished for one in wanted for own in one)


@pytest.mark.parametrize(("places", "positions"), [(2, "rotary"), (2, "learned"), (1, "sinusoidal")])
def test_sources_that_wait_take_the_places_of_those_that_have_ended(
    places: int, positions: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, options = policy_of(positions=positions, max_target=7), BeamOptions(2, returned=2, length_penalty=2.0)
    with torch.no_grad():
        policy.embedding.weight[policy.end_id] *= -2.0
    rows = [[5 + (7 * number + place) % 14 for place in range(1 + number * 5 % 4)] for number in range(6)]
    sources, limits = Padded.from_lists(rows, 0, DEVICE), torch.tensor([4, 2, 7, 1, 3, 7])
    monkeypatch.setenv("GUERDON_GRAPHS", "0")
    wanted = beam_search(policy, sources, limits, options)
    same(beam_search(policy, sources, limits, options, batch_size=places), wanted)
    assert policy not in replaying._RECORDINGS
    request.getfixturevalue("replayed")
    for _ in range(2):
        same(beam_search(policy, sources, limits, options, batch_size=places), wanted)
    (recording,) = replaying._RECORDINGS[policy].values()
    assert recording.room.sources == places
    assert len({len(group[0].tokens) for group in wanted}) > 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's, where kernels are interpreted
def test_what_is_not_finite_is_reported_as_single_steps_do(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(positions="learned")
    with torch.no_grad():
        policy.target_positions.weight[3] = torch.nan
    messages = []
    for name in (None, "replayed"):
        if name:
            request.getfixturevalue(name)
        else:
            monkeypatch.setenv("GUERDON_GRAPHS", "0")
        with pytest.raises(GuerdonError, match="nan, inf") as raised:
            searched(policy, BeamOptions(2))
        messages.append(str(raised.value))
    assert messages[0] == messages[1]
    assert "position 3" in messages[0]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_was_not_finite_is_reported_though_others_have_taken_places_since(replayed: None) -> None:
    """One hypothesis of a source breaks, the others go on, and beside them a source begins."""
    policy = policy_of(positions="rotary", tied_embeddings=False, max_target=7)
    with torch.no_grad():
        policy.target_embedding.weight[16] = torch.nan
    sources = Padded.from_lists([[5], [12, 13], [5, 6, 7], [12, 13, 14, 15]], 0, DEVICE)
    with pytest.raises(GuerdonError, match="nan, inf") as raised:
        beam_search(policy, sources, torch.tensor([7, 1, 2, 6]), BeamOptions(3, patience=2.0), batch_size=2)
    assert "source 3, position 1" in str(raised.value)


@ON_GPU
@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_a_gpu_replays_what_single_steps_find(size: int, positions: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, sources, limits = larger(positions)
    monkeypatch.setenv("GUERDON_GRAPHS", "0")
    wanted = beam_search(policy, sources, limits, BeamOptions(size, returned=size))
    assert policy not in replaying._RECORDINGS
    monkeypatch.setenv("GUERDON_GRAPHS", "1")
    found = beam_search(policy, sources, limits, BeamOptions(size, returned=size))
    assert policy in replaying._RECORDINGS
    equal = [own[0].tokens == other[0].tokens for own, other in zip(found, wanted, strict=True)]
    assert sum(equal) >= 0.95 * len(equal)  # totals may fall between the roundings of two sums
    for own, other, alike in zip(found, wanted, equal, strict=True):
        assert not alike or own[0].log_prob == pytest.approx(other[0].log_prob, abs=1e-2)
    again = beam_search(policy, sources, limits, BeamOptions(size, returned=size))
    assert again == found
    few = beam_search(policy, sources, limits, BeamOptions(size, returned=size), batch_size=16)
    assert sum(one[0].tokens == other[0].tokens for one, other in zip(few, found, strict=True)) >= 0.95 * len(found)
