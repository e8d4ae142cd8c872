"""The grid of a comparison: every combination, each validated, each in a folder of its own."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from guerdon.errors import ConfigurationError
from guerdon.pipeline.grid import Plan, drawn, read_grid, read_seeds, samples_per_step


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    values: dict[str, Any] = {
        "name": "x",
        "data": {"train": "a.jsonl", "validation": "b.jsonl"},
        "finetune": {"epochs": 1},
        "reward": [{"type": "chrf"}],
        "reinforce": {"steps": 10, "sources_per_step": 4, "samples_per_source": 3},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_cells_are_the_product_in_order(recipe: Path) -> None:
    vary = ["reinforce.baseline=leave_one_out,none,batch_mean", "reinforce.kl.coefficient=0,0.5"]
    cells = read_grid(recipe, vary, ["reinforce.steps=7"])
    expected = list(itertools.product(["leave_one_out", "none", "batch_mean"], [0, 0.5]))
    found = [(cell.recipe.reinforce.baseline, cell.recipe.reinforce.kl.coefficient) for cell in cells if cell.recipe.reinforce]
    assert found == expected
    assert [tuple(cell.options.values()) for cell in cells] == expected
    assert cells[1].label == "baseline: leave_one_out, kl.coefficient: 0.5"
    assert cells[1].name == "baseline-leave_one_out_kl.coefficient-0.5"
    assert all(cell.recipe.reinforce and cell.recipe.reinforce.steps == 7 for cell in cells)
    assert len({cell.name for cell in cells}) == 6


def test_a_grid_of_nothing_is_the_recipe(recipe: Path) -> None:
    (cell,) = read_grid(recipe, [])
    assert (cell.name, dict(cell.options)) == ("recipe", {})


def test_values_may_be_mappings_and_their_folders_stay_folders(recipe: Path) -> None:
    values = ["{kind: running, order: each}", "{kind: batch, order: each}", "{kind: none}"]
    cells = read_grid(recipe, [f"reinforce.normalisation={','.join(values)}"])
    assert [cell.recipe.reinforce.normalisation.kind for cell in cells if cell.recipe.reinforce] == ["running", "batch", "none"]
    assert len({cell.name for cell in cells}) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,100}", cell.name) for cell in cells)
    (one, other) = read_grid(recipe, ["reinforce.limit={absolute: 24},{absolute:  48}"])
    assert one.name != other.name


def test_a_long_grid_has_short_names(recipe: Path) -> None:
    options = ["temperature", "mle_weight", "kl.coefficient", "running_decay", "optimiser.learning_rate"]
    cells = read_grid(recipe, [f"reinforce.{name}=0.123456,0.654321" for name in options])
    assert len({cell.name for cell in cells}) == 32
    assert max(len(cell.name) for cell in cells) < 100


BAD = {
    "no values": (["reinforce.baseline="], "section.option=value"),
    "no option": (["=a,b"], "section.option=value"),
    "no assignment": (["reinforce.baseline"], "section.option=value"),
    "a section that is shared": (["finetune.epochs=1,2"], "only options of reinforce"),
    "the whole section": (["reinforce={steps: 1},{steps: 2}"], "only options of reinforce"),
    "the control": (["reinforce.control=none,shuffled"], "controls are run in any case"),
    "broken YAML": (["reinforce.baseline=a,{b"], "no YAML"),
    "a value twice": (["reinforce.baseline=none,none"], "one value stands twice"),
    "a value twice in other letters": (["reinforce.kl.coefficient=0,0.0"], "the same recipe"),
    "an option twice": (["reinforce.baseline=none", "reinforce.baseline=batch_mean"], "varies twice"),
    "an unknown option": (["reinforce.baselin=none"], "did you mean 'baseline'"),
    "an unknown value": (["reinforce.baseline=none,nothing"], "reinforce.baseline (with reinforce.baseline=nothing)"),
    "a contradiction in the last cell": (
        ["reinforce.baseline=none,leave_one_out", "reinforce.samples_per_source=3,1"],
        "(with reinforce.baseline=leave_one_out, reinforce.samples_per_source=1)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_vary_is_refused(name: str, recipe: Path) -> None:
    vary, words = BAD[name]
    with pytest.raises(ConfigurationError) as caught:
        read_grid(recipe, vary)
    assert words in str(caught.value)


def test_other_refusals(recipe: Path) -> None:
    with pytest.raises(ConfigurationError, match="one value and --vary several"):
        read_grid(recipe, ["reinforce.baseline=none,batch_mean"], ["reinforce.baseline=none"])
    with pytest.raises(ConfigurationError, match="no such section"):
        read_grid(recipe, [], ["reinforce=null"])
    with pytest.raises(ConfigurationError, match="3 gradients"):
        Plan(read_grid(recipe, []), [1], gradients=3)
    assert Plan(read_grid(recipe, []), [1], gradients=0).gradients == 0


def test_seeds() -> None:
    assert read_seeds(None, None) == [1, 2, 3]
    assert read_seeds(5, None) == [1, 2, 3, 4, 5]
    assert read_seeds(None, "3,1,8") == [3, 1, 8]
    for count, listed in [(0, None), (2, "1,2"), (None, "1,1"), (None, "1;2"), (None, ""), (None, "-1")]:
        with pytest.raises(ConfigurationError):
            read_seeds(count, listed)


@pytest.mark.parametrize(("sources", "choices"), [(10, 12), (9, 13), (500, 2), (1, 64)])
def test_best_of_n_draws_as_much_as_a_run(sources: int, choices: int, recipe: Path) -> None:
    """10 steps of 4 × 3 outputs are 120; never fewer than 2 for a source, nor more than 64."""
    plan = Plan(read_grid(recipe, ["reinforce.temperature=1,0.5"]), [1])
    assert samples_per_step(plan.cells[0]) == 12
    assert drawn(plan.cells[0]) == 120
    assert plan.choices(sources) == choices
