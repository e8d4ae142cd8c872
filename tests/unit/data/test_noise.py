"""Noise against its definition: shares, Poisson lengths, and nothing that was not there before."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from guerdon.data import NoiseOptions, Tokenizer, denoise, draws, read_texts, split_sentences
from guerdon.data.noise import span_lengths
from guerdon.errors import ConfigurationError

MASK = 3
SENTENCES = st.lists(st.lists(st.integers(4, 99), max_size=12), max_size=6)
OPTIONS = st.builds(
    NoiseOptions,
    infilling=st.floats(0.05, 1),
    span_mean=st.floats(1, 8),
    deletion=st.floats(0, 0.9),
    permute_sentences=st.booleans(),
)


def noise(example: int = 0, epoch: int = 0, seed: int = 0) -> np.random.Generator:
    return draws.generator(seed, "noise", epoch, example)


def is_subsequence(short: list[int], long: list[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


@given(SENTENCES, OPTIONS, st.integers(0, 999))
def test_only_tokens_of_the_text_and_masks(sentences: list[list[int]], options: NoiseOptions, seed: int) -> None:
    tokens = [token for sentence in sentences for token in sentence]
    corrupted = denoise(sentences, MASK, options, noise(seed))
    assert not Counter(t for t in corrupted if t != MASK) - Counter(tokens)
    assert 1 <= len(corrupted) <= max(1, len(tokens))
    assert all(type(token) is int for token in corrupted)
    if not options.permute_sentences:
        assert is_subsequence([t for t in corrupted if t != MASK], tokens)


@given(SENTENCES, OPTIONS)
def test_a_function_of_seed_epoch_and_example(sentences: list[list[int]], options: NoiseOptions) -> None:
    kept = [list(sentence) for sentence in sentences]
    first = denoise(sentences, MASK, options, noise(4, 2, 7))
    assert denoise(sentences, MASK, options, noise(4, 2, 7)) == first
    assert sentences == kept


def test_epochs_examples_and_seeds_differ() -> None:
    text = [[*range(10, 60)], [*range(60, 99)]]
    corrupted = [tuple(denoise(text, MASK, NoiseOptions(), noise(*which))) for which in np.ndindex(2, 2, 2)]
    assert len(set(corrupted)) == 8


@pytest.mark.parametrize("options", [NoiseOptions(), NoiseOptions(infilling=1.0), NoiseOptions(infilling=0, deletion=0.99)])
@pytest.mark.parametrize("sentences", [[], [[]], [[], []]])
def test_an_empty_text_is_one_mask(options: NoiseOptions, sentences: list[list[int]]) -> None:
    assert denoise(sentences, MASK, options, noise()) == [MASK]


def test_a_wholly_masked_or_deleted_text_is_not_empty() -> None:
    for number in range(200):
        assert set(denoise([[7, 8], [9]], MASK, NoiseOptions(infilling=1.0), noise(number))) == {MASK}
        assert denoise([[7]], MASK, NoiseOptions(infilling=0, deletion=0.9), noise(number)) in ([7], [MASK])


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_the_share_of_masked_tokens(share: float, length: int) -> None:
    """n * share tokens exactly, rounded up or down so that the mean is right."""
    runs = 3000 if share < 1 else 50
    options = NoiseOptions(infilling=share, permute_sentences=False)
    hidden = []
    for number in range(runs):
        corrupted = denoise([[*range(10, 10 + length)]], MASK, options, noise(number))
        hidden.append(length - sum(token != MASK for token in corrupted))
    assert set(hidden) <= {math.floor(length * share), math.ceil(length * share)}
    fraction = length * share % 1
    error = math.sqrt(fraction * (1 - fraction) / runs)
    assert abs(np.mean(hidden) - length * share) <= 4 * error + 1e-12


@pytest.mark.parametrize("mean", [1.0, 3.0, 6.5])
def test_span_lengths_are_poisson(mean: float) -> None:
    spans = span_lengths(200_000, mean, noise(seed=1))
    assert sum(spans) == 200_000
    drawn = np.bincount(spans[:-1] if spans[-1] else spans)  # the last that is not 0 may have been cut: one in many thousands
    largest = int(stats.poisson.ppf(1 - 1e-4, mean))
    expected = stats.poisson.pmf(np.arange(largest), mean) * len(spans)
    expected = np.append(expected, len(spans) - expected.sum())
    observed = np.append(drawn[:largest], drawn[largest:].sum())
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3
    assert abs(np.mean(spans) - mean) < 4 * math.sqrt(mean / len(spans))


def test_spans_of_length_zero_insert_masks() -> None:
    """In a long text one span in e**3 has no token, and stands as a mask between tokens that are neighbours in the text."""
    text = [*range(10, 20_010)]
    corrupted = denoise([text], MASK, NoiseOptions(permute_sentences=False), noise())
    inserted = spans = 0
    for before, token, after in zip(corrupted, corrupted[1:], corrupted[2:], strict=False):
        if token == MASK and MASK not in (before, after):
            spans += 1
            inserted += after == before + 1
    expected = spans * math.exp(-3)
    assert abs(inserted - expected) < 4 * math.sqrt(expected)


def test_a_budget_of_nothing_has_no_spans() -> None:
    assert span_lengths(0, 3.0, noise()) == []


@given(st.integers(1, 12), st.floats(1, 4), st.integers(0, 200))
def test_spans_never_lengthen_a_text(budget: int, mean: float, seed: int) -> None:
    spans = span_lengths(budget, mean, noise(seed))
    assert sum(spans) == budget
    assert len(spans) <= budget


def test_every_place_is_masked_equally_often() -> None:
    """One span of one token among four: five tokens, each hidden in a fifth of the texts."""
    options = NoiseOptions(infilling=0.2, permute_sentences=False)
    hidden: Counter[int] = Counter()
    for number in range(5000):
        hidden.update({10, 11, 12, 13, 14} - set(denoise([[10, 11, 12, 13, 14]], MASK, options, noise(number))))
    assert stats.chisquare([hidden[token] for token in range(10, 15)]).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_share_of_deleted_tokens(share: float) -> None:
    options = NoiseOptions(infilling=0.0, deletion=share, permute_sentences=False)
    text = [*range(10, 20_010)]
    left = denoise([text], MASK, options, noise())
    assert is_subsequence(left, text)
    assert abs(len(left) / 20_000 - (1 - share)) < 4 * math.sqrt(share * (1 - share) / 20_000)


def test_sentences_are_permuted_whole_and_uniformly() -> None:
    options = NoiseOptions(infilling=0.0)
    sentences = [[10, 11], [20], [30, 31, 32], []]
    orders: Counter[tuple[int, ...]] = Counter()
    for number in range(3000):
        corrupted = denoise(sentences, MASK, options, noise(number))
        orders[tuple(token // 10 for token in corrupted if token % 10 == 0)] += 1
        assert [token for token in corrupted if token // 10 == 3] == [30, 31, 32]
        assert Counter(corrupted) == Counter([10, 11, 20, 30, 31, 32])
    assert len(orders) == 6
    assert stats.chisquare(list(orders.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"infilling": -0.1}, "infilling: -0.1 is no share; choose from 0 to 1"),
        ({"infilling": 1.1}, "infilling"),
        ({"infilling": math.nan}, "infilling: nan"),
        ({"deletion": 1.0}, "deletion: 1.0 is no share below 1"),
        ({"deletion": -0.5}, "deletion"),
        ({"span_mean": 0.0}, "span_mean: 0.0 is no mean length; choose at least 1"),
        ({"span_mean": math.inf}, "span_mean"),
        ({"infilling": 0.0, "permute_sentences": False}, "noise: nothing is corrupted"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        NoiseOptions(**options)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        ("One", ["One"]),
        ("One. Two! Three? Four", ["One.", " Two!", " Three?", " Four"]),
        ("Ends here. ", ["Ends here. "]),
        ("Wait... what?! No.", ["Wait...", " what?!", " No."]),
        ('He said "Go." (She did.) Fine.', ['He said "Go."', " (She did.)", " Fine."]),
        ("It costs 3.50 at example.com today.", ["It costs 3.50 at example.com today."]),
        ("One.\n\n  Two.", ["One.", "\n\n  Two."]),
        ("你好。“是吗？”他说！好", ["你好。", "“是吗？”", "他说！", "好"]),
        ("終わり。\n", ["終わり。\n"]),
        ("真的？！ 是。", ["真的？！", " 是。"]),
        (" . . ", [" .", " . "]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


@given(st.text(st.sampled_from("aB .!?…。！？\n\t\"'”)」\u3000")))
@example("." * 100_000 + "a")
@example(("。" * 1000 + '"') * 50)
@example(". " * 20_000 + " " * 100_000)
def test_no_character_is_lost(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    assert all(sentences)


def test_sentences_keep_the_tokens_of_the_text(data_folder: Path, e2e_tokenizer: Tokenizer) -> None:
    """Encoded one by one they are the text's own ids, so that restoring the text is restoring its tokens."""
    texts = read_texts(data_folder / "rawtext_en" / "valid.jsonl")
    assert sum(len(split_sentences(text)) > 1 for text in texts) > len(texts) / 2
    for text in texts:
        pieces = [token for sentence in split_sentences(text) for token in e2e_tokenizer.encode(sentence)]
        assert pieces == e2e_tokenizer.encode(text)


def test_noise_on_real_texts(data_folder: Path, e2e_tokenizer: Tokenizer) -> None:
    texts = read_texts(data_folder / "rawtext_en" / "valid.jsonl")
    before = after = masks = 0
    for number, text in enumerate(texts):
        sentences = e2e_tokenizer.encode_batch(split_sentences(text))
        corrupted = denoise(sentences, e2e_tokenizer.mask_id, NoiseOptions(), noise(number))
        before += sum(map(len, sentences))
        masks += corrupted.count(e2e_tokenizer.mask_id)
        after += sum(token != e2e_tokenizer.mask_id for token in corrupted)
    assert abs(1 - after / before - 0.3) < 0.001
    assert 2.75 < (before - after) / masks < 3.0  # the last span of a text is cut to fit, one of about eleven
