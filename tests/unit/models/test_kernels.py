"""The kernels of a decode's step against loops in float64; without a GPU, Triton interprets them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guerdon.models.attention import rotate, rotations

pytest.importorskip("triton")

from guerdon.models import kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROWS, HEADS, CAPACITY = 5, 3, 40
ROOT = Path(__file__).resolve().parents[3]


def attended(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """One query [h, d] over keys and values [h, t, d], in float64: [h * d]."""
    scores = (keys.double() * query.double()[:, None]).sum(-1) / query.shape[1] ** 0.5
    return (torch.softmax(scores, -1)[..., None] * values.double()).sum(1).flatten()


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("width", [6, 16])
def test_own_attention_reads_what_has_been_written(width: int, rotated: bool) -> None:
    torch.manual_seed(width)
    rotation = rotations(CAPACITY, width).to(DEVICE) if rotated else None
    cache = torch.full((2, ROWS, HEADS, CAPACITY, width), torch.nan, device=DEVICE)
    running = torch.ones(ROWS, dtype=torch.bool, device=DEVICE)
    running[2] = False
    keys, values = list[Tensor](), list[Tensor]()
    for position in range(CAPACITY - 3):
        joined = torch.randn(ROWS, 3 * HEADS * width, device=DEVICE)
        found = kernels.attend_own(joined, cache, torch.full((ROWS,), position, device=DEVICE), running, rotation)
        query, key, value = joined.view(ROWS, 3, HEADS, width).unbind(1)
        if rotation is not None:
            at = rotation[position : position + 1]
            query, key = rotate(query[:, :, None], at)[:, :, 0], rotate(key[:, :, None], at)[:, :, 0]
        keys.append(key)
        values.append(value)
        assert found.isfinite().all()
        if position in (0, 1, 31, 32, CAPACITY - 4):  # the ends of the blocks that are read at once
            for row in (0, 1, 3, 4):
                past = [torch.stack([one[row] for one in every], 1) for every in (keys, values)]
                assert torch.allclose(found[row].double(), attended(query[row], *past), atol=1e-5)


@pytest.mark.parametrize("rotated", [False, True])
def test_own_attention_reads_the_past_where_the_table_says(rotated: bool) -> None:
    """Rows take over each other's pasts at random, as hypotheses do; each must read what its own ancestors wrote."""
    torch.manual_seed(4)
    width, rows = 6, torch.arange(ROWS, dtype=torch.int32, device=DEVICE)
    rotation = rotations(CAPACITY, width).to(DEVICE) if rotated else None
    cache = torch.full((2, ROWS, HEADS, CAPACITY, width), torch.nan, device=DEVICE)
    running = torch.ones(ROWS, dtype=torch.bool, device=DEVICE)
    table = torch.full((ROWS, CAPACITY), ROWS - 1, dtype=torch.int32, device=DEVICE)
    pasts: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in range(ROWS)]
    for position in range(20):
        joined = torch.randn(ROWS, 3 * HEADS * width, device=DEVICE)
        found = kernels.attend_own(joined, cache, torch.full((ROWS,), position, device=DEVICE), running, rotation, table)
        query, key, value = joined.view(ROWS, 3, HEADS, width).unbind(1)
        if rotation is not None:
            at = rotation[position : position + 1]
            query, key = rotate(query[:, :, None], at)[:, :, 0], rotate(key[:, :, None], at)[:, :, 0]
        for row, (keys, values) in enumerate(pasts):
            pasts[row] = ([*keys, key[row]], [*values, value[row]])
            wanted = attended(query[row], *(torch.stack(one, 1) for one in pasts[row]))
            assert torch.allclose(found[row].double(), wanted, atol=1e-5)
        parents = torch.randint(0, ROWS, (ROWS,)).tolist()
        pasts = [pasts[parent] for parent in parents]
        table[:, position] = rows
        table = table[parents]


@pytest.mark.parametrize(("scale", "tolerance"), [(1.0, 1e-5), (1000.0, 1e-2)])
def test_attention_to_a_source_ends_where_the_source_does(scale: float, tolerance: float) -> None:
    """With large scores too, whose exponentials overflow unless the largest so far is taken off."""
    torch.manual_seed(1)
    width, copies = 6, 2
    memory = torch.randn(2, 3, HEADS, CAPACITY, width, device=DEVICE)
    lengths, query = torch.tensor([40, 1, 7], device=DEVICE), scale * torch.randn(6, HEADS * width, device=DEVICE)
    running = torch.tensor([True, True, True, False, True, True], device=DEVICE)
    for source, length in enumerate(lengths.tolist()):
        memory[:, source, :, length:] = torch.nan
    found = kernels.attend_source(query, memory, lengths, running, copies)
    for row in range(6):
        source = row // copies
        part = memory[:, source, :, : int(lengths[source])]
        wanted = attended(query[row].view(HEADS, width), part[0], part[1]) if running[row] else torch.zeros(HEADS * width)
        assert torch.allclose(found[row].double().cpu(), wanted.double().cpu(), atol=tolerance)


@pytest.mark.parametrize("after", [False, True])
def test_residual_sum_and_norm(after: bool) -> None:
    torch.manual_seed(2)
    norm = torch.nn.LayerNorm(50).to(DEVICE)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    hidden, addend = torch.randn(4, 50, device=DEVICE) + 3.0, torch.randn(4, 50, device=DEVICE)
    total = (hidden + addend).double()
    wanted = torch.nn.functional.layer_norm(total, (50,), norm.weight.double(), norm.bias.double(), norm.eps)
    with torch.no_grad():
        found = kernels.add_norm(hidden, addend, norm, after, torch.float32)
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    assert torch.allclose(hidden.double(), wanted if after else total, atol=1e-5)


COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from guerdon.models import kernels

kinds = {"running": "*i1", "lengths": "*i64", "position": "*i64", "table": "*i32", "rotation": "*fp32", "copies": "i32",
         "row_stride": "i32", "capacity": "i32", "half_of_cache": "i64", "scale": "fp32", "width": "i32", "eps": "fp32",
         "weight": "*fp32", "bias": "*fp32", "hidden": "*fp32", "addend": "*bf16"}


def built(kernel, kind, **constants):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else kinds.get(name, "*" + kind) for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()})
    return triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


for kind in ("bf16", "fp32"):
    sizes = dict(heads=4, width=20, columns=32, block=16)
    for append, rotate, shared in ((True, True, False), (True, False, True), (True, True, True), (False, False, False)):
        assert built(kernels._attend_kernel, kind, **sizes, append=append, rotate=rotate, shared=shared)
    assert built(kernels._add_norm_kernel, kind, block=64, after=True)
print("built")
"""


def test_kernels_are_accepted_by_the_compiler() -> None:
    """What is interpreted is not checked for what a GPU's compiler asks for: types that stay the same in a loop, say."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.stdout.strip() == "built", done.stderr
