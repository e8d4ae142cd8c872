"""The audit: its statistics against other ways to count, the faults it must catch, and what it must find by itself."""

from __future__ import annotations

import doctest
import itertools
import json
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

import guerdon
from guerdon.data.records import Example
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import ConfigurationError, DataError, InputError, RewardError
from guerdon.evaluation import audit as module
from guerdon.evaluation.audit import AuditOptions, audit
from guerdon.evaluation.audit_texts import Subjects
from guerdon.evaluation.audit_wording import findings
from guerdon.evaluation.human_pairs import HumanPair
from guerdon.evaluation.probes import PROBES, Corpus
from guerdon.evaluation.requirements import Requirement
from guerdon.evaluation.rewording import LANGUAGES
from guerdon.rewards import (
    FunctionReward,
    Length,
    NormaliserOptions,
    PolicyEmbedding,
    Repetition,
    RequiredContent,
    SemanticSimilarity,
    SentenceChrf,
    WordFrequency,
)
from guerdon.rewards.base import Judged, Reward

NAMES = ("Zizzi", "Cotto", "Aromi", "Strada", "Fitzbillies")
KINDS = ("pub", "bar", "coffee shop", "restaurant")
EXAMPLES = [
    Example(
        f"name[{name}], kind[{kind}], rooms[{rooms}]",
        (
            f"{name} is a {kind} that has {rooms} rooms.",
            f"There is a {kind}. It is called {name} and has {rooms} rooms in all.",
        ),
        meta={"kind": [kind]},
    )
    for rooms, (name, kind) in enumerate(itertools.product(NAMES, KINDS), 3)
]
TEXTS = [reference for example in EXAMPLES for reference in example.references]
QUICK = AuditOptions(resamples=100)


def letters(sources, outputs, references):
    return [float(len(output)) for output in outputs]


def quickly(reward, examples=EXAMPLES, **more):
    return audit(reward, examples, **{"options": QUICK, **more})


@pytest.fixture(scope="module")
def real(data_folder):
    """Records of E2E's validation split."""
    return guerdon.read_examples(data_folder / "e2e" / "dev.jsonl", limit=100).examples


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(module)
    assert result.attempted >= 4
    assert result.failed == 0


# --- what is compared


def rows_of(examples=EXAMPLES, seed=1):
    subjects = Subjects.of(examples, seed)
    return subjects, subjects.rows(Corpus(subjects.examples, None, LANGUAGES["en"]), seed)


def test_shares_and_gaps_are_those_of_a_loop():
    found = quickly(FunctionReward(letters))
    subjects, rows = rows_of()
    sizes = [len(text) for text in subjects.texts]
    deviation = math.sqrt(math.fsum((s - math.fsum(sizes) / len(sizes)) ** 2 for s in sizes) / len(sizes))
    assert found.total.spread == pytest.approx(deviation, rel=1e-6)
    for name, preference in found.total.probes.items():
        pairs = [(len(row.text), len(subjects.texts[row.subject])) for row in rows if row.probe == name]
        wins, ties = sum(p > r for p, r in pairs), sum(p == r for p, r in pairs)
        interval = binomtest(wins, len(pairs)).proportion_ci(method="wilson")
        assert preference.compared == len(pairs) == len(EXAMPLES) - found.counts.not_built[name]
        assert preference.preferred.value == wins / len(pairs)
        assert preference.preferred.low == pytest.approx(interval.low, abs=1e-12)
        assert preference.preferred.high == pytest.approx(interval.high, abs=1e-12)
        assert preference.tied == ties / len(pairs)
        assert preference.fooled == pytest.approx((wins + ties / 2) / len(pairs))
        assert preference.gap.value == pytest.approx(sum(p - r for p, r in pairs) / len(pairs) / deviation, rel=1e-5)
        assert preference.gap.low - 1e-9 <= preference.gap.value <= preference.gap.high + 1e-9
    assert found.counts.outputs == len(rows)


def test_correlation_with_length_is_spearmans():
    """Of the ranks, by the closed form that holds where no two are alike: 1 − 6 Σ d² / n (n² − 1)."""
    examples = [Example(f"s{n}", (" ".join(["word"] * n), "x")) for n in range(2, 9)]
    examples = [Example(e.source, e.references[:1]) for e in examples]
    values = {e.references[0]: score for e, score in zip(examples, [3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0], strict=True)}
    reward = FunctionReward(lambda s, outputs, r: [values.get(output, 0.0) for output in outputs], name="table")
    ranks = np.argsort(np.argsort(list(values.values())))
    squares = sum((int(rank) - n) ** 2 for n, rank in enumerate(ranks))
    assert quickly(reward, examples).total.length_references == pytest.approx(1 - 6 * squares / (7 * 48))


