"""Draws against SplitMix64 in plain integers, and against what a uniform must look like."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from guerdon.data import draws

WORD = 1 << 64
INT64 = st.integers(-(2**63), 2**63 - 1)


def splitmix64(state: int) -> int:
    """The output of SplitMix64 for a state, as in Steele, Lea and Flood (2014), in unbounded integers modulo 2**64."""
    z = (state + 0x9E3779B97F4A7C15) % WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % WORD
    return z ^ (z >> 31)


def unshift(value: int, bits: int) -> int:
    """Solves x ^ (x >> bits) = value."""
    x = value
    for _ in range(64 // bits + 1):
        x = value ^ (x >> bits)
    return x


def unsplitmix64(output: int) -> int:
    z = unshift(output, 31)
    z = unshift((z * pow(0x94D049BB133111EB, -1, WORD)) % WORD, 27)
    z = unshift((z * pow(0xBF58476D1CE4E5B9, -1, WORD)) % WORD, 30)
    return (z - 0x9E3779B97F4A7C15) % WORD


def signed(value: int) -> int:
    return value - WORD if value >= WORD // 2 else value


def test_reference_gives_the_published_sequence() -> None:
    """The first outputs of java.util.SplittableRandom's mixer for seed 1234567, as listed with the public C code."""
    state, seen = 1234567, []
    for _ in range(3):
        seen.append(splitmix64(state))
        state = (state + 0x9E3779B97F4A7C15) % WORD
    assert seen == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(INT64)
def test_mixer_is_splitmix64(value: int) -> None:
    assert draws._mix(torch.tensor([value])).item() == signed(splitmix64(value % WORD))


@given(INT64, st.integers(0, 2**20))
def test_uniforms_are_the_top_52_bits(key: int, position: int) -> None:
    expected = ((splitmix64((key % WORD) ^ splitmix64(position)) >> 12) + 0.5) / 2**52
    assert draws.uniforms(torch.tensor([key]), position).item() == expected


@pytest.mark.parametrize(("bits", "expected"), [(0, 2.0**-53), (WORD - 1, 1 - 2.0**-53)])
def test_uniforms_exclude_both_ends(bits: int, expected: float) -> None:
    """The keys whose mixed bits are all 0 and all 1: the smallest and largest number that can be drawn."""
    key = signed(unsplitmix64(bits) ^ splitmix64(7))
    assert draws.uniforms(torch.tensor([key]), 7).item() == expected


@given(st.integers(), st.text(), st.lists(st.integers(), max_size=3))
def test_key_is_63_bits_of_blake2b(seed: int, purpose: str, numbers: list[int]) -> None:
    digest = hashlib.blake2b(":".join(map(str, [seed, purpose, *numbers])).encode(), digest_size=8).digest()
    value = draws.key(seed, purpose, *numbers)
    assert value == int(np.frombuffer(digest, dtype="<u8")[0] // 2)
    assert 0 <= value < 2**63


def test_keys_and_generators_tell_draws_apart() -> None:
    names = [(seed, purpose, *rest) for seed in (0, 1) for purpose in ("noise", "batches") for rest in ((), (0,), (1,), (0, 1))]
    assert len({draws.key(*name) for name in names}) == len(names)
    assert len({draws.generator(*name).random() for name in names}) == len(names)
    assert draws.generator(3, "noise", 1).random(4).tolist() == draws.generator(3, "noise", 1).random(4).tolist()


def test_row_keys_depend_on_the_example_not_on_the_row() -> None:
    examples, copies = torch.arange(1000) % 250, torch.arange(1000) // 250
    keys = draws.row_keys(5, "sample", 9, examples, copies)
    shuffled = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draws.row_keys(5, "sample", 9, examples[shuffled], copies[shuffled]), keys[shuffled])
    assert torch.equal(draws.row_keys(5, "sample", 9, [249], [3]), keys[-1:])
    assert torch.equal(draws.uniforms(keys, 4)[:3], draws.uniforms(keys[:3], 4))
    assert len(set(keys.tolist())) == 1000


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**20), st.integers(0, 99))
def test_row_keys_are_mixed_in_turn(seed: int, example: int, step: int, copy: int) -> None:
    base = draws.key(seed, "sample", step)
    expected = splitmix64(splitmix64(base ^ splitmix64(example)) ^ copy)
    assert draws.row_keys(seed, "sample", step, [example], [copy]).tolist() == [signed(expected)]


def test_row_keys_differ_by_seed_purpose_and_step() -> None:
    variants = [(5, "sample", 9), (6, "sample", 9), (5, "other", 9), (5, "sample", 10)]
    keys = [draws.row_keys(*variant, range(50), [0] * 50).tolist() for variant in variants]
    assert len({key for row in keys for key in row}) == 200


@pytest.mark.parametrize("axis", ["examples", "copies", "positions", "steps"])
def test_uniform_along_every_axis(axis: str) -> None:
    """A chi-square test of 1,000 cells, and of the correlation of neighbours, where only one number moves."""
    n, zeros = 100_000, [0]
    if axis == "examples":
        values = draws.uniforms(draws.row_keys(1, "p", 0, torch.arange(n), torch.zeros(n)), 0)
    elif axis == "copies":
        values = draws.uniforms(draws.row_keys(1, "p", 0, torch.zeros(n), torch.arange(n)), 0)
    elif axis == "positions":
        key = draws.row_keys(1, "p", 0, zeros, zeros)
        values = torch.cat([draws.uniforms(key, position) for position in range(10_000)])
    else:
        values = torch.cat([draws.uniforms(draws.row_keys(1, "p", step, zeros, zeros), 0) for step in range(5_000)])
    cells = np.histogram(values.numpy(), bins=1000 if n == len(values) else 100, range=(0, 1))[0]
    assert 1e-3 < stats.chisquare(cells).pvalue < 1 - 1e-3
    assert stats.kstest(values.numpy(), "uniform").pvalue > 1e-3
    correlation = float(np.corrcoef(values[:-1], values[1:])[0, 1])
    assert abs(correlation) < 4 / len(values) ** 0.5


def test_positions_of_a_row_are_independent_of_other_rows() -> None:
    keys = draws.row_keys(1, "p", 0, range(50_000), [0] * 50_000)
    first, second = draws.uniforms(keys, 0), draws.uniforms(keys, 1)
    table = np.histogram2d(first.numpy(), second.numpy(), bins=20, range=((0, 1), (0, 1)))[0]
    assert stats.chisquare(table.ravel()).pvalue > 1e-3
