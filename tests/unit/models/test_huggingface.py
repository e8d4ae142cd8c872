"""The adapter against the models themselves, called plainly on one unpadded row at a time, in float64."""

import copy

import pytest
import torch

from guerdon.data.padded import Padded
from guerdon.errors import CapabilityError, CheckpointError
from guerdon.models.huggingface import HuggingFacePolicy

pytest.importorskip("transformers")
from helpers.tiny_models import in_float64, tiny_bart, tiny_marian, tiny_t5

MAKERS = {
    "t5": tiny_t5,
    "bart": tiny_bart,
    "bart-free": lambda **settings: tiny_bart(forced_first=None, **settings),
    "marian": tiny_marian,
}
SOURCES = Padded.from_lists([[5, 9, 3, 7, 4], [8, 3], [6, 11, 10]], pad=2)
TARGETS = Padded.from_lists([[4, 7, 3], [9], [10, 10, 5, 6, 3]], pad=2)


@pytest.fixture(params=MAKERS)
def kind(request):
    return request.param


@pytest.fixture
def policy(kind):
    return HuggingFacePolicy(in_float64(MAKERS[kind]()))


def truth(policy, source, target):
    """log p of each next token by a loop: the bare model, one row, no padding, no cache, softmax by hand; [length, v]."""
    rows = []
    for position in range(len(target)):
        inputs = torch.tensor([[*policy.prompt, *target[:position]]])
        logits = policy.model(input_ids=torch.tensor([source]), decoder_input_ids=inputs, use_cache=False).logits[0, -1]
        weights = torch.where(policy.allowed, logits.exp(), 0.0)
        rows.append((weights / weights.sum()).log())
    return torch.stack(rows)


def truths(policy):
    pairs = zip(SOURCES.to_lists(), TARGETS.to_lists(), strict=True)
    return [truth(policy, source, target) for source, target in pairs]


def test_logits_are_the_bare_models(policy):
    assert_same(policy.logits(SOURCES, TARGETS).log_softmax(-1), torch.cat(truths(policy)))


def test_steps_are_the_bare_models(policy):
    for source, target, wanted in zip(SOURCES.to_lists(), TARGETS.to_lists(), truths(policy), strict=True):
        state, tokens = policy.start(Padded.from_lists([source]))
        assert state.rows == 1
        for position, token in enumerate(target):
            assert_same(policy.step(state, tokens).log_softmax(-1)[0], wanted[position])
            tokens = torch.tensor([token])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_evaluate_is_the_sum_of_the_steps(kind, dtype, tolerance):
    model = MAKERS[kind]()
    policy = HuggingFacePolicy(in_float64(model) if dtype == torch.float64 else model)
    evaluation = policy.evaluate(SOURCES, TARGETS, temperature=1.5)
    state, tokens = policy.start(SOURCES)
    total = torch.zeros(3, dtype=dtype)
    for position in range(TARGETS.ids.shape[1]):
        log_probs = (policy.step(state, tokens) / 1.5).log_softmax(-1)
        tokens = TARGETS.ids[:, position]
        total += torch.where(TARGETS.mask[:, position], log_probs.gather(1, tokens[:, None])[:, 0], 0.0)
    torch.testing.assert_close(evaluation.log_prob.sum(1), total, rtol=tolerance, atol=tolerance)
    assert torch.equal(evaluation.mask, TARGETS.mask)
    assert (evaluation.log_prob[~TARGETS.mask] == 0).all()


def test_evaluate_against_the_loop(policy, kind):
    anchor = HuggingFacePolicy(in_float64(MAKERS[kind](seed=1)))
    evaluation = policy.evaluate(SOURCES, TARGETS, anchor)
    for row, (mine, theirs) in enumerate(zip(truths(policy), truths(anchor), strict=True)):
        ids = torch.tensor(TARGETS.to_lists()[row])
        count, allowed = len(ids), policy.allowed
        assert_same(evaluation.log_prob[row, :count], mine[torch.arange(count), ids])
        assert_same(evaluation.anchor_log_prob[row, :count], theirs[torch.arange(count), ids])
        p, log_p, log_q = mine.exp()[:, allowed], mine[:, allowed], theirs[:, allowed]
        assert_same(evaluation.entropy[row, :count], -(p * log_p).sum(-1))
        assert_same(evaluation.kl[row, :count], (p * (log_p - log_q)).sum(-1))


