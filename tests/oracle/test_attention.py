"""Attention and layers against a loop over the formula, and against torch's own modules with the same weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from guerdon.models.attention import (
    CrossAttention,
    SelfAttention,
    as_bias,
    attend,
    attend_next,
    merge_heads,
    rotate,
    rotations,
    sinusoids,
    split_heads,
)
from guerdon.models.layers import DecoderLayer, EncoderLayer, Memory
from guerdon.models.options import TransformerOptions

WIDTH, HEADS = 12, 3
LENGTHS = [5, 2, 4]
MASK = torch.arange(5) < torch.tensor(LENGTHS)[:, None]  # [3, 5]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_attention(query: list, key: list, value: list, seen: list) -> list[list[float]]:
    """FORMULAS 4.1.1, number by number: alpha_ij = softmax_j(q_i . k_j / sqrt(d)), z_i = sum_j alpha_ij v_j."""
    found = []
    for i, q in enumerate(query):
        scores = {
            j: math.fsum(a * b for a, b in zip(q, k, strict=True)) / math.sqrt(len(q)) for j, k in enumerate(key) if seen[i][j]
        }
        exps = {j: math.exp(score - max(scores.values())) for j, score in scores.items()}
        total = math.fsum(exps.values())
        found.append([math.fsum(exps[j] / total * value[j][c] for j in exps) for c in range(len(value[0]))])
    return found


def seen_by(mask: Tensor | None, causal: bool, row: int, queries: int, keys: int) -> list[list[bool]]:
    return [
        [(not causal or j <= i) and (mask is None or bool(mask[row, 0, 0, j])) for j in range(keys)] for i in range(queries)
    ]


@pytest.mark.parametrize(("masked", "causal", "queries"), [(False, False, 4), (True, False, 5), (False, True, 5)])
def test_attend_is_the_formula(masked: bool, causal: bool, queries: int) -> None:
    query, key, value = random(3, HEADS, queries, 4, seed=1), random(3, HEADS, 5, 4, seed=2), random(3, HEADS, 5, 4, seed=3)
    mask = MASK[:, None, None, :] if masked else None
    found = attend(query * 3, key, value, mask, causal)
    for b in range(3):
        for h in range(HEADS):
            seen = seen_by(mask, causal, b, queries, 5)
            expected = loop_attention((query * 3)[b, h].tolist(), key[b, h].tolist(), value[b, h].tolist(), seen)
            torch.testing.assert_close(found[b, h], torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("causal", [False, True])
def test_attend_is_torchs_own(causal: bool) -> None:
    query, key, value = random(3, HEADS, 5, 4, seed=1), random(3, HEADS, 5, 4, seed=2), random(3, HEADS, 5, 4, seed=3)
    mask = None if causal else MASK[:, None, None, :]
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal)
    torch.testing.assert_close(attend(query, key, value, mask, causal), expected, rtol=1e-12, atol=1e-13)


def test_heads_are_neighbouring_columns_and_come_back() -> None:
    hidden = random(2, 5, WIDTH)
    heads = split_heads(hidden, HEADS)
    assert heads.shape == (2, HEADS, 5, 4)
    assert torch.equal(heads[1, 2, 3], hidden[1, 3, 8:12])
    assert torch.equal(merge_heads(heads), hidden)


def test_self_attention_is_the_formula() -> None:
    """FORMULAS 4.1.2: Concat(z1 ... zh) W_O, the projections written out."""
    torch.manual_seed(0)
    module = SelfAttention(WIDTH, HEADS).double()
    nn.init.normal_(module.project_in.bias)
    hidden = random(2, 4, WIDTH)
    weights, biases = module.project_in.weight.chunk(3), module.project_in.bias.chunk(3)
    for b in range(2):
        query, key, value = (hidden[b] @ w.T + c for w, c in zip(weights, biases, strict=True))
        columns = []
        for h in range(HEADS):
            part = slice(4 * h, 4 * h + 4)
            seen = seen_by(None, True, b, 4, 4)
            columns.append(loop_attention(query[:, part].tolist(), key[:, part].tolist(), value[:, part].tolist(), seen))
        joined = torch.cat([torch.tensor(c, dtype=torch.float64) for c in columns], dim=1)
        expected = joined @ module.project_out.weight.T + module.project_out.bias
        torch.testing.assert_close(module(hidden[b : b + 1], causal=True)[0], expected, rtol=1e-12, atol=1e-13)


# --- torch's modules with the same weights


def spread(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, so that no bias is 0 and no norm the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


def copy_linear(ours: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        ours.weight.copy_(weight)
        ours.bias.copy_(bias)


def copy_self(ours: SelfAttention, theirs: nn.MultiheadAttention) -> None:
    copy_linear(ours.project_in, theirs.in_proj_weight, theirs.in_proj_bias)
    copy_linear(ours.project_out, theirs.out_proj.weight, theirs.out_proj.bias)


def copy_cross(ours: CrossAttention, theirs: nn.MultiheadAttention) -> None:
    width = theirs.embed_dim
    copy_linear(ours.project_query, theirs.in_proj_weight[:width], theirs.in_proj_bias[:width])
    copy_linear(ours.project_memory, theirs.in_proj_weight[width:], theirs.in_proj_bias[width:])
    copy_linear(ours.project_out, theirs.out_proj.weight, theirs.out_proj.bias)


def test_self_attention_is_torchs_own() -> None:
    theirs = spread(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64))
    ours = SelfAttention(WIDTH, HEADS).double()
    copy_self(ours, theirs)
    hidden = random(3, 5, WIDTH)
    expected, _ = theirs(hidden, hidden, hidden, key_padding_mask=~MASK, need_weights=False)
    torch.testing.assert_close(ours(hidden, MASK[:, None, None, :]), expected, rtol=1e-11, atol=1e-12)
    expected, _ = theirs(hidden, hidden, hidden, attn_mask=~torch.ones(5, 5).tril().bool(), need_weights=False)
    torch.testing.assert_close(ours(hidden, causal=True), expected, rtol=1e-11, atol=1e-12)


def test_cross_attention_is_torchs_own() -> None:
    theirs = spread(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, dtype=torch.float64))
    ours = CrossAttention(WIDTH, HEADS).double()
    copy_cross(ours, theirs)
    hidden, memory = random(3, 7, WIDTH, seed=1), random(3, 5, WIDTH, seed=2)
    expected, _ = theirs(hidden, memory, memory, key_padding_mask=~MASK, need_weights=False)
    found = ours(hidden, *ours.keys_values(memory), MASK[:, None, None, :])
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def options(norm: str, activation: str) -> TransformerOptions:
    return TransformerOptions(9, WIDTH, HEADS, 1, 1, 20, dropout=0.0, norm=norm, activation=activation)


def copy_feed_forward(ours: EncoderLayer | DecoderLayer, theirs: nn.Module) -> None:
    copy_linear(ours.feed_forward.project_in, theirs.linear1.weight, theirs.linear1.bias)
    copy_linear(ours.feed_forward.project_out, theirs.linear2.weight, theirs.linear2.bias)


def torch_layer(kind: type[nn.Module], norm: str, activation: str) -> nn.Module:
    layer = kind(
        WIDTH, HEADS, 20, dropout=0.0, activation=activation, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    return spread(layer).train()  # evaluation would take torch's fused path, which is another arithmetic


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_encoder_layer_is_torchs_own(norm: str, activation: str) -> None:
    theirs = torch_layer(nn.TransformerEncoderLayer, norm, activation)
    ours = EncoderLayer(options(norm, activation)).double()
    copy_self(ours.attention, theirs.self_attn)
    copy_feed_forward(ours, theirs)
    ours.around_attention.norm.load_state_dict(theirs.norm1.state_dict())
    ours.around_feed_forward.norm.load_state_dict(theirs.norm2.state_dict())
    hidden = random(3, 5, WIDTH)
    expected = theirs(hidden, src_key_padding_mask=~MASK)
    torch.testing.assert_close(ours(hidden, MASK[:, None, None, :], None), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_decoder_layer_is_torchs_own(norm: str, activation: str) -> None:
    theirs = torch_layer(nn.TransformerDecoderLayer, norm, activation)
    ours = DecoderLayer(options(norm, activation)).double()
    copy_self(ours.attention, theirs.self_attn)
    copy_cross(ours.cross, theirs.multihead_attn)
    copy_feed_forward(ours, theirs)
    for around, norm_of in ((ours.around_attention, theirs.norm1), (ours.around_cross, theirs.norm2)):
        around.norm.load_state_dict(norm_of.state_dict())
    ours.around_feed_forward.norm.load_state_dict(theirs.norm3.state_dict())
    hidden, memory = random(3, 6, WIDTH, seed=1), random(3, 5, WIDTH, seed=2)
    causal = ~torch.ones(6, 6).tril().bool()
    expected = theirs(hidden, memory, tgt_mask=causal, memory_key_padding_mask=~MASK)
    found = ours(hidden, Memory(*ours.cross.keys_values(memory), MASK[:, None, None, :]), None)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def test_swiglu_is_shazeers_equation() -> None:
    layer = spread(EncoderLayer(options("pre", "swiglu")).double())
    module, x = layer.feed_forward, random(2, 3, WIDTH)
    w, v = module.project_in.weight.chunk(2)
    b, c = module.project_in.bias.chunk(2)
    gate = x @ w.T + b
    inner = gate / (1 + torch.exp(-gate)) * (x @ v.T + c)
    expected = inner @ module.project_out.weight.T + module.project_out.bias
    torch.testing.assert_close(module(x), expected, rtol=1e-12, atol=1e-13)


# --- positions


@pytest.mark.parametrize("width", [8, 7])
def test_sinusoids_are_the_papers_formula(width: int) -> None:
    found = sinusoids(50, width)
    assert found.shape == (50, width)
    for position in range(50):
        for column in range(width):
            angle = position / 10000 ** (column // 2 * 2 / width)
            expected = math.cos(angle) if column % 2 else math.sin(angle)
            assert found[position, column].item() == pytest.approx(expected, abs=1e-7)


def test_rotary_is_its_matrix() -> None:
    """Su et al. 2021, eq. 15: block-diagonal rotations by m theta_i, theta_i = 10000^(-2i / d)."""
    heads, length, width = 2, 6, 8
    hidden = random(3, heads, length, width)
    found = rotate(hidden, rotations(length, width))
    for m in range(length):
        matrix = torch.zeros(width, width, dtype=torch.float64)
        for i in range(width // 2):
            angle = m * 10000 ** (-2 * i / width)
            matrix[2 * i, 2 * i] = matrix[2 * i + 1, 2 * i + 1] = math.cos(angle)
            matrix[2 * i, 2 * i + 1], matrix[2 * i + 1, 2 * i] = -math.sin(angle), math.sin(angle)
        torch.testing.assert_close(found[:, :, m], hidden[:, :, m] @ matrix.T, rtol=1e-6, atol=1e-6)


def test_rotated_products_depend_on_the_difference_of_positions_only() -> None:
    query, key = random(8, seed=1), random(8, seed=2)
    rotation = rotations(40, 8).double()

    def product(m: int, n: int) -> float:
        rotated_query = rotate(query.view(1, 1, 1, 8), rotation[m : m + 1])
        return float((rotated_query * rotate(key.view(1, 1, 1, 8), rotation[n : n + 1])).sum())

    for m, n in ((0, 0), (5, 2), (2, 5), (12, 3)):
        for shift in (1, 7, 25):
            assert product(m + shift, n + shift) == pytest.approx(product(m, n), abs=1e-5)  # the rotations are float32
    assert abs(product(5, 2) - product(2, 5)) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 8, 9, 40])
@pytest.mark.parametrize("keys", [1, 5, 12, 13, 30])
@pytest.mark.parametrize("queries", [1, 2])
def test_queries_of_the_next_position_are_the_formula_whichever_kernel_computes_them(
    rows: int, keys: int, queries: int
) -> None:
    query, key, value = random(rows, 2, queries, 8), random(rows, 2, keys, 8, seed=1), random(rows, 2, keys, 8, seed=2)
    masks = [None, torch.arange(keys) < torch.arange(1, rows + 1).clamp(max=keys)[:, None, None, None]]
    for mask in masks:
        scores = query @ key.transpose(-1, -2) / math.sqrt(8)
        weights = torch.softmax(scores if mask is None else scores.masked_fill(~mask, -math.inf), -1)
        for kind, close in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
            bias = None if mask is None else as_bias(mask, query.to(kind))
            room = torch.full((rows, 2, keys + 3, 8), torch.nan, dtype=kind)  # a cache is larger than what it holds
            room[:, :, :keys] = key
            found = attend_next(query.to(kind), room[:, :, :keys], value.to(kind), bias)
            torch.testing.assert_close(found.double(), weights @ value, rtol=close, atol=close)