def test_a_constant_reward_has_no_spread_and_cannot_tell_anything():
    found = quickly(FunctionReward(lambda s, outputs, r: [2.5] * len(outputs), name="constant"))
    assert found.total.spread == 0
    assert (found.total.length_references, found.total.length_probes) == (None, None)
    for preference in found.total.probes.values():
        assert (preference.tied, preference.fooled, preference.gap) == (1.0, 0.5, None)


def test_rounding_is_a_tie_and_no_more():
    def nearly(sources, outputs, references):
        return [1000 * float(len(sources[n])) + (1e-4 if output else 0) for n, output in enumerate(outputs)]

    assert quickly(FunctionReward(nearly)).total.probes["empty"].tied == 1.0

    def clearly(sources, outputs, references):
        return [float(len(sources[n])) + (0.01 if output else 0) for n, output in enumerate(outputs)]

    assert quickly(FunctionReward(clearly)).total.probes["empty"].tied == 0.0


def test_the_reference_judged_is_not_among_those_that_the_reward_sees():
    seen = {}

    def look(sources, outputs, references):
        seen.update({(s, o): r for s, o, r in zip(sources, outputs, references, strict=True)})
        return letters(sources, outputs, references)

    again = Example("twice", ("the same text", "the same text", "another text"))
    alone = Example("alone", ("one text alone here", "one text alone here"))
    found = quickly(FunctionReward(look), [*EXAMPLES, again, alone])
    subjects, rows = rows_of([*EXAMPLES, again, alone])
    for row in rows:
        example, text = subjects.examples[row.subject], subjects.texts[row.subject]
        others = [reference for reference in example.references if reference != text]
        assert seen[example.source, row.text] == (others or [text])
    assert found.counts.alone == 1
    assert any("1 of 22 sources have one reference alone" in finding.sentence for finding in findings(found))
    assert not any("alone:" in finding.sentence for finding in findings(quickly(FunctionReward(letters))))


def test_a_source_counts_once():
    found = quickly(FunctionReward(letters), [*EXAMPLES, *EXAMPLES[:3]])
    assert (found.counts.sources, found.counts.repeated) == (20, 3)
    assert found.total == quickly(FunctionReward(letters)).total


def test_what_cannot_be_audited():
    with pytest.raises(DataError, match="has no references"):
        quickly(FunctionReward(letters), [*EXAMPLES, Example("bare")])
    with pytest.raises(InputError, match="give records of two sources"):
        quickly(FunctionReward(letters), EXAMPLES[:1] * 3)
    with pytest.raises(ConfigurationError, match="99 resamples"):
        AuditOptions(resamples=99)
    with pytest.raises(ConfigurationError, match="'xx'"):
        AuditOptions(language="xx")
    with pytest.raises(RewardError, match="output ''"):
        quickly(FunctionReward(lambda s, outputs, r: [1 / len(o) if o else math.inf for o in outputs], name="short"))


def test_the_same_seed_says_the_same():
    def told(seed):
        plain = quickly(FunctionReward(letters), options=AuditOptions(seed=seed, resamples=100)).plain()
        assert plain.pop("outputs_per_second") > 0
        return json.dumps(plain, allow_nan=False)

    assert told(1) == told(1) != told(2)


def test_the_example_shown_is_the_one_in_the_middle():
    found = quickly(FunctionReward(letters))
    subjects, rows = rows_of()
    for name, shown in found.shown.items():
        gaps = [len(row.text) - len(subjects.texts[row.subject]) for row in rows if row.probe == name]
        gap = len(shown.probe) - len(shown.reference)
        assert shown.probe_score - shown.reference_score == gap
        assert sum(g < gap for g in gaps) <= len(gaps) / 2 <= sum(g <= gap for g in gaps)


def test_without_a_language_two_probes_do_not_apply():
    found = quickly(FunctionReward(letters), options=AuditOptions(resamples=100, language="none"))
    assert set(PROBES) - set(found.total.probes) == {"filler", "negation"}
    assert found.counts.not_built["filler"] == len(EXAMPLES)


# --- composed rewards


def test_the_total_is_the_weighted_sum_of_the_normalised_parts():
    """μ and σ of the references, by numpy; the part that gives all references 1 takes those of all texts."""
    reward = 0.7 * FunctionReward(letters) - 0.2 * SentenceChrf() + 3.0 * Length(1, 40)
    found = quickly(reward)
    subjects, rows = rows_of()
    judged = subjects.judged(rows)
    total, n = np.zeros(len(rows)), len(subjects.texts)
    for name, part in reward.judge(judged).parts.items():
        scores = part.scores.double().numpy()
        base = scores if name == "length" else scores[:n]
        total += part.weight * (scores - base.mean()) / base.std()
    assert [part.name for part in found.parts] == ["letters", "chrf", "length"]
    assert found.total.spread == pytest.approx(total[:n].std(), rel=1e-5)
    for name, preference in found.total.probes.items():
        gaps = [total[place] - total[row.subject] for place, row in enumerate(rows) if row.probe == name]
        assert preference.preferred.value == np.mean([gap > 1e-4 * total[:n].std() for gap in gaps])
        assert preference.gap.value * found.total.spread == pytest.approx(np.mean(gaps), abs=1e-4)
    assert found.reward == "0.7 letters + -0.2 chrf + 3 length"


