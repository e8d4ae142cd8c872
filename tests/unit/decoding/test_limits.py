from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from helpers.table_policy import TablePolicy, random_table
from hypothesis import example, given
from hypothesis import strategies as st

from guerdon.data.padded import Padded
from guerdon.decoding import LengthLimit
from guerdon.errors import ConfigurationError

POLICY = TablePolicy(random_table(0, 2), 2, max_target=40)


def sources_of(lengths: list[int], padding: int = 0) -> Padded:
    return Padded(torch.zeros(len(lengths), max(lengths) + padding, dtype=torch.int64), torch.tensor(lengths))


def test_the_least_of_the_three_limits_holds() -> None:
    sources = sources_of([1, 10, 15, 30])
    assert LengthLimit(30).of(sources, POLICY).tolist() == [30] * 4
    assert LengthLimit(300).of(sources, POLICY).tolist() == [40] * 4
    assert LengthLimit(30, ratio=1.5, offset=5).of(sources, POLICY).tolist() == [7, 20, 28, 30]
    assert LengthLimit(300, ratio=1.5, offset=5).of(sources, POLICY).tolist() == [7, 20, 28, 40]


def test_a_limit_is_at_least_one() -> None:
    assert LengthLimit(30, ratio=0.5, offset=-8).of(sources_of([1, 16, 20]), POLICY).tolist() == [1, 1, 2]


@given(tenths=st.integers(1, 40), length=st.integers(1, 60), offset=st.integers(-3, 9))
@example(tenths=11, length=50, offset=0)  # 1.1 * 50 is 55.00000000000001
def test_rounding_of_the_product_adds_no_token(tenths: int, length: int, offset: int) -> None:
    exact = max(1, math.ceil(Fraction(tenths, 10) * length + offset))
    roomy = TablePolicy(random_table(0, 2), 2, max_target=10_000)
    assert LengthLimit(10_000, tenths / 10, offset).of(sources_of([length]), roomy).tolist() == [exact]


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4), padding=st.integers(0, 9))
def test_padding_and_company_do_not_count(lengths: list[int], padding: int) -> None:
    limit = LengthLimit(100, ratio=1.3)
    alone = [limit.of(sources_of([length]), POLICY).item() for length in lengths]
    assert limit.of(sources_of(lengths, padding), POLICY).tolist() == alone


def test_limits_are_whole_numbers() -> None:
    assert LengthLimit(9, ratio=1.1).of(sources_of([3]), POLICY).dtype == torch.int64


@pytest.mark.parametrize("options", [{"absolute": 0}, {"ratio": 0.0}, {"ratio": -1.0}, {"ratio": math.nan}, {"offset": 3}])
def test_limits_that_cannot_be_are_refused(options: dict) -> None:
    with pytest.raises(ConfigurationError, match=r"limit\."):
        LengthLimit(**options)
