"""The quickstart's recipe, over the built-in corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from guerdon.data.files import write_jsonl
from guerdon.pipeline.recipe import Recipe, read_recipe
from guerdon.quickstart.corpus import NOTE, build
from guerdon.quickstart.judge import JUDGE_NOTE, PAIRS, comparisons

RECIPE = Path(__file__).with_name("recipe.yaml")
_CORPUS_SEED = 1  # of the corpus: it is the same whatever the run's seed


def quickstart_recipe(folder: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Writes the corpus into ``folder/data`` and returns the recipe that reads it.

    Raises:
        ConfigurationError: for an override that cannot be.
        GuerdonError: where the corpus cannot be written.
    """
    recipe = read_recipe(RECIPE, overrides)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    for name, examples in zip(("train", "validation", "test"), build(_CORPUS_SEED), strict=True):
        rows = ({"id": e.id, "source": e.source, "references": list(e.references)} for e in examples)
        write_jsonl(data / f"{name}.jsonl", rows)
    for name in PAIRS:
        write_jsonl(data / f"{name}_comparisons.jsonl", comparisons(_CORPUS_SEED, name))
    note = f"{NOTE} {JUDGE_NOTE}"
    return recipe.model_copy(update={"data": replace(recipe.data, folder=str(data.resolve()), note=note)})
