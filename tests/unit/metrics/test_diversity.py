import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from guerdon.errors import ConfigurationError, InputError
from guerdon.metrics.diversity import Distinct, Length, Types, WordEntropy
from tests.unit.metrics.metric_texts import SENTENCES

OUTPUTS = ["the pub is the pub", "a pub", ""]


def test_hand_made():
    assert Distinct(1).value(OUTPUTS) == pytest.approx(100 * 4 / 7)
    assert Distinct(2).value(OUTPUTS) == pytest.approx(100 * 4 / 5)  # the-pub twice, pub-is, is-the, a-pub
    assert Types().value(OUTPUTS) == 4
    assert WordEntropy().value(OUTPUTS) == pytest.approx(entropy([2, 3, 1, 1], base=2))
    assert Length().corpus(OUTPUTS, [[]] * 3) == pytest.approx(7 / 3)
    assert Length().sentence(OUTPUTS, [[]] * 3) == [5, 2, 0]


def test_extremes():
    assert WordEntropy().value(["a b c d", "e f g h"]) == pytest.approx(3)
    assert WordEntropy().value(["a a", "a"]) == 0
    assert Distinct(1).value(["", ""]) == Distinct(3).value(["a b"]) == WordEntropy().value([""]) == 0


def _measured_by_itself(measure, outputs):
    """The measure by another way: one list of n-grams."""
    grams = [
        tuple(words[i : i + measure.order]) for words in map(str.split, outputs) for i in range(len(words) - measure.order + 1)
    ]
    if not grams:
        return 0.0
    counts = np.array(list(Counter(grams).values()))
    if isinstance(measure, WordEntropy):
        return entropy(counts, base=2)
    return len(counts) if isinstance(measure, Types) else 100 * len(counts) / len(grams)


@given(st.lists(SENTENCES, min_size=2, max_size=6), st.sampled_from([Distinct(1), Distinct(2), Types(), WordEntropy()]))
def test_leaving_one_out_equals_measuring_the_rest(outputs, measure):
    assert measure.value(outputs) == pytest.approx(_measured_by_itself(measure, outputs), abs=1e-9)
    expected = [_measured_by_itself(measure, outputs[:i] + outputs[i + 1 :]) for i in range(len(outputs))]
    assert measure.leave_one_out(outputs).tolist() == pytest.approx(expected, abs=1e-9)


def test_another_splitter():
    assert Types(split=list).value(["abca"]) == 3
    assert Length(split=list).corpus(["abca", "ab"], [[], []]) == 3


def test_refusals():
    with pytest.raises(ConfigurationError, match="no 0-grams"):
        Distinct(0)
    for measure in (Distinct(1), Types(), WordEntropy()):
        with pytest.raises(InputError, match="no output"):
            measure.value([])
    with pytest.raises(InputError, match="no output"):
        Length().corpus([], [])


def test_names_tell_the_order():
    assert (Distinct(2).name, Distinct(2).label, Distinct(2).higher_is_better) == ("distinct_2", "distinct-2", None)
    assert math.isfinite(WordEntropy().value(["a"]))
