"""Random draws that depend on what is drawn, never on when or where.

A draw is a function of (seed, purpose, step, example, copy, position). It does not depend on the row of a batch, the rank
of a process or what was drawn before, so that a run that is cut and resumed, or spread over other batches, draws the same.

The mixer is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), whose output
function is a bijection of 64 bits with full avalanche.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """The logical (zero-filling) right shift of int64."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = value + _GOLDEN
    value = (value ^ _shift_right(value, 30)) * _MIX_1
    value = (value ^ _shift_right(value, 27)) * _MIX_2
    return value ^ _shift_right(value, 31)


def key(seed: int, purpose: str, *numbers: int) -> int:
    """A 63-bit integer that names one draw, fit to seed any generator."""
    text = ":".join([str(seed), purpose, *map(str, numbers)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
    """A numpy generator for the draws that ``numbers`` name (an epoch, an example, ...)."""
    return np.random.Generator(np.random.Philox(key(seed, purpose, *numbers)))


def row_keys(seed: int, purpose: str, step: int, examples: Sequence[int] | Tensor, copies: Sequence[int] | Tensor) -> Tensor:
    """One key per row: int64 [rows], from the number of the example and of its copy."""
    base = torch.tensor(key(seed, purpose, step))
    examples, copies = torch.as_tensor(examples, dtype=torch.int64), torch.as_tensor(copies, dtype=torch.int64)
    return _mix(_mix(base ^ _mix(examples)) ^ copies)


def uniforms(keys: Tensor, position: int | Tensor) -> Tensor:
    """One float64 in (0, 1) per key, for this position (an int), or one each (int64 [rows]): [rows]. Both ends are excluded.

    52 bits and a half are kept, which a float64 holds exactly; with 53 the half would round away, up to 1.0.
    """
    number = position if isinstance(position, Tensor) else torch.full_like(keys, position)
    bits = _shift_right(_mix(keys ^ _mix(number)), 12)
    return (bits.to(torch.float64) + 0.5) * 2.0**-52
