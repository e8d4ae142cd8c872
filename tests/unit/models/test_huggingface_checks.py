"""What cannot be a policy is refused when the policy is built, with the reason."""

import pytest
import torch

from guerdon.errors import CapabilityError
from guerdon.models.huggingface import HuggingFacePolicy

pytest.importorskip("transformers")
from helpers.tiny_models import tiny_bart, tiny_marian, tiny_t5


def refused(model, message):
    with pytest.raises(CapabilityError, match=message):
        HuggingFacePolicy(model)


def test_models_of_another_kind():
    from transformers import GPT2Config, GPT2LMHeadModel, T5Model

    refused(GPT2LMHeadModel(GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)), "not an encoder-decoder")
    refused(T5Model(tiny_t5().config), "no head over the vocabulary")
    refused(torch.nn.Linear(2, 2), "Linear: not an encoder-decoder")


def test_a_model_that_reads_no_text():
    model = tiny_t5()
    model.main_input_name = "input_features"
    refused(model, "reads input_features")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("eos_token_id", [1, 4], r"eos_token_id is \[1, 4\], and a policy has one"),
        ("begin_suppress_tokens", [4], "begin_suppress_tokens"),
        ("sequence_bias", [[[4, 5], -1.0]], "sequence_bias"),
        ("suppress_tokens", [3, 1], "holds the end token 1"),
        ("bad_words_ids", [[4], [5, 6]], "words of several tokens"),
    ],
)
def test_settings_that_a_policy_cannot_obey(name, value, message):
    model = tiny_t5()
    setattr(model.generation_config, name, value)
    refused(model, message)


def test_special_tokens_that_are_not_set():
    for name in ("decoder_start_token_id", "pad_token_id", "eos_token_id"):
        model = tiny_t5()
        setattr(model.generation_config, name, None)
        setattr(model.config, name, None)
        refused(model, f"{name} is not set; set model.generation_config.{name}")


def test_a_list_of_one_end_token_is_one_end_token():
    model = tiny_t5()
    model.generation_config.eos_token_id = [1]
    assert HuggingFacePolicy(model).end_id == 1


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart, tiny_marian])
def test_a_model_that_reads_its_padding(make):
    kind = type(make())

    class Blind(kind):
        def forward(self, *args, attention_mask=None, **rest):
            return super().forward(*args, attention_mask=None, **rest)

    model = make()
    model.__class__ = Blind
    refused(model, "alone and in a padded batch differ by")


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart, tiny_marian])
def test_a_model_that_forgets_what_it_wrote(make):
    kind = type(make())

    class Forgetful(kind):
        def forward(self, *args, past_key_values=None, decoder_attention_mask=None, **rest):
            if past_key_values is not None:
                past_key_values.self_attention_cache.reset()
            return super().forward(*args, past_key_values=past_key_values, **rest)

    model = make()
    model.__class__ = Forgetful
    refused(model, "step by step and at once differ by")


def test_a_model_with_broken_weights():
    model = tiny_t5()
    with torch.no_grad():
        model.decoder.final_layer_norm.weight[0] = torch.nan
    refused(model, "differ by nan")


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart, tiny_marian])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sound_models_pass_in_every_precision_and_keep_their_mode(make, dtype):
    model = make().to(dtype).train()
    assert HuggingFacePolicy(model).training
    assert model.training
    assert not HuggingFacePolicy(model.eval()).model.training


def test_the_check_takes_the_smallest_models():
    policy = HuggingFacePolicy(tiny_bart(vocabulary=4, max_position_embeddings=3))
    assert policy.max_target == 2
