"""SIGKILL at any instant, then the same command again: every byte equals that of a run that nobody killed.

The instants are drawn from a seed, and some are chosen: while a checkpoint is being written. What a process was doing when it
was killed differs from one machine and hour to the next; what comes out at the end must not.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.resumable import STAGES, generator

from guerdon.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]
EXACT = (
    "metrics.jsonl",
    "samples.jsonl",
    "alarms.jsonl",
    "model/model.safetensors",
    "model/config.json",
    "model/tokenizer.json",
)
PATIENCE = 120.0  # seconds after which a test gives up waiting for a process


def begin(stage: str, folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "helpers.resumable", stage, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def complete(stage: str, folder: Path) -> None:
    child = begin(stage, folder)
    _, complaint = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, complaint.decode()


def waiting(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Goes round while the process runs."""
    deadline = time.monotonic() + PATIENCE
    while child.poll() is None:
        assert time.monotonic() < deadline
        yield


def kill(child: subprocess.Popen[bytes]) -> bool:
    """Whether the kill came in time."""
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return child.returncode == -signal.SIGKILL


def kill_after(stage: str, folder: Path, seconds: float) -> bool:
    """Kills it so long after its first new line of the logs."""
    log = folder / "timings.jsonl"
    before = log.stat().st_size if log.exists() else 0
    child = begin(stage, folder)
    for _ in waiting(child):
        if log.exists() and log.stat().st_size > before:
            break
        time.sleep(0.001)
    time.sleep(seconds)
    return kill(child)


def kill_while_writing(stage: str, folder: Path, number: int) -> bool:
    """Kills it when it has begun to write its ``number``-th checkpoint."""
    checkpoints, seen = folder / "checkpoints" / stage, set[str]()
    child = begin(stage, folder)
    for _ in waiting(child):
        if checkpoints.is_dir():
            seen |= {name for name in os.listdir(checkpoints) if name.endswith(".partial")}
        if len(seen) >= number:
            break
    return kill(child)


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in EXACT}


@pytest.mark.parametrize(
    ("stage", "seed"), [("prefer", 4), ("reward_model", 5)]
)  # the stages of a recipe: tests/oracle/test_resume.py
def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(stage: str, seed: int, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    complete(stage, whole)
    timings = [json.loads(line) for line in (whole / "timings.jsonl").read_text().splitlines()]
    lasted = sum(row["seconds"] for row in timings if "step" in row)
    drawn = random.Random(seed)
    killed = [
        kill_after(stage, cut, drawn.uniform(0.0, lasted / 2)),
        kill_while_writing(stage, cut, drawn.randint(2, 6)),
    ]
    assert any(killed)
    complete(stage, cut)
    expected = contents(whole)
    assert len(expected["metrics.jsonl"].splitlines()) > len(timings)
    for name, content in contents(cut).items():
        assert content == expected[name], name
    left = sorted(path.name for path in (cut / "checkpoints" / stage).iterdir())
    assert len(left) == 3
    assert left[0] == "best"
    assert all(name.startswith("step-") for name in left[1:])


@pytest.mark.parametrize("stage", ["reinforce", "prefer"])
def test_a_finished_stage_is_taken_up_by_its_own_anchor_only(stage: str, tmp_path: Path) -> None:
    """A script that is run again gets the same outcome; a policy that is trained already would be another anchor."""
    made = generator()
    outcome = STAGES[stage](made, tmp_path)
    logged = (tmp_path / "metrics.jsonl").read_bytes()
    again = generator()
    assert STAGES[stage](again, tmp_path) == outcome
    assert all(torch.equal(tensor, again.policy.state_dict()[name]) for name, tensor in made.policy.state_dict().items())
    before = {name: tensor.clone() for name, tensor in made.policy.state_dict().items()}
    with torch.no_grad():
        made.policy.decoder_norm.bias += 0.1
    with pytest.raises(CheckpointError, match="another model"):
        STAGES[stage](made, tmp_path)
    assert torch.equal(made.policy.decoder_norm.bias, before["decoder_norm.bias"] + 0.1)
    assert (tmp_path / "metrics.jsonl").read_bytes() == logged
