"""BPE-dropout against the tokenizer, against bytes, and against the probabilities of the paper's algorithm, enumerated."""

import math
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from guerdon.data import Tokenizer
from guerdon.data.segmentation import Segmentations

CORPUS = ["der hund hat einen hut", "das haus hat eine tür", "日本語の文。  two  spaces\t\ttabs 👍👍🏽"] * 4
TOKENIZER = Tokenizer.train(CORPUS, 400)
TEXTS = st.lists(st.one_of(st.sampled_from(CORPUS), st.text(st.characters(exclude_categories=["Cs"]))), min_size=1, max_size=4)


@given(TEXTS, st.integers(0, 3))
def test_without_dropout_texts_come_in_the_tokenizers_pieces(texts: list[str], epoch: int) -> None:
    segmentations = Segmentations(TOKENIZER, texts, 0.0, 1, "texts")
    assert [segmentations.of(i, epoch) for i in range(len(texts))] == TOKENIZER.encode_batch(texts)


@given(TEXTS)
def test_when_every_merge_is_dropped_bytes_are_left(texts: list[str]) -> None:
    segmentations = Segmentations(TOKENIZER, texts, 1.0, 1, "texts")
    assert [len(segmentations.of(i, 0)) for i in range(len(texts))] == [len(text.encode()) for text in texts]


@given(TEXTS, st.floats(0, 1), st.integers(0, 9))
def test_the_pieces_are_the_text(texts: list[str], dropout: float, epoch: int) -> None:
    segmentations = Segmentations(TOKENIZER, texts, dropout, 1, "texts")
    assert TOKENIZER.decode_batch([segmentations.of(i, epoch) for i in range(len(texts))]) == texts


def exact(word: str, dropout: float) -> dict[tuple[str, ...], float]:
    """Algorithm 1 of the paper: every set of possible merges that may be dropped, by its probability."""
    ranks = {pair: rank for rank, pair in enumerate(TOKENIZER.merges()[1])}
    found: dict[tuple[str, ...], float] = defaultdict(float)

    def go(pieces: tuple[str, ...], probability: float) -> None:
        places = [place for place, pair in enumerate(pairwise(pieces)) if pair in ranks]
        for kept in range(1 << len(places)):
            left = [place for bit, place in enumerate(places) if kept >> bit & 1]
            own = probability * (1 - dropout) ** len(left) * dropout ** (len(places) - len(left))
            if not left:
                found[pieces] += own
                continue
            best = min(left, key=lambda place: (ranks[pieces[place], pieces[place + 1]], place))
            go((*pieces[:best], pieces[best] + pieces[best + 1], *pieces[best + 2 :]), own)

    go(tuple(word), 1.0)
    return found


def test_segmentations_have_the_probabilities_of_the_paper() -> None:
    expected = exact("Ġhund", 0.3)
    assert math.isclose(sum(expected.values()), 1.0)
    assert len(expected) > 4
    epochs, names = 6000, TOKENIZER.tokens()
    # 20 times in a text of its own, so that what the occurrences of a word share is a part of what is tested
    segmentations = Segmentations(TOKENIZER, [" hund"] * 20, 0.3, 7, "texts")
    for text in (0, 19):
        seen = Counter(tuple(names[i] for i in segmentations.of(text, epoch)) for epoch in range(epochs))
        assert set(seen) <= set(expected)
        common = [cut for cut, probability in expected.items() if probability * epochs > 5]
        observed = np.array([seen[cut] for cut in common] + [epochs - sum(seen[cut] for cut in common)])
        wanted = np.array([expected[cut] for cut in common] + [1 - sum(expected[cut] for cut in common)]) * epochs
        assert stats.chisquare(observed, wanted).pvalue > 1e-4


def test_occurrences_of_a_word_differ_within_an_epoch_and_between_epochs() -> None:
    texts = [" hund hat"] * 400
    segmentations = Segmentations(TOKENIZER, texts, 0.5, 7, "texts")
    first = [segmentations.of(i, 0) for i in range(400)]
    assert len({tuple(row) for row in first}) > 8
    assert first != [segmentations.of(i, 1) for i in range(400)]


def test_every_segmentation_of_a_frequent_word_is_used() -> None:
    """Eight are drawn an epoch; of a long word they are mostly all different."""
    segmentations = Segmentations(TOKENIZER, ["dashausderhundeinenhuttür"] * 400, 0.7, 7, "texts")
    assert max(len({tuple(segmentations.of(i, epoch)) for i in range(400)}) for epoch in range(8)) == 8


def test_what_an_epoch_gives_does_not_depend_on_what_was_asked_before() -> None:
    texts = ["der hund hat einen hut", "das haus hat eine tür"]
    one, other = (Segmentations(TOKENIZER, texts, 0.4, 7, "texts") for _ in range(2))
    forwards = [one.of(i, epoch) for epoch in range(3) for i in range(2)]
    backwards = [other.of(i, epoch) for epoch in reversed(range(3)) for i in reversed(range(2))]
    assert forwards == backwards[::-1]
    assert forwards != [Segmentations(TOKENIZER, texts, 0.4, 8, "texts").of(i, epoch) for epoch in range(3) for i in range(2)]
    assert forwards != [Segmentations(TOKENIZER, texts, 0.4, 7, "others").of(i, epoch) for epoch in range(3) for i in range(2)]