@pytest.mark.parametrize("kind", ["none", "batch", "group"])
@pytest.mark.parametrize("order", ["each", "sum"])
def test_every_normalisation_gives_a_total(kind, order):
    options = AuditOptions(resamples=100, normalisation=NormaliserOptions(kind, order))
    found = quickly(0.5 * FunctionReward(letters) + 0.5 * Repetition(1), options=options)
    assert found.total.probes["doubled"].compared == len(EXAMPLES)
    assert found.normalisation == f"{kind}, {order}"
    if kind == "none" or order == "sum":  # the order of the raw sums, which letters decide
        assert found.total.probes["doubled"].preferred.value == 1.0


def test_one_part_keeps_its_weight_and_its_sign():
    up, down = quickly(2.0 * FunctionReward(letters)).total, quickly(-1.0 * FunctionReward(letters)).total
    assert up.probes["doubled"].preferred.value == down.probes["empty"].preferred.value == 1.0
    assert up.spread == pytest.approx(2 * down.spread)
    assert quickly(2.0 * FunctionReward(letters)).parts == []


def test_sources_that_a_reward_does_not_concern_are_left_out():
    half = [Example(e.source, e.references, meta={} if n % 2 else {"kind": e.meta["kind"]}) for n, e in enumerate(EXAMPLES)]
    found = quickly(RequiredContent(field="kind"), half)
    assert found.total.sources == found.total.probes["empty"].compared == 10
    mixed = quickly(0.5 * RequiredContent(field="kind") + 0.5 * FunctionReward(letters), half)
    assert [scores.sources for scores in (mixed.total, *mixed.parts)] == [20, 10, 20]
    options = AuditOptions(normalisation=NormaliserOptions("none"))
    with pytest.raises(RewardError, match="does not apply to sample"):
        quickly(0.5 * RequiredContent(field="kind") + 0.5 * FunctionReward(letters), half, options=options)


# --- planted faults


class Dice(Reward):
    """Throws a die for every output."""

    name = "dice"

    def score(self, judged):
        return torch.rand(len(judged)) + torch.tensor([float(len(o)) for o in judged.outputs])


class Centred(Reward):
    """Subtracts the batch's mean: alone, every output has 0."""

    name = "centred"

    def score(self, judged):
        sizes = torch.tensor([float(len(output)) for output in judged.outputs])
        return sizes - sizes.mean()


class Placed(Reward):
    """Reads the place in the batch."""

    name = "placed"

    def score(self, judged):
        return [len(output) + float(place) for place, output in enumerate(judged.outputs)]


class Escapable(Reward):
    """Does not apply to short outputs."""

    name = "escapable"

    def score(self, judged):
        return [float(len(output)) for output in judged.outputs]

    def applies(self, judged: Judged):
        return [len(output) > 12 for output in judged.outputs]


def test_a_reward_that_draws_is_caught():
    found = quickly(0.5 * Dice() + 0.5 * FunctionReward(letters))
    assert found.nondeterministic.share > 0.9
    assert found.nondeterministic.parts == ("dice",)
    assert any("Is not deterministic" in finding.sentence and finding.bad for finding in findings(found))


@pytest.mark.parametrize("fault", [Centred, Placed])
def test_a_reward_that_reads_its_batch_is_caught(fault):
    found = quickly(fault())
    assert found.nondeterministic.share == 0
    assert found.batch_dependent.share > 0.5
    assert found.batch_dependent.largest > 0.1
    assert any("Depends on the batch" in finding.sentence for finding in findings(found))


def test_a_reward_that_lets_the_output_escape_is_caught():
    found = quickly(Escapable())
    assert found.applies_by_output.share > 0
    assert "empty" not in found.total.probes  # nothing to compare: the probe had no score
    assert any("Lets the output decide" in finding.sentence for finding in findings(found))


def test_a_sound_reward_passes_the_checks():
    found = quickly(0.5 * SentenceChrf() + 0.5 * WordFrequency.from_texts(TEXTS))
    for check in (found.nondeterministic, found.batch_dependent, found.applies_by_output):
        assert (check.share, check.parts) == (0.0, ())
        assert check.tried > 40


# --- requirements and people


