"""What holds for the rewards together, on real data."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import guerdon.rewards
from guerdon.rewards import Normaliser, NormaliserOptions, RewardContext, build_reward
from guerdon.rewards.base import Judged

RECIPES = Path(__file__).parents[3] / "recipes"
PARTS = [
    {"type": "word_frequency", "weight": 0.25},
    {"type": "bleu", "lowercase": True},
    {"type": "chrf"},
    {"type": "rouge_l"},
    {"type": "length", "minimum": 5, "maximum": 40},
    {"type": "repetition", "n": 2},
    {"type": "pattern", "must": [r"[.!?]$"]},
    {"type": "required_content", "patterns": "e2e_content.yaml"},
]


@pytest.fixture(scope="module")
def rows(data_folder):
    """40 training sources of E2E with at least 4 references each."""
    with (data_folder / "e2e" / "train.jsonl").open(encoding="utf-8") as lines:
        found = [row for row in map(json.loads, lines) if len(row["references"]) >= 4]
    return found[:40]


@pytest.fixture(scope="module")
def reward(rows):
    texts = [text for row in rows for text in row["references"]]
    return build_reward(PARTS, RewardContext(texts, RECIPES))


def judged_with(rows, outputs):
    """The first reference is kept for the output: the others are the references."""
    return Judged.of([row["source"] for row in rows], outputs, [row["references"][1:] for row in rows])


def test_every_public_name_is_there():
    assert all(hasattr(guerdon.rewards, name) for name in guerdon.rewards.__all__)
    assert len(set(guerdon.rewards.__all__)) == len(guerdon.rewards.__all__)


def test_importing_rewards_loads_no_heavy_library():
    code = (
        "import sys, guerdon.rewards\n"
        "heavy = {'transformers', 'sentence_transformers', 'wordfreq', 'jieba', 'matplotlib', 'pyarrow', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_own_references_beat_those_of_other_sources(rows, reward):
    own = [row["references"][0] for row in rows]
    others = own[20:] + own[:20]
    good, bad = (reward.judge(judged_with(rows, outputs)).parts for outputs in (own, others))
    for name in ("bleu", "chrf", "rouge_l", "required_content"):
        assert good[name].scores.mean() > bad[name].scores.mean() + 0.1, name
        assert good[name].applies.all()
    for name in ("word_frequency", "length", "repetition", "pattern"):  # these do not read the source
        assert sorted(good[name].scores.tolist()) == pytest.approx(sorted(bad[name].scores.tolist()), abs=1e-6)


def test_the_order_and_the_company_of_samples_change_no_score(rows, reward):
    outputs = [row["references"][0] for row in rows]
    together = reward.judge(judged_with(rows, outputs)).parts
    for start in (0, 13, 39):
        alone = reward.judge(judged_with(rows[start : start + 1], outputs[start : start + 1])).parts
        assert {n: p.scores.item() for n, p in alone.items()} == {n: p.scores[start].item() for n, p in together.items()}
    backwards = reward.judge(judged_with(rows[::-1], outputs[::-1])).parts
    assert all(torch.equal(part.scores.flip(0), together[name].scores) for name, part in backwards.items())


@pytest.mark.parametrize("output", ["", " ", "?", "x" * 3000, "\u0000", "的" * 300, "👍🏽" * 50, "a " * 2000])
def test_odd_outputs_have_finite_scores(rows, reward, output):
    parts = reward.judge(judged_with(rows[:1], [output])).parts
    assert all(part.scores.isfinite().all() for part in parts.values())


def test_the_whole_is_picklable(rows, reward):
    outputs = [row["references"][0] for row in rows]
    assert torch.equal(
        pickle.loads(pickle.dumps(reward)).judge(judged_with(rows, outputs)).total(), _total(reward, rows, outputs)
    )


def _total(reward, rows, outputs):
    return reward(*(getattr(judged_with(rows, outputs), name) for name in ("sources", "outputs", "references")))


def test_normalised_parts_weigh_as_their_weights_say(rows, reward):
    """After normalisation each part's share of the variance is its weight, whatever its own scale was."""
    outputs = [row["references"][0] for row in rows]
    judgement = reward.judge(judged_with(rows, outputs))
    groups = torch.zeros(len(rows), dtype=torch.int64)
    total, kept = Normaliser(NormaliserOptions("batch")).apply(judgement, groups)
    raw = torch.stack([part.scores for part in judgement.parts.values()]).double().numpy()
    spread = raw.std(1, keepdims=True)
    standard = (raw - raw.mean(1, keepdims=True)) / (spread + (spread == 0))
    weights = torch.tensor([part.weight for part in judgement.parts.values()], dtype=torch.float64).numpy()
    assert total.tolist() == pytest.approx((weights @ standard).tolist(), abs=1e-5)
    assert kept.all()
