from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from guerdon.errors import ConfigurationError, DataError
from guerdon.pipeline.recipe import Recipe, read_recipe

ROOT = Path(__file__).parents[3]
MINIMAL = {"name": "x", "data": {"train": "a.jsonl", "validation": "b.jsonl"}, "finetune": {"epochs": 1}}


def written(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**MINIMAL, **changes}), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "name",
    [
        "recipes/e2e.yaml",
        "recipes/e2e_faithful.yaml",
        "recipes/e2e_feedback.yaml",
        "recipes/multi30k.yaml",
        "guerdon/quickstart/recipe.yaml",
    ],
)
def test_shipped_recipes_are_valid_and_every_line_of_the_long_ones_is_known(name: str) -> None:
    recipe = read_recipe(ROOT / name)
    assert recipe.finetune is not None
    assert recipe.reinforce is not None
    assert set(recipe.controls.run) == {"shuffled", "constant", "best_of_n", "mbr"}


def test_a_resolved_recipe_reads_back_to_the_same(tmp_path: Path) -> None:
    recipe = read_recipe(ROOT / "recipes/e2e.yaml", ["data.folder=."])
    path = tmp_path / "resolved.yaml"
    path.write_text(yaml.safe_dump(recipe.resolved()), encoding="utf-8")
    again = read_recipe(path)
    assert again.resolved() == recipe.resolved()
    assert again.fingerprint("data", "model", "finetune") == recipe.fingerprint("data", "model", "finetune")


def test_overrides_reach_nested_options_and_a_data_folder_is_relative_to_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = read_recipe(
        written(tmp_path), ["finetune.optimiser.learning_rate=3e-4", "data.folder=here", "finetune.loop.patience=null"]
    )
    assert recipe.finetune is not None
    assert recipe.finetune.optimiser.learning_rate == 3e-4
    assert recipe.data_file("a.jsonl") == tmp_path / "here" / "a.jsonl"


