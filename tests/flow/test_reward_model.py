"""Training reward models on judgements by a simulated judge: every kind, every loss, against what is known of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.judged import comparisons, rankings, ratings
from helpers.reward_models import huggingface_tokenizer
from helpers.tiny_models import tiny_t5

from guerdon.data.batches import BatchOptions
from guerdon.data.comparisons import Comparison, Rating
from guerdon.data.records import Example
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import ConfigurationError, DataError
from guerdon.generator import Generator
from guerdon.models import Transformer, TransformerOptions
from guerdon.models.huggingface import HuggingFacePolicy
from guerdon.models.reward_options import NgramOptions, RewardModelOptions, ScratchOptions
from guerdon.rewards.learned import LearnedOptions, LearnedReward
from guerdon.stages.finetune import FinetuneConfig, finetune
from guerdon.stages.reward_model import RewardModelConfig, train_reward_model
from guerdon.training.judged import Collector, EncodedJudgements, SelectionOptions
from guerdon.training.judging import Judging, fit_temperature
from guerdon.training.progress import Silent
from guerdon.training.reward_making import RewardMaker
from guerdon.training.reward_training import RewardTraining
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

SMALL = ScratchOptions(16, 2, 1, 32, 300)
TINY = RewardModelOptions(scratch=SMALL, dropout=0.0, backbone_dropout=0.0, max_source=128, max_output=128)
NGRAMS = NgramOptions(longest=2, buckets=4096)
LAST = LoopOptions(validate_every=100, checkpoint_every=100, criterion="accuracy", higher_is_better=True, average_best=0)
BY_ACCURACY = LoopOptions(validate_every=10, checkpoint_every=10, criterion="accuracy", higher_is_better=True)


def config(**changes: Any) -> RewardModelConfig:
    base = RewardModelConfig(
        steps=30,
        model=TINY,
        batch=BatchOptions(3000),
        optimiser=OptimiserOptions(learning_rate=1e-2, warmup_steps=2, schedule="constant"),
        loop=BY_ACCURACY,
        held_out=0.2,
    )
    return replace(base, **changes)


def policy(kind: str = "own") -> Generator:
    if kind == "t5":
        made = HuggingFacePolicy(tiny_t5(), max_source=128, max_target=128)
        return Generator(made.eval(), huggingface_tokenizer(made))
    tokenizer = Tokenizer.train([text for c in comparisons() for text in (c.source, *c.outputs)], 300)
    torch.manual_seed(3)
    options = TransformerOptions(tokenizer.vocabulary_size, 16, 2, 1, 1, 32, max_source=260, max_target=200)
    return Generator(Transformer(options).eval(), tokenizer)


class Said(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


# --- every kind learns


KINDS: dict[str, tuple[RewardModelOptions, str | None]] = {
    "from random weights": (replace(TINY, pooling=("last", "mean")), None),
    "encoder from random weights": (replace(TINY, kind="encoder", pooling=("mean",)), None),
    "from a policy": (replace(TINY, scratch=None, pooling=("last", "mean", "max"), hidden=8), "own"),
    "encoder from a policy": (replace(TINY, scratch=None, kind="encoder", pooling=("mean", "max")), "own"),
    "linear": (RewardModelOptions("linear", ngrams=NGRAMS), None),
    "hybrid": (replace(TINY, ngrams=replace(NGRAMS, dropout=0.1), delexicalise=("title",)), None),
    "hugging face": (RewardModelOptions("huggingface", max_source=128, max_output=128, pooling=("mean",)), "t5"),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_learns_what_can_be_learnt(name: str, tmp_path: Path) -> None:
    model, start = KINDS[name]
    # T5's tokenizer knows none of the words: what it can see is how many there are
    given = (
        comparisons() if start != "t5" else [Comparison.of_pair(c.source, "a mat", "a mat . the Cat") for c in comparisons()]
    )
    begun = None if start is None else policy(start)
    before = None if begun is None else {k: v.clone() for k, v in begun.policy.state_dict().items()}
    trained = train_reward_model(given, config(model=model, steps=60), start=begun, folder=tmp_path, seed=1)
    assert trained.outcomes[0].validation["accuracy"] >= 0.75, trained.outcomes
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["kind"] for line in lines} == {"train", "validation", "final"}
    trained.scorers[0].save(tmp_path / "model")
    sources, outputs = [c.source for c in given], [c.outputs[0] for c in given]
    assert torch.equal(
        LearnedReward.load(tmp_path / "model")(sources, outputs), LearnedReward(trained.scorers)(sources, outputs)
    )
    if begun is not None and before is not None:
        assert all(torch.equal(before[k], v) for k, v in begun.policy.state_dict().items())  # the policy is as it was


def test_a_backbone_begins_with_the_weights_of_the_policy() -> None:
    begun = policy()
    maker = RewardMaker(comparisons(), config(model=replace(TINY, scratch=None)), begun, None, seed=1)
    judged = EncodedJudgements.of(maker._judged(comparisons()), maker._text)
    model = maker._new(1, judged, ()).model
    for name, weight in begun.policy.state_dict().items():
        assert torch.equal(weight, model.backbone.state_dict()[name])
    assert model.backbone.options.dropout == 0.0


def test_surprisal_alone_tells_written_from_shuffled() -> None:
    """A policy that was fine-tuned on the references finds them likelier than their shuffled words."""
    judge = policy()
    examples = [Example(c.source, (c.outputs[0],), str(i)) for i, c in enumerate(comparisons())]
    schedule = OptimiserOptions(learning_rate=1e-2, warmup_steps=5, schedule="constant")
    finetune(judge, examples, FinetuneConfig(steps=60, batch=BatchOptions(3000), optimiser=schedule), examples[:4])
    words = RewardModelOptions("linear", ngrams=NgramOptions(longest=1, buckets=64, relation=False))
    trained = train_reward_model(comparisons(), config(model=replace(words, surprisal=True)), likelihood=judge, seed=1)
    assert trained.outcomes[0].validation["accuracy"] >= 0.8
    blind = train_reward_model(comparisons(), config(model=words, steps=3), seed=1)
    assert blind.outcomes[0].validation["accuracy"] == 0.5  # the words alone are the same


# --- every loss learns


@pytest.mark.parametrize("loss", ["bradley_terry", "rao_kupper", "davidson", "plackett_luce", "regression", "ordinal"])
def test_every_loss_learns_the_order(loss: Any) -> None:
    rated = loss in ("regression", "ordinal")
    records: Any = ratings() if rated else rankings() if loss == "plackett_luce" else comparisons()
    if loss in ("rao_kupper", "davidson"):
        records = [*records, *(Comparison(c.source, (c.outputs[0], c.outputs[0] + " ."), (1, 1)) for c in records[::3])]
    loop = replace(BY_ACCURACY, criterion="correlation") if rated else BY_ACCURACY
    options = RewardModelOptions("linear", ngrams=NGRAMS)
    trained = train_reward_model(records, config(loss=loss, loop=loop, model=options, steps=60), seed=1)
    assert trained.outcomes[0].validation[loop.criterion] > 0.85
    reward = LearnedReward(trained.scorers)
    for c in comparisons()[:10]:
        good, bad = reward([c.source] * 2, list(c.outputs)).tolist()
        assert good > bad


def test_ties_are_learnt_and_dropped_where_the_loss_knows_none() -> None:
    ties = [Comparison(c.source, c.outputs, (1, 1)) for c in comparisons()]
    with pytest.raises(DataError, match=r"nothing is left to train on \(48 nothing but ties\)"):
        train_reward_model(ties, config())
    linear = RewardModelOptions("linear", ngrams=NGRAMS)
    mixed = [*comparisons(), *ties]
    with_ties = train_reward_model(mixed, config(model=linear, loss="davidson"), seed=1)
    without = train_reward_model(mixed, config(model=linear), seed=1)
    assert without.dropped == {"nothing but ties": 48}
    sources, outputs = [c.source for c in ties], [c.outputs[0] for c in ties]
    spread = [float(found.scorers[0].scores(sources, outputs).std()) for found in (with_ties, without)]
    assert spread[0] < spread[1]  # half of the judgements say that there is no difference


def test_heads_learn_their_aspects_and_no_others() -> None:
    """Two judges of opposite taste: each head follows its own."""
    records = [*comparisons("order"), *(replace(c, ranks=(2, 1)) for c in comparisons("chaos"))]
    linear = RewardModelOptions("linear", ngrams=NGRAMS)
    trained = train_reward_model(records, config(model=linear), seed=1)
    assert trained.scorers[0].heads == ("chaos", "order")
    assert min(trained.outcomes[0].validation[f"accuracy_{head}"] for head in ("chaos", "order")) >= 0.9
    c = comparisons()[0]
    order, chaos = (LearnedReward(trained.scorers, _only(h))([c.source] * 2, list(c.outputs)) for h in ("order", "chaos"))
    assert order[0] > order[1]
    assert chaos[0] < chaos[1]
    merged = config(model=linear, select=SelectionOptions({"order": "one", "chaos": "one"}))
    assert train_reward_model(records, merged, seed=1).scorers[0].heads == ("one",)
    single = config(model=replace(linear, heads=("order",)))
    kept = train_reward_model(records, single, seed=1)
    assert kept.dropped == {"an aspect that no head learns": 48}


def _only(head: str) -> LearnedOptions:
    return LearnedOptions(heads={head: 1.0})


def test_centring_pulls_scores_to_nought() -> None:
    linear = RewardModelOptions("linear", ngrams=NGRAMS)
    means = []
    for factor in (0.0, 5.0):
        trained = train_reward_model(comparisons(), config(model=linear, centring=factor, loop=LAST), seed=1)
        sources, outputs = zip(*((c.source, o) for c in comparisons() for o in c.outputs), strict=True)
        means.append(abs(float(trained.scorers[0].scores(sources, outputs).mean())))
    assert means[1] < 0.5 * means[0]


def test_an_unreliable_annotator_is_found_out() -> None:
    records = []
    for i, c in enumerate(comparisons()):
        records += [replace(c, annotator=name, weight=1.0) for name in ("ann", "bob")]
        records.append(replace(c, annotator="coin", weight=1.0, ranks=((1, 2), (2, 1))[i % 2]))
    linear = RewardModelOptions("linear", ngrams=NGRAMS)
    fast = OptimiserOptions(learning_rate=0.03, warmup_steps=2, schedule="constant")
    trained = train_reward_model(records, config(model=linear, reliability=True, steps=150, optimiser=fast, loop=LAST), seed=1)
    assert set(trained.reliability) == {"ann", "bob", "coin"}
    assert trained.reliability["coin"] < 0.4 < 0.8 < min(trained.reliability["ann"], trained.reliability["bob"])
    assert trained.facts()["reliability"] == trained.reliability
    with pytest.raises(DataError, match="no record names its annotator"):
        train_reward_model(comparisons(), config(model=linear, reliability=True))


# --- training itself


def test_the_gradient_of_a_step_does_not_depend_on_its_cut() -> None:
    gradients = []
    for accumulation in (1, 3):
        settings = config(accumulation=accumulation, model=replace(TINY, ngrams=NGRAMS, pooling=("last", "mean")))
        maker = RewardMaker(comparisons(), settings, None, None, seed=1)
        data = EncodedJudgements.of(maker._judged(comparisons()), maker._text)
        judging = maker._new(1, data, ()).double()
        parts = list(RewardTraining("x", judging, data, data, settings, seed=2).losses(1))
        assert len(parts) == accumulation
        sum(parts).backward()  # type: ignore[union-attr]
        gradients.append(torch.cat([p.grad.flatten() for p in judging.parameters() if p.grad is not None]))
    assert float(gradients[0].norm()) > 1e-3
    assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) < 1e-10


def test_no_source_is_trained_on_and_validated_with() -> None:
    with pytest.raises(DataError, match=r"60 validation sources are trained on, such as '.*'; give validation data of other"):
        train_reward_model(comparisons(), config(), comparisons())
    named = [Comparison.of_pair(f"name[{name}]", f"{name} is good", f"good {name}") for name in ("Aromi", "Cocum")]
    assert len({c.source for c in named}) == 2
    hidden = config(model=RewardModelOptions("linear", ngrams=NGRAMS, delexicalise=("name",)))
    with pytest.raises(DataError, match=r"1 validation sources are trained on, such as 'name.name_slot.'"):
        train_reward_model(named[:1], hidden, named[1:])


def test_what_is_dropped_is_told() -> None:
    base = comparisons()[:20]
    given = [*base, base[0], replace(base[1], ranks=(2, 1)), replace(base[2], weight=0.5, outputs=("a", "b"))]
    given.append(replace(base[3], outputs=("same", "same")))
    said = Said()
    select = SelectionOptions(unanimous=True, least_weight=1)
    settings = config(model=RewardModelOptions("linear", ngrams=NGRAMS), select=select, held_out=0.01)
    trained = train_reward_model(given, settings, comparisons()[40:], progress=said)
    assert trained.dropped == {
        "repeated comparison": 1,
        "contested": 2,
        "too little weight": 1,
        "two outputs that are the same text": 1,
    }
    assert sum("dropped" in line for line in said.lines) == 4


def test_members_differ_and_come_back_from_the_same_seed() -> None:
    settings = config(model=replace(TINY, pooling=("mean",)), members=2, steps=10)
    first, again = (train_reward_model(comparisons(), settings, seed=4) for _ in range(2))
    scores = [[s.scores(["a"], ["the film starts"]) for s in found.scorers] for found in (first, again)]
    assert torch.equal(scores[0][0], scores[1][0])
    assert torch.equal(scores[0][1], scores[1][1])
    assert not torch.equal(scores[0][0], scores[0][1])
    assert len(first.facts()["members"]) == 2


def test_the_temperature_is_fitted_to_folds_that_were_not_trained_on(tmp_path: Path) -> None:
    """Labels that are right in 80% of the cases: a sure model is cooled down until it says so."""
    noisy = [replace(c, ranks=(2, 1)) if i % 5 == 0 else c for i, c in enumerate(comparisons())]
    settings = config(model=RewardModelOptions("linear", ngrams=NGRAMS), temperature_folds=3, steps=100, loop=LAST)
    trained = train_reward_model(noisy, settings, folder=tmp_path, seed=1)
    temperature = trained.scorers[0].moments[0].temperature
    assert 1.0 < temperature < 20.0
    stages = {json.loads(line)["stage"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()}
    assert stages == {"reward_model", *(f"reward_model-fold-{number}" for number in (1, 2, 3))}


def test_a_temperature_is_a_closed_form_for_one_distance() -> None:
    """Of comparisons at distance d of which a share p comes out right, T = d / log(p / (1 - p))."""
    distance, share = 3.0, 0.8
    found = fit_temperature(torch.tensor([distance, -distance]), torch.tensor([share, 1 - share]))
    assert found == pytest.approx(distance / torch.logit(torch.tensor(share, dtype=torch.float64)).item(), rel=1e-6)
    assert fit_temperature(torch.tensor([1.0, 2.0]), torch.ones(2)) == pytest.approx(0.05)  # all right: as sure as may be


def test_a_margin_that_a_field_gives() -> None:
    base = comparisons()[:3]
    given = [replace(c, meta={"points": value}) for c, value in zip(base, (2.0, -3, 0), strict=True)]
    found = Collector(("reward",), SelectionOptions(margin=0.5, margin_field="points")).comparisons(given, False, False)
    assert [item.margin for item in found.items] == [1.0, 1.5, 0.0]
    broken = [replace(base[0], meta={"points": "many"})]
    with pytest.raises(DataError, match=r"holds 'many' in 'points', where a number is needed"):
        Collector(("reward",), SelectionOptions(margin=0.5, margin_field="points")).comparisons(broken, False, False)


def test_weights_have_a_mean_of_one_and_rankings_keep_their_order() -> None:
    found = Collector(("reward",), SelectionOptions()).comparisons(comparisons()[:6], False, False)
    assert sum(item.weight for item in found.items) == pytest.approx(6)
    assert Counter(round(item.weight, 6) for item in found.items) == {0.5: 2, 1.0: 2, 1.5: 2}
    ranked = Collector(("reward",), SelectionOptions()).comparisons(rankings()[:2], False, True)
    assert [[ranked.pairs[i][1] for i in item.outputs] for item in ranked.items] == [
        [c.outputs[1], c.outputs[0], c.outputs[2]] for c in rankings()[:2]
    ]


# --- what is refused


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"loss": "elo"}, "reward_model.loss: there is no 'elo'"),
        ({"loss": "davidson", "label_smoothing": 0.1}, "reward_model.label_smoothing: belongs to the loss bradley_terry"),
        ({"loss": "davidson", "reliability": True}, "reward_model.reliability: belongs to the loss bradley_terry"),
        ({"loss": "davidson", "select": SelectionOptions(margin=1.0)}, "reward_model.select.margin: belongs to"),
        ({"centring": -1.0}, "reward_model.centring, held_out"),
        ({"held_out": 1.0}, "reward_model.centring, held_out"),
        ({"members": 0}, "members is 0"),
        ({"temperature_folds": 1}, "temperature_folds is 1"),
        ({"too_long": "cut"}, "reward_model.too_long: there is no 'cut'"),
        ({"loop": LoopOptions()}, "reward_model.loop.criterion: nothing measures 'nll'; choose accuracy or loss"),
        ({"label_smoothing": 0.5}, "label_smoothing: 0.5 is out of range"),
    ],
)
def test_options_that_contradict_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config(**changes)
    assert said in str(caught.value)


def test_data_and_policies_that_do_not_fit_are_refused() -> None:
    linear = RewardModelOptions("linear", ngrams=NGRAMS)
    with pytest.raises(ConfigurationError, match="bradley_terry learns from comparisons, and a rating is given"):
        train_reward_model([Rating("a", "b", 1.0)], config())
    for model, start, said in (
        (linear, policy(), "a linear model begins with no policy"),
        (replace(TINY, scratch=None), None, "there is no policy to begin with"),
        (TINY, policy(), "scratch describes random weights"),
        (RewardModelOptions("huggingface"), policy(), "a Hugging Face backbone begins with a Hugging Face policy"),
        (replace(TINY, scratch=None), policy("t5"), "begins with a policy of guerdon's own"),
        (replace(linear, surprisal=True), None, "surprisal is True, and a policy that measures it is missing"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            train_reward_model(comparisons(), config(model=model), start=start)
    with pytest.raises(DataError, match=r"the reward model takes at most 9"):
        train_reward_model(comparisons(), config(model=replace(TINY, max_source=9)))
    with pytest.raises(DataError, match="some records have an aspect and some have none"):
        train_reward_model([*comparisons("a"), *comparisons()], config(model=linear))
    loop = replace(BY_ACCURACY, criterion="loss", higher_is_better=False)
    with pytest.raises(DataError, match="rated with 1 distinct numbers, where an ordinal loss takes 2 to 50"):
        train_reward_model([replace(r, score=1.0) for r in ratings()], config(model=linear, loss="ordinal", loop=loop))


def test_a_judgement_with_more_outputs_than_the_rest_pads_nothing_into_the_loss() -> None:
    """Rankings of two and of three in one batch have the loss that they have apart."""
    settings = config(loss="plackett_luce", model=RewardModelOptions("linear", ngrams=NGRAMS))
    two = [replace(c, outputs=c.outputs[:2], ranks=c.ranks[:2]) for c in rankings()[:3]]
    maker = RewardMaker(rankings(), settings, None, None, seed=1)
    data = EncodedJudgements.of(maker._judged([*two, *rankings()[3:6]]), maker._text)
    judging: Judging = maker._new(1, data, ())
    torch.nn.init.normal_(judging.model.wide.weight)  # type: ignore[union-attr]
    trainee = RewardTraining("x", judging.eval(), data, data, settings, seed=1)
    together = judging.sums(data.items, *trainee._scores(data, data.items))
    apart = sum(judging.sums([item], *trainee._scores(data, [item])) for item in data.items)
    assert float(together.detach()) == pytest.approx(float(apart.detach()), rel=1e-5)  # type: ignore[union-attr]
