"""Sums over the pairs of each source, and sources cut into folds: pairs of one source are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from guerdon.data.draws import key
from guerdon.errors import InputError
from guerdon.metrics.base import FloatArray


def sums_by_source(sources: Sequence[str], values: FloatArray) -> FloatArray:
    """The rows of ``values`` [n, k] summed over the rows of each source, [sources, k], in the order of first mention."""
    places = {source: place for place, source in enumerate(dict.fromkeys(sources))}
    sums = np.zeros((len(places), values.shape[1]))
    np.add.at(sums, [places[source] for source in sources], values)
    return sums


def folds_of(sources: Sequence[str], folds: int, seed: int) -> NDArray[np.int64]:
    """The fold of each row, [n]: a source stands in one alone, and the folds have as many sources, up to one.

    Which sources come together depends on the seed and the sources, not on their order.

    Raises:
        InputError: for fewer sources than folds, or fewer than two folds.
    """
    ordered = sorted(set(sources), key=lambda source: (key(seed, f"fold {source}"), source))
    if not 2 <= folds <= len(ordered):
        raise InputError(
            f"{len(ordered)} sources cannot be cut into {folds} folds",
            where="folds",
            cure="give at least 2 folds, and pairs of at least as many sources",
        )
    fold = {source: place % folds for place, source in enumerate(ordered)}
    return np.array([fold[source] for source in sources], dtype=np.int64)
