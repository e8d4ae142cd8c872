"""The tokenizer against its promises, against GPT-2's algorithm written out, and on real texts."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guerdon.data import Tokenizer
from guerdon.errors import CheckpointError, ConfigurationError, DataError, InputError

ROOT = Path(__file__).parents[3]
SPECIAL = {Tokenizer.pad_id, Tokenizer.start_id, Tokenizer.end_id, Tokenizer.mask_id}
CORPUS = [
    "The Golden Palace is a coffee shop. <pad></s><s><mask>",
    "<pad> <pad> <pad></s></s></s><mask><mask><unk><unk>",
    "⟨pad⟩ ⟨pad⟩ ⟨start⟩ ⟨start⟩ ⟨end⟩ ⟨end⟩ ⟨mask⟩ ⟨mask⟩",
    "日本語の文。日本語の文。  two  spaces\t\ttabs\n\nlines 👍👍🏽",
] * 4
UNICODE = st.text(st.characters(exclude_categories=["Cs"]))


BYTES_ONLY = Tokenizer.train(CORPUS, 260)
MERGED = Tokenizer.train(CORPUS, 500)


@given(UNICODE)
@example("<pad></s> <s> <mask> ⟨pad⟩⟨start⟩⟨end⟩⟨mask⟩")
@example("  leading,   many \t\r\n\v\f\x1c\x85\u2028 trailing  ")
@example("\0\x01\x1b\x7f\ufeff\ufffe\uffff\U0010ffff")
@example("e\u0301 \u0301\u0301 a\u200d👩‍👩‍👧‍👦 \u202eright to left")
@example("İıſß ﬁ Å Å")
def test_every_string_comes_back(text: str) -> None:
    for tokenizer in (BYTES_ONLY, MERGED):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert not SPECIAL & set(ids)
        assert all(0 <= token < tokenizer.vocabulary_size for token in ids)


@given(st.lists(UNICODE, max_size=4))
def test_a_batch_is_its_texts(texts: list[str]) -> None:
    rows = MERGED.encode_batch(texts)
    assert rows == [MERGED.encode(text) for text in texts]
    assert MERGED.decode_batch(rows) == texts


@given(UNICODE, st.data())
def test_special_ids_leave_no_trace(text: str, data: st.DataObject) -> None:
    ids = MERGED.encode(text)
    for special in data.draw(st.lists(st.sampled_from(sorted(SPECIAL)), max_size=5)):
        ids.insert(data.draw(st.integers(0, len(ids))), special)
    assert MERGED.decode(ids) == text


@given(st.lists(st.integers(0, 259), max_size=12))
def test_any_ids_decode_to_some_text(ids: list[int]) -> None:
    MERGED.decode(ids).encode()


def test_bytes_that_are_no_utf8_are_marked() -> None:
    ids = BYTES_ONLY.encode("é")
    assert len(ids) == 2
    assert BYTES_ONLY.decode(ids[:1]) == "\ufffd"


@given(UNICODE)
def test_without_merges_an_id_is_a_byte(text: str) -> None:
    assert len(BYTES_ONLY.encode(text)) == len(text.encode())


def naive_merges(words: Counter[bytes], count: int) -> list[tuple[bytes, ...]]:
    """Byte-pair encoding as Sennrich et al. (2016) print it: merge the most frequent pair, again and again."""
    vocabulary = {tuple(bytes([byte]) for byte in word): n for word, n in words.items()}
    for _ in range(count):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, n in vocabulary.items():
            for pair in pairwise(word):
                pairs[pair] += n
        (best, n), *rest = pairs.most_common()
        assert not rest or rest[0][1] < n, "the example must have no ties"
        merged: dict[tuple[bytes, ...], int] = {}
        for word, n in vocabulary.items():
            pieces, at = list[bytes](), 0
            while at < len(word):
                hit = word[at : at + 2] == best
                pieces.append(b"".join(best) if hit else word[at])
                at += 2 if hit else 1
            merged[tuple(pieces)] = n
        vocabulary = merged
    return list(vocabulary)


def test_merges_are_those_of_byte_pair_encoding() -> None:
    words = {b"aaab": 21, b"aab": 13, b"abc": 5, b"xyxyz": 8, b"\xc3\xa9x": 3}
    texts = [word.decode() for word, n in words.items() for _ in range(n)]
    merges = 5
    segmented = naive_merges(Counter(words), merges)
    tokenizer = Tokenizer.train(texts, 260 + merges)
    for pieces in segmented:
        ids = tokenizer.encode(b"".join(pieces).decode())
        assert [len(piece) for piece in pieces] == [lengths(tokenizer)[token] for token in ids]


def lengths(tokenizer: Tokenizer) -> list[int]:
    """How many bytes each id stands for: byte-level files write one character a byte."""
    vocabulary = json.loads(tokenizer._content)["model"]["vocab"]
    return [len(name) for name, _ in sorted(vocabulary.items(), key=lambda item: item[1])]


def test_words_never_cross_white_space() -> None:
    tokenizer = Tokenizer.train(["of the of the of the of the"] * 50, 1000)
    assert tokenizer.encode("of the") == [*tokenizer.encode("of"), *tokenizer.encode(" the")]
    assert len(tokenizer.encode("of the")) == 2
    assert tokenizer.vocabulary_size < 270


def test_special_ids_are_fixed_and_all_bytes_are_there() -> None:
    assert (MERGED.pad_id, MERGED.start_id, MERGED.end_id, MERGED.mask_id) == (0, 1, 2, 3)
    assert BYTES_ONLY.vocabulary_size == 260
    every = {token for n in range(0x250) for token in BYTES_ONLY.encode(chr(n))}
    every |= {token for n in range(0, 0x110000, 0x40) if not 0xD800 <= n < 0xE000 for token in BYTES_ONLY.encode(chr(n))}
    never_in_utf8 = 13  # 0xc0, 0xc1 and 0xf5 to 0xff
    assert len(every) == 256 - never_in_utf8
    assert {len({*row}) for row in [BYTES_ONLY.encode("aé日👍")]} == {10}


def test_small_corpora_give_fewer_ids() -> None:
    assert Tokenizer.train(["ab cd"], 5000).vocabulary_size == 260  # no pair occurs twice
    assert 260 < Tokenizer.train(["aa aa"] * 2, 5000).vocabulary_size < 270
    assert MERGED.vocabulary_size <= 500


@pytest.mark.parametrize("size", [-1, 0, 4, 259])
def test_a_vocabulary_below_the_bytes_is_refused(size: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"vocabulary_size: {size} is too few: .*; ask for at least 260"):
        Tokenizer.train(["a"], size)


def test_texts_that_cannot_be() -> None:
    with pytest.raises(DataError, match="no texts to train"):
        Tokenizer.train([], 300)
    with pytest.raises(DataError, match=r"text 2 holds \\udfff, half a surrogate pair, at character 3"):
        Tokenizer.train(["ok", "ab\udfff"], 300)
    with pytest.raises(DataError, match=r"the text holds \\ud800, half a surrogate pair, at character 1"):
        MERGED.encode("\ud800")
    with pytest.raises(DataError, match="text 2 holds"):
        MERGED.encode_batch(["a", "\ud83d"])
    assert MERGED.encode("") == MERGED.encode_batch([]) == MERGED.decode_batch([]) == []


@pytest.mark.parametrize("token", [-1, 10_000])
def test_ids_that_are_not_there(token: int) -> None:
    with pytest.raises(DataError, match=f"no id {token}: the vocabulary has"):
        MERGED.decode([5, token])
    with pytest.raises(DataError, match=f"no id {token}"):
        MERGED.decode_batch([[5], [token]])


def test_save_and_load(tmp_path: Path) -> None:
    MERGED.save(tmp_path / "new" / "folder")
    file = tmp_path / "new" / "folder" / "tokenizer.json"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == MERGED.fingerprint
    for path in (file, file.parent, str(file)):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == MERGED.fingerprint
        assert loaded.vocabulary_size == MERGED.vocabulary_size
        assert loaded.encode_batch(CORPUS) == MERGED.encode_batch(CORPUS)
    loaded.save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == file.read_bytes()
    assert pickle.loads(pickle.dumps(MERGED)).encode("a b") == MERGED.encode("a b")
    assert Tokenizer.train(CORPUS, 300).fingerprint != MERGED.fingerprint


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(InputError, match="cannot be written"):
            MERGED.save(folder)


def test_nothing_to_load(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DataError, match=r"no tokenizer: No such file.*; name a trained model's folder"):
            Tokenizer.load(path)


def foreign(tokenizer: Tokenizer, **parts: object) -> bytes:
    return json.dumps(json.loads(tokenizer._content) | parts).encode()


def renamed(tokenizer: Tokenizer, old: str, new: str | None) -> bytes:
    content = json.loads(tokenizer._content)
    token = content["model"]["vocab"].pop(old)
    if new:
        content["model"]["vocab"][new] = token
    return json.dumps(content).encode()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = BYTES_ONLY._content
    prefix = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    broken = {
        "damaged": [b"", b"{}", whole[:-30], b"\xff" + whole, whole.replace(b'"BPE"', b'"XYZ"'), b"\0" * 100],
        "it treats texts": [foreign(BYTES_ONLY, normalizer={"type": "Lowercase"}), foreign(BYTES_ONLY, pre_tokenizer=prefix)],
        "special ids": [renamed(BYTES_ONLY, "⟨mask⟩", "<mask>")],
        "some bytes": [renamed(BYTES_ONLY, "!", "!!")],
        "gaps": [renamed(BYTES_ONLY, "!", None)],
    }
    file = tmp_path / "tokenizer.json"
    for said, contents in broken.items():
        for content in contents:
            file.write_bytes(content)
            with pytest.raises(CheckpointError, match=said) as caught:
                Tokenizer.load(tmp_path)
            assert str(caught.value).startswith(str(file))
            assert "\n" not in str(caught.value)


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    environment = {**kept, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)


def test_training_is_the_same_in_every_process() -> None:
    code = """
        from guerdon.data import Tokenizer
        texts = [f"{a} {b}{a} {a * b}" for a in range(60) for b in range(60)]  # thousands of ties
        print(Tokenizer.train(texts, 900).fingerprint)
    """
    runs = [
        run(code, PYTHONHASHSEED=seed, TOKENIZERS_PARALLELISM=threads).stdout for seed in "12" for threads in ("true", "false")
    ]
    assert len(set(runs)) == 1
    assert len(runs[0].strip()) == 64


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("chosen", [None, "true"])
def test_a_fork_after_encoding_is_silent_and_works(chosen: str | None) -> None:
    code = """
        import os, warnings
        from guerdon.data import Tokenizer
        warnings.simplefilter("ignore")  # of Python 3.12 and later: a process with threads forks
        tokenizer = Tokenizer.train(["some text"] * 9, 300)
        rows = tokenizer.encode_batch(["some text"] * 1000)
        before = os.environ.get("TOKENIZERS_PARALLELISM")
        child = os.fork()
        if not child:
            seen = os.environ["TOKENIZERS_PARALLELISM"]
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # what the child may choose to be safe
            os._exit(0 if tokenizer.encode_batch(["some text"] * 1000) == rows and seen == (before or "false") else 1)
        print(os.waitpid(child, 0)[1], os.environ.get("TOKENIZERS_PARALLELISM") == before)
    """
    done = run(code, **({"TOKENIZERS_PARALLELISM": chosen} if chosen else {}))
    assert (done.stdout, done.stderr) == ("0 True\n", "")


def test_real_texts_come_back(e2e_pairs: list[tuple[str, str]], e2e_tokenizer: Tokenizer, data_folder: Path) -> None:
    texts = [text for pair in e2e_pairs[::20] for text in pair]
    rows = e2e_tokenizer.encode_batch(texts)
    assert e2e_tokenizer.decode_batch(rows) == texts
    assert e2e_tokenizer.vocabulary_size == 3000
    assert sum(map(len, rows)) < 0.3 * sum(map(len, texts))
    for name in ("multi30k/val", "rawtext_en/valid", "hh_harmless_test/pairs"):
        lines = (data_folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert e2e_tokenizer.decode_batch(e2e_tokenizer.encode_batch(lines)) == lines
