"""Batches in several threads: the same scores, fewer calls, and no wait without an end."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, DataError, RewardError
from guerdon.rewards import FunctionReward
from guerdon.rewards.base import Judged
from guerdon.rewards.build import build_reward
from guerdon.rewards.concurrent import Concurrent

Texts = Sequence[str]


def letters(sources: Texts, outputs: Texts, references: Sequence[Texts]) -> list[float]:
    return [len(output) + 10.0 * len(source) for source, output in zip(sources, outputs, strict=True)]


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.text("ab", max_size=3), st.text("ab", max_size=3)), max_size=30),
    st.integers(1, 4),
    st.integers(1, 7),
)
def test_the_scores_are_the_rewards_own(pairs: list[tuple[str, str]], workers: int, size: int) -> None:
    judged = Judged.of([source for source, _ in pairs], [output for _, output in pairs])
    seen: list[tuple[str, str]] = []

    def counted(sources: Texts, outputs: Texts, references: Sequence[Texts]) -> list[float]:
        assert len(outputs) <= size
        seen.extend(zip(sources, outputs, strict=True))
        return letters(sources, outputs, references)

    found = Concurrent(FunctionReward(counted), workers, size).score(judged)
    assert found == letters(judged.sources, judged.outputs, judged.references)
    assert sorted(seen) == sorted(set(pairs))  # each pair once


def test_several_batches_are_asked_at_a_time() -> None:
    together = threading.Barrier(3, timeout=20)  # breaks where fewer than three come

    def waiting(sources: Texts, outputs: Texts, references: Sequence[Texts]) -> list[float]:
        together.wait()
        return letters(sources, outputs, references)

    texts = [str(number) for number in range(6)]
    reward = Concurrent(FunctionReward(waiting), workers=3, batch_size=1)
    assert reward(["s"] * 6, texts).tolist() == [11.0] * 6


def test_what_a_reward_raises_is_reported_and_no_further_batch_begun() -> None:
    calls = []

    def broken(sources: Texts, outputs: Texts, references: Sequence[Texts]) -> list[float]:
        calls.append(outputs)
        raise KeyError("lost")

    with pytest.raises(RewardError, match="reward 'broken': raised KeyError: 'lost'"):
        Concurrent(FunctionReward(broken), workers=1, batch_size=1)(["s"] * 9, list("abcdefghi"))
    assert len(calls) == 1


def test_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guerdon.rewards.concurrent._FIRST_WAIT", 0.001)
    calls = []

    def moody(sources: Texts, outputs: Texts, references: Sequence[Texts]) -> list[float]:
        calls.append(list(outputs))
        if len(calls) < 3:
            raise OSError("busy")
        return letters(sources, outputs, references)

    assert Concurrent(FunctionReward(moody), retries=2)(["s"], ["ab"]).tolist() == [12.0]
    assert calls == [["ab"]] * 3
    calls.clear()
    with pytest.raises(RewardError, match="busy"):
        Concurrent(FunctionReward(moody), retries=1)(["s"], ["ab"])


def test_bad_input_is_not_asked_again() -> None:
    calls = []

    def refusing(sources: Texts, outputs: Texts, references: Sequence[Texts]) -> list[float]:
        calls.append(outputs)
        raise DataError("is no source of mine")

    with pytest.raises(DataError, match="is no source of mine"):
        Concurrent(FunctionReward(refusing), retries=5)(["s"], ["ab"])
    assert len(calls) == 1


def test_what_hangs_is_left_behind() -> None:
    released = threading.Event()

    def hanging(sources: Texts, outputs: Texts, references: Sequence[Texts]) -> list[float]:
        released.wait(60)
        return letters(sources, outputs, references)

    began = time.monotonic()
    with pytest.raises(RewardError, match=r"a batch of 16 outputs took longer than 0\.2 s; see whether it hangs"):
        Concurrent(FunctionReward(hanging), timeout=0.2)(["s"], ["ab"])
    assert time.monotonic() - began < 30
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "reward hanging")
    released.set()


def test_another_number_of_scores() -> None:
    reward = Concurrent(FunctionReward(lambda sources, outputs, references: [0.0], "one"), batch_size=2)
    with pytest.raises(RewardError, match="returned 1 scores for 2 outputs"):
        reward(["s"] * 3, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"timeout": 0.0}, "timeout is 0"),
        ({"retries": -1}, "retries is -1"),
    ],
)
def test_numbers_that_cannot_be(options: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Concurrent(FunctionReward(letters), **options)  # type: ignore[arg-type]


def test_in_a_recipe() -> None:
    spec = {"type": "function", "function": f"{__name__}:letters"}
    plain = build_reward(spec)
    several = build_reward({**spec, "workers": 2, "batch_size": 1})
    texts = (["s", "t"], ["ab", "abc"])
    assert several(*texts).tolist() == plain(*texts).tolist() == [12.0, 13.0]
    with pytest.raises(ConfigurationError, match="give workers too"):
        build_reward({**spec, "timeout": 3.0})
