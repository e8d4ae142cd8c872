"""A bounded store of prepared references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Prepared = TypeVar("Prepared")


class ReferenceCache(Generic[Prepared]):
    """Keeps what was prepared from the references of the sources seen last.

    A sample group asks for the same references once per output, and validation for the same ones every time. The bound is
    on the weight of what is kept, not on its number: one source may have one short reference, or forty long ones.

    Args:
        capacity: the weights that are kept in all; at about 150 bytes an n-gram the default is some 75 MB.
    """

    def __init__(self, capacity: int = 500_000) -> None:
        self.capacity = capacity
        self.held = 0
        self._entries: dict[tuple[str, ...], tuple[Prepared, int]] = {}

    def __contains__(self, references: Sequence[str]) -> bool:
        return tuple(references) in self._entries

    def get(self, references: Sequence[str], prepare: Callable[[tuple[str, ...]], tuple[Prepared, int]]) -> Prepared:
        """What ``prepare`` made of these references, which returns it with its weight."""
        key = tuple(references)
        entry = self._entries.pop(key, None)
        if entry is None:
            entry = prepare(key)
            self.held += entry[1]
        self._entries[key] = entry  # dicts keep their order, so that the first key is the one used longest ago
        while self.held > self.capacity and len(self._entries) > 1:
            self.held -= self._entries.pop(next(iter(self._entries)))[1]
        return entry[0]
