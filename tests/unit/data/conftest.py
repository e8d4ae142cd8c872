import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from guerdon.data import Tokenizer

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file into the test's folder."""

    def write_file(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of the real data sets; where it is absent the test is skipped, but never in CI."""
    folder = Path(os.environ.get("GUERDON_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not folder.is_dir():
        reason = f"no real data in {folder}; set GUERDON_DATA"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def e2e_pairs(data_folder: Path) -> list[tuple[str, str]]:
    """(source, reference) of E2E's training data, read without any code of guerdon."""
    lines = (data_folder / "e2e" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["source"], text) for row in map(json.loads, lines) for text in row["references"]]


@pytest.fixture(scope="session")
def e2e_tokenizer(e2e_pairs: list[tuple[str, str]]) -> Tokenizer:
    return Tokenizer.train([text for pair in e2e_pairs for text in pair], 3000)
