from __future__ import annotations

import builtins
import doctest
import pickle
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.data import words
from guerdon.data.words import ngrams, splitter
from guerdon.errors import ConfigurationError, MissingExtraError

NAMES = ["whitespace", "unicode", "characters", "chinese"]


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(words)
    assert result.attempted >= 5
    assert result.failed == 0


# The expected words follow from the rules of UAX 29 (WB4 to WB13), worked out by hand.
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n ", []),
        ("... !? — €", []),
        ("can't stop", ["can't", "stop"]),
        ("the dogs' bowls", ["the", "dogs", "bowls"]),
        ("pi is 3.14, or 1,000.5", ["pi", "is", "3.14", "or", "1,000.5"]),
        ("5-star city_centre", ["5", "star", "city_centre"]),
        ("Café\u0301 naïve", ["Café\u0301", "naïve"]),
        ("北京 is big", ["北", "京", "is", "big"]),
        ("カタカナ", ["カタカナ"]),
        ("Привет, мир", ["Привет", "мир"]),
        ("line one\nline two", ["line", "one", "line", "two"]),
    ],
)
def test_unicode_words(text, expected):
    assert splitter("unicode")(text) == expected


def test_whitespace_keeps_punctuation_on_its_word():
    assert splitter("whitespace")("A pub,\u00a0near  it.\n") == ["A", "pub,", "near", "it."]


def test_characters_are_what_a_reader_sees():
    assert splitter("characters")("e\u0301 👍🏽\n한") == ["e\u0301", "👍🏽", "한"]


def test_chinese_words_without_punctuation():
    expected = ["他", "来到", "了", "网易", "杭研", "大厦", "价格", "20", "元"]
    assert splitter("chinese")("他来到了网易杭研大厦。价格 20 元!") == expected


def test_chinese_is_silent():
    code = "from guerdon.data.words import splitter; assert splitter('chinese')('我来到北京') == ['我', '来到', '北京']"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


def test_words_added_to_the_global_jieba_change_nothing():
    import jieba

    before = splitter("chinese")("我爱凤梨酥机")
    jieba.add_word("凤梨酥机", freq=10**6)
    try:
        assert splitter("chinese")("我爱凤梨酥机") == before
    finally:
        jieba.del_word("凤梨酥机")


def test_jieba_missing_is_one_line_that_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "jieba":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    words._segmenter.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"jieba.*guerdon\[chinese\]"):
        splitter("chinese")


@pytest.mark.parametrize("name", NAMES)
def test_splitters_are_picklable(name):
    split = splitter(name)
    assert pickle.loads(pickle.dumps(split)) is split


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ConfigurationError, match="'unicod'; did you mean 'unicode'"):
        splitter("unicod")
    with pytest.raises(ConfigurationError, match="choose one of whitespace, unicode, characters, chinese"):
        splitter("xyz")


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(max_size=60))
def test_words_stand_in_the_text_in_order_and_hold_no_blank(name, text):
    at = 0
    for word in splitter(name)(text):
        assert word
        assert word.strip() == word
        at = text.index(word, at) + len(word)


def test_white_space_ends_a_combining_mark_that_begins_the_text():
    for blank in filter(str.isspace, map(chr, range(0x10000))):
        assert splitter("unicode")(f"\u0300{blank}") == ["\u0300"]
        assert splitter("unicode")(f"\u0300{blank} a") == ["\u0300", "a"]
    assert splitter("unicode")("1\u202f000 x") == ["1\u202f000", "x"]  # the narrow space of French numbers parts no word


PLAIN = st.characters(categories=["L", "N", "P", "S", "Zs"])


@given(text=st.text(PLAIN, max_size=40))
def test_characters_lose_white_space_only(text):
    assert "".join(splitter("characters")(text)) == "".join(text.split())


@given(words=st.lists(st.text(max_size=2), max_size=8), n=st.integers(1, 9))
def test_ngrams(words, n):
    assert list(ngrams(words, n)) == [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
