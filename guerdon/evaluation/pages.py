"""Pages in one file each: a template, the style, and nothing from elsewhere. All texts are escaped."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

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