def test_requirements_are_measured_on_the_total():
    wanted = [Requirement(name, 0.4) for name in ("empty", "doubled", "nondeterministic", "length", "negation")]
    found = quickly(FunctionReward(letters), requirements=wanted, options=AuditOptions(resamples=100, language="none"))
    measured = {outcome.requirement.probe: outcome for outcome in found.outcomes}
    assert (measured["empty"].measured, measured["empty"].met) == (0.0, True)
    assert (measured["doubled"].measured, measured["doubled"].met) == (1.0, False)
    assert measured["nondeterministic"].met
    assert measured["length"].measured == abs(found.total.length_references)
    assert (measured["negation"].measured, measured["negation"].met) == (None, False)
    assert findings(found)[0].sentence == "Does not meet doubled <= 0.4, length <= 0.4 and negation <= 0.4."
    with pytest.raises(ConfigurationError, match="give pairs"):
        quickly(FunctionReward(letters), requirements=[Requirement("disagreement", 0.4)])


def test_agreement_counts_pairs_and_halves_ties():
    pairs = [
        HumanPair("s1", "longer text", "short", votes_for=2),
        HumanPair("s1", "short", "longer text", votes_for=1),
        HumanPair("s2", "equal", "quite", votes_for=3),
        HumanPair("s3", "the longer text", "short", votes_for=2, votes_against=1),
    ]
    found = quickly(FunctionReward(letters), pairs=pairs, requirements=[Requirement("disagreement", 0.4)]).total
    assert (found.agreement.pairs, found.agreement.agrees.value, found.agreement.tied) == (4, 2.5 / 4, 0.25)
    assert (found.unanimous.pairs, found.unanimous.agrees.value) == (2, 0.75)
    # Sources are resampled: s1 holds half of an agreement a pair, so that no resample is below that of s1 and s2 alone.
    assert 0.5 <= found.agreement.agrees.low <= found.agreement.agrees.high <= 1.0
    assert quickly(FunctionReward(letters), pairs=pairs[1:2]).total.unanimous is None


def test_pairs_take_the_references_of_their_source():
    known, seen = EXAMPLES[0], []

    class Reads(FunctionReward):
        def score(self, judged):
            seen.extend(zip(judged.sources, judged.outputs, judged.references, strict=True))
            return letters(judged.sources, judged.outputs, judged.references)

    pairs = [HumanPair(known.source, known.references[0], "a pub"), HumanPair("unknown", "a", "b")]
    found = quickly(Reads(letters, needs_references=True), pairs=pairs)
    assert (found.total.agreement.pairs, found.counts.pairs_left_out) == (1, 1)
    assert (known.source, "a pub", (known.references[1],)) in seen
    assert quickly(FunctionReward(letters), pairs=pairs).counts.pairs_left_out == 0


# --- what it must find by itself


def test_the_sum_of_log_frequencies_prefers_silence(real):
    texts = [reference for example in real for reference in example.references]
    found = quickly(WordFrequency.from_texts(texts, reduction="sum"), real)
    assert found.total.probes["empty"].preferred.value == 1.0
    assert found.total.length_references < -0.8
    assert any(f.sentence == "Prefers silence to the reference for 100% of sources." and f.bad for f in findings(found))
    mean = quickly(WordFrequency.from_texts(texts, reduction="mean"), real)
    assert mean.total.probes["empty"].preferred.value == 0.0
    assert mean.total.probes["frequent_words"].preferred.value > 0.9


def embedding_similarity(embedding, tokenize):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the policy's embeddings move
        return SemanticSimilarity(PolicyEmbedding(embedding, tokenize))


def test_the_cosine_of_mean_embeddings_ignores_order(real):
    """Of words the order is lost wholly."""
    words = {w: n for n, w in enumerate(sorted({w for e in real for r in [*e.references, e.source] for w in r.split()}))}
    torch.manual_seed(0)
    reward = embedding_similarity(
        torch.nn.Embedding(len(words) + 1, 32), lambda text: [words.get(word, len(words)) for word in text.split()]
    )
    found = quickly(reward, real)
    assert found.total.probes["shuffled"].tied == 1.0
    assert any("Cannot tell shuffled words from the reference" in finding.sentence for finding in findings(found))
    assert found.total.probes["other_reference"].preferred.value < 0.2


def test_so_does_that_of_subwords(real):
    tokenizer = Tokenizer.train([reference for example in real for reference in example.references], 600)
    torch.manual_seed(0)
    found = quickly(embedding_similarity(torch.nn.Embedding(tokenizer.vocabulary_size, 32), tokenizer.encode), real)
    assert found.total.probes["shuffled"].tied > 0.95
    assert found.total.probes["other_reference"].gap.value < -1
    assert any("Cannot tell shuffled words from the reference" in finding.sentence for finding in findings(found))
