"""Sphinx's settings. The reference has one page a room, written anew at each build, so that no module is left out."""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import guerdon  # noqa: E402

project = "guerdon"
release = version = guerdon.__version__
copyright = "the guerdon authors"  # noqa: A001

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"guerdon {release}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # attributes as fields: a dataclass would otherwise document each of them twice
# Links are checked within guerdon; what belongs to other libraries cannot be looked up without a network.
nitpick_ignore_regex = [(r"py:.*", r"(?!guerdon\.).*")]

# Rooms in the order in which a text passes through them.
ROOMS = (
    "errors", "data", "metrics", "models", "objectives", "rewards", "decoding", "generator", "training", "evaluation",
    "stages", "pipeline", "quickstart",
)  # fmt: skip


def modules(room: str) -> list[str]:
    """The public modules of a room, itself first."""
    paths = sorted((ROOT / "guerdon" / room).glob("*.py")) or [ROOT / "guerdon" / f"{room}.py"]
    names = [f"guerdon.{room}" if path.stem in ("__init__", room) else f"guerdon.{room}.{path.stem}" for path in paths]
    return sorted(name for name in names if not name.rsplit(".", 1)[-1].startswith("_"))


def write_reference(app: Sphinx) -> None:
    """One page a room, each of its modules a section."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    for room in ROOMS:
        title = f"guerdon.{room}"
        lines = [title, "=" * len(title), ""]
        for module in modules(room):
            if module != title:
                lines += [module, "-" * len(module), ""]
            lines += [f".. automodule:: {module}", ""]
        page = folder / f"{room}.rst"
        text = "\n".join(lines)
        if not page.is_file() or page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_reference)
