"""Real texts, where the data folder is there."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("guerdon", deadline=None, derandomize=True, max_examples=150)
settings.load_profile("guerdon")


@pytest.fixture(scope="session")
def e2e():
    """(outputs, references) of 60 sources: each output is a reference of the next source, so that it matches in part."""
    folder = Path(os.environ.get("GUERDON_DATA", Path(__file__).parents[3] / "../shared/data"))
    path = folder / "e2e" / "dev.jsonl"
    if not path.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{path} is absent")
        pytest.skip(f"{path} is absent")
    with path.open(encoding="utf-8") as lines:
        references = [json.loads(next(lines))["references"] for _ in range(61)]
    return [group[0] for group in references[1:]], references[:-1]
