"""Packed linear layers: the same numbers, only where they can be had, and of the moment at which they were packed."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn

from guerdon.data.padded import Padded
from guerdon.models.options import TransformerOptions
from guerdon.models.packed import PackedLinear, can_pack, fingerprint, forget, kept, pack, unchanged
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
                found = PackedLinear(weight, some)(hidden)
            torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_steps_with_packed_layers_equal_plain_ones() -> None:
    for activation in ("relu", "gelu", "swiglu"):
        for tied in (True, False):
            model = policy(activation=activation, tied_embeddings=tied)
            plain = logits_of_steps(model)  # gradients are on, so that nothing is packed
            with torch.no_grad():
                state, _ = model.start(SOURCES, 2)
                assert isinstance(state.parts.project, PackedLinear)
                assert all(cross.project_memory.forward.__func__ is PackedLinear.forward for cross in state.parts.cross)
                assert all(layer.project_in.__func__ is PackedLinear.forward for layer in state.parts.decoder)
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
        assert can_pack(like)
        assert not can_pack(like.double())
        assert not can_pack(like.bfloat16())
        assert not can_pack(like.to("meta"))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not can_pack(like)
    assert not can_pack(like)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with torch.no_grad():
        assert not can_pack(like)


def test_packing_shares_what_is_no_linear_layer() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 2)))
    with torch.no_grad():
        (packed,) = pack([module])
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
        (packed,) = pack([module])
        hidden = torch.randn(5, 3)
        torch.testing.assert_close(packed(hidden), module(hidden))


def test_a_packed_layer_in_bfloat16_is_the_map_of_rounded_weights() -> None:
    torch.manual_seed(1)
    hidden, weight, bias = torch.randn(9, 64), torch.randn(33, 64), torch.randn(33)
    rounded = [tensor.bfloat16().double() for tensor in (hidden, weight, bias)]
    with torch.no_grad():
        found = PackedLinear(weight, bias, "bfloat16")(hidden)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), rounded[0] @ rounded[1].T + rounded[2], rtol=2**-7, atol=2**-6)


@pytest.mark.parametrize("packed", [True, False])
def test_steps_in_bfloat16_are_near_those_in_float32(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed:  # autocast takes its place
        monkeypatch.setattr("guerdon.models.transformer.can_pack", lambda like: False)
    model = policy()
    with torch.no_grad():
        exact = logits_of_steps(model)
        state, tokens = model.start(SOURCES, 2, "bfloat16")
        found = torch.stack([model.step(state, tokens + position).float() for position in range(4)])
    kept = exact.isfinite()
    assert torch.equal(found.isfinite(), kept)
    off = (found - exact)[kept].abs()
    assert 1e-5 < float(off.mean()) < 0.02
    assert isinstance(state.parts.project, PackedLinear) == packed
    if packed:
        assert state.parts.project.weight.dtype == torch.bfloat16
        assert all(cache.pairs.dtype == torch.float32 for cache in state.caches)  # attention keeps float32


def parts_of(model: Transformer) -> object:
    with torch.no_grad():
        return model.start(SOURCES)[0].parts


def step_of(model: Transformer, make: Callable[..., torch.optim.Optimizer]) -> None:
    optimiser = make(model.parameters())
    model.logits(SOURCES, SOURCES).exp().sum().backward()
    optimiser.step()


CHANGES: dict[str, Callable[[Transformer], object]] = {
    "an optimiser, one tensor at a time": lambda m: step_of(m, lambda p: torch.optim.AdamW(p, foreach=False)),
    "an optimiser, all tensors at once": lambda m: step_of(m, lambda p: torch.optim.AdamW(p, foreach=True)),
    "a fused optimiser": lambda m: step_of(m, lambda p: torch.optim.AdamW(p, fused=True)),
    "plain descent": lambda m: step_of(m, lambda p: torch.optim.SGD(p, lr=0.1)),
    "loaded weights": lambda m: m.load_state_dict({k: v + 0.5 for k, v in m.state_dict().items()}),
    "a copy into one matrix": lambda m: m.decoder[1].cross.project_out.weight.detach().copy_(torch.ones(16, 16)),
    "an average": lambda m: torch._foreach_lerp_([*m.parameters()], [p.detach() + 1 for p in m.parameters()], 0.5),
    "another tensor in its place": lambda m: setattr(m.embedding.weight, "data", m.embedding.weight.detach() + 1),
    "a copy behind the back of autograd": lambda m: m.embedding.weight.data.add_(1.0),
    "the least change of one weight": lambda m: m.decoder[0].feed_forward.project_in.bias.data[3].add_(1e-7),
    "a swap of two rows": lambda m: m.embedding.weight.detach().index_copy_(
        0, torch.tensor([7, 8]), m.embedding.weight.detach()[[8, 7]]
    ),
}


@pytest.mark.parametrize("change", sorted(CHANGES))
def test_packed_layers_are_kept_until_a_weight_changes(change: str) -> None:
    model = policy()
    first = parts_of(model)
    assert parts_of(model) is first
    if change in ("a copy into one matrix", "an average"):
        with torch.no_grad():
            CHANGES[change](model)
    else:
        CHANGES[change](model)
    assert parts_of(model) is not first
    plain = logits_of_steps(model).detach()
    with torch.no_grad():
        torch.testing.assert_close(logits_of_steps(model), plain, rtol=1e-4, atol=1e-4)


def test_packed_layers_are_kept_by_precision_and_by_mode() -> None:
    model = policy(dropout=0.5)
    with torch.no_grad():
        calm = model.start(SOURCES)[0].parts
        coarse = model.start(SOURCES, 1, "bfloat16")[0].parts
        training = model.train().start(SOURCES)[0].parts
        assert len({id(calm), id(coarse), id(training)}) == 3
        assert not torch.equal(logits_of_steps(model), logits_of_steps(model))  # dropout is on
        model.eval()
        assert model.start(SOURCES)[0].parts is calm
        assert torch.equal(logits_of_steps(model), logits_of_steps(model))


def test_what_is_kept_is_neither_copied_nor_saved_nor_in_the_way() -> None:
    model = policy()
    first = parts_of(model)
    twin = copy.deepcopy(model)
    assert twin.state_dict().keys() == policy().state_dict().keys()
    assert parts_of(twin) is not first
    assert parts_of(model) is first
    forget(model)
    assert parts_of(model) is not first
    forget(policy())  # of which nothing is kept

    made, watched = nn.Linear(2, 2), weakref.ref(kept(model, "key", lambda: nn.Linear(2, 2)))
    assert kept(model, "key", lambda: made) is watched()
    del model, first
    gc.collect()
    assert watched() is None


def test_weights_without_versions_are_told_by_their_bits() -> None:
    with torch.inference_mode():
        model = policy()
        first = model.start(SOURCES)[0].parts
        assert model.start(SOURCES)[0].parts is first
        model.embedding.weight.add_(1.0)
        assert model.start(SOURCES)[0].parts is not first


def test_a_fused_activation_is_the_function_itself_and_leaves_the_layer_alone() -> None:
    hidden = torch.linspace(-6, 6, 31 * 16).view(31, 16)
    for activation in ("gelu", "relu"):
        model = policy(activation=activation)
        layer = model.decoder[0].feed_forward
        with torch.no_grad():
            (packed,) = pack([layer])
            assert packed.project_in.activation == activation
            torch.testing.assert_close(packed(hidden), layer(hidden), rtol=1e-5, atol=1e-5)
            (coarse,) = pack([layer], "bfloat16")
            assert coarse.project_in(hidden).dtype == torch.bfloat16
            assert coarse(hidden).dtype == torch.float32
            torch.testing.assert_close(coarse(hidden), layer(hidden), rtol=0.05, atol=0.05)
        assert isinstance(layer.project_in, nn.Linear)
        assert layer.activation(torch.tensor(-1.0)) != -1.0


def test_while_weights_are_said_not_to_change_they_are_looked_at_once() -> None:
    model = policy()
    with torch.no_grad():
        before, first = fingerprint(model), logits_of_steps(model)
        with unchanged(model), unchanged(model):
            assert fingerprint(model) == before
            model.embedding.weight.data.mul_(1.5)  # which is against the word that was given
            assert fingerprint(model) == before
            with unchanged(model):
                pass
            assert fingerprint(model) == before
        after = fingerprint(model)
        assert after != before
        assert not torch.allclose(first, logits_of_steps(model))
        with pytest.raises(ValueError, match="broken"), unchanged(model):
            raise ValueError("broken")
        model.embedding.weight.data.mul_(1.5)
        assert fingerprint(model) != after
    with unchanged(object()):  # a policy of another kind
        pass
