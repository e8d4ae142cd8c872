"""What the parts of a stage take: time, and memory."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Usage:
    """Time and the most memory of each part of what is done, part by part.

    ``seconds`` add up to the time taken; ``meanwhile`` has what another thread did beside these parts, in seconds of its own.

    Memory is what the process holds on the CPU, or what tensors hold on an accelerator. Where the system cannot forget its
    peak (it is asked to after each part), later parts show that of earlier ones too.

    Args:
        device: where the weights are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, int] = {}
        self.meanwhile: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """What follows is a part's beginning; what came before it since the last lap counts for none."""
        self._began = time.perf_counter()
        forget_peak(self.device)

    def lap(self, part: str) -> None:
        """What was done since the last lap was this part."""
        self.add({part: time.perf_counter() - self._began}, {part: peak_memory(self.device)})
        self.restart()

    def add(self, seconds: Mapping[str, float], peaks: Mapping[str, int]) -> None:
        """What somebody else has measured."""
        for part, taken in seconds.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + taken
        for part, peak in peaks.items():
            self.peaks[part] = max(self.peaks.get(part, 0), peak)

    def took(self, other: Usage) -> None:
        """All that another usage has measured."""
        self.add(other.seconds, other.peaks)
        for part, seconds in other.meanwhile.items():
            self.meanwhile[part] = self.meanwhile.get(part, 0.0) + seconds

    def row(self) -> dict[str, float]:
        """The seconds of each part for a log; of what went on meanwhile as ``<part>_ahead``."""
        return {**self.seconds, **{f"{part}_ahead": seconds for part, seconds in self.meanwhile.items()}}

    def sentence(self) -> str:
        """For a person: the share of each part in the time, what went on meanwhile, and the most memory."""
        total = sum(self.seconds.values())
        if not total or not self.peaks:
            return ""
        shares = ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in self.seconds.items())
        most = max(self.peaks, key=lambda part: self.peaks[part])
        beside = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in self.meanwhile.items())
        shares += f"; meanwhile {beside}" if beside else ""
        return f"{total:.0f} s: {shares}; at most {self.peaks[most] / 1e9:.2f} GB of memory ({most})"


def peak_memory(device: torch.device) -> int:
    """Bytes: the most since `forget_peak`."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def forget_peak(device: torch.device) -> None:
    """Peaks count from now on, where the system can do that."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # another system than Linux, or one that forbids it: peaks are the process's then
        _CLEAR.write_text("5")
