"""Checkpoints: whole or absent, exact, two of them, and the best weights kept while a checkpoint names them."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from guerdon.errors import CheckpointError, TrainingError
from guerdon.models.load import load_tensors
from guerdon.training.checkpoint import CheckpointStore, TrainingState
from guerdon.training.schedule import OptimiserOptions, build_optimiser


def network(seed: int = 0, width: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1), nn.BatchNorm1d(1))


def trained(steps: int = 3, seed: int = 0) -> tuple[nn.Module, torch.optim.AdamW]:
    """A network after a few steps of AdamW; its norm brings a buffer of integers."""
    model = network(seed)
    optimiser = build_optimiser(model, OptimiserOptions())
    for step in range(steps):
        train(model, optimiser, step)
    return model, optimiser


def train(model: nn.Module, optimiser: torch.optim.AdamW, step: int) -> None:
    inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
    optimiser.zero_grad()
    model(inputs).square().mean().backward()
    optimiser.step()


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path / "checkpoints" / "finetune")


STATE = TrainingState(
    step=7, trainee={"moments": [3, 0.1, 1e-300]}, validations=[(5, 1 / 3)], best=[5], skipped=2, skipped_in_a_row=1,
    offsets={"metrics.jsonl": 99}, options="these", finished="", final=None,
)  # fmt: skip


def test_nothing_there(store: CheckpointStore) -> None:
    model, optimiser = trained()
    assert store.steps() == []
    assert store.load(model, optimiser, "these") is None


def test_all_of_it_comes_back_and_training_goes_on_bit_by_bit(store: CheckpointStore) -> None:
    model, optimiser = trained()
    store.save(STATE, model, optimiser)
    other = network(seed=9)
    moments = build_optimiser(other, OptimiserOptions())
    assert store.load(other, moments, "these") == STATE
    assert same(model, other)
    for step in range(3, 6):
        train(model, optimiser, step)
        train(other, moments, step)
    assert same(model, other)


def test_before_the_first_step_there_are_no_moments(store: CheckpointStore) -> None:
    model, optimiser = trained(steps=0)
    store.save(TrainingState(options="these"), model, optimiser)
    other = network(seed=3)
    moments = build_optimiser(other, OptimiserOptions())
    assert store.load(other, moments, "these").step == 0
    assert not moments.state_dict()["state"]
    assert same(model, other)


def test_two_are_kept_and_the_newest_is_loaded(store: CheckpointStore) -> None:
    for step in (0, 5, 10, 100_000_000, 7_000):
        model, optimiser = trained(steps=1, seed=step % 97)
        store.save(TrainingState(step=step, options="these"), model, optimiser)
    assert store.steps() == [7_000, 100_000_000]
    assert store.load(network(), build_optimiser(network(), OptimiserOptions()), "these").step == 100_000_000
    assert [path.name for path in store.folder.iterdir() if path.name.startswith(".")] == []


def test_a_step_saved_again_is_replaced(store: CheckpointStore) -> None:
    first, optimiser = trained(seed=1)
    store.save(TrainingState(step=4, options="these"), first, optimiser)
    second, optimiser = trained(seed=2)
    store.save(TrainingState(step=4, options="these", finished="all steps done"), second, optimiser)
    loaded = network()
    assert store.load(loaded, build_optimiser(loaded, OptimiserOptions()), "these").finished == "all steps done"
    assert same(loaded, second)


def test_what_a_kill_leaves_behind_is_no_checkpoint(store: CheckpointStore) -> None:
    """A kill while writing leaves a .partial folder; one while removing a .removed one; neither is read nor in the way."""
    model, optimiser = trained()
    store.save(TrainingState(step=4, options="these"), model, optimiser)
    for name in (".step-00000008.partial", ".step-00000004.removed", ".step-00000002.removed"):
        shutil.copytree(store.folder / "step-00000004", store.folder / name)
        (store.folder / name / "state.json").write_text("{")
    assert store.steps() == [4]
    shutil.copytree(store.folder / "step-00000004", store.folder / "step-00000002")  # it was to be removed next
    shutil.copytree(store.folder / "step-00000004", store.folder / "step-00000001")
    store.keep_best(3, model)
    (store.folder / "best" / ".partial").write_text("{")
    assert store.load(network(), build_optimiser(network(), OptimiserOptions()), "these").step == 4
    assert sorted(path.name for path in store.folder.iterdir()) == ["best", "step-00000002", "step-00000004"]
    assert [*(store.folder / "best").iterdir()] == []
    for step in (4, 8, 12):
        store.save(TrainingState(step=step, options="these"), model, optimiser)
    assert store.steps() == [8, 12]


@pytest.mark.parametrize("earlier", [[], [2]])
def test_a_kill_between_the_two_renames_of_a_replacement_takes_the_old_one_back(
    store: CheckpointStore, earlier: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimiser = trained(seed=1)
    for step in (*earlier, 4):
        store.save(TrainingState(step=step, options="these"), model, optimiser)
    rename = os.rename

    def until_killed(source: Any, target: Any, **options: Any) -> None:
        if str(source).endswith(".partial"):
            raise KeyboardInterrupt
        rename(source, target, **options)

    monkeypatch.setattr(os, "rename", until_killed)
    with pytest.raises(KeyboardInterrupt):
        store.save(TrainingState(step=4, options="these", finished="all steps done"), *trained(seed=2))
    monkeypatch.undo()
    assert store.steps() == earlier
    other = network(seed=5)
    found = store.load(other, build_optimiser(other, OptimiserOptions()), "these")
    assert (found.step, found.finished) == (4, "")
    assert same(other, model)
    assert sorted(path.name for path in store.folder.iterdir()) == [f"step-{step:08d}" for step in (*earlier, 4)]


@pytest.mark.parametrize("removed", range(12))
def test_a_kill_amid_the_removal_of_files_leaves_whole_checkpoints(
    store: CheckpointStore, removed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file is the last that could be removed: steps 4 and 8 are there, 8 is written again, and 12 pushes 4 out."""
    model, optimiser = trained()
    for step in (4, 8):
        store.save(TrainingState(step=step, options="these"), model, optimiser)
    unlink, count = os.unlink, itertools.count()

    def until_killed(*arguments: Any, **options: Any) -> None:
        if next(count) >= removed:
            raise KeyboardInterrupt
        unlink(*arguments, **options)

    monkeypatch.setattr(os, "unlink", until_killed)
    with contextlib.suppress(KeyboardInterrupt):
        for step in (8, 12):
            store.save(TrainingState(step=step, options="these"), model, optimiser)
    monkeypatch.undo()
    assert store.steps()
    for step in reversed(store.steps()):
        other = network(seed=5)
        assert store.load(other, build_optimiser(other, OptimiserOptions()), "these").step == step
        assert same(other, model)
        shutil.rmtree(store.folder / f"step-{step:08d}")


