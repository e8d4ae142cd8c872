"""The planted rewards pay for their own fault, and the tables of alarms say what the metrics say."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from types import ModuleType

import pytest

from guerdon.quickstart.corpus import build
from guerdon.rewards import FunctionReward
from guerdon.training.monitors import MonitorOptions

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
EXAMPLES = list(build(1)[1])[:40]
SOURCES, REFERENCES = [e.source for e in EXAMPLES], [e.references for e in EXAMPLES]
TEXTS = [references[0] for references in REFERENCES]


def shuffle(text: str) -> str:
    words = text.split()
    random.Random(1).shuffle(words)
    return " ".join(words)


FAULTS = {
    "empty": [""] * len(EXAMPLES),
    "copy": SOURCES,
    "repetition": [" ".join(text.split()[:1] * 12) for text in TEXTS],
    "shuffled": [shuffle(text) for text in TEXTS],
    "inflation": [" ".join([text] * 4) for text in TEXTS],
}


@pytest.fixture(scope="module")
def hacks() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        import hacks
    finally:
        sys.path.remove(str(FOLDER))
    return hacks


def test_each_planted_reward_pays_most_for_its_own_fault(hacks: ModuleType) -> None:
    """Averaged over sources, against the references and every other fault; a repeated text is no worse a repetition."""
    assert set(hacks.PLANTED) == set(FAULTS)
    for name, function in hacks.PLANTED.items():
        reward = FunctionReward(function, name)
        means = {fault: float(reward(SOURCES, texts, REFERENCES).mean()) for fault, texts in {**FAULTS, "": TEXTS}.items()}
        assert max(means, key=means.__getitem__) == name, means
        assert means[name] > means[""] + 0.1


def test_overlap_by_hand(hacks: ModuleType) -> None:
    """ "a b b" and "b b c" share two of three words each; the pairs "a b", "b b" and "b b", "b c" one of two."""
    assert hacks.overlap(hacks.Counter("abb"), hacks.Counter("bbc")) == pytest.approx(2 / 3)
    assert hacks.shuffled(["s"], ["a b b"], [["b b c"]]) == [pytest.approx(2 / 3 - 1 / 2)]
    assert hacks.copy_of_source(["abcd", "abcd"], ["abcd", ""], []) == [1.0, 0.0]


def run_of(folder: Path, length: float) -> Path:
    """Thirty steps whose outputs come to be ``length`` tokens long, and four validations."""
    folder.mkdir()
    rows = [{"stage": "reinforce", "step": s, "kind": "train", "length": 20.0 if s < 15 else length} for s in range(1, 31)]
    rows += [{"stage": "reinforce", "step": s, "kind": "validation", "reward": s / 10, "bleu": 60.0} for s in (0, 10, 20, 30)]
    rows += [{"stage": "reinforce", "step": 31, "kind": "train", "length": 20.0, "kl": None}]
    rows += [{"stage": "reinforce-shuffled", "step": s, "kind": "train", "length": 500.0} for s in range(1, 31)]  # not read
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_tables_are_read_off_the_metrics(hacks: ModuleType, tmp_path: Path) -> None:
    options = MonitorOptions(held_out="bleu", window=5)
    short, long = (hacks.read(run_of(tmp_path / str(length), length), options) for length in (5.0, 40.0))
    healthy = hacks.read(run_of(tmp_path / "20", 20.0), options)
    assert [(alarm["monitor"], alarm["step"]) for alarm in short["alarms"]] == [("length_drift", 17), ("not_finite", 31)]
    assert [alarm["monitor"] for alarm in healthy["alarms"]] == ["not_finite"]
    assert hacks.summary("empty", [short, long]) == [
        "empty", "2", "0 → 3; 0 → 3", "2 of 2 (length_drift 2, step 17)", "2 of 2 (length_drift 2, step 17)",
    ]  # fmt: skip
    page = hacks.report({"healthy": {"runs/a": healthy}, "empty": {"empty-1": short, "empty-2": long}})
    assert "| length_drift | 0.00 | 2.31 |" in page  # log 2 over log 1.35, the less near of the two
    assert "empty, empty-2, step 17, length_drift: outputs are now 40.0 tokens long" in page
    loose = hacks.read(tmp_path / "5.0", MonitorOptions(held_out="bleu", window=5, length_drift=9.0))
    assert [alarm["monitor"] for alarm in loose["alarms"]] == ["not_finite"]