def test_disallowed_tokens_have_no_probability_and_no_gradient(policy):
    logits = policy.logits(SOURCES, TARGETS)
    state, tokens = policy.start(SOURCES)
    for found in (logits, policy.step(state, tokens)):
        assert (found[:, ~policy.allowed] == -torch.inf).all()
        assert torch.isfinite(found[:, policy.allowed]).all()
    policy.evaluate(SOURCES, TARGETS, policy).log_prob.sum().backward()
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.requires_grad]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_padding_and_what_stands_in_it_change_nothing(policy):
    wanted = policy.evaluate(SOURCES, TARGETS).log_prob
    wide = Padded(torch.full((3, 9), 10_000), SOURCES.lengths), Padded(torch.full((3, 8), -100), TARGETS.lengths)
    for padded, plain in zip(wide, (SOURCES, TARGETS), strict=True):
        padded.ids[:, : plain.ids.shape[1]][plain.mask] = plain.ids[plain.mask]
    assert_same(policy.evaluate(*wide).log_prob[:, :5], wanted)
    order = torch.tensor([2, 0, 1])
    assert_same(policy.evaluate(SOURCES.select(order), TARGETS.select(order)).log_prob, wanted[order])
    alone = policy.evaluate(SOURCES.select(order[2:]), TARGETS.select(order[2:])).log_prob
    assert_same(alone[0], wanted[1, :1])


def test_several_targets_of_a_source_share_its_encoding(policy):
    encoded = []
    policy.model.get_encoder().register_forward_hook(lambda module, args, output: encoded.append(len(output[0])))
    rows = torch.tensor([2, 0, 2])
    shared = policy.evaluate(SOURCES, TARGETS, policy, rows=rows)
    assert encoded == [3, 3]  # the anchor's and the policy's own
    plain = policy.evaluate(SOURCES.select(rows), TARGETS, policy)
    assert_same(shared.log_prob, plain.log_prob)
    gradients = [torch.autograd.grad(one.log_prob.sum(), policy.model.get_input_embeddings().weight) for one in (shared, plain)]
    assert_same(*[gradient for (gradient,) in gradients])


@pytest.mark.parametrize("copies", [1, 3])
def test_select_drops_repeats_and_permutes_rows(policy, copies):
    state, tokens = policy.start(SOURCES, copies)
    assert state.rows == len(tokens) == 3 * copies
    source = torch.arange(3).repeat_interleave(copies)
    generator = torch.Generator().manual_seed(copies)
    written = torch.zeros(len(source), 0, dtype=torch.int64)
    for rows in (5, 7, 2, 4):
        logits = policy.step(state, tokens)
        for row in range(len(source)):
            history = [*written[row].tolist(), 3]  # the last token is not read: truth gives what precedes it
            wanted = truth(policy, SOURCES.to_lists()[source[row]], history)[-1]
            assert_same(logits[row].log_softmax(-1), wanted)
        kept = torch.randint(0, len(source), (rows,), generator=generator)
        state, source = state.select(kept), source[kept]
        tokens = torch.randint(3, 12, (rows,), generator=generator)
        written = torch.cat([written[kept], tokens[:, None]], 1)
        assert state.rows == rows


def test_selecting_before_the_first_step(policy):
    state, tokens = policy.start(SOURCES)
    kept = torch.tensor([2, 2, 0])
    logits = policy.step(state.select(kept), tokens[kept])
    assert_same(logits.log_softmax(-1), torch.stack([truths(policy)[row][0] for row in kept]))


def test_a_permutation_among_the_copies_of_a_source_moves_no_cross_attention(policy):
    state, tokens = policy.start(SOURCES, copies=2)
    policy.step(state, tokens)
    before = state.cache.cross_attention_cache.layers[0].keys
    state = state.select(torch.tensor([1, 0, 3, 3, 4, 4]))
    assert state.cache.cross_attention_cache.layers[0].keys is before
    state = state.select(torch.tensor([2, 1, 2, 3, 4, 5]))
    assert state.cache.cross_attention_cache.layers[0].keys is not before


def test_each_source_is_encoded_and_projected_once_however_many_copies(policy):
    encoded, projected = [], []
    policy.model.get_encoder().register_forward_hook(lambda module, args, output: encoded.append(len(output[0])))
    for name, module in policy.model.named_modules():
        if name.endswith(("EncDecAttention.k", "encoder_attn.k_proj")):
            module.register_forward_hook(lambda module, args, output: projected.append(len(output)))
    state, tokens = policy.start(SOURCES, copies=4)
    for _ in range(3):
        policy.step(state, tokens)
    assert encoded == [3]
    assert projected == [3, 3]  # two layers


