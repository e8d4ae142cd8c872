"""Decoding of a single row, whose products are those of a vector: the same numbers as of many rows."""

from __future__ import annotations

import itertools

import pytest
import torch

from guerdon.data.padded import Padded
from guerdon.models import packed as module
from guerdon.models.options import TransformerOptions
from guerdon.models.packed import PackedLinear, SingleLinear, single_row
from guerdon.models.precision import autocast
from guerdon.models.transformer import Transformer

ONE = Padded.from_lists([[5, 6, 7]])
SHAPES = [(1, 7, 5), (1, 64, 256), (1, 256, 64), (4, 16, 16)]


def policy(**changes: object) -> Transformer:
    torch.manual_seed(0)
    options = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 24, **changes}
    return Transformer(TransformerOptions(vocabulary_size=19, **options)).eval()  # type: ignore[arg-type]


def logits_of_steps(model: Transformer, precision: str = "float32", repeated: int = 1) -> torch.Tensor:
    state, tokens = model.start(ONE, 1, precision)  # type: ignore[arg-type]
    found = []
    for position in range(8):
        if position == 4:
            state, tokens = state.select(torch.zeros(repeated, dtype=torch.int64)), tokens.repeat(repeated)
        found.append(model.step(state, tokens + position % 3)[:1])
    return torch.stack(found)


@pytest.mark.parametrize(("rows", "wide", "out"), SHAPES)
def test_a_vector_product_is_the_linear_map_in_float64(rows: int, wide: int, out: int) -> None:
    torch.manual_seed(1)
    hidden, weight, bias, to = torch.randn(rows, wide), torch.randn(out, wide), torch.randn(out), torch.randn(rows, out)
    for some in (bias, None):
        layer, expected = (
            SingleLinear(weight, some),
            hidden.double() @ weight.double().T + (0 if some is None else some.double()),
        )
        torch.testing.assert_close(layer(hidden).double(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.added(hidden, to).double(), expected + to.double(), rtol=1e-4, atol=1e-4)
        for activation, function in (("relu", torch.relu), ("gelu", torch.nn.functional.gelu)):
            layer.activation = activation
            torch.testing.assert_close(layer(hidden).double(), function(expected), rtol=1e-4, atol=1e-4)
            layer.activation = "none"
    weight.zero_()
    assert bool((layer(hidden) != 0).any())  # it has a copy


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_packed_layer_adds_to_what_it_is_given_and_leaves_it(precision: str) -> None:
    torch.manual_seed(2)
    hidden, weight, bias, to = torch.randn(9, 64), torch.randn(33, 64), torch.randn(33), torch.randn(9, 33)
    before = to.clone()
    with torch.no_grad():
        for some in (bias, None):
            layer = PackedLinear(weight, some, precision)  # type: ignore[arg-type]
            found = layer.added(hidden, to)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, to + layer(hidden), rtol=1e-5, atol=1e-5)
    assert torch.equal(to, before)


OPTIONS = list(
    itertools.product(("relu", "gelu", "swiglu"), ("pre", "post"), ("sinusoidal", "rotary", "learned"), (True, False))
)


@pytest.mark.parametrize(("activation", "norm", "positions", "tied"), OPTIONS)
def test_steps_of_one_row_equal_plain_ones(activation: str, norm: str, positions: str, tied: bool) -> None:
    model = policy(activation=activation, norm=norm, positions=positions, tied_embeddings=tied)
    plain = logits_of_steps(model).detach()  # gradients are on, so that nothing is packed
    with torch.no_grad():
        assert isinstance(model.start(ONE)[0].parts.project, SingleLinear)
        assert isinstance(model.start(ONE, 2)[0].parts.project, PackedLinear)
        torch.testing.assert_close(logits_of_steps(model), plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits_of_steps(model, repeated=3), plain, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_only_large_weights_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = policy(activation="gelu")
    with torch.no_grad():
        exact = logits_of_steps(model)
        # of 256, 384 and 768 weights in the decoder, and 304 in the projection
        for large, packed in ((2**18, 0), (384, 2), (300, 3), (1, 6)):
            monkeypatch.setattr(module, "_LARGE", large)
            module.forget(model)
            parts = model.start(ONE, 1, "bfloat16")[0].parts
            layer = parts.decoder[0]
            products = [layer.project_in, layer.project_query, layer.around_attention.add, layer.around_cross.add]
            owners = [product.__self__ for product in products]  # type: ignore[attr-defined]
            owners += [layer.around_feed_forward.add.__self__, parts.project]  # type: ignore[attr-defined]
            assert sum(isinstance(owner, PackedLinear) for owner in owners) == packed
            off = (logits_of_steps(model, "bfloat16") - exact)[exact.isfinite()].abs()
            assert float(off.mean()) < 0.02
            assert float(off.mean()) > 1e-5  # the encoder's are rounded in any case


def test_a_single_row_reads_new_weights_and_shares_what_reads_the_source() -> None:
    model = policy()
    with torch.no_grad():
        many, one = model.start(ONE, 2)[0].parts, model.start(ONE)[0].parts
        assert one is model.start(ONE)[0].parts
        assert one is not many
        assert (one.encoder, one.cross) == (many.encoder, many.cross)
        before = logits_of_steps(model)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        after = logits_of_steps(model)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, logits_of_steps(model).detach(), rtol=1e-5, atol=1e-5)


def test_dropout_of_a_single_row_is_not_lost_in_the_sum() -> None:
    model = policy(dropout=0.5).train()
    model.encoder.eval()
    model.dropout.eval()  # that of embeddings
    with torch.no_grad():
        assert not torch.equal(logits_of_steps(model), logits_of_steps(model))
        model.eval()
        assert torch.equal(logits_of_steps(model), logits_of_steps(model))


def test_the_layer_for_a_single_row_depends_on_size_and_precision() -> None:
    small, large = torch.zeros(8, 8), torch.zeros(512, 512)
    assert isinstance(single_row(small, None, "bfloat16"), SingleLinear)
    assert isinstance(single_row(large, None, "bfloat16"), PackedLinear)
    assert isinstance(single_row(large, None, "float32"), SingleLinear)


def test_float32_is_float32_inside_another_autocast() -> None:
    cpu, hidden = torch.device("cpu"), torch.ones(2, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (hidden @ hidden).dtype == torch.bfloat16
        with autocast(cpu, "float32"):
            assert (hidden @ hidden).dtype == torch.float32
    with autocast(cpu, "bfloat16"):
        assert (hidden @ hidden).dtype == torch.bfloat16
    with autocast(cpu, "float32"):
        assert (hidden @ hidden).dtype == torch.float32
