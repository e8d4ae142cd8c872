"""What benchmarks make of the figures of several repetitions: medians, and tables in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch


def summary(values: Sequence[float], unit: str, digits: int = 0) -> dict[str, float]:
    """The median, under the name of its unit, the least and the most."""
    found = {unit: statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, digits) if digits else round(value) for name, value in found.items()}


def table(rows: Mapping[str, Mapping[str, Any]], first: str = "engine") -> str:
    """One line for each row, whose columns are those of the first; numbers with thousands separated."""
    columns = list(next(iter(rows.values())))
    shown = [f"| {first} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    shown += [f"| {name} | {' | '.join(_cell(row[column]) for column in columns)} |" for name, row in rows.items()]
    return "\n".join(shown)


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def device(name: str) -> dict[str, str]:
    """What a record says of where it was measured."""
    return {"torch": torch.__version__, "device": torch.cuda.get_device_name() if name == "cuda" else "cpu"}
