"""In which precision matrix products are computed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch

from guerdon.errors import ConfigurationError

Precision = Literal["float32", "bfloat16"]
InferencePrecision = Literal["float32", "bfloat16", "int8"]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """bfloat16 matrix products with float32 weights and sums; nothing for float32.

    Without autocast's cache, in which a weight that is used twice is rounded once: there is one for all threads, which any of
    them empties, so that the bits of a gradient would depend on when.
    """
    if precision == "float32" and not torch.is_autocast_enabled(device.type):
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def check_inference_precision(precision: str) -> None:
    """Refuses a precision that is none of `InferencePrecision`."""
    if precision not in get_args(InferencePrecision):
        raise ConfigurationError(f"there is no {precision!r}", where="precision", cure="choose float32, bfloat16 or int8")


def check_precision(precision: str) -> None:
    """Refuses a precision that is none of `Precision`."""
    if precision not in get_args(Precision):
        raise ConfigurationError(f"there is no {precision!r}", where="precision", cure="choose float32 or bfloat16")
