"""What every test shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read where triton is imported: kernels for a GPU run on the processor

# A deadline would be an assertion on time; derandomised runs make a red build red again on the next try.
settings.register_profile("guerdon", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("guerdon")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The real data sets; a test that asks for them is skipped where they are absent, except under CI."""
    folder = Path(os.environ.get("GUERDON_DATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        reason = f"{folder} is absent (set GUERDON_DATA to the folder with the real data sets)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
