"""Where two texts differ, word by word."""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

_PIECES = re.compile(r"\w+|[^\w\s]|\s+")


class Piece(NamedTuple):
    """A stretch of text, and whether the other text has it too."""

    kind: Literal["same", "changed"]
    text: str


def differences(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts cut into pieces; what only one of them has is "changed". The pieces of a text join to the text itself."""
    a, b = _PIECES.findall(before), _PIECES.findall(after)
    left: list[Piece] = []
    right: list[Piece] = []
    for kind, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        marked: Literal["same", "changed"] = "same" if kind == "equal" else "changed"
        left += [Piece(marked, "".join(a[i:j]))] if j > i else []
        right += [Piece(marked, "".join(b[k:m]))] if m > k else []
    return _tidied(left), _tidied(right)


def _tidied(pieces: list[Piece]) -> list[Piece]:
    """One piece for each stretch: spaces between changed words are changed with them, those about a change are not."""
    kinds = [piece.kind for piece in pieces for _ in piece.text]
    text = "".join(piece.text for piece in pieces)
    for stretch in re.finditer(r"\s+", text):
        about = {kinds[at] for at in (stretch.start() - 1, stretch.end()) if 0 <= at < len(text)}
        kind: Literal["same", "changed"] = "changed" if about == {"changed"} else "same"
        kinds[stretch.start() : stretch.end()] = [kind] * len(stretch.group())
    found: list[Piece] = []
    for kind, letter in zip(kinds, text, strict=True):
        before = found.pop().text if found and found[-1].kind == kind else ""
        found.append(Piece(kind, before + letter))
    return found
