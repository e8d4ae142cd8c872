"""Linear layers whose weights oneDNN has laid out beforehand, for decoding on the CPU.

A product of few rows spends much of its time on arranging the weights for the kernel, at every call anew. Decoding makes
hundreds of such products with the same weights, so that they are arranged once, and again when they have changed
(`benchmarks/packed.py` has what it is worth). The arithmetic is float32, or bfloat16 or int8 where that is asked for.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from guerdon.models.integer import IntegerLinear, SingleIntegerLinear, activated, serves_single
from guerdon.models.precision import InferencePrecision

_ROWS = 512  # that the layout is made for: it serves one row as well, while one made for a single row does not serve many
_LARGE = 2**18  # weights

_Found = TypeVar("_Found")


class PackedLinear(nn.Module):
    """f(x Wᵀ + b) over a copy of the weight in a layout of its own: later changes of the weight do not reach it.

    With bfloat16, input and output are rounded to it.

    Attributes:
        activation: f, "none", "relu" or "gelu", which costs next to nothing in the same pass.
        keeps: the result stays in the weight's kind, for a packed layer that reads it; else it is float32.
    """

    activation = "none"
    keeps = False

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: InferencePrecision = "float32") -> None:
        super().__init__()
        kind = torch.bfloat16 if precision == "bfloat16" else weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(kind), _ROWS)
        self.bias = None if bias is None else bias.detach().to(kind)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        own = hidden.to(self.weight.dtype)
        found = torch.ops.mkldnn._linear_pointwise(own, self.weight, self.bias, self.activation, [], "none")
        return cast(Tensor, found) if self.keeps else cast(Tensor, found).float()

    def added(self, hidden: Tensor, to: Tensor) -> Tensor:
        """``to`` (float32) + x Wᵀ + b, in one pass where the arithmetic is float32; for layers without an activation."""
        if self.weight.dtype == torch.float32:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise.binary(hidden, to, self.weight, self.bias, "add"))
        return to + self.forward(hidden)


class SingleLinear(nn.Module):
    """f(x Wᵀ + b) for a single row, in float32: a product of a vector is over as soon as the weight has been read.

    It reads memory in the order in which it lies, and spares what oneDNN does before each product. The weight is a copy, as
    `PackedLinear`'s. More rows are computed too, slower than by that one.

    Attributes:
        activation: f, "none", "relu" or "gelu".
        keeps: without a meaning here; the result is float32.
    """

    activation = "none"
    keeps = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight, (out, wide) = weight.detach(), weight.shape
        # a sum of rows of Wᵀ where they are the longer ones, else products with rows of W
        self.turned = weight.clone().t() if wide > out else weight.t().contiguous()
        self.bias = weight.new_zeros(()) if bias is None else bias.detach().clone()

    def forward(self, hidden: Tensor) -> Tensor:
        """[n, in] to [n, out]."""
        found = torch.addmm(self.bias, hidden, self.turned)
        return activated(found, self.activation)

    def added(self, hidden: Tensor, to: Tensor) -> Tensor:
        """``to`` + x Wᵀ + b; for layers without an activation."""
        return torch.addmm(to, hidden, self.turned).add_(self.bias)


PACKED = (PackedLinear, SingleLinear, IntegerLinear, SingleIntegerLinear)
"""What `pack` makes of a linear layer: each has ``activation``, ``keeps``, and ``added``."""


def can_pack(like: Tensor) -> bool:
    """Whether linear layers can be packed: for float32 weights on the CPU, without gradients or autocast."""
    return (
        like.device.type == "cpu"
        and like.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        # operators of torch's own compiler, without a public name: where a later torch has them no more, plain layers serve
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack(modules: Sequence[nn.Module], precision: InferencePrecision = "float32", single: bool = False) -> list[nn.Module]:
    """The same modules with packed linear layers (``single``: those of `single_row`); all else is shared with those given.

    A layer of a subclass of ``nn.Linear`` may compute something else, and stays as it is. A module with a method
    ``fuse_packed`` is asked, in its packed form, to leave to its packed layers what they can do in the same pass.
    """
    kind = partial(single_row if single else many_rows, precision=precision)
    return [_packed(module, kind) for module in modules]


def many_rows(weight: Tensor, bias: Tensor | None, precision: InferencePrecision) -> PackedLinear | IntegerLinear:
    """The layer for several rows. That of integers has two inputs at least: with one, torch (2.13) gets the product wrong."""
    if precision == "int8" and weight.shape[1] > 1:
        return IntegerLinear(weight, bias)
    return PackedLinear(weight, bias, precision)


def single_row(
    weight: Tensor, bias: Tensor | None, precision: InferencePrecision
) -> PackedLinear | SingleLinear | IntegerLinear | SingleIntegerLinear:
    """The layer that is fastest for a single row: for bfloat16, small weights are not worth the rounding of inputs."""
    if precision == "int8" and serves_single(weight):
        return SingleIntegerLinear(weight, bias)
    if precision == "int8" or (precision == "bfloat16" and weight.numel() >= _LARGE):
        return many_rows(weight, bias, precision)
    return SingleLinear(weight, bias)


def _packed(module: nn.Module, kind: Callable[[Tensor, Tensor | None], nn.Module]) -> nn.Module:
    if type(module) is nn.Linear:
        return kind(module.weight, module.bias)
    twin, children = copy.copy(module), module._modules.items()
    twin._modules = {name: child if child is None else _packed(child, kind) for name, child in children}
    fuse = getattr(twin, "fuse_packed", None)
    if fuse is not None:
        fuse()
    return twin


class _Kept:
    """What was made of a model's weights, and of which."""

    def __init__(self, weights: Hashable) -> None:
        self.weights = weights
        self.made: dict[Hashable, Any] = {}


