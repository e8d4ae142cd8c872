"""Linear layers whose weights oneDNN has laid out beforehand: what a decoder reads at every step of one decode.

On the CPU a product of few rows spends much of its time on arranging the weights for the kernel, at every call anew. Decoding
makes hundreds of such products with the same weights, so that they are arranged once (`benchmarks/packed.py` has what it is
worth). The arithmetic is float32, or bfloat16 where that is asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from guerdon.models.precision import Precision


class PackedLinear(nn.Module):
    """x Wᵀ + b over a copy of the weight in a layout of its own: later changes of the weight do not reach it.

    With bfloat16, input and output are rounded to it, and the result is given in the input's own kind again.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, rows: int, precision: Precision = "float32") -> None:
        super().__init__()
        kind = torch.bfloat16 if precision == "bfloat16" else weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(kind), rows)
        self.bias = None if bias is None else bias.detach().to(kind)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        found = torch.ops.mkldnn._linear_pointwise(hidden.to(self.weight.dtype), self.weight, self.bias, "none", [], "")
        return cast(Tensor, found).to(hidden.dtype)


def can_pack(like: Tensor, rows: int) -> bool:
    """Whether linear layers can be packed: for float32 weights on the CPU, without gradients or autocast."""
    return (
        rows > 0
        and like.device.type == "cpu"
        and like.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        # operators of torch's own compiler, without a public name: where a later torch has them no more, plain layers serve
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def pack(modules: Sequence[nn.Module], rows: int, precision: Precision = "float32") -> list[nn.Module]:
    """The same modules with packed linear layers, for about ``rows`` rows; all else is shared with those given.

    A layer of a subclass of ``nn.Linear`` may compute something else, and stays as it is.
    """
    return [_packed(module, rows, precision) for module in modules]


def _packed(module: nn.Module, rows: int, precision: Precision) -> nn.Module:
    if type(module) is nn.Linear:
        return PackedLinear(module.weight, module.bias, rows, precision)
    twin, children = copy.copy(module), module._modules.items()
    twin._modules = {name: child if child is None else _packed(child, rows, precision) for name, child in children}
    return twin