@pytest.mark.parametrize("name", ["model.safetensors", "optimiser.safetensors"])
@pytest.mark.parametrize("damage", ["flipped", "shortened", "gone"])
def test_damage_is_named_and_the_cure_works(store: CheckpointStore, name: str, damage: str) -> None:
    model, optimiser = trained()
    for step in (2, 4):
        store.save(TrainingState(step=step, options="these"), model, optimiser)
    path = store.folder / "step-00000004" / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "shortened" else content[:-1] + bytes([content[-1] ^ 1]))
    other = network(seed=5)
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"step-00000004/{name}.*missing or damaged.*remove .*step-00000004") as caught:
        store.load(other, build_optimiser(other, OptimiserOptions()), "these")
    assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in other.state_dict().items())
    shutil.rmtree(store.folder / "step-00000004")
    assert store.load(other, build_optimiser(other, OptimiserOptions()), "these").step == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"sha256": {}}', '{"sha256": 3}', "null", '{"unknown": 1}'])
def test_a_damaged_state_is_named(store: CheckpointStore, text: str) -> None:
    model, optimiser = trained()
    store.save(TrainingState(step=4, options="these"), model, optimiser)
    (store.folder / "step-00000004" / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json: is damaged"):
        store.load(model, optimiser, "these")


def test_other_options_are_refused_before_anything_is_loaded(store: CheckpointStore) -> None:
    model, optimiser = trained()
    store.save(TrainingState(step=4, options="these"), model, optimiser)
    other = network(seed=5)
    before = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    with pytest.raises(CheckpointError, match="belongs to other options"):
        store.load(other, build_optimiser(other, OptimiserOptions()), "those")
    assert all(torch.equal(tensor, before[key]) for key, tensor in other.state_dict().items())


def test_another_network_is_refused(store: CheckpointStore) -> None:
    model, optimiser = trained()
    store.save(TrainingState(step=4, options="these"), model, optimiser)
    other = network(width=6)
    with pytest.raises(CheckpointError, match="shape"):
        store.load(other, build_optimiser(other, OptimiserOptions()), "these")


def test_the_best_are_kept_while_any_checkpoint_names_them(store: CheckpointStore) -> None:
    model, optimiser = trained()

    def checkpoint(step: int, best: list[int]) -> list[int]:
        if step in best:
            store.keep_best(step, model)
        store.save(TrainingState(step=step, best=best, options="these"), model, optimiser)
        return sorted(int(path.stem.removeprefix("step-")) for path in (store.folder / "best").glob("*.safetensors"))

    assert checkpoint(1, [1]) == [1]
    assert checkpoint(2, [2, 1]) == [1, 2]
    assert checkpoint(3, [3, 2]) == [1, 2, 3]  # the checkpoint of step 2 still names step 1
    assert checkpoint(4, [3, 2]) == [2, 3]
    store.keep_best(5, model)  # a kill before its checkpoint
    assert checkpoint(6, [3, 2]) == [2, 3]


def test_averages_are_those_of_float64(store: CheckpointStore) -> None:
    states, steps = [], [3, 5, 8]
    for step in steps:
        model, _ = trained(steps=step, seed=step)
        with torch.no_grad():
            model[0].weight[0, 0] = {3: 1e8, 5: 1.0, 8: -1e8}[step]  # in float32 the 1 would be lost
        store.keep_best(step, model)
        states.append({name: tensor.numpy().copy() for name, tensor in model.state_dict().items()})
    mean = store.average(steps)
    assert mean.keys() == states[0].keys()
    for name, tensor in mean.items():
        if tensor.is_floating_point():
            expected = np.mean([state[name].astype(np.float64) for state in states], axis=0).astype(np.float32)
            np.testing.assert_allclose(tensor.numpy(), expected, rtol=1.2e-7, err_msg=name)
    assert mean["0.weight"][0, 0].item() == pytest.approx(1 / 3, rel=1e-6)
    assert mean["3.num_batches_tracked"].item() == 3
    alone = store.average([5])
    kept = load_tensors(store.folder / "best" / "step-00000005.safetensors")
    assert all(torch.equal(tensor, kept[name]) for name, tensor in alone.items())


def test_best_weights_that_are_gone_are_named(store: CheckpointStore) -> None:
    with pytest.raises(CheckpointError, match=r"best/step-00000003\.safetensors: no such file"):
        store.average([3])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    model, optimiser = trained()
    with pytest.raises(TrainingError, match="cannot write"):
        CheckpointStore(tmp_path / "file").save(TrainingState(), model, optimiser)
    with pytest.raises(TrainingError, match="cannot write"):
        CheckpointStore(tmp_path / "file").keep_best(1, model)


def test_a_disk_that_fills_up_leaves_the_checkpoints_before_whole(store: CheckpointStore) -> None:
    import resource

    model, optimiser = trained()
    store.save(TrainingState(step=2, options="these"), model, optimiser)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(TrainingError, match="cannot write: File too large; free space"):
            store.save(TrainingState(step=4, options="these"), model, optimiser)
        with pytest.raises(TrainingError, match="cannot write: File too large"):
            store.keep_best(4, model)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.steps() == [2]
    assert store.load(model, optimiser, "these").step == 2
    store.save(TrainingState(step=4, options="these"), model, optimiser)
    assert store.steps() == [2, 4]


def test_no_pickle(store: CheckpointStore) -> None:
    model, optimiser = trained()
    store.save(STATE, model, optimiser)
    folder = store.folder / "step-00000007"
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "optimiser.safetensors", "state.json"]
    assert json.loads((folder / "state.json").read_text())["trainee"] == STATE.trainee
