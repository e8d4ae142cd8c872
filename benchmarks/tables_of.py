"""Tables of figures, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def table(rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str], first: str = "engine") -> str:
    """One line for each row, numbers with thousands separated."""
    shown = [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    shown += [f"| {name} | {' | '.join(_cell(row[column]) for column in columns)} |" for name, row in rows.items()]
    return "\n".join(shown)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)
