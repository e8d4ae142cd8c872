"""Decoding by a recorded step writes what single steps write. Without a GPU nothing is recorded; kernels are interpreted."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton")

from helpers.ending_policy import DEVICE, larger, policy_of

from guerdon.data.draws import row_keys
from guerdon.data.padded import Padded
from guerdon.decoding import SamplingOptions, greedy, sample
from guerdon.decoding import replay as replaying
from guerdon.decoding.choosing import Draw, MostProbable
from guerdon.decoding.outputs import Samples
from guerdon.decoding.replay_samples import replay_samples
from guerdon.errors import GuerdonError
from guerdon.models.static import Room, StaticStep, bytes_of
from guerdon.models.transformer import Transformer

SOURCES = [[5, 6, 7], [8] * 9, [9, 10]]
LIMITS = [6, 4, 5]
PLAIN, WILD = SamplingOptions(), SamplingOptions(temperature=3.0)
ON_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")


def request(sources: list[list[int]], limits: list[int]) -> tuple[Padded, torch.Tensor]:
    return Padded.from_lists(sources, 0, DEVICE), torch.tensor(limits, device=DEVICE)


def drawn(policy: Transformer, count: int = 3, options: SamplingOptions = PLAIN, copies: int = 2, places: int = 3) -> Samples:
    sources, limits = request(SOURCES[:count], LIMITS[:count])
    rows = torch.arange(count * copies, device=DEVICE)
    with torch.no_grad():
        found = replay_samples(policy, sources, copies, limits, Draw(options, keys(copies).to(DEVICE)), rows, "float32", places)
    assert found is not None
    return found


def keys(copies: int = 2) -> torch.Tensor:
    numbers = [number for number in range(len(SOURCES)) for _ in range(copies)]
    return row_keys(1, "replay", 0, numbers, list(range(copies)) * len(SOURCES))


def one_by_one(policy: Transformer, options: SamplingOptions, monkeypatch: pytest.MonkeyPatch) -> Samples:
    monkeypatch.setenv("GUERDON_GRAPHS", "0")
    return sample(policy, *request(SOURCES, LIMITS), options, keys(), 2)


@pytest.mark.parametrize(
    ("positions", "norm", "activation", "tied"),
    [("rotary", "pre", "swiglu", True), ("sinusoidal", "post", "gelu", False), ("learned", "pre", "relu", True)],
)
def test_samples_are_those_of_single_steps(
    positions: str, norm: str, activation: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(positions=positions, norm=norm, activation=activation, tied_embeddings=tied)
    wanted = one_by_one(policy, SamplingOptions(temperature=0.9), monkeypatch)
    found = drawn(policy, options=SamplingOptions(temperature=0.9))
    assert found.tokens.to_lists() == wanted.tokens.to_lists()
    assert torch.equal(found.finished, wanted.finished)
    assert torch.allclose(found.log_prob, wanted.log_prob, atol=1e-5)
    assert len(set(wanted.tokens.lengths.tolist())) > 1  # some end before others


def test_greedy_outputs_are_those_of_single_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of(norm="pre")
    monkeypatch.setenv("GUERDON_GRAPHS", "0")
    wanted = greedy(policy, *request(SOURCES, LIMITS))
    sources, limits = request(SOURCES, LIMITS)
    with torch.no_grad():
        found = replay_samples(policy, sources, 1, limits, MostProbable(0), torch.arange(3, device=DEVICE), "float32", 3)
    assert found is not None
    assert found.without_end() == [list(one.tokens) for one in wanted]


MANY = [[5 + (7 * number + place) % 14 for place in range(1 + number * 5 % 4)] for number in range(6)]
MANY_LIMITS = [4, 2, 7, 1, 3, 7]  # the last one goes on while the other place has ended


@pytest.mark.parametrize(
    ("positions", "norm", "places", "copies"),
    [("rotary", "pre", 2, 2), ("sinusoidal", "post", 2, 1), ("learned", "pre", 2, 1), ("sinusoidal", "pre", 1, 2)],
)
def test_sources_that_wait_take_the_places_of_those_that_have_ended(
    positions: str, norm: str, places: int, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written is what each source would get alone, whoever sat there before; in less time than batch for batch."""
    policy = policy_of(positions=positions, norm=norm, max_target=7)  # no room to spare
    sources, limits = request(MANY, MANY_LIMITS)
    draw = Draw(WILD, row_keys(3, "places", 0, [i for i in range(6) for _ in range(copies)], [*range(copies)] * 6).to(DEVICE))
    monkeypatch.setenv("GUERDON_GRAPHS", "0")
    wanted = sample(policy, sources, limits, WILD, draw.keys, copies, batch_size=3)
    rows, count = torch.arange(6 * copies, device=DEVICE), Counted(monkeypatch)
    for _ in range(2):  # into buffers that have been written to
        with torch.no_grad():
            found = replay_samples(policy, sources, copies, limits, draw, rows, "float32", places)
        assert found is not None
        assert found.tokens.to_lists() == wanted.tokens.to_lists()
        assert torch.equal(found.finished, wanted.finished)
        assert torch.allclose(found.log_prob, wanted.log_prob, atol=1e-5)
    if places == 2 and DEVICE == "cpu":
        lengths = wanted.tokens.lengths.view(3, 2 * copies).amax(1)
        assert count.advances < 2 * int(lengths.sum())
    assert len(set(wanted.tokens.lengths.tolist())) > 2


