"""Teacher forcing: the same gradient however a step is cut, the exact likelihood, and the data of every step."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from helpers.tiny_policies import tiny_policy

from guerdon.data.batches import BatchOptions
from guerdon.data.padded import Padded
from guerdon.data.tokenizer import Tokenizer
from guerdon.errors import ConfigurationError
from guerdon.generator import Generator
from guerdon.training.supervised import Pairs, Supervised, SupervisedOptions

TOKENIZER = Tokenizer.train(["a b c"], 300)
SIZES = [(3, 5), (9, 2), (4, 4), (1, 7), (6, 6), (2, 3), (5, 1), (8, 8), (3, 3), (7, 2), (2, 9)]


def pairs(vocabulary: int = TOKENIZER.vocabulary_size, sizes: list[tuple[int, int]] = SIZES, seed: int = 0) -> Pairs:
    drawn = torch.Generator().manual_seed(seed)
    rows = [[torch.randint(4, vocabulary, (n,), generator=drawn).tolist() for n in size] for size in sizes]
    return Pairs([[*s, 2] for s, _ in rows], [[*t, 2] for _, t in rows])


def trainee(options: SupervisedOptions, seed: int = 0, held: Pairs | None = None, **model: object) -> Supervised:
    policy = tiny_policy(vocabulary=TOKENIZER.vocabulary_size, scale=0.3, **model)
    return Supervised("finetune", Generator(policy, TOKENIZER), pairs(), held or pairs(seed=1), options, seed)


OPTIONS = SupervisedOptions(steps=5, batch=BatchOptions(max_tokens=50))


def gradient(made: Supervised, step: int) -> tuple[torch.Tensor, float]:
    made.model.zero_grad()
    loss = 0.0
    for part in made.losses(step):
        loss += part.item()
        part.backward()
    return torch.cat([p.grad.flatten() for p in made.model.parameters() if p.grad is not None]), loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("accumulation", [2, 5, 50])
def test_the_gradient_does_not_depend_on_the_cut(accumulation: int, smoothing: float) -> None:
    base = replace(OPTIONS, label_smoothing=smoothing)
    whole, cut = trainee(base), trainee(replace(base, accumulation=accumulation))
    for step in (1, 2, 3):
        one, loss = gradient(whole, step)
        other, other_loss = gradient(cut, step)
        assert one.norm() > 1e-2
        assert (one - other).norm() / one.norm() < 1e-12
        assert other_loss == pytest.approx(loss, rel=1e-12)
        assert cut.metrics() == pytest.approx(whole.metrics(), rel=1e-12)


def test_cut_into_parts_each_row_once() -> None:
    made = trainee(replace(OPTIONS, accumulation=2))
    assert len(list(made.losses(1))) == 2
    assert len(list(trainee(replace(OPTIONS, accumulation=50)).losses(1))) == made.metrics()["rows"]


def test_the_loss_is_a_mean_over_the_steps_target_tokens() -> None:
    made = trainee(replace(OPTIONS, label_smoothing=0.0))
    _, loss = gradient(made, 1)
    numbers = [row["pair"] for row in made.batch()]
    data = pairs()
    sums = [
        -made.model.evaluate(Padded.from_lists([data.sources[i]]), Padded.from_lists([data.targets[i]])).log_prob.sum().item()
        for i in numbers
    ]
    tokens = sum(len(data.targets[i]) for i in numbers)
    assert loss == pytest.approx(math.fsum(sums) / tokens, rel=1e-12)
    longest = sum(max(len(side[i]) for i in numbers) for side in (data.sources, data.targets))
    fill = (tokens + sum(len(data.sources[i]) for i in numbers)) / (longest * len(numbers))
    expected = {"nll": loss, "tokens": tokens, "rows": len(numbers), "fill": fill, "epoch": 0}
    assert made.metrics() == pytest.approx(expected, rel=1e-12)


def test_validation_is_the_likelihood_per_token_of_the_held_pairs() -> None:
    held = pairs(seed=1)
    made = trainee(OPTIONS, held=held, dropout=0.3)
    made.model.train()
    rows = zip(held.sources, held.targets, strict=True)
    found = made.validate(1)
    sums = [made.model.evaluate(Padded.from_lists([s]), Padded.from_lists([t])).log_prob.sum().item() for s, t in rows]
    assert found == {"nll": pytest.approx(-math.fsum(sums) / sum(map(len, held.targets)), rel=1e-12)}


def test_a_held_pair_of_any_length_is_measured() -> None:
    long = Pairs([[5] * 4999 + [2]], [[6] * 4999 + [2]])
    made = trainee(OPTIONS, held=long, max_source=5000, max_target=5000, width=4, heads=1, encoder_layers=1, decoder_layers=1)
    assert math.isfinite(made.validate(1)["nll"])


def test_dropout_is_on_in_training_and_off_in_validation() -> None:
    made = trainee(OPTIONS, dropout=0.5)
    torch.manual_seed(1)
    first = gradient(made, 1)[1]
    torch.manual_seed(2)
    assert gradient(made, 1)[1] != first
    assert made.model.training
    assert made.validate(1) == made.validate(1)
    assert not made.model.training


def test_each_epoch_has_every_pair_once_and_each_step_is_known_by_its_number() -> None:
    made = trainee(OPTIONS)
    seen, numbers = [], []
    for step in range(1, 40):
        list(made.losses(step))
        seen.append((made.metrics()["epoch"], [row["pair"] for row in made.batch()]))
    for epoch in range(3):
        numbers = sorted(itertools.chain.from_iterable(batch for at, batch in seen if at == epoch))
        assert numbers == list(range(len(SIZES)))
    assert len({tuple(map(tuple, [b for at, b in seen if at == epoch])) for epoch in range(3)}) == 3
    for step in (17, 2, 39, 3):  # another one begins where a run was cut
        late = trainee(OPTIONS)
        list(late.losses(step))
        assert (late.metrics()["epoch"], [row["pair"] for row in late.batch()]) == seen[step - 1]
        list(made.losses(step))
        assert [row["pair"] for row in made.batch()] == seen[step - 1][1]


def test_the_batch_is_kept_as_texts() -> None:
    made = trainee(OPTIONS)
    assert made.batch() == []
    list(made.losses(1))
    kept = made.batch()[0]
    assert kept["source"] == TOKENIZER.decode(pairs().sources[kept["pair"]])
    assert kept["target"] == TOKENIZER.decode(pairs().targets[kept["pair"]])


def test_epochs_become_steps() -> None:
    data = pairs()
    made = trainee(OPTIONS)
    an_epoch = 0
    for step in itertools.count(1):
        list(made.losses(step))
        if made.metrics()["epoch"]:
            break
        an_epoch += 1
    options = replace(OPTIONS, steps=None, epochs=3)
    assert options.total_steps(data, seed=0) == 3 * an_epoch
    assert replace(options, epochs=0.5).total_steps(data, seed=0) == max(1, round(an_epoch / 2))
    assert replace(options, epochs=1e-6).total_steps(data, seed=0) == 1
    assert OPTIONS.total_steps(data, seed=0) == 5


def test_bfloat16_is_near_and_the_loss_is_float32() -> None:
    exact = trainee(OPTIONS)
    rough = trainee(replace(OPTIONS, precision="bfloat16"))
    for made in (exact, rough):
        made.model.float()
    one, other = next(exact.losses(1)), next(rough.losses(1))
    assert one.dtype == other.dtype == torch.float32
    assert one.item() != other.item()
    assert other.item() == pytest.approx(one.item(), rel=0.05)


def test_the_fingerprint_is_of_options_model_and_data() -> None:
    same = trainee(OPTIONS).fingerprint()
    assert trainee(OPTIONS).fingerprint() == same
    others = [
        trainee(replace(OPTIONS, label_smoothing=0.2)),
        trainee(replace(OPTIONS, batch=BatchOptions(51))),
        trainee(OPTIONS, dropout=0.1),
        trainee(OPTIONS, norm="post"),
        trainee(OPTIONS, held=pairs(seed=2)),
    ]
    assert len({same, *(other.fingerprint() for other in others)}) == 6
    assert Pairs([[1, 2]], [[3]]).fingerprint() != Pairs([[1], [2]], [[3]]).fingerprint()
    assert Pairs([[1, 2]], [[3]]).fingerprint() == Pairs(((1, 2),), ((3,),)).fingerprint()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({}, "epochs, steps"),
        ({"steps": 1, "epochs": 1}, "epochs, steps"),
        ({"steps": 0}, "epochs, steps"),
        ({"epochs": -1}, "epochs, steps"),
        ({"epochs": math.nan}, "epochs, steps"),
        ({"steps": 1, "accumulation": 0}, "accumulation"),
        ({"steps": 1, "label_smoothing": 1.0}, "label_smoothing"),
        ({"steps": 1, "label_smoothing": math.nan}, "label_smoothing"),
        ({"steps": 1, "precision": "float16"}, "float32 or bfloat16"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        SupervisedOptions(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_threads_make_the_gradient_of_one_thread(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guerdon.models.together._LEAST", 5)
    options, threads = replace(OPTIONS, label_smoothing=smoothing), torch.get_num_threads()
    one, loss = gradient(trainee(options), 1)
    torch.set_num_threads(2)
    try:
        made = trainee(options)
        other, other_loss = gradient(made, 1)
    finally:
        torch.set_num_threads(threads)
    assert (one - other).norm() / one.norm() < 1e-12
    assert other_loss == pytest.approx(loss, rel=1e-12)
    assert made.metrics() == pytest.approx(trainee_metrics(options), rel=1e-12)


def trainee_metrics(options: SupervisedOptions) -> dict[str, float]:
    made = trainee(options)
    gradient(made, 1)
    return dict(made.metrics())
