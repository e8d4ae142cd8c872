"""A policy in a folder: ``config.json`` (what it is) and ``model.safetensors`` (its weights)."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guerdon.data.files import reported, write_atomically
from guerdon.errors import CheckpointError, ConfigurationError, DataError
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_FORMAT, _VERSION = "guerdon", 1
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def save_policy(policy: Transformer, folder: Path) -> None:
    """Writes both files into ``folder``, which is made where it is missing.

    Args:
        policy: what is saved.
        folder: where.

    Raises:
        GuerdonError: when they cannot be written.
    """
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(policy.state_dict(), folder / WEIGHTS)
    config = {"format": _FORMAT, "version": _VERSION, "kind": "transformer", "options": policy.describe()}
    # last, and whole: a folder with a configuration is a model
    write_atomically(folder / CONFIG, [json.dumps(config, indent=2).encode(), b"\n"])


def load_policy(folder: Path) -> Transformer:
    """The policy that `save_policy` wrote, in evaluation mode.

    Raises:
        DataError: when the folder holds no guerdon policy.
        CheckpointError: when a file is damaged, or the weights do not have the dimensions of the configuration.
    """
    config = read_config(folder)
    if config.get("kind") in ("reward_model", "reward_models"):
        cure = "score outputs with it (guerdon score), or name a policy's folder"
        raise DataError("is a reward model's, which writes nothing", where=str(folder / CONFIG), cure=cure)
    if config.get("format") != _FORMAT or config.get("kind") != "transformer":
        raise DataError("is not the configuration of a guerdon policy", where=str(folder / CONFIG))
    version = config.get("version")
    if not isinstance(version, int):
        raise CheckpointError(f"has no version but {version!r}", where=str(folder / CONFIG), cure="restore the file")
    if version > _VERSION:
        raise CheckpointError("was written by a newer guerdon", where=str(folder / CONFIG), cure="upgrade guerdon")
    try:
        policy = Transformer(TransformerOptions(**config["options"]))
    except (KeyError, TypeError, ConfigurationError) as error:
        raise CheckpointError(f"its options do not describe a model ({error})", where=str(folder / CONFIG)) from error
    load_weights(policy, folder / WEIGHTS)
    return policy.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The contents of ``config.json``."""
    path = folder / CONFIG
    if not path.is_file():
        raise DataError(
            "no such file", where=str(path), cure="name the folder of a model, or of a run that has finished a stage"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"is damaged ({error})", where=str(path), cure="restore the file, or train again") from error
    if not isinstance(config, dict):
        raise CheckpointError("is not a JSON object", where=str(path), cure="restore the file, or train again")
    return config


def load_weights(module: nn.Module, path: Path) -> None:
    """Loads a module's state in place; nothing is changed where a tensor is missing, unknown or of another shape."""
    tensors = load_tensors(path)
    expected = module.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        have, want = tensors.get(name), expected.get(name)
        if have is None or want is None:
            fault = f"lacks {name}" if have is None else f"has {name}, which the model has not"
        elif have.shape != want.shape:
            fault = f"has {name} of shape {list(have.shape)}, and the model {list(want.shape)}"
        else:
            continue
        raise CheckpointError(fault, where=str(path), cure="use the model options that it was trained with")
    module.load_state_dict(tensors)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Writes tensors to a safetensors file; tensors that share memory are written once each.

    Raises:
        OSError: when it cannot be written.
    """
    try:
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # the library wraps what the system said
        found = _OS_ERROR.search(str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file, on the CPU.

    Raises:
        CheckpointError: when it is missing or damaged, or holds a non-finite weight.
    """
    if not path.is_file():
        raise CheckpointError("no such file", where=str(path), cure="restore the file, or train again")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"is damaged ({error})", where=str(path), cure="restore the file, or train again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} holds nan or inf", where=str(path), cure="restore the file, or train again")
    return tensors
