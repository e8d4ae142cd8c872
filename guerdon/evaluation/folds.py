"""Sums over the pairs of each source: pairs of one source are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from guerdon.metrics.base import FloatArray


def sums_by_source(sources: Sequence[str], values: FloatArray) -> FloatArray:
    """The rows of ``values`` [n, k] summed over the rows of each source, [sources, k], in the order of first mention."""
    places = {source: place for place, source in enumerate(dict.fromkeys(sources))}
    sums = np.zeros((len(places), values.shape[1]))
    np.add.at(sums, [places[source] for source in sources], values)
    return sums