def test_a_held_out_figure_may_choose_the_checkpoint_and_stop_the_run_and_a_monitor_may_be_off(tmp_path: Path) -> None:
    overrides = ["reinforce.loop.criterion=bleu", "reinforce.loop.higher_is_better=true", "reinforce.monitors.held_out=bleu"]
    overrides += ["reinforce.monitors.stop=true", "reinforce.monitors.copying=null", "reinforce.monitors.length_drift=0.5"]
    found = read_recipe(written(tmp_path, reinforce={}, reward=[{"type": "chrf"}]), overrides)
    assert found.reinforce is not None
    monitors = found.reinforce.monitors
    assert (found.reinforce.loop.criterion, monitors.held_out, monitors.stop) == ("bleu", "bleu", True)
    assert (monitors.copying, monitors.length_drift, monitors.repetition) == (None, 0.5, 0.1)


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, data={**MINIMAL["data"], "folder": "sets"}))  # type: ignore[dict-item]
    assert recipe.data_file("a.jsonl") == tmp_path / "sets" / "a.jsonl"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"finetune": {"epochs": 1, "optimizer": {}}}, ["finetune.optimizer", "did you mean 'optimiser'"]),
        ({"finetune": {"epochs": 1, "optimiser": {"learning_rat": 1}}}, ["learning_rat", "did you mean 'learning_rate'"]),
        ({"finetun": {}}, ["finetun", "did you mean 'finetune'"]),
        ({"finetune": {"epochs": "many"}}, ["finetune.epochs", "'many'"]),
        ({"finetune": {"epochs": 1, "steps": 5}}, ["epochs", "exactly one"]),
        ({"finetune": {}}, ["epochs", "exactly one"]),
        ({"finetune": {"epochs": 1, "precision": "float16"}}, ["finetune.precision", "float16"]),
        ({"model": {"heads": 3}}, ["model.heads", "divisor"]),
        ({"model": {"widht": 3}}, ["model", "widht"]),
        ({"decoding": {"method": "greedy", "beam_size": 4}}, ["decoding.beam_size", "beam"]),
        ({"reinforce": {"samples_per_source": 1}, "reward": [{"type": "length"}]}, ["leave_one_out"]),
        ({"reinforce": {"kl": {"place": "moon"}}, "reward": [{"type": "length"}]}, ["reinforce.kl.place"]),
        ({"reinforce": {}}, ["reward"]),
        ({"reinforce": {"monitors": {"held_out": "reward"}}, "reward": [{"type": "length"}]}, ["reinforce.monitors.held_out"]),
        ({"reinforce": {"monitors": {"lenght_drift": 1}}}, ["lenght_drift", "did you mean 'length_drift'"]),
        ({"finetune": None}, ["nothing to do"]),
        ({"data": {"train": "a"}}, ["data.validation", "missing"]),
        ({"evaluation": {"bootstrap": 10}}, ["evaluation.bootstrap"]),
        ({"controls": {"run": ["random"]}}, ["controls.run"]),
        ({"pretrain": {"epochs": 1}}, ["pretrain.texts"]),
        ({"seed": "one"}, ["seed"]),
    ],
)
def test_faults_are_one_line_that_names_the_option(tmp_path: Path, changes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_recipe(written(tmp_path, **changes))
    line = str(raised.value)
    assert "\n" not in line
    for word in words:
        assert word in line


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such recipe"):
        read_recipe(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1", encoding="utf-8")
    with pytest.raises(DataError, match="is not usable YAML"):
        read_recipe(broken)
    broken.write_text("name: a\nseed: 1\nseed: 2\n", encoding="utf-8")
    with pytest.raises(DataError, match="'seed' stands twice"):
        read_recipe(broken)
    broken.write_text("- 1", encoding="utf-8")
    with pytest.raises(DataError, match="not a mapping"):
        read_recipe(broken)
    with pytest.raises(ConfigurationError, match=r"section\.option=value"):
        read_recipe(written(tmp_path), ["nonsense"])


def test_a_fingerprint_sees_its_sections_and_no_others(tmp_path: Path) -> None:
    def mark(*sections: str, **changes: object) -> str:
        recipe: Recipe = read_recipe(written(tmp_path, **changes))
        return recipe.fingerprint(*sections)

    base = mark("finetune")
    assert mark("finetune", tokenizer={"vocabulary_size": 500}) == base
    assert mark("finetune", finetune={"epochs": 2}) != base
    assert mark("finetune", seed=2) != base


def test_an_override_of_one_section_leaves_another_that_shares_its_anchor(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: x\ndata: {train: a, validation: b}\nreward: [{type: repetition}]\n"
        "finetune: {epochs: 1, optimiser: &o {learning_rate: 0.1}}\nreinforce: {optimiser: *o}\n",
        encoding="utf-8",
    )
    recipe = read_recipe(path, ["reinforce.optimiser.learning_rate=0.2"])
    assert recipe.finetune is not None
    assert recipe.reinforce is not None
    assert (recipe.finetune.optimiser.learning_rate, recipe.reinforce.optimiser.learning_rate) == (0.1, 0.2)


def test_a_resolved_recipe_has_whole_paths(tmp_path: Path) -> None:
    changes = {
        "tokenizer": {"folder": "t"},
        "evaluation": {"slots": "s.yaml"},
        "reward": [
            {"type": "required_content", "patterns": "p.yaml"},
            {"type": "chrf"},
            {"type": "similarity", "encoder": "e"},
            {"type": "similarity", "encoder": "all-MiniLM-L6-v2"},
        ],
    }
    (tmp_path / "e").mkdir()
    plain = read_recipe(written(tmp_path, **changes)).resolved()
    assert plain["tokenizer"]["folder"] == str(tmp_path / "t")
    assert plain["evaluation"]["slots"] == str(tmp_path / "s.yaml")
    assert [part.get("patterns") for part in plain["reward"]] == [str(tmp_path / "p.yaml"), None, None, None]
    assert [part.get("encoder") for part in plain["reward"]] == [None, None, str(tmp_path / "e"), "all-MiniLM-L6-v2"]
    assert plain["data"]["folder"] == str(tmp_path)
    loaded = read_recipe(written(tmp_path, model={"load": "m"})).resolved()
    assert loaded["model"] == {"load": str(tmp_path / "m")}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"load": "m", "width": 3}}, ["model.load", "width", "take out"]),
        ({"model": {"load": 3}}, ["model.load", "3"]),
        ({"model": {"load": "m"}, "tokenizer": {"folder": "t"}}, ["model.load", "tokenizer.folder"]),
        ({"model": {"width": "wide"}}, ["model.width", "'wide'"]),
        ({"model": {"positions": "moon"}}, ["model.positions", "'moon'"]),
        ({"model": {"widht": 4}}, ["model.widht", "did you mean 'width'"]),
        ({"model": {"vocabulary": 4}}, ["model.vocabulary", "options here"]),
        ({"name": "a/b"}, ["name", "'a/b'"]),
        ({"name": " "}, ["name"]),
        ({"name": ".."}, ["name", "'..'"]),
        ({"path": "x"}, ["path", "no such option"]),
    ],
)
def test_further_faults_name_option_and_cure(tmp_path: Path, changes: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_recipe(written(tmp_path, **changes))
    assert raised.value.cure
    for word in words:
        assert word in str(raised.value)


def test_a_recipe_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder is no recipe"):
        read_recipe(tmp_path)
    path = tmp_path / "odd.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(DataError, match="is not usable YAML"):
        read_recipe(path)
    with pytest.raises(ConfigurationError, match="is no YAML value"):
        read_recipe(written(tmp_path), ["seed=[1"])
    with pytest.raises(ConfigurationError, match="'epochs' has no options"):
        read_recipe(written(tmp_path), ["finetune.epochs.x=1"])
