from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guerdon.errors import ConfigurationError, InputError, RewardError
from guerdon.rewards.base import Judged, Judgement, Part, Reward
from guerdon.rewards.combine import Combined
from guerdon.rewards.encoders import FunctionEncoder
from guerdon.rewards.frequency import WordFrequency
from guerdon.rewards.function import FunctionReward
from guerdon.rewards.normalise import Normaliser, NormaliserOptions
from guerdon.rewards.overlap import SentenceBleu, SentenceChrf, SentenceRougeL
from guerdon.rewards.rules import Length, Pattern, Repetition, RequiredContent
from guerdon.rewards.shaping import check_shaping, judge_prefixes
from guerdon.rewards.similarity import SemanticSimilarity
from guerdon.rewards.weighting import ConstraintOptions, ScheduleOptions, Weighting

FREQUENCY = WordFrequency.from_texts(["a pub", "a bar"], reduction="sum")  # p: a 3/8, pub and bar 2/8, unseen 1/8
WORDS = st.lists(st.sampled_from(["a", "pub", "bar", "cheap", "."]), max_size=6)
ORDERS = ["each", "sum"]


class Letters(Reward):
    """How often a letter stands in the output; remembers all that it was shown."""

    scores_prefixes = True

    def __init__(self, letter="a", scores_prefixes=True, sources=None):
        self.letter, self.name, self.scores_prefixes, self.only = letter, f"letter_{letter}", scores_prefixes, sources
        self.seen = []

    def score(self, judged):
        self.seen += zip(judged.sources, judged.outputs, judged.references, judged.meta, judged.finished, strict=True)
        return [float(output.count(self.letter)) for output in judged.outputs]

    def applies(self, judged):
        return None if self.only is None else [source in self.only for source in judged.sources]


class Halves(Reward):
    """A reward that judges by two parts of its own."""

    name, scores_prefixes = "halves", True

    def score(self, judged):
        return self.judge(judged).total()

    def judge(self, judged):
        every, length = torch.ones(len(judged), dtype=torch.bool), [float(len(output)) for output in judged.outputs]
        scores = torch.tensor(length)
        return Judgement({"left": Part(scores, every, 0.5), "right": Part(-scores, every)})


def judged_of(*outputs, references=None, finished=None):
    return Judged.of([f"s{row}" for row in range(len(outputs))], list(outputs), references, finished=finished)


def by_word(output):
    """The text before each word, and before the end of text."""
    words = output.split()
    return [" ".join(words[:n]) for n in range(len(words) + 1)]


# --- what is judged


def test_prefixes_by_hand():
    judgement = judge_prefixes(FREQUENCY, judged_of("a pub", "zebra"), [["", "a", "a", "a pub"], ["", "ze", "zebra"]])
    a, pub, unseen = math.log(3 / 8), math.log(2 / 8), math.log(1 / 8)
    part = judgement.parts["word_frequency"]
    assert part.scores.tolist() == pytest.approx([0.0, a, a, a + pub, 0.0, unseen, unseen], abs=1e-6)
    assert part.applies.tolist() == [True] * 7
    assert part.scores.dtype == torch.float32


@given(st.lists(st.lists(st.sampled_from(["", "a", "ab", "ba", "aa"]), max_size=5), min_size=1, max_size=4))
def test_each_row_is_the_score_of_its_prefix_and_none_is_scored_twice(prefixes):
    reward = Letters()
    judged = Judged.of(
        [f"s{row}" for row in range(len(prefixes))], ["x"] * len(prefixes), [[f"r{row}"] for row in range(len(prefixes))],
        [{"row": row} for row in range(len(prefixes))],
    )  # fmt: skip
    part = judge_prefixes(reward, judged, prefixes).parts["letter_a"]
    assert part.scores.tolist() == [float(text.count("a")) for texts in prefixes for text in texts]
    wanted = {(f"s{row}", text, row) for row, texts in enumerate(prefixes) for text in texts}
    assert len(reward.seen) == len(wanted)
    assert {(source, text, meta["row"]) for source, text, _, meta, _ in reward.seen} == wanted
    assert all(list(references) == [f"r{meta['row']}"] and not finished for _, _, references, meta, finished in reward.seen)


