from __future__ import annotations

import doctest
import pickle
import sys

import pytest
import torch

from guerdon.errors import ConfigurationError, InputError, RewardError
from guerdon.rewards import function
from guerdon.rewards.function import FunctionReward, load_function


def word_count(sources, outputs, references):
    return [len(output.split()) for output in outputs]


class Callable3:
    def __call__(self, sources, outputs, references):
        return torch.zeros(len(outputs))


@pytest.fixture
def module(tmp_path):
    """A module file in a folder that is not on the path."""
    (tmp_path / "own_rewards_for_test.py").write_text(
        "NUMBER = 3\n"
        "def count(sources, outputs, references):\n    return [len(o) for o in outputs]\n"
        "class Box:\n"
        "    @staticmethod\n    def halved(sources, outputs, references):\n        return [len(o) / 2 for o in outputs]\n"
    )
    yield tmp_path
    sys.modules.pop("own_rewards_for_test", None)


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(function)
    assert result.attempted == 2
    assert result.failed == 0


def test_a_function_and_what_it_is_called():
    reward = FunctionReward(word_count)
    assert reward.name == "word_count"
    assert not reward.needs_references
    assert reward(["s"] * 2, ["a b", ""]).tolist() == [2.0, 0.0]
    assert FunctionReward(word_count, name="words").name == "words"
    assert FunctionReward(Callable3()).name == "Callable3"


def test_what_the_function_is_passed():
    seen = {}

    def f(sources, outputs, references, finished, meta=None):
        seen.update(sources=sources, outputs=outputs, references=references, finished=finished, meta=meta)
        return [0.0]

    FunctionReward(f)(("s",), ("o",), [("r",)], [{"k": 1}], [False])
    assert seen == {"sources": ["s"], "outputs": ["o"], "references": [["r"]], "finished": [False], "meta": [{"k": 1}]}


def test_meta_is_not_passed_to_what_does_not_name_it():
    assert FunctionReward(lambda s, o, r: [1.0])(["s"], ["o"], meta=[{"k": 1}]).tolist() == [1.0]


def test_needing_references():
    with pytest.raises(InputError, match="reward 'word_count': sample 0"):
        FunctionReward(word_count, needs_references=True)(["s"], ["o"])


def test_a_module_beside_the_recipe(module):
    path = list(sys.path)
    reward = FunctionReward("own_rewards_for_test:count", folder=module)
    assert sys.path == path
    assert reward(["s"], ["four"]).tolist() == [4.0]
    assert FunctionReward("own_rewards_for_test:Box.halved", folder=module)(["s"], ["four"]).tolist() == [2.0]


def test_a_module_in_the_working_directory(module, monkeypatch):
    monkeypatch.chdir(module)
    assert load_function("own_rewards_for_test:count")([], ["abc"], []) == [3]


def test_pickled_by_its_name(module):
    reward = FunctionReward("own_rewards_for_test:count", folder=module)
    stored = pickle.dumps(reward)
    sys.modules.pop("own_rewards_for_test")
    assert pickle.loads(stored)(["s"], ["four"]).tolist() == [4.0]
    assert pickle.loads(pickle.dumps(FunctionReward(word_count)))(["s"], ["a b"]).tolist() == [2.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module_x:f", "importing it raised ModuleNotFoundError"),
        ("own_rewards_for_test", "not of the form module:function"),
        ("own_rewards_for_test:", "not of the form module:function"),
        (":count", "not of the form module:function"),
        ("own_rewards_for_test:cuont", "there is no 'cuont' in own_rewards_for_test"),
        ("own_rewards_for_test:NUMBER", "it is of type int, not a function"),
        ("broken_for_test:f", r"importing it raised SyntaxError"),
        ("raising_for_test:f", r"importing it raised RuntimeError: no"),
    ],
)
def test_what_cannot_be_imported_is_one_line_that_names_it(module, spec, message):
    (module / "broken_for_test.py").write_text("def f(:\n")
    (module / "raising_for_test.py").write_text("raise RuntimeError('no')\n")
    with pytest.raises(ConfigurationError, match=message) as caught:
        FunctionReward(spec, folder=module)
    assert repr(spec) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(ConfigurationError, match="reward 'int': 3 cannot be called"):
        FunctionReward(3)
    with pytest.raises(
        ConfigurationError, match=r"reward '<lambda>': it cannot be called with \(sources, outputs, references\)"
    ):
        FunctionReward(lambda outputs: outputs)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0, float("nan")], "returned nan for sample 1"),
        ([float("inf"), 1.0], "returned inf for sample 0"),
        ([1.0], r"shape \[1\] for 2 outputs"),
        (["good", "bad"], "returned .*good.*, which is no list of numbers"),
        ("good", "returned 'good' .str., which is no list of numbers"),
        (None, "returned 'None' .NoneType., which is no list of numbers"),
    ],
)
def test_bad_returns_name_the_function(returned, message):
    def odd(sources, outputs, references):
        return returned

    with pytest.raises(RewardError, match=f"reward 'odd': .*{message}"):
        FunctionReward(odd)(["a", "b"], ["x", "y"])


def test_what_it_raises_names_the_function():
    def odd(sources, outputs, references):
        return 1 / 0

    with pytest.raises(RewardError, match="reward 'odd': raised ZeroDivisionError: division by zero"):
        FunctionReward(odd)(["a"], ["x"])
