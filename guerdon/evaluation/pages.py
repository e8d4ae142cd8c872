"""Pages in one file each: a template, the style, and nothing from elsewhere. All texts are escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from guerdon.data.files import reported, write_atomically
from guerdon.evaluation.wording import number


def render_page(template: str, **context: Any) -> str:
    """The page as HTML, with ``style`` beside the template's own context."""
    environment = Environment(
        loader=PackageLoader("guerdon.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda value: number(float(value), 0)
    style, _, _ = environment.loader.get_source(environment, "report.css")  # type: ignore[union-attr]
    return environment.get_template(template).render(style=Markup(style), **context)


class Findings(Protocol):
    """What a page shows, as JSON beside it."""

    def write(self, folder: Path) -> Path:
        """Writes its JSON file."""
        ...


def write_with_page(found: Findings, folder: Path, page: str, html: str) -> Path:
    """Writes what was found, and its page, into ``folder`` (made where it is missing); returns the page's path.

    Raises:
        InputError, GuerdonError: when they cannot be written (see `guerdon.data.files.write_atomically`).
    """
    with reported(folder):
        folder.mkdir(parents=True, exist_ok=True)
    found.write(folder)
    write_atomically(folder / page, [html.encode()])
    return folder / page