_KEPT: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()  # beside the models: nobody copies or saves it with them
_LOCK = threading.Lock()


def kept(model: nn.Module, key: Hashable, make: Callable[[], _Found], weights: Hashable | None = None) -> _Found:
    """What ``make`` makes of the model's weights, kept under ``key`` until a weight changes.

    ``weights`` is the model's `fingerprint` of this moment, where it is known.
    """
    weights = fingerprint(model) if weights is None else weights
    with _LOCK:
        found = _KEPT.get(model)
        if found is None or found.weights != weights:
            found = _KEPT[model] = _Kept(weights)
        if key not in found.made:
            found.made[key] = make()
        return cast(_Found, found.made[key])


@dataclass
class _Unchanged:
    """How many have said that a model's weights do not change, and what the weights are, once somebody has looked."""

    said: int = 0
    weights: Hashable | None = None


_UNCHANGED: WeakKeyDictionary[nn.Module, _Unchanged] = WeakKeyDictionary()


@contextmanager
def unchanged(model: object) -> Iterator[None]:
    """While it lasts nobody changes a weight of the model: its `fingerprint` is taken once, and not before each decode."""
    if not isinstance(model, nn.Module):
        yield
        return
    with _LOCK:
        held = _UNCHANGED.setdefault(model, _Unchanged())
        held.said += 1
    try:
        yield
    finally:
        with _LOCK:
            held.said -= 1
            if not held.said:
                del _UNCHANGED[model]


def fingerprint(model: nn.Module) -> Hashable:
    """What changes when a weight of the model changes.

    Versions of tensors do not tell: torch's fused optimisers leave them as they were, and so does what goes through ``.data``.
    Therefore the bits are summed as well, at a millisecond for three million weights.
    """
    with _LOCK:
        held = _UNCHANGED.get(model)
    if held is None:
        return _fingerprint(model)
    if held.weights is None:
        held.weights = _fingerprint(model)
    return held.weights


def _fingerprint(model: nn.Module) -> Hashable:
    parameters = [parameter.detach() for parameter in model.parameters()]
    versions = tuple((one.data_ptr(), 0 if one.is_inference() else one._version) for one in parameters)
    return versions, tuple(torch.stack([_sum_of_bits(one) for one in parameters]).tolist())


def _sum_of_bits(weight: Tensor) -> Tensor:
    """The words of a tensor added up modulo 2⁶⁴: any change of one of them is seen."""
    flat = weight.reshape(-1)
    return flat.view(torch.int64 if flat.nbytes % 8 == 0 else torch.uint8).sum()


def forget(model: nn.Module) -> None:
    """Lets go of what `kept` has of a model."""
    with _LOCK:
        _KEPT.pop(model, None)
