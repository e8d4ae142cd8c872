"""Greedy and beam search over the adapter write what Hugging Face's own ``generate`` writes, with the same scores."""

import pytest
import torch

from guerdon.data.padded import Padded
from guerdon.decoding import BeamOptions, beam_search, greedy
from guerdon.models.huggingface import HuggingFacePolicy

pytest.importorskip("transformers")
from helpers.tiny_models import in_float64, tiny_bart, tiny_marian, tiny_t5

MAKERS = {
    "t5": tiny_t5,
    "bart-forced": tiny_bart,
    "bart-free": lambda seed: tiny_bart(seed=seed, forced_first=None),
    "marian": tiny_marian,
}
SOURCES = Padded.from_lists([[5, 9, 3, 7, 4, 2], [8, 3], [6, 11, 10], [4] * 9, [7]])
LIMIT = 12


# transformers counts a forced first token in the length that it divides by, and guerdon does not: such outputs rank alike
# only without a length penalty.
PENALTIES = [(name, penalty) for name in MAKERS for penalty in (0.0, 1.0, 2.0) if not penalty or name != "bart-forced"]


def sharp(name, seed):
    """Sharper distributions, in which ends compete: random ones rarely end an output before the limit."""
    policy = HuggingFacePolicy(in_float64(MAKERS[name](seed=seed)))
    head = policy.model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight * 3)
    return policy


def generate(policy, **settings):
    """What transformers writes, row by row: the ids of each output without what stands before it, and its score."""
    limit = LIMIT + len(policy.prompt) - 1
    found = policy.model.generate(
        input_ids=SOURCES.ids.masked_fill(~SOURCES.mask, policy.pad_id),
        attention_mask=SOURCES.mask.long(),
        suppress_tokens=(~policy.allowed).nonzero()[:, 0].tolist(),
        max_new_tokens=limit,
        do_sample=False,
        # transformers takes the softmax before it rules tokens out; here what is left adds up to one again.
        renormalize_logits=True,
        return_dict_in_generate=True,
        output_scores=True,
        **settings,
    )
    outputs = []
    for row in found.sequences[:, len(policy.prompt) :].tolist():
        ended = row.index(policy.end_id) if policy.end_id in row else len(row)
        outputs.append(tuple(row[:ended]))
    scores = found.sequences_scores.tolist() if settings.get("num_beams", 1) > 1 else None
    return outputs, scores


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MAKERS)
def test_greedy_is_generates(name, seed):
    policy = sharp(name, seed)
    wanted, _ = generate(policy, num_beams=1)
    found = greedy(policy, SOURCES, torch.full((len(SOURCES),), LIMIT))
    assert [hypothesis.tokens for hypothesis in found] == wanted


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "length_penalty"), PENALTIES)
def test_beam_search_is_generates(name, length_penalty, seed):
    policy = sharp(name, seed)
    wanted, scores = generate(policy, num_beams=4, early_stopping=True, length_penalty=length_penalty, num_return_sequences=4)
    options = BeamOptions(beam_size=4, length_penalty=length_penalty, returned=4)
    found = [one for row in beam_search(policy, SOURCES, torch.full((len(SOURCES),), LIMIT), options) for one in row]
    assert [one.tokens for one in found] == wanted
    assert [one.score for one in found] == pytest.approx(scores, rel=1e-5, abs=1e-6)  # transformers searches in float32


def test_both_kinds_of_output_occur():
    """Outputs that end, of several lengths, and outputs cut at the limit: otherwise the tests above would show little."""
    lengths = set()
    for name in MAKERS:
        limits = torch.full((len(SOURCES),), LIMIT)
        for row in beam_search(sharp(name, 0), SOURCES, limits, BeamOptions(beam_size=4, returned=4)):
            lengths.update((len(one.tokens), one.finished) for one in row)
    assert len({length for length, finished in lengths if finished}) >= 4
    assert any(not finished for _, finished in lengths)