def test_a_part_that_scores_no_prefixes_applies_to_none_and_is_not_asked():
    silent, asked = Letters("a", scores_prefixes=False), Letters("b")
    reward = 2.0 * silent + 3.0 * asked
    parts = judge_prefixes(reward, judged_of("ab", "b"), [["", "a"], [""]]).parts
    assert set(parts) == {"letter_a", "letter_b"}
    assert (parts["letter_a"].scores.tolist(), parts["letter_a"].applies.tolist()) == ([0.0] * 3, [False] * 3)
    assert (parts["letter_b"].scores.tolist(), parts["letter_b"].applies.tolist()) == ([0.0] * 3, [True] * 3)
    assert (parts["letter_a"].weight, parts["letter_b"].weight) == (2.0, 3.0)
    assert silent.seen == []


def test_whether_a_part_applies_is_the_sources_matter_for_prefixes_too():
    parts = judge_prefixes(1.0 * Letters(sources=["s1"]), judged_of("a", "a"), [["", "a"], ["", "a"]]).parts
    assert parts["letter_a"].applies.tolist() == [False, False, True, True]
    assert parts["letter_a"].scores.tolist() == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "reward", [Letters(), Halves(), 2.0 * Halves(), Halves() + Letters(), Letters() + Letters() + 0.5 * FREQUENCY]
)
def test_names_and_weights_are_those_of_the_samples(reward):
    samples = reward.judge(judged_of("ab")).parts
    prefixes = judge_prefixes(reward, judged_of("ab"), [["", "a", "ab"]]).parts
    assert {name: part.weight for name, part in prefixes.items()} == {name: part.weight for name, part in samples.items()}
    for name, part in prefixes.items():
        assert part.scores[-1] == samples[name].scores[0]


def test_outputs_without_tokens():
    part = judge_prefixes(FREQUENCY, judged_of("", "a"), [[], [""]]).parts["word_frequency"]
    assert part.scores.tolist() == [0.0]
    assert judge_prefixes(FREQUENCY, judged_of(""), [[]]).parts["word_frequency"].scores.shape == (0,)


def test_what_cannot_be():
    for reward in (Length(1, 2), Pattern(["x"]), Length(1, 2) + 2 * Pattern(["x"])):
        with pytest.raises(ConfigurationError, match="no part of the reward scores prefixes; leave out shaping"):
            check_shaping(reward)
        with pytest.raises(ConfigurationError, match="no part of the reward scores prefixes"):
            judge_prefixes(reward, judged_of("a"), [[""]])
    check_shaping(Length(1, 2) + FREQUENCY)
    with pytest.raises(InputError, match="1 lists of prefixes for 2 outputs"):
        judge_prefixes(FREQUENCY, judged_of("a", "b"), [[""]])


# --- the built-in rewards

BUILT_IN = [
    (FREQUENCY, True), (WordFrequency.from_texts(["a pub"], reduction="mean"), True),
    (SentenceBleu(), True), (SentenceChrf(), True), (SentenceRougeL(), True),
    (RequiredContent({"kind": {"pub": ["pubs?"]}, "price": {"cheap": ["cheap"]}}), True), (Repetition(1), True),
    (Length(1, 2), False), (Pattern([r"\.$"]), False),
    (SemanticSimilarity(FunctionEncoder(lambda texts: torch.ones(len(texts), 2))), False),
]  # fmt: skip


@pytest.mark.parametrize(("reward", "scores_prefixes"), BUILT_IN, ids=lambda value: getattr(value, "name", ""))
def test_which_rewards_score_prefixes(reward, scores_prefixes):
    assert reward.scores_prefixes is scores_prefixes
    assert Combined.of(reward).scores_prefixes is scores_prefixes
    assert (reward + Letters(scores_prefixes=False)).scores_prefixes is scores_prefixes
    assert (Letters() + reward).scores_prefixes


@pytest.mark.parametrize("reward", [reward for reward, scores in BUILT_IN if scores], ids=lambda reward: reward.name)
@pytest.mark.parametrize("output", ["a cheap pub", "pub pub bar cheap", "a"])
def test_the_last_prefix_scores_as_the_output(reward, output):
    judged = Judged.of(["kind[pub], price[cheap]"], [output], [["a cheap pub by the river"]])
    found = judge_prefixes(reward, judged, [by_word(output)]).parts[reward.name].scores
    assert found[-1] == reward.judge(judged).parts[reward.name].scores[0]
    assert bool(found.isfinite().all())


