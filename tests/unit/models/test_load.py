"""A policy in a folder: it comes back as it was, and whatever is wrong with the files is one clear line."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.tiny_policies import random_rows, tiny_policy
from safetensors.torch import load_file, save_file

from guerdon.errors import CheckpointError, DataError, GuerdonError
from guerdon.models.load import load_policy, load_tensors, load_weights, save_policy, save_tensors

KINDS = [
    {},
    {"positions": "rotary", "norm": "post", "activation": "swiglu"},
    {"positions": "learned", "activation": "gelu", "tied_embeddings": False},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_policy(tiny_policy(), tmp_path)
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may become longer: the system answers as it does when a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("options", KINDS)
def test_round_trip(tmp_path: Path, options: dict) -> None:
    policy = tiny_policy(**options).float()
    save_policy(policy.train(), tmp_path / "new" / "model")
    loaded = load_policy(tmp_path / "new" / "model")
    assert loaded.options == policy.options
    assert not loaded.training
    assert loaded.state_dict().keys() == policy.state_dict().keys()
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in policy.state_dict().items())
    sources, targets = random_rows([3, 5]), random_rows([4, 2])
    assert torch.equal(loaded.logits(sources, targets), policy.eval().logits(sources, targets))


def test_saved_again_the_files_are_the_same(folder: Path, tmp_path: Path) -> None:
    save_policy(load_policy(folder), tmp_path / "again")
    save_policy(load_policy(tmp_path / "again"), tmp_path / "third")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


CONFIGS = [
    ("{", CheckpointError, "damaged"),
    ("", CheckpointError, "damaged"),
    ("[1, 2]", CheckpointError, "not a JSON object"),
    ("{}", DataError, "not the configuration of a guerdon policy"),
    ('{"format": "guerdon", "kind": "another", "version": 1}', DataError, "not the configuration"),
    ('{"format": "guerdon", "kind": "transformer", "version": 1}', CheckpointError, "do not describe a model"),
    ('{"format": "guerdon", "kind": "transformer", "version": "one"}', CheckpointError, "version"),
    ('{"format": "guerdon", "kind": "transformer"}', CheckpointError, "version"),
    ('{"format": "guerdon", "kind": "transformer", "version": 2}', CheckpointError, "newer guerdon"),
]


@pytest.mark.parametrize(("text", "kind", "says"), CONFIGS)
def test_a_configuration_that_cannot_be_read(folder: Path, text: str, kind: type[GuerdonError], says: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(kind, match=says) as caught:
        load_policy(folder)
    assert "config.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"width": "16"}, {"norm": "neither"}, {"depth": 3}, {"heads": 5}, {"vocabulary_size": None}, {"width": 16.5}]
)
def test_options_that_describe_no_model(folder: Path, options: dict) -> None:
    edit(folder, options={**tiny_policy().describe(), **options})
    with pytest.raises(CheckpointError, match="do not describe a model"):
        load_policy(folder)


@pytest.mark.parametrize("options", ["sixteen", [1], None])
def test_options_that_are_no_options(folder: Path, options: object) -> None:
    edit(folder, options=options)
    with pytest.raises(CheckpointError, match="do not describe a model"):
        load_policy(folder)


def test_weights_of_other_dimensions(folder: Path) -> None:
    edit(folder, options={**tiny_policy().describe(), "feed_forward": 25})
    with pytest.raises(CheckpointError, match=r"shape \[24\], and the model \[25\].*model options"):
        load_policy(folder)
    edit(folder, options={**tiny_policy().describe(), "encoder_layers": 3})
    with pytest.raises(CheckpointError, match=r"lacks encoder\.2"):
        load_policy(folder)
    edit(folder, options={**tiny_policy().describe(), "encoder_layers": 1})
    with pytest.raises(CheckpointError, match=r"has encoder\.1\..*, which the model has not"):
        load_policy(folder)


def test_where_weights_do_not_fit_nothing_is_changed(folder: Path) -> None:
    policy = tiny_policy(seed=4, encoder_layers=3)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_weights(policy, folder / "model.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in policy.state_dict().items())


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:7], b"", b"\xff" * 64, whole + b"more"):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged") as caught:
            load_policy(folder)
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(CheckpointError, match="no such file"):
        load_policy(folder)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite(folder: Path, number: float) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["decoder_norm.bias"][3] = number
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"decoder_norm\.bias holds nan or inf"):
        load_policy(folder)


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_policy(tmp_path / "nowhere")


def test_tensors_that_share_memory_and_integers_come_back(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float32)
    tensors = {"whole": base, "half": base[6:], "turned": base.view(3, 4).T, "count": torch.tensor(7)}
    save_tensors(tensors, tmp_path / "t.safetensors")
    loaded = load_tensors(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    with file_limit(3000), pytest.raises(OSError, match="File too large"):
        save_tensors({"a": torch.zeros(10_000)}, tmp_path / "t.safetensors")
    with file_limit(3000), pytest.raises(GuerdonError, match=r"cannot be written: File too large.*free some space") as caught:
        save_policy(tiny_policy(), tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "model" / "config.json").exists()  # half a model is none
