"""Sphinx's settings. The reference has one page a room, written anew at each build, so that no module is left out."""

from __future__ import annotations

import sys
from pathlib import Path

import typer
from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import guerdon  # noqa: E402
from guerdon.cli.main import app as command_line  # noqa: E402

project = "guerdon"
release = version = guerdon.__version__
copyright = "the guerdon authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"guerdon {release}"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

default_role = "py:obj"
autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "fully-qualified"
autodoc_preserve_defaults = True
napoleon_use_ivar = True  # attributes as fields: a dataclass would otherwise document each of them twice
# Links are checked within guerdon; what belongs to other libraries cannot be looked up without a network.
# "low, high: the interval's ends" documents two attributes; Sphinx takes each for a reference, and finds several of the name.
suppress_warnings = ["ref.python"]
nitpick_ignore_regex = [
    (r"py:.*", r"(?!guerdon\.).*"),
    (r"py:.*", r"guerdon\.(\w+\.)*_\w+"),  # private
    (r"py:.*", r"guerdon\.metrics\.cache\.Prepared"),  # a type variable
]

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


def room_page(room: str) -> str:
    """The modules of a room, each a section."""
    title = f"guerdon.{room}"
    lines = [title, "=" * len(title), ""]
    for module in modules(room):
        if module != title:
            lines += [module, "-" * len(module), ""]
        # A package's own names are documented in the modules where they live.
        lines += [f".. automodule:: {module}", *(["   :no-members:"] if (ROOT / module.replace(".", "/")).is_dir() else []), ""]
    return "\n".join(lines)


def command_page() -> str:
    """Every verb with its arguments and options, as ``--help`` shows them."""
    lines = ["Command line", "============", "", "``guerdon VERB --help`` prints the same.", ""]
    group = typer.main.get_command(command_line)
    assert isinstance(group, typer.core.TyperGroup)
    for name, verb in group.commands.items():
        lines += [f"guerdon {name}", "-" * len(f"guerdon {name}"), "", *paragraphs(verb.help or ""), ""]
        for parameter in verb.params:
            form = ", ".join(parameter.opts) if parameter.param_type_name == "option" else parameter.name.upper()
            lines += [f"``{form}``", f"   {getattr(parameter, 'help', None) or ''}", ""]
    return "\n".join(lines)


def paragraphs(text: str) -> list[str]:
    """A verb's help; an example becomes a literal block."""
    lines: list[str] = []
    for line in text.splitlines():
        command = line.removeprefix("Example: ")
        lines += [line] if command == line else ["Example::", "", f"   {command}"]
    return lines


def write_reference(app: Sphinx) -> None:
    """One page a room, and one for the command line."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    for name, text in [("command_line", command_page()), *((room, room_page(room)) for room in ROOMS)]:
        page = folder / f"{name}.rst"
        if not page.is_file() or page.read_text("utf-8") != text:
            page.write_text(text, "utf-8")


def at_home(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Element | None:
    """Follows a public name, such as ``guerdon.load``, to the module where it is documented."""
    package, _, name = node["reftarget"].rpartition(".")
    found = getattr(sys.modules.get(package), name, None)
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if not package.startswith("guerdon") or home == node["reftarget"]:
        return None
    return env.get_domain("py").resolve_xref(env, node["refdoc"], app.builder, node["reftype"], home, node, content)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_reference)
    app.connect("missing-reference", at_home)
