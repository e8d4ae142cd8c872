"""Linear layers in integers: exact for what integers hold, within the rounding for all else, refused where they cannot be."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_models import tiny_t5
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from guerdon.data.padded import Padded
from guerdon.decoding import DecodingOptions, LengthLimit, SamplingOptions, greedy, sample
from guerdon.errors import ConfigurationError
from guerdon.models.huggingface import HuggingFacePolicy
from guerdon.models.integer import IntegerLinear, SingleIntegerLinear, has_integers
from guerdon.models.options import TransformerOptions
from guerdon.models.packed import PackedLinear, many_rows, single_row
from guerdon.models.transformer import Transformer

SOURCES = Padded.from_lists([[5, 6, 7], [8, 9]])
SIZES, WIDTHS = st.integers(1, 70), st.integers(2, 70)


def policy(**changes: object) -> Transformer:
    torch.manual_seed(0)
    options = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 24, **changes}
    return Transformer(TransformerOptions(vocabulary_size=19, **options)).eval()  # type: ignore[arg-type]


def drawn(seed: int, *size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    spread = torch.exp(2 * torch.randn(size[0], 1, generator=generator))  # rows on scales of their own
    return torch.randn(*size, generator=generator) * spread


@given(SIZES, WIDTHS, SIZES, st.integers(0, 99), st.booleans())
def test_a_result_is_within_what_rounding_can_do(rows: int, wide: int, out: int, seed: int, biased: bool) -> None:
    """|x - x̂| ≤ a/254 for a row whose largest number is a, and likewise of the weight: the errors of products add up."""
    hidden, weight = drawn(seed, rows, wide), drawn(seed + 100, out, wide)
    bias = torch.randn(out) if biased else None
    exact = hidden.double() @ weight.double().t() + (0 if bias is None else bias.double())
    of_x, of_w = (given.double().abs().amax(1) / 254 for given in (hidden, weight))
    sum_x, sum_w = (given.double().abs().sum(1) for given in (hidden, weight))
    bound = of_x[:, None] * sum_w + sum_x[:, None] * of_w + wide * of_x[:, None] * of_w
    with torch.no_grad():
        layer, to = IntegerLinear(weight, bias), torch.randn(rows, out)
        found = layer(hidden)
        assert found.dtype == torch.float32
        assert ((found.double() - exact).abs() <= bound * 1.001 + 1e-5 * exact.abs() + 1e-5).all()
        torch.testing.assert_close(layer.added(hidden, to), to + found)


@given(SIZES, WIDTHS, SIZES, st.integers(0, 99))
def test_products_of_integers_are_exact(rows: int, wide: int, out: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randint(-127, 128, (n, wide), generator=generator).double() for n in (rows, out))
    hidden[:, 0], weight[:, 0] = 127.0, -127.0
    scale_x, scale_w = 2.0 ** torch.randint(-9, 9, (rows, 1)), 2.0 ** torch.randint(-9, 9, (out, 1))
    with torch.no_grad():
        found = IntegerLinear((weight * scale_w).float(), None)((hidden * scale_x).float())
    torch.testing.assert_close(found.double(), (hidden @ weight.t()) * scale_x * scale_w.t(), rtol=1e-6, atol=0)


def test_a_rows_result_is_that_of_the_row_alone_to_the_bit() -> None:
    hidden, layer = drawn(1, 90, 256), IntegerLinear(drawn(2, 300, 256), torch.randn(300))
    with torch.no_grad():
        whole = layer(hidden)
        for rows in (slice(0, 1), slice(3, 10), slice(40, 90)):
            assert torch.equal(layer(hidden[rows]), whole[rows])
        assert torch.equal(layer(hidden.view(9, 10, 256)), whole.view(9, 10, 300))


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_an_activation_is_that_of_the_result(name: str) -> None:
    hidden, layer = drawn(1, 9, 12), IntegerLinear(drawn(2, 8, 12), torch.randn(8))
    with torch.no_grad():
        plain = layer(hidden)
        layer.activation = name
        assert torch.equal(layer(hidden), getattr(functional, name)(plain))


def test_rows_of_zeros_and_of_what_is_no_number() -> None:
    bias, hidden = torch.randn(8), drawn(1, 5, 12)
    hidden[1], hidden[2, 3], hidden[3, 4] = 0.0, torch.nan, torch.inf
    weight = drawn(2, 8, 12)
    weight[4] = 0.0
    with torch.no_grad():
        found = IntegerLinear(weight, bias)(hidden)
    assert torch.equal(found[1], bias)
    assert torch.equal(found[[0, 4], 4], bias[[4, 4]])
    assert not found[2:4].isfinite().any()
    assert found[[0, 1, 4]].isfinite().all()


@pytest.mark.parametrize(
    "changes", [{}, {"activation": "gelu", "norm": "post"}, {"activation": "swiglu", "tied_embeddings": False}]
)
def test_every_linear_layer_of_a_decode_is_in_integers(changes: dict[str, object]) -> None:
    model = policy(**changes)
    with torch.no_grad():
        logits = []
        for precision in ("float32", "int8"):
            state, tokens = model.start(SOURCES, 2, precision)
            logits.append(torch.stack([model.step(state, tokens + position) for position in range(4)]))
        assert isinstance(state.parts.project, IntegerLinear)
        packed = [module for layer in state.parts.encoder for module in layer.modules()]
        assert any(isinstance(module, IntegerLinear) for module in packed)
        assert not any(isinstance(module, torch.nn.Linear | PackedLinear) for module in packed)
        assert all(layer.project_in.__func__ is IntegerLinear.forward for layer in state.parts.decoder)
        assert torch.equal(logits[0].isinf(), logits[1].isinf())
        off = (logits[1] - logits[0])[logits[0].isfinite()].abs()
    assert 0 < off.max() < 0.15
    assert off.mean() < 0.03


def test_samples_carry_the_probabilities_that_they_were_drawn_with() -> None:
    """Those of the coarser model, fed with the same tokens again."""
    model = policy()
    with torch.no_grad():
        keys, limits = torch.arange(6), torch.full((2,), 5)
        drawn_ones = sample(model, SOURCES, limits, SamplingOptions(), keys, 3, precision="int8")
        state, tokens = model.start(SOURCES, 3, "int8")
        for position in range(drawn_ones.tokens.ids.shape[1]):
            log_probs = model.step(state, tokens).log_softmax(-1)
            tokens = drawn_ones.tokens.ids[:, position]
            reached = position < drawn_ones.tokens.lengths
            expected = log_probs.gather(1, tokens[:, None])[:, 0]
            torch.testing.assert_close(drawn_ones.log_prob[reached, position], expected[reached], rtol=1e-5, atol=1e-5)


def test_a_single_row_is_decoded_as_among_others() -> None:
    model, one = policy(), Padded.from_lists([[5, 6, 7]])
    with torch.no_grad():
        state, token = model.start(one, 1, "int8")
        assert all(layer.project_in.__func__ is IntegerLinear.forward for layer in state.parts.decoder)
        among, tokens = model.start(one, 3, "int8")
        for position in range(4):
            alone = model.step(state, token + position)
            torch.testing.assert_close(alone.expand(3, -1), model.step(among, tokens + position), rtol=1e-5, atol=1e-5)


@given(st.integers(1, 3), st.integers(1, 4), SIZES, st.integers(0, 99), st.booleans())
def test_a_single_rows_result_is_within_what_rounding_can_do(rows: int, wide: int, out: int, seed: int, biased: bool) -> None:
    """Weights by half a step of a scale that is at most 2⁻⁶ larger than need be, inputs and result by 2⁻⁸ of themselves."""
    hidden, weight = drawn(seed, rows, 32 * wide), drawn(seed + 100, out, 32 * wide)
    bias = torch.randn(out) if biased else None
    exact = hidden.double() @ weight.double().t()
    step = weight.double().abs().amax(1) / 127 * (1 + 2**-6)
    sum_x, product = hidden.double().abs().sum(1), hidden.double().abs() @ weight.double().abs().t()
    bound = 1.01 * (sum_x[:, None] * step / 2 + 2**-8 * product + 2**-8 * exact.abs()) + 1e-5
    with torch.no_grad():
        layer, to = single_row(weight, bias, "int8"), torch.randn(rows, out)
        assert isinstance(layer, SingleIntegerLinear)
        found = layer(hidden)
        assert found.dtype == torch.float32
        off = found.double() - exact - (0 if bias is None else bias.double())
        assert (off.abs() <= bound).all()
        torch.testing.assert_close(layer.added(hidden, to), to + found)
        layer.activation = "gelu"
        assert torch.equal(layer(hidden), functional.gelu(found))
        layer.activation = "relu"
        assert torch.equal(layer(hidden), functional.relu(found))


def test_the_layer_of_a_single_row_in_integers_depends_on_its_size() -> None:
    assert isinstance(single_row(torch.ones(8, 32), None, "int8"), SingleIntegerLinear)
    assert isinstance(single_row(torch.ones(8, 33), None, "int8"), IntegerLinear)
    assert isinstance(single_row(torch.ones(8000, 96), None, "int8"), IntegerLinear)


def test_a_single_row_of_zeros_and_of_what_is_no_number() -> None:
    weight, bias = drawn(2, 8, 32), torch.randn(8)
    weight[4] = 0.0
    with torch.no_grad():
        layer = single_row(weight, bias, "int8")
        assert torch.equal(layer(torch.zeros(1, 32))[0], bias)
        assert layer(torch.ones(1, 32))[0, 4] == bias[4]
        for broken in (torch.nan, torch.inf):
            hidden = torch.ones(1, 32)
            hidden[0, 3] = broken
            assert not layer(hidden)[0, :4].isfinite().any()


def test_a_single_row_is_decoded_nearly_as_in_floats() -> None:
    model, one = policy(width=64, feed_forward=96), Padded.from_lists([[5, 6, 7]])
    with torch.no_grad():
        logits = []
        for precision in ("float32", "int8"):
            state, token = model.start(one, 1, precision)
            logits.append(torch.cat([model.step(state, token + position) for position in range(4)]))
        assert all(layer.project_in.__func__ is SingleIntegerLinear.forward for layer in state.parts.decoder)
        assert torch.equal(logits[0].isinf(), logits[1].isinf())
        off = (logits[1] - logits[0])[logits[0].isfinite()].abs()
    assert 0 < off.max() < 0.15
    assert off.mean() < 0.03


def test_a_layer_of_one_input_is_left_to_floats() -> None:
    hidden, weight = drawn(1, 5, 1), drawn(2, 3, 1)
    with torch.no_grad():
        torch.testing.assert_close(many_rows(weight, None, "int8")(hidden), hidden * weight[:, 0])


def test_it_is_refused_where_there_are_no_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = torch.full((2,), 5)
    refused = pytest.raises(ConfigurationError, match="int8 decodes a float32 model of guerdon on a CPU")
    with torch.no_grad():
        with refused:
            greedy(policy().double(), SOURCES, limits, precision="int8")
        with refused:
            greedy(HuggingFacePolicy(tiny_t5()), SOURCES, limits, precision="int8")
        has_integers.cache_clear()
        with monkeypatch.context() as patched:
            patched.delattr(torch, "_int_mm")
            with refused:
                greedy(policy(), SOURCES, limits, precision="int8")
        has_integers.cache_clear()
        greedy(policy(), SOURCES, limits, precision="int8")
    with pytest.raises(ConfigurationError, match="there is no 'int4'"):
        DecodingOptions(precision="int4", limit=LengthLimit(3))  # type: ignore[arg-type]


def saturating(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """What processors without the instructions do: rows are made positive, and pairs of products cut to sixteen bits."""
    products = (rows.int() + 128)[:, :, None] * columns.int()[None]
    pairs = products.view(len(rows), -1, 2, columns.shape[1]).sum(2).clamp(-(2**15), 2**15 - 1)
    return pairs.sum(1, dtype=torch.int32) - 128 * columns.sum(0, dtype=torch.int32)


def test_sums_that_saturate_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    has_integers.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(torch, "_int_mm", saturating)
        assert not has_integers()
    has_integers.cache_clear()
    assert has_integers()