class Counted:
    """Counts the positions of all recordings; on a GPU those that are replayed are not among them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.advances, own = 0, replaying.Recording._advance

        def counted(recording: replaying.Recording) -> None:
            self.advances += 1
            own(recording)

        monkeypatch.setattr(replaying.Recording, "_advance", counted)


def test_a_smaller_batch_takes_the_same_recording_and_fresh_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of()
    drawn(policy)
    (recording,) = replaying._RECORDINGS[policy].values()
    with torch.no_grad():
        policy.decoder_layers[0].feed_forward.project_out.weight.mul_(-2.0)
    wanted = one_by_one(policy, SamplingOptions(), monkeypatch)
    assert drawn(policy).tokens.to_lists() == wanted.tokens.to_lists()
    assert list(replaying._RECORDINGS[policy].values()) == [recording]
    assert drawn(policy, 2).tokens.to_lists() == wanted.tokens.to_lists()[:4]


def test_copies_in_bfloat16_follow_the_weights() -> None:
    policy, (sources, limits) = policy_of(), request(SOURCES, LIMITS)

    def written(own: Transformer) -> Samples:
        with torch.no_grad():
            rows = torch.arange(6, device=DEVICE)
            found = replay_samples(own, sources, 2, limits, Draw(SamplingOptions(), keys().to(DEVICE)), rows, "bfloat16", 3)
        assert found is not None
        return found

    before = written(policy)
    with torch.no_grad():
        policy.embedding.weight.mul_(-1.0)
    fresh = policy_of()
    fresh.load_state_dict(policy.state_dict())
    after = written(policy)
    assert torch.equal(after.log_prob, written(fresh).log_prob)
    assert after.log_prob.shape != before.log_prob.shape or not torch.equal(after.log_prob, before.log_prob)


def test_old_recordings_make_room_and_what_finds_none_is_not_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, (sources, limits) = policy_of(), request(SOURCES, LIMITS)
    step = StaticStep(policy, Room(4, 2, 32, 32), "float32")
    held = [*step.caches, *step.memory]
    assert bytes_of(policy, step.room, "float32") >= sum(one.nbytes for one in held)
    assert bytes_of(policy, step.room, "bfloat16") >= sum(one.nbytes for one in held) / 2

    def recorded(count: int) -> bool:
        choice, rows = MostProbable(0), torch.arange(count, device=DEVICE)
        part = sources.select(rows)
        with torch.no_grad():
            return replay_samples(policy, part, 1, limits[:count], choice, rows, "float32", count) is not None

    assert recorded(3)
    assert recorded(2)
    assert [key[0] for key in replaying._RECORDINGS[policy]] == [4, 2]
    monkeypatch.setattr(replaying, "_KEPT", 2)
    assert recorded(1)
    assert [key[0] for key in replaying._RECORDINGS[policy]] == [2, 1]
    monkeypatch.setattr(replaying, "_spare", lambda policy: 10)
    assert recorded(1)  # is there already
    assert not recorded(3)
    assert not replaying._RECORDINGS[policy]


def test_a_recording_goes_with_its_policy() -> None:
    policy = policy_of()
    drawn(policy, 1)
    left = weakref.ref(policy)
    del policy
    gc.collect()
    assert left() is None


def test_logits_that_are_not_finite_are_reported() -> None:
    policy = policy_of()
    with torch.no_grad():
        policy.decoder_layers[1].feed_forward.project_out.bias[0] = torch.nan
    with pytest.raises(GuerdonError, match="nan, inf"):
        drawn(policy, 2)


POLICY = policy_of()


@given(st.integers(1, 500), st.integers(1, 8), st.integers(1, 40), st.integers(1, 40))
def test_room_holds_what_it_is_made_for(sources: int, copies: int, source_length: int, length: int) -> None:
    needed = Room(sources, copies, source_length, length)
    room = replaying._room(POLICY, needed)
    assert room.holds(needed)
    assert replaying._room(POLICY, room) == room
    assert room.sources < 2 * sources + 1
    assert room.length <= 40
    assert room.source_length <= 40


@ON_GPU
@pytest.mark.parametrize("options", [SamplingOptions(), SamplingOptions(0.7, 50), SamplingOptions(1.1, top_p=0.9, min_p=0.01)])
@pytest.mark.parametrize("positions", ["rotary", "sinusoidal"])
def test_a_gpu_replays_what_single_steps_write(
    options: SamplingOptions, positions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, sources, limits = larger(positions)
    numbers = row_keys(2, "gpu", 0, [i for i in range(70) for _ in range(4)], list(range(4)) * 70)
    monkeypatch.setenv("GUERDON_GRAPHS", "0")
    wanted = sample(policy, sources, limits, options, numbers, 4)
    assert policy not in replaying._RECORDINGS
    monkeypatch.setenv("GUERDON_GRAPHS", "1")
    found = sample(policy, sources, limits, options, numbers, 4)
    assert policy in replaying._RECORDINGS
    pairs = list(zip(found.tokens.to_lists(), wanted.tokens.to_lists(), strict=True))
    equal = torch.tensor([one == other for one, other in pairs])
    assert equal.double().mean() > 0.97  # a number may fall between the roundings of two sums
    same = equal.to(DEVICE)[:, None] & found.tokens.mask
    width = min(found.log_prob.shape[1], wanted.log_prob.shape[1])
    apart = (found.log_prob[:, :width] - wanted.log_prob[:, :width]).abs()[same[:, :width]]
    assert float(apart.max()) < 1e-3
    assert found.tokens.lengths.min() < 15
    assert torch.equal(sample(policy, sources, limits, options, numbers, 4).tokens.ids, found.tokens.ids)
    few = sample(policy, sources, limits, options, numbers, 4, batch_size=16)  # most sources take a place that others had
    assert sum(a == b for a, b in zip(few.tokens.to_lists(), found.tokens.to_lists(), strict=True)) > 0.97 * len(few.tokens)
