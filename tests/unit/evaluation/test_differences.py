from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from guerdon.evaluation.differences import Piece, differences

_WORDS = st.lists(st.sampled_from(["a", "pub", "pub.", "the", "  ", "Café", "3-star", "\n"]), max_size=12).map(" ".join)


@given(_WORDS | st.text(max_size=30), _WORDS | st.text(max_size=30))
def test_pieces_join_to_the_texts_and_alternate(before, after):
    for text, pieces in zip((before, after), differences(before, after), strict=True):
        assert "".join(piece.text for piece in pieces) == text
        assert all(a.kind != b.kind for a, b in pairwise(pieces))
        assert all(piece.text for piece in pieces)


@given(_WORDS, _WORDS)
def test_what_is_the_same_is_the_same_on_both_sides(before, after):
    left, right = (["".join(p.text for p in side if p.kind == "same").split()] for side in differences(before, after))
    assert "".join(left[0]) == "".join(right[0])


def test_whole_words_are_marked():
    before, after = differences("It is near the pub.", "It is close to the old pub.")
    assert before == [Piece("same", "It is "), Piece("changed", "near"), Piece("same", " the pub.")]
    assert after == [
        Piece("same", "It is "),
        Piece("changed", "close to"),
        Piece("same", " the "),
        Piece("changed", "old"),
        Piece("same", " pub."),
    ]


def test_empty_sides():
    assert differences("", "") == ([], [])
    assert differences("", "a b") == ([], [Piece("changed", "a b")])
    assert differences("a b", "a b") == ([Piece("same", "a b")],) * 2
