"""What texts show of themselves: counts by hand, and the degenerate texts that it is there to tell from others."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guerdon.errors import InputError
from guerdon.metrics.degeneration import text_figures
from guerdon.quickstart.corpus import build

TEXTS = st.lists(st.tuples(st.sampled_from(["s one", "s two", "s three"]), st.text("ab ", max_size=12)), min_size=1, max_size=8)


def figures(*pairs: tuple[str, str]) -> dict[str, float]:
    return text_figures([source for source, _ in pairs], [output for _, output in pairs])


def test_copied_by_hand() -> None:
    """ "cheap p" has the runs cheap, heap␣ and eap␣p, of which the first two stand in the source."""
    assert figures(("[cheap ]", "cheap p"))["copied"] == pytest.approx(2 / 3)
    assert figures(("[cheap ]", "cheap p"), ("x", "nothing of it"))["copied"] == pytest.approx(1 / 3)
    assert figures(("one text", "one text"))["copied"] == 1.0
    assert figures(("abc", "abc"))["copied"] == 0.0  # too short to be told from chance


def test_repeated_by_hand() -> None:
    """a b, b a, a b, b c: four pairs, three kinds."""
    assert figures(("s", "a b a b c"))["repeated"] == pytest.approx(1 / 4)
    assert figures(("s", "the the the the the"))["repeated"] == pytest.approx(3 / 4)
    assert figures(("s", "酒吧酒吧酒吧"))["repeated"] == pytest.approx(3 / 5)
    assert figures(("s", "word"), ("s", ""))["repeated"] == 0.0


def test_generic_by_hand() -> None:
    """Alike for one source is no sign: a peaked policy draws the same output twice."""
    same = [("s1", "x"), ("s1", "x"), ("s2", "y"), ("s3", "z")]
    assert figures(*same)["generic"] == 0.0
    assert figures(*same, ("s2", "x"))["generic"] == pytest.approx(3 / 5)
    assert figures(("s1", ""), ("s2", ""))["generic"] == 1.0


@given(TEXTS)
def test_all_are_shares_that_no_order_changes(pairs: list[tuple[str, str]]) -> None:
    found = figures(*pairs)
    assert set(found) == {"copied", "repeated", "generic"}
    assert all(0.0 <= value <= 1.0 for value in found.values())
    shuffled = random.Random(0).sample(pairs, len(pairs))
    assert figures(*shuffled) == pytest.approx(found)


def test_planted_faults_stand_far_from_references() -> None:
    examples = list(build(1)[1])[:60]
    sources = [e.source for e in examples]
    healthy = text_figures(sources, [e.references[0] for e in examples])
    copies = text_figures(sources, sources)
    repetitions = text_figures(sources, [e.references[0] + " indeed" * 12 for e in examples])
    empty = text_figures(sources, [""] * len(sources))
    assert copies["copied"] > healthy["copied"] + 0.3
    assert repetitions["repeated"] > healthy["repeated"] + 0.2
    assert empty["generic"] == 1.0 > healthy["generic"] + 0.9


def test_refusals() -> None:
    with pytest.raises(InputError, match="0 outputs"):
        text_figures([], [])
    with pytest.raises(InputError, match="1 sources for 2 outputs"):
        text_figures(["s"], ["a", "b"])
