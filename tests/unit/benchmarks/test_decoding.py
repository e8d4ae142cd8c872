"""What must hold before speeds of decoding are compared: the same outputs, and outputs that end."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from helpers.scripts import ROOT, imported

from guerdon.pipeline.recipe import read_recipe


@pytest.fixture
def decoding() -> ModuleType:
    return imported("decoding")


class Written:
    """An engine that has written already."""

    def __init__(self, *outputs: list[int]) -> None:
        self.written = list(outputs)

    def call(self, method: str, rows: Any) -> list[list[int]]:
        assert method == "outputs"
        assert len(rows) == len(self.written)
        return self.written


def test_outputs_are_compared_token_for_token_and_those_that_never_end_are_counted(decoding: ModuleType) -> None:
    endless = [7] * decoding.LIMIT
    found = {
        "guerdon float32": Written([5, 6], [5], endless, [8, 9]),
        "the same": Written([5, 6], [5], endless, [8, 9]),
        "another": Written([5, 6], [6], endless[:-1], [8, 9]),
    }
    equal, lengths = decoding.compared(found, [[1]] * 4)
    assert equal == {"guerdon float32": 1.0, "the same": 1.0, "another": 0.5}
    assert lengths == {"mean": (2 + 1 + decoding.LIMIT + 2) / 4, "cut off": 0.25}


def test_the_base_model_of_decoding_has_the_dimensions_of_that_of_training() -> None:
    recipe = read_recipe(ROOT / "benchmarks/base_model.yaml")
    model = recipe.transformer(8000)
    width, heads, layers, feed_forward = imported("training").SIZES["base"]
    assert (model.width, model.heads, model.feed_forward) == (width, heads, feed_forward)
    assert model.encoder_layers == model.decoder_layers == layers
    assert recipe.finetune is not None
    assert recipe.reinforce is None


def test_the_model_is_asked_in_the_language_that_it_reads() -> None:
    parts = imported("bench").parts(Namespace(data=Path("data"), model=Path("model"), repetitions=3, threads=1))
    recipe = read_recipe(ROOT / "recipes/multi30k.yaml")
    asked = parts["decoding"]
    assert asked[asked.index("--field") + 1] == recipe.data.fields.source
