"""Linear layers in eight-bit integers, for decoding on the CPU: exact sums of products of rounded weights and inputs.

Weights are rounded once, each output's row on a scale of its own; inputs at each call, each row on a scale of its own
(LLM.int8() without its outliers: Dettmers et al. 2022, https://arxiv.org/abs/2208.07339, section 2.1, "vector-wise"). Sums of
integers are exact, so that a row's result depends on nothing but the row.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from guerdon.errors import ConfigurationError

_LARGEST = 127.0
_LARGE = 2**19  # weights, from which on to round the input of a single row pays
_SMALLEST = 1e-30  # magnitude: a row of zeros is divided by it


class IntegerLinear(nn.Module):
    """f(x Wᵀ + b) with W and x rounded to integers of [-127, 127]; the weight is a copy, the result float32.

    Attributes:
        activation: f, "none", "relu" or "gelu".
        keeps: without a meaning here.
    """

    activation = "none"
    keeps = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        rounded, largest = rounded_rows(weight.detach().float())
        self.weight, self.scale = rounded.t(), largest[:, 0] / _LARGEST**2
        self.bias = weight.new_zeros(()) if bias is None else bias.detach().clone()

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        found = self._onto(self.bias, hidden)
        return activated(found, self.activation)

    def added(self, hidden: Tensor, to: Tensor) -> Tensor:
        """``to`` + x Wᵀ + b; for layers without an activation."""
        return self._onto(to, hidden).add_(self.bias)

    def _onto(self, to: Tensor, hidden: Tensor) -> Tensor:
        rows = hidden if hidden.ndim == 2 else hidden.reshape(-1, hidden.shape[-1])
        rounded, largest = rounded_rows(rows)
        found = torch._int_mm(rounded, self.weight).float().mul_(largest)
        if hidden.ndim != 2:
            found = found.view(*hidden.shape[:-1], -1)
        return torch.addcmul(to, found, self.scale, out=found)


class SingleIntegerLinear(nn.Module):
    """f(x Wᵀ + b) for a single row, with W as in `IntegerLinear` and x in bfloat16: the weight is read as it is multiplied.

    For one row, to round the input to integers and to scale the sums takes longer than the product does.

    Attributes:
        activation: f, "none", "relu" or "gelu".
        keeps: without a meaning here; the result is float32.
    """

    activation = "none"
    keeps = False

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        weight = weight.detach().float()
        scale = weight.abs().amax(-1).clamp_min_(_SMALLEST) / _LARGEST
        self.scale = (scale * (1 + 2.0**-8)).to(torch.bfloat16)  # no less than the scale itself, and exact in bfloat16
        self.weight = (weight / self.scale.float()[:, None]).round_().to(torch.int8)
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().clone()

    def forward(self, hidden: Tensor) -> Tensor:
        """[n, in] to [n, out]."""
        found = torch.add(self.bias, torch._weight_int8pack_mm(hidden.bfloat16(), self.weight, self.scale))
        return activated(found, self.activation)

    def added(self, hidden: Tensor, to: Tensor) -> Tensor:
        """``to`` + x Wᵀ + b; for layers without an activation."""
        return torch.add(to, torch._weight_int8pack_mm(hidden.bfloat16(), self.weight, self.scale)).add_(self.bias)


def activated(sums: Tensor, name: str) -> Tensor:
    """The activation of that name, "none", "relu" or "gelu"; may write into ``sums``."""
    if name == "none":
        return sums
    return sums.relu_() if name == "relu" else functional.gelu(sums)


def serves_single(weight: Tensor) -> bool:
    """Whether `SingleIntegerLinear` does, and faster: with 33 inputs, say, torch 2.13 gets its product wrong."""
    return weight.shape[1] % 32 == 0 and weight.numel() <= _LARGE and hasattr(torch, "_weight_int8pack_mm")


def rounded_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 [n, m], and each row's largest magnitude [n, 1]: ``rows`` [n, m] are 1/127 of their product, but for rounding.

    A row with a number that is not finite has a magnitude that is not, and so has all that is made of it.
    """
    largest = rows.abs().amax(-1, keepdim=True).clamp_min_(_SMALLEST)
    return (rows * largest.reciprocal().mul_(_LARGEST)).round_().to(torch.int8), largest


def no_integers() -> ConfigurationError:
    """What to raise where int8 is asked for and cannot be had."""
    return ConfigurationError(
        "int8 decodes a float32 model of guerdon on a CPU that has instructions for it",
        where="precision",
        cure="choose bfloat16 or float32",
    )


@functools.cache
def has_integers() -> bool:
    """Whether products of eight-bit integers are exact here: on processors without instructions for them, sums may saturate."""
    if not hasattr(torch, "_int_mm"):  # without a public name
        return False
    random = torch.Generator().manual_seed(0)
    rows, columns = ((254 * torch.randint(2, (n, 320), generator=random) - 127).to(torch.int8) for n in (33, 48))
    exact = rows.double() @ columns.double().t()
    return bool((torch._int_mm(rows, columns.t()).double() == exact).all())