def test_a_function_says_whether_it_does():
    def vowels(sources, outputs, references):
        return [sum(map(output.count, "aeiou")) for output in outputs]

    assert not FunctionReward(vowels).scores_prefixes
    reward = FunctionReward(vowels, scores_prefixes=True)
    check_shaping(reward)
    assert judge_prefixes(reward, judged_of("pie"), [["", "p", "pi", "pie"]]).parts["vowels"].scores.tolist() == [0, 0, 1, 2]


# --- potentials


@settings(deadline=None)
@given(st.lists(WORDS, min_size=2, max_size=5), st.sampled_from(["none", "running", "batch", "group"]), st.sampled_from(ORDERS))
def test_shaped_rewards_telescope_to_the_reward(outputs, kind, order):
    """The potential of the whole output is its reward, as far as parts score prefixes, which is all of them here."""
    texts = [" ".join(words) for words in outputs]
    reward, judged = 0.5 * FREQUENCY + 2.0 * Letters("a") - Repetition(1), judged_of(*texts)
    groups, normaliser = torch.arange(len(texts)) % 2, Normaliser(NormaliserOptions(kind, order))
    normaliser.apply(reward.judge(judged_of("a pub", "a a")), torch.tensor([0, 1]))  # an earlier step, for "running"
    rewards, kept = normaliser.apply(reward.judge(judged), groups)
    prefixes = [by_word(text) for text in texts]
    lengths = torch.tensor([len(of_output) for of_output in prefixes])
    found = normaliser.potentials(judge_prefixes(reward, judged, prefixes), groups.repeat_interleave(lengths))
    assert found.dtype == torch.float32
    assert kept.all()
    for row, potentials in enumerate(found.double().split(lengths.tolist())):
        payments = sum(float(after - before) for before, after in itertools.pairwise(potentials))
        assert payments == pytest.approx(float(rewards[row]) - float(potentials[0]), abs=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_potentials_by_hand(order):
    """Samples "aa" and "": letter a 2 and 0 with weight 3, b nowhere; a third part, silent on prefixes, 5 and 1."""
    silent = FunctionReward(lambda sources, outputs, references: [5.0 if output else 1.0 for output in outputs], "silent")
    reward, judged = 3.0 * Letters("a") + silent, judged_of("aa", "")
    groups, prefixes = torch.tensor([0, 0]), judge_prefixes(reward, judged, [["", "a", "aa"], [""]])
    normaliser = Normaliser(NormaliserOptions("batch", order))
    rewards, _ = normaliser.apply(reward.judge(judged), groups)
    found = normaliser.potentials(prefixes, torch.zeros(4, dtype=torch.int64)).tolist()
    if order == "each":  # a: μ 1, σ 1
        assert rewards.tolist() == [4.0, -4.0]
        assert found == [-3.0, 0.0, 3.0, -3.0]
    else:  # the sums are 11 and 1: μ 6, σ 5
        assert rewards.tolist() == [1.0, -1.0]
        assert found == pytest.approx([-6 / 5, -3 / 5, 0.0, -6 / 5])


def test_potentials_take_the_weights_of_the_step():
    reward, judged = 3.0 * Letters("a") + Letters("b") + Length(1, 2), judged_of("ab", "b")
    schedules = {"letter_a": ScheduleOptions(to=5.0, steps=2), "length": ScheduleOptions(to=0.0, steps=1)}
    weighting = Weighting(schedules, {"letter_b": ConstraintOptions(at_least=1.0, initial=0.5)}, [p.name for p in reward.parts])
    normaliser = Normaliser(NormaliserOptions("none"))
    normaliser.apply(weighting.weigh(reward.judge(judged), 1), torch.tensor([0, 1]))
    prefixes = weighting.weigh(judge_prefixes(reward, judged, [["", "a", "ab"], ["", "b"]]), 1)
    assert normaliser.potentials(prefixes, torch.tensor([0, 0, 0, 1, 1])).tolist() == [0.0, 4.0, 4.5, 0.0, 0.5]


@pytest.mark.parametrize(("kind", "order"), [("none", "each"), ("batch", "sum"), ("running", "sum"), ("group", "sum")])
def test_a_part_that_applies_to_some_is_still_refused_where_nothing_centres_it(kind, order):
    reward, judged = Letters("a") + Letters("b", sources=["s1"]), judged_of("a", "a")
    normaliser, groups = Normaliser(NormaliserOptions(kind, order)), torch.tensor([0, 1])
    with pytest.raises(RewardError, match="part 'letter_b' does not apply to sample 0"):
        normaliser.apply(reward.judge(judged), groups)
    normaliser.apply(Letters("a").judge(judged), groups)
    with pytest.raises(RewardError, match="part 'letter_b' does not apply to sample 0"):
        normaliser.potentials(judge_prefixes(reward, judged, [[""], [""]]), groups)


@pytest.mark.parametrize("kind", ["none", "running", "batch", "group"])
def test_where_nothing_applies_the_potential_is_0(kind):
    reward, judged = Combined.of(Letters("a", sources=["s9"])) + Length(1, 2), judged_of("a", "b b b")
    normaliser, groups = Normaliser(NormaliserOptions(kind)), torch.tensor([0, 1])
    whole = reward.judge(judged) if kind != "none" else Length(1, 2).judge(judged)
    normaliser.apply(whole, groups)
    assert (
        normaliser.potentials(judge_prefixes(reward, judged, [["", "a"], [""]]), torch.tensor([0, 0, 1])).tolist() == [0.0] * 3
    )


# --- the gradient


def gradients(logits, reward):
    """Over all texts of three letters of a table policy: the exact gradient of E[r], and the mean and the mean square of the
    estimate Σ_t (r - Φ(prefix before t)) ∇ log π(letter t), without and with Φ; by enumeration in float64."""
    letters, table = "ab", dict(zip(("", "a", "b", "aa", "ab", "ba", "bb"), logits, strict=True))
    texts = ["".join(text) for text in itertools.product(letters, repeat=3)]
    prefixes = [[text[:n] for n in range(3)] for text in texts]
    normaliser, groups = Normaliser(NormaliserOptions("none")), torch.zeros(len(texts), dtype=torch.int64)
    rewards, _ = normaliser.apply(reward.judge(judged_of(*texts)), groups)
    potentials = normaliser.potentials(judge_prefixes(reward, judged_of(*texts), prefixes), groups.repeat_interleave(3))
    log_probs = torch.stack(
        [torch.stack([table[text[:n]].log_softmax(0)[letters.index(text[n])] for n in range(3)]) for text in texts]
    )  # [texts, 3]
    probs = log_probs.sum(1).exp()
    assert float(probs.detach().sum()) == pytest.approx(1.0, abs=1e-12)
    (exact,) = torch.autograd.grad((probs * rewards).sum(), logits, retain_graph=True)
    moments = []
    for baseline in (torch.zeros(8, 3), potentials.reshape(8, 3)):
        mean, square = torch.zeros_like(logits), torch.zeros_like(logits)
        for row, prob in enumerate(probs.detach()):
            weights = (rewards[row] - baseline[row]).double()
            (estimate,) = torch.autograd.grad((weights * log_probs[row]).sum(), logits, retain_graph=True)
            mean, square = mean + prob * estimate, square + prob * estimate.square()
        moments.append((mean, float((square - mean.square()).sum())))
    return exact, moments


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("letter", ["a", "b"])
def test_the_gradient_is_unbiased_and_a_good_potential_lowers_its_variance(seed, letter):
    logits = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    exact, ((plain, plain_variance), (shaped, shaped_variance)) = gradients(logits, Letters(letter))
    assert float(exact.norm()) > 1e-2
    assert torch.allclose(plain, exact, rtol=1e-10, atol=1e-12)
    assert torch.allclose(shaped, exact, rtol=1e-10, atol=1e-12)
    assert shaped_variance < plain_variance


def test_a_bad_potential_biases_nothing_either():
    logits = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()

    def misleading(sources, outputs, references):
        return [5.0 * (len(output) == 3) * output.count("a") - 7.0 * output.count("b") for output in outputs]

    exact, (_, (shaped, _)) = gradients(logits, FunctionReward(misleading, scores_prefixes=True))
    assert torch.allclose(shaped, exact, rtol=1e-10, atol=1e-12)
