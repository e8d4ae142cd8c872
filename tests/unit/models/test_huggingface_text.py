"""The text side, on tiny tokenizers of the three shapes in use: T5's, BART's, and mBART's language tokens."""

import pytest

from guerdon.errors import CheckpointError, DataError
from guerdon.models.huggingface import HuggingFacePolicy
from guerdon.models.huggingface_text import HuggingFaceTokenizer

pytest.importorskip("transformers")
from helpers.tiny_models import tiny_bart, tiny_marian, tiny_t5

WORDS = ["the", "Cat", "sat", "on", "a", "mat", "."]


def backend(special, template, **settings):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=special[3]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(name, vocabulary[name]) for name in special]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=special[3], **settings)


@pytest.fixture
def t5():
    special = ["<pad>", "</s>", "<extra>", "<unk>"]
    tokenizer = backend(special, "$A </s>", pad_token="<pad>", eos_token="</s>")
    return HuggingFaceTokenizer(tokenizer, HuggingFacePolicy(tiny_t5()))


def bart_like(template, **settings):
    tokenizer = backend(["<s>", "<pad>", "</s>", "<unk>"], template, bos_token="<s>", pad_token="<pad>", eos_token="</s>")
    return HuggingFaceTokenizer(tokenizer, HuggingFacePolicy(tiny_bart(**settings)))


def test_sources_come_as_the_model_reads_them(t5):
    assert t5.encode("the Cat sat") == [4, 5, 6, 1]
    assert t5.encode_batch(["a mat .", "", "dog"]) == [[8, 9, 10, 1], [1], [3, 1]]
    assert t5.encode_batch([]) == []
    assert bart_like("<s> $A </s>").encode("a mat") == [0, 8, 9, 2]


def test_targets_come_without_start_and_end(t5):
    assert t5.encode_target("the Cat sat") == [4, 5, 6]
    assert t5.encode_target("") == []


def test_a_forced_first_token_is_no_part_of_a_target():
    assert bart_like("<s> $A </s>").encode_target("a mat") == [8, 9]
    # Where the model is not forced to write it, it has to learn to, as in Hugging Face's own labels.
    assert bart_like("<s> $A </s>", forced_first=None).encode_target("a mat") == [0, 8, 9]


def test_what_stands_behind_the_end_is_no_part_of_a_target():
    # mBART's first form: the language token behind the end is what the decoder starts with.
    assert bart_like("$A </s> <s>").encode_target("a mat") == [8, 9]


def test_a_target_that_spells_a_special_token_is_refused(t5):
    for text, name in (("the </s> Cat", "</s>"), ("the <pad> Cat", "<pad>")):
        with pytest.raises(DataError, match=f"spells the special token '{name}'"):
            t5.encode_target(text)


def test_texts_come_back(t5):
    assert t5.decode([4, 5, 6]) == "the Cat sat"
    assert t5.decode(t5.encode("the Cat sat")) == "the Cat sat"
    assert t5.decode_batch([[8, 9, 10], [], [1]]) == ["a mat .", "", ""]


def test_no_blank_is_cleaned_away(t5):
    # transformers' clean-up would turn "mat ." into "mat.", so that rewards would judge what the policy did not write.
    assert t5.decode([9, 10]) == "mat ."


def test_columns_of_the_model_beyond_the_tokenizer_are_no_text(t5):
    assert len(t5._backend) == 11
    assert t5.vocabulary_size == 13
    assert t5.decode([4, 11, 12, 5]) == "the Cat"


def test_special_ids_are_the_policys(t5):
    assert (t5.pad_id, t5.start_id, t5.end_id) == (0, 0, 1)
    assert (bart_like("<s> $A </s>").start_id, bart_like("<s> $A </s>").end_id) == (2, 2)


def test_round_trip_beside_the_model(t5, tmp_path):
    policy = HuggingFacePolicy(tiny_t5())
    policy.save(tmp_path)
    t5.save(tmp_path)
    again = HuggingFaceTokenizer.from_pretrained(tmp_path, HuggingFacePolicy.from_pretrained(tmp_path))
    assert again.encode("the Cat sat") == [4, 5, 6, 1]
    assert again.fingerprint == t5.fingerprint
    assert bart_like("<s> $A </s>").fingerprint != t5.fingerprint
    assert not [path.name for path in tmp_path.iterdir() if path.suffix in (".bin", ".pkl", ".pt")]


@pytest.mark.parametrize("make", [tiny_t5, tiny_bart, tiny_marian])
def test_a_folder_without_a_tokenizer(make, tmp_path):
    policy = HuggingFacePolicy(make())
    policy.save(tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer cannot be loaded|it knows no words"):
        HuggingFaceTokenizer.from_pretrained(tmp_path, policy)


def test_the_tokenizer_of_another_model(t5):
    with pytest.raises(CheckpointError, match="its end token is 1, the model's 2"):
        HuggingFaceTokenizer(t5._backend, HuggingFacePolicy(tiny_bart()))
    with pytest.raises(CheckpointError, match="it has ids up to 10, the model up to 8"):
        HuggingFaceTokenizer(t5._backend, HuggingFacePolicy(tiny_t5(vocabulary=9)))
