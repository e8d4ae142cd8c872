"""The largest of many columns, found block by block: torch's own ways take several times as long on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 64  # columns


def most_probable(scores: Tensor) -> Tensor:
    """The lowest of the columns with the largest score, int64 [r], from [r, v]; nan counts as the largest.

    First the block of `BLOCK` columns is found, then the column within it: torch's own takes five times as long on the CPU.
    """
    size = scores.shape[1]
    if len(scores) == 1 or scores.device.type != "cpu":  # too little to divide, or no need to
        return scores.argmax(-1)
    largest = _of_blocks(scores)
    places = largest.argmax(-1, keepdim=True) * BLOCK + torch.arange(BLOCK, device=scores.device)
    held = scores.gather(1, places.clamp(max=size - 1))  # the last column again and again, in a block that is cut short
    return places.gather(1, held.argmax(-1, keepdim=True))[:, 0]


def top_candidates(scores: Tensor, bases: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of ``scores`` [s, k, v] + ``bases`` [s, k] for each s, descending; ties go to the lower column.

    `torch.topk` leaves open which of several equal numbers it takes, and in which order. The sums are made only where they
    are looked at: among the rest a base moves the largest of a block as it moves all of it.

    Returns:
        The sums and their columns, each [s, count]; column row * v + c is score c of a row k.
    """
    if scores.device.type != "cpu" and scores.dtype == torch.float32:
        return top_by_keys(scores, bases, count)
    flat, size = scores.flatten(1), scores.shape[2]
    eligible = _eligible(scores, bases, count + 1)

    def sums(columns: Tensor) -> Tensor:
        return flat.gather(1, columns) + bases.gather(1, columns // size)

    held = (scores + bases[..., None]).flatten(1) if eligible is None else sums(eligible)
    values, columns = held.topk(min(count + 1, held.shape[1]))
    columns = columns if eligible is None else eligible.gather(1, columns)
    if values.shape[1] > count:
        cut = (values[:, count - 1] == values[:, count]) & torch.isfinite(values[:, count])  # equals stand on both sides
        rows = cut.nonzero()[:, 0]
        if len(rows):
            every = (scores[rows] + bases[rows, :, None]).flatten(1)
            columns[rows, :count] = _lowest(every, values[rows, :count], columns[rows, :count])
        columns = columns[:, :count]
    columns = columns.sort(1).values
    values, order = sums(columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


def top_by_keys(scores: Tensor, bases: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`top_candidates` of float32 scores without a question whose answer a GPU would have to be waited for.

    No two keys are equal, so that topk leaves nothing open: an int64 holds a number's rank in its upper half and in its lower
    one how far the column stands from the right. The ``count`` blocks of the largest keys hold all that is sought: each has a
    column that comes before any outside.
    """
    sources, rows, size = scores.shape
    each = size // BLOCK  # whole blocks of a row
    if rows * each > count:
        held = _columns(_keys(_block_sums(scores, bases)).topk(count).indices, rows, each, size)
    else:
        held = torch.arange(rows * size, device=scores.device).expand(sources, -1)
    sums = scores.flatten(1).gather(1, held) + bases.gather(1, held // size)
    place = _keys(sums, held).topk(count).indices
    return sums.gather(1, place), held.gather(1, place)


def _keys(numbers: Tensor, columns: Tensor | None = None) -> Tensor:
    """int64 that rank as float32 numbers do, equal ones by their columns (default: as they stand), lower ones first."""
    if columns is None:
        columns = torch.arange(numbers.shape[1], device=numbers.device)
    bits = (numbers + 0.0).contiguous().view(torch.int32)  # -0.0 + 0.0 is 0.0
    ranks = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # of negative numbers, those of larger bits are less
    return (ranks.long() << 32) + (2**31 - 1 - columns)


def _of_blocks(scores: Tensor) -> Tensor:
    """The largest score of each block of columns, the last of which may be cut short."""
    whole = scores.shape[1] - scores.shape[1] % BLOCK
    largest = scores[:, :whole].unflatten(1, (-1, BLOCK)).amax(-1)
    if whole < scores.shape[1]:
        largest = torch.cat([largest, scores[:, whole:].amax(-1, keepdim=True)], dim=1)
    return largest


def _block_sums(scores: Tensor, bases: Tensor) -> Tensor:
    """The largest sum of each whole block: [s, rows * blocks of a row]."""
    sources, rows, size = scores.shape
    whole = scores[..., : size - size % BLOCK].flatten(0, 1)
    return (_of_blocks(whole).view(sources, rows, -1) + bases[..., None]).flatten(1)


def _eligible(scores: Tensor, bases: Tensor, count: int) -> Tensor | None:
    """Columns [s, n] among which are the ``count`` largest sums of each s, but for ties with the last of them; None: all.

    They lie in the ``count`` blocks of the largest maxima: each of these holds one that is no less than any outside.
    """
    _, rows, size = scores.shape
    each = size // BLOCK  # whole blocks of a row
    if rows * each <= 2 * count:  # too few to gain
        return None
    blocks = _block_sums(scores, bases).topk(count).indices
    return _columns(blocks, rows, each, size)


def _columns(blocks: Tensor, rows: int, each: int, size: int) -> Tensor:
    """Those of whole blocks (int64 [s, b]; number row * each + place), and those behind the last whole one of every row."""
    within, row = torch.arange(BLOCK, device=blocks.device), torch.arange(rows, device=blocks.device)
    first = blocks // each * size + blocks % each * BLOCK
    rest = (row[:, None] * size + torch.arange(each * BLOCK, size, device=blocks.device)).flatten()
    return torch.cat([(first[..., None] + within).flatten(1), rest.expand(len(blocks), -1)], dim=1)


def _lowest(totals: Tensor, values: Tensor, columns: Tensor) -> Tensor:
    """The columns of each row's largest totals, descending, with those that equal the last of them replaced by the lowest."""
    least = values[:, -1:]
    above = (values > least).sum(1)  # these stand first
    row, column = (totals == least).nonzero(as_tuple=True)  # by row, then by column
    first = torch.searchsorted(row, torch.arange(len(totals), device=row.device))
    place = above[row] + torch.arange(len(row), device=row.device) - first[row]
    taken = place < columns.shape[1]
    return columns.index_put((row[taken], place[taken]), column[taken])
