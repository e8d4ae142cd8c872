"""Time to quality: captions prepared as they are published, and the picture of the curves."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from helpers.scripts import imported

PUBLISHED = {  # first lines of the data set's own tokenised files (data/task1/tok, lc.norm.tok)
    "train": (
        "two young , white males are outside near many bushes .",
        "zwei junge weiße männer sind im freien in der nähe vieler büsche .",
    ),
    "val": ("a group of men are loading cotton onto a truck", "eine gruppe von männern lädt baumwolle auf einen lastwagen"),
    "test_2016_flickr": (
        "a man in an orange hat starring at something .",
        "ein mann mit einem orangefarbenen hut , der etwas anstarrt .",
    ),
}


def test_captions_are_those_published(data_folder: Path) -> None:
    found = imported("captions").captions(data_folder / "multi30k")
    assert {split: len(examples) for split, examples in found.items()} == {
        "train": 29000,
        "val": 1014,
        "test_2016_flickr": 1000,
    }
    for split, (source, reference) in PUBLISHED.items():
        assert (found[split][0].source, found[split][0].references) == (source, (reference,))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A man's „hat“ – isn’t red…", "a man &apos;s &quot; hat &quot; - isn &apos;t red ..."),
        ("Two  dogs,one cat; 3,000 T-shirts!", "two dogs , one cat ; 3,000 t-shirts !"),
    ],
)
def test_punctuation_is_normalised_before_it_is_split(text: str, wanted: str) -> None:
    assert imported("captions").Moses("en")(text) == wanted


def test_the_picture_names_each_curve_with_its_last_value() -> None:
    curves = {"guerdon": [(1.0, 2.0), (30.0, 41.25)], "a < b": [(2.0, 0.5), (60.0, 40.0)]}
    root = ElementTree.fromstring(imported("curves").picture(curves, "minutes", "BLEU"))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"minutes", "BLEU", "guerdon 41.2", "a < b 40.0", "60"} <= set(texts)
    lines = [element.get("points", "").split() for element in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(line) for line in lines] == [2, 2]
    (first, last), (_, other) = ([tuple(map(float, point.split(","))) for point in line] for line in lines)
    assert first[0] < last[0] < other[0]
    assert first[1] > other[1] > last[1]
