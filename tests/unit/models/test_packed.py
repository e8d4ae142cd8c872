"""Packed linear layers: the same numbers, only where they can be had, and of the moment at which they were packed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from guerdon.data.padded import Padded
from guerdon.models.options import TransformerOptions
from guerdon.models.packed import PackedLinear, can_pack, pack
from guerdon.models.transformer import Transformer

SOURCES = Padded.from_lists([[5, 6, 7], [8, 9]])


def policy(**changes: object) -> Transformer:
    torch.manual_seed(0)
    options = {"width": 16, "heads": 2, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 24, **changes}
    return Transformer(TransformerOptions(vocabulary_size=19, **options)).eval()  # type: ignore[arg-type]


def logits_of_steps(model: Transformer) -> torch.Tensor:
    state, tokens = model.start(SOURCES, 2)
    return torch.stack([model.step(state, tokens + position) for position in range(4)])


def test_a_packed_layer_is_the_linear_map_in_float64() -> None:
    torch.manual_seed(1)
    for rows, wide, out in [(1, 7, 5), (3, 64, 33), (128, 256, 300)]:
        hidden, weight, bias = torch.randn(rows, 1, wide), torch.randn(out, wide), torch.randn(out)
        for some in (bias, None):
            expected = hidden.double() @ weight.double().T + (0 if some is None else some.double())
            with torch.no_grad():
                found = PackedLinear(weight, some, rows)(hidden)
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_steps_with_packed_layers_equal_plain_ones() -> None:
    for activation in ("relu", "gelu", "swiglu"):
        for tied in (True, False):
            model = policy(activation=activation, tied_embeddings=tied)
            plain = logits_of_steps(model)  # gradients are on, so that nothing is packed
            with torch.no_grad():
                state, _ = model.start(SOURCES, 2)
                assert isinstance(state.project, PackedLinear)
                assert not any(isinstance(module, nn.Linear) for layer in state.decoder for module in layer.modules())
                torch.testing.assert_close(logits_of_steps(model), plain, rtol=1e-5, atol=1e-5)


def test_the_model_itself_stays_as_it_was_and_a_new_decode_reads_its_new_weights() -> None:
    model = policy()
    with torch.no_grad():
        names = [name for name, _ in model.named_modules()]
        before = logits_of_steps(model)
        assert [name for name, _ in model.named_modules()] == names
        assert sum(isinstance(module, nn.Linear) for module in model.modules()) > 0
        for parameter in model.parameters():
            parameter.mul_(1.5)
        after = logits_of_steps(model)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, logits_of_steps(model).detach(), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_packed_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    like = torch.zeros(2, 2)
    with torch.no_grad():
        assert can_pack(like, 1)
        assert not can_pack(like, 0)
        assert not can_pack(like.double(), 1)
        assert not can_pack(like.bfloat16(), 1)
        assert not can_pack(like.to("meta"), 1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not can_pack(like, 1)
    assert not can_pack(like, 1)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with torch.no_grad():
        assert not can_pack(like, 1)


def test_packing_shares_what_is_no_linear_layer() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 2)))
    with torch.no_grad():
        (packed,) = pack([module], 5)
        hidden = torch.randn(5, 3)
        torch.testing.assert_close(packed(hidden), module(hidden))
    assert packed[1].weight is module[1].weight
    assert packed is not module
    assert isinstance(module[2][0], nn.Linear)


def test_a_linear_layer_of_another_kind_keeps_what_it_computes() -> None:
    class Doubled(nn.Linear):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(hidden)

    module = nn.Sequential(Doubled(3, 4), nn.Linear(4, 2))
    with torch.no_grad():
        (packed,) = pack([module], 5)
        hidden = torch.randn(5, 3)
        torch.testing.assert_close(packed(hidden), module(hidden))


def test_a_packed_layer_in_bfloat16_is_the_map_of_rounded_weights() -> None:
    torch.manual_seed(1)
    hidden, weight, bias = torch.randn(9, 64), torch.randn(33, 64), torch.randn(33)
    rounded = [tensor.bfloat16().double() for tensor in (hidden, weight, bias)]
    with torch.no_grad():
        found = PackedLinear(weight, bias, 9, "bfloat16")(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rounded[0] @ rounded[1].T + rounded[2], rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("packed", [True, False])
def test_steps_in_bfloat16_are_near_those_in_float32(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:  # autocast takes its place
        monkeypatch.setattr("guerdon.models.transformer.can_pack", lambda like, rows: False)
    model = policy()
    with torch.no_grad():
        exact = logits_of_steps(model)
        state, tokens = model.start(SOURCES, 2, "bfloat16")
        found = torch.stack([model.step(state, tokens + position).float() for position in range(4)])
    kept = exact.isfinite()
    assert torch.equal(found.isfinite(), kept)
    off = (found - exact)[kept].abs()
    assert 1e-5 < float(off.mean()) < 0.02
    assert isinstance(state.project, PackedLinear) == packed
    if packed:
        assert state.project.weight.dtype == torch.bfloat16
        assert all(cache.keys.dtype == torch.float32 for cache in state.layers)  # attention keeps float32
