"""Time and memory of the parts of a stage."""

from __future__ import annotations

import mmap
import time
from pathlib import Path

import pytest
import torch

from guerdon.training import usage as module
from guerdon.training.usage import Usage, forget_peak, peak_memory

CPU = torch.device("cpu")


def test_each_part_has_its_own_time() -> None:
    usage = Usage(CPU)
    time.sleep(0.02)
    usage.lap("a")
    time.sleep(0.05)
    usage.restart()  # was no part's
    usage.lap("b")
    time.sleep(0.01)
    usage.lap("a")
    assert 0.03 <= usage.seconds["a"] < 0.045 + usage.seconds["b"]
    assert usage.seconds["b"] < 0.04


def test_the_most_memory_is_that_of_its_part() -> None:
    usage = Usage(CPU)
    with mmap.mmap(-1, 200_000_000) as held:  # not from what the process has freed and kept: that would add nothing
        held.write(b"x" * 200_000_000)
        usage.lap("large")
    usage.restart()
    usage.lap("small")
    assert usage.peaks["large"] - usage.peaks["small"] > 150e6
    assert usage.sentence().endswith(f"at most {usage.peaks['large'] / 1e9:.2f} GB of memory (large)")


def test_elsewhere_the_peak_is_the_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_STATUS", tmp_path / "absent")
    monkeypatch.setattr(module, "_CLEAR", tmp_path / "absent" / "too")
    forget_peak(CPU)
    import resource

    assert peak_memory(CPU) >= resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 * 0.99


def test_sums_and_shares() -> None:
    usage = Usage(CPU)
    usage.add({"rollout": 1.0, "update": 3.0}, {"rollout": 5, "update": 2_000_000_000})
    usage.add({"update": 4.0}, {"update": 7})
    assert usage.sentence() == "8 s: rollout 12%, update 88%; at most 2.00 GB of memory (update)"
    assert Usage(CPU).sentence() == ""


def test_what_went_on_meanwhile_is_no_share_of_the_time() -> None:
    step, usage = Usage(CPU), Usage(CPU)
    step.add({"update": 3.0, "waiting": 1.0}, {"update": 2_000_000_000})
    step.meanwhile = {"rollout": 2.5, "reward": 40.0}
    for _ in range(2):
        usage.took(step)
    assert usage.row() == {"update": 6.0, "waiting": 2.0, "rollout_ahead": 5.0, "reward_ahead": 80.0}
    assert usage.sentence().startswith("8 s: update 75%, waiting 25%; meanwhile rollout 5 s, reward 80 s; at most 2.00 GB")
    assert step.row()["reward_ahead"] == 40.0