def test_the_tokens_that_may_be_written():
    def disallowed(model):
        return (~HuggingFacePolicy(model).allowed).nonzero().flatten().tolist()

    assert disallowed(tiny_t5()) == [0]  # pad, which is also the start
    assert disallowed(tiny_bart()) == [1]  # pad; the start is the end token, which must stay
    assert disallowed(tiny_marian()) == [12]
    model = tiny_t5()
    model.generation_config.suppress_tokens = [4, 6]
    model.generation_config.bad_words_ids = [[9], [1]]  # transformers leaves the end token out of the bad words, too
    assert disallowed(model) == [0, 4, 6, 9]
    model = tiny_t5()
    model.generation_config.decoder_start_token_id = 5
    assert disallowed(model) == [0, 5]
    model = tiny_t5()
    model.generation_config.pad_token_id = 1  # as in models whose padding is their end token
    assert disallowed(model) == [0]
    assert HuggingFacePolicy(model).pad_id == 1


def test_limits():
    policy = HuggingFacePolicy(tiny_bart())
    assert (policy.max_source, policy.max_target) == (24, 23)  # the forced first token takes a position
    policy.logits(Padded.from_lists([[3] * 24]), Padded.from_lists([[3] * 23]))
    with pytest.raises(IndexError):
        policy.logits(SOURCES, Padded.from_lists([[3] * 24] * 3))
    policy = HuggingFacePolicy(tiny_t5(), max_target=40)
    assert (policy.max_source, policy.max_target) == (512, 40)
    assert HuggingFacePolicy(tiny_t5(n_positions=64)).max_source == 64


def test_round_trip_through_a_folder(kind, tmp_path):
    policy = HuggingFacePolicy(MAKERS[kind]())
    policy.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors"}
    again = HuggingFacePolicy.from_pretrained(tmp_path)
    assert again.prompt == policy.prompt
    assert torch.equal(again.allowed, policy.allowed)
    assert torch.equal(again.logits(SOURCES, TARGETS), policy.logits(SOURCES, TARGETS))
    assert next(HuggingFacePolicy.from_pretrained(tmp_path, dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16
    assert HuggingFacePolicy.from_pretrained(tmp_path, max_source=9, max_target=7).max_target == 7


def test_a_frozen_copy_is_an_anchor(policy):
    anchor = copy.deepcopy(policy).requires_grad_(False)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    evaluation = policy.evaluate(SOURCES, TARGETS, anchor)
    assert (evaluation.kl[TARGETS.mask] > 1e-6).all()
    assert_same(evaluation.anchor_log_prob, anchor.evaluate(SOURCES, TARGETS).log_prob)
    evaluation.kl.sum().backward()
    assert all(parameter.grad is None for parameter in anchor.parameters())


def test_folders_that_cannot_be_opened(tmp_path):
    def refused(folder, message):
        with pytest.raises((CapabilityError, CheckpointError), match=message):
            HuggingFacePolicy.from_pretrained(folder)

    refused(tmp_path / "nowhere", "cannot be loaded")
    HuggingFacePolicy(tiny_t5()).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    refused(tmp_path, "cannot be loaded")
    weights.unlink()
    torch.save(tiny_t5().state_dict(), tmp_path / "pytorch_model.bin")
    refused(tmp_path, "safetensors")
    HuggingFacePolicy(tiny_t5(vocabulary=15)).save(tmp_path / "other")
    weights.write_bytes((tmp_path / "other" / "model.safetensors").read_bytes())
    refused(tmp_path, r"weights do not fit the configuration: .* is \[15, 16\], not \[13, 16\]")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    refused(tmp_path, "gpt2 model is no encoder-decoder")


def test_weights_that_are_missing_are_not_made_up(tmp_path):
    from safetensors.torch import load_file, save_file

    HuggingFacePolicy(tiny_bart()).save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in weights if "fc1.weight" in name)
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"1 weights do not fit the configuration: {gone} is missing"):
        HuggingFacePolicy.from_pretrained(tmp_path)


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_decoding_in_bfloat16_is_near_float32():
    policy = HuggingFacePolicy(tiny_marian())
    logits = []
    for precision in ("float32", "bfloat16"):
        with torch.no_grad():
            state, tokens = policy.start(SOURCES, 2, precision)
            logits.append(torch.stack([policy.step(state, tokens).float() for _ in range(3)]))
    kept = logits[0].isfinite()
    off = (logits[0] - logits[1])[kept].abs()
    assert 1e-4 < float(off.mean()) < 0.1
