import json

import pytest


@pytest.fixture(scope="session")
def e2e(data_folder):
    """(outputs, references) of 60 sources: each output is a reference of the next source, so that it matches in part."""
    with (data_folder / "e2e" / "dev.jsonl").open(encoding="utf-8") as lines:
        references = [json.loads(next(lines))["references"] for _ in range(61)]
    return [group[0] for group in references[1:]], references[:-1]
