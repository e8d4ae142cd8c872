"""The loop: non-finite steps, early stopping, the choice of weights, and resuming at every step there is."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.quadratic import Quadratic, train
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from guerdon.data.draws import key
from guerdon.errors import CheckpointError, ConfigurationError, TrainingError
from guerdon.training.around import surroundings
from guerdon.training.checkpoint import CheckpointStore, TrainingState
from guerdon.training.loop import Loop
from guerdon.training.schedule import OptimiserOptions
from guerdon.training.trainee import LoopOptions

EXACT = ("metrics.jsonl", "samples.jsonl", "skipped_steps.jsonl", "alarms.jsonl")


def rows(folder: Path, kind: str | None = None, name: str = "metrics.jsonl") -> list[dict]:
    found = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [row for row in found if kind is None or row["kind"] == kind]


def logs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in EXACT if (folder / name).exists()}


def weights(trainee: Quadratic) -> list[float]:
    return [*trainee.model.weight.flatten().tolist(), *trainee.model.bias.tolist()]


# --- steps


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    trainee = Quadratic()
    outcome = train(trainee, tmp_path, steps=60)
    assert (outcome.steps, outcome.reason, outcome.skipped) == (60, "all steps done", 0)
    assert outcome.validation["score"] < 0.05 < rows(tmp_path, "validation")[0]["score"]
    steps = rows(tmp_path, "train")
    assert [row["step"] for row in steps] == list(range(1, 61))
    assert [row["seen"] for row in steps] == [n * (n + 1) // 2 for n in range(1, 61)]
    assert [row["step"] for row in rows(tmp_path, "validation")] == list(range(2, 61, 2))
    assert rows(tmp_path, "final") == [{"stage": "quadratic", "step": 60, "kind": "final", **outcome.validation}]
    timings = rows(tmp_path, name="timings.jsonl")
    assert len(timings) == 61
    assert set(timings[0]) == {"stage", "step", "seconds", "thinking"}
    assert timings[-1]["event"] == "usage"
    assert set(timings[-1]["parts"]) == set(timings[-1]["peaks"]) == {"thinking", "validation", "checkpoint"}
    assert timings[-1]["parts"]["thinking"] == pytest.approx(sum(row["thinking"] for row in timings[:-1]))


def test_the_loss_is_the_sum_of_its_parts_and_the_norm_that_of_the_whole_gradient(tmp_path: Path) -> None:
    trainee = Quadratic()
    before = trainee.model.weight[0].tolist()
    train(trainee, tmp_path, steps=1)
    row = rows(tmp_path, "train")[0]
    torch.manual_seed(key(0, "dropout quadratic", 1))
    noise = torch.rand(4, dtype=torch.float64).tolist()
    terms = [((w - 1) * (1 + n)) for w, n in zip(before, noise, strict=True)]
    assert row["loss"] == pytest.approx(math.fsum(t * t for t in terms), rel=1e-12)
    gradient = [2 * t * (1 + n) for t, n in zip(terms, noise, strict=True)]
    assert row["grad_norm"] == pytest.approx(math.sqrt(math.fsum(g * g for g in gradient)), rel=1e-12)
    assert row["learning_rate"] == 0.1


@pytest.mark.parametrize("limit", [0.5, 1e9])
def test_the_gradient_is_cut_to_the_norm_and_no_shorter(limit: float, tmp_path: Path) -> None:
    free, clipped = Quadratic(), Quadratic()
    train(free, tmp_path / "free", steps=1, average_best=0)
    train(clipped, tmp_path / "clipped", steps=1, average_best=0, clip_norm=limit)
    norm = rows(tmp_path / "clipped", "train")[0]["grad_norm"]
    assert norm == rows(tmp_path / "free", "train")[0]["grad_norm"] > 0.5
    assert clipped.model.weight.grad.norm().item() == pytest.approx(min(limit, norm), rel=1e-5)


@pytest.mark.parametrize("fault", [math.nan, math.inf, "gradient"])
def test_a_step_that_is_not_finite_is_skipped_counted_and_kept(fault: float | str, tmp_path: Path) -> None:
    trainee = Quadratic(faults={3: fault, 4: fault, 7: fault})
    outcome = train(trainee, tmp_path, steps=8, max_skipped=3)
    assert outcome.skipped == 3
    assert [row["skipped"] for row in rows(tmp_path, "train")] == [0, 0, 1, 2, 2, 2, 3, 3]
    third = rows(tmp_path, "train")[2]
    if fault == "gradient":
        assert math.isfinite(third["loss"])
    else:
        assert third["loss"] is None
    assert third["grad_norm"] is None
    skipped = rows(tmp_path, name="skipped_steps.jsonl")
    assert [row["step"] for row in skipped] == [3, 4, 7]
    assert skipped[0]["batch"] == [{"target": 1.0}]
    assert "not finite" not in skipped[0]["reason"]
    assert "gradient norm" in skipped[0]["reason"]
    assert all(map(math.isfinite, weights(trainee)))


def test_a_skipped_step_moves_neither_weights_nor_moments(tmp_path: Path) -> None:
    trainee = Quadratic(faults={2: math.nan, 3: "gradient"})
    train(trainee, tmp_path / "broken", steps=3, average_best=0)
    assert torch.equal(trainee.model.weight, weights_at(1, tmp_path))
    for run, step in (("broken", 3), ("until 1", 1)):
        store = CheckpointStore(tmp_path / run / "checkpoints" / "quadratic")
        moments = load_file(store.folder / f"step-{step:08d}" / "optimiser.safetensors")
        assert {float(value) for name, value in moments.items() if name.endswith("/step")} == {1.0}


def test_too_many_in_a_row_stop_with_one_clear_line(tmp_path: Path) -> None:
    trainee = Quadratic(faults=dict.fromkeys([2, 4, 5, 6], math.nan))
    with pytest.raises(TrainingError, match=r"quadratic, step 6: 3 steps in a row.*skipped_steps\.jsonl") as caught:
        train(trainee, tmp_path, max_skipped=3)
    assert "\n" not in str(caught.value)
    assert [row["step"] for row in rows(tmp_path, name="skipped_steps.jsonl")] == [2, 4, 5, 6]
    with pytest.raises(TrainingError, match="step 6: 3 steps in a row"):  # resumed at step 5, with two behind it
        train(trainee, tmp_path, max_skipped=3)
    assert [row["step"] for row in rows(tmp_path, name="skipped_steps.jsonl")] == [2, 4, 5, 6]


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_a_criterion_that_is_not_finite_stops(figure: float, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="step 4: validation gave no finite 'score'"):
        train(Quadratic(script={4: figure}), tmp_path)


def test_a_criterion_that_nobody_measures_stops(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no finite 'bleu' \(it gave: score, distance"):
        train(Quadratic(), tmp_path, criterion="bleu", higher_is_better=True)


# --- early stopping and the choice of weights


def settled(values: list[float], **options: object) -> int | None:
    """The number of the validation at which the loop stops, if any."""
    loop = Loop.__new__(Loop)
    loop.options = LoopOptions(criterion="score", **options)
    loop.state = TrainingState()
    for number, value in enumerate(values, 1):
        loop.state.validations.append((number, value))
        if loop._settled():
            return number
    return None


def test_early_stopping_by_hand(tmp_path: Path) -> None:
    """Smaller is better. 5.0 4.0 4.1 3.9 3.95 3.92 3.91: the best before is 3.9, and three in a row are no better."""
    script = dict(zip(range(2, 30, 2), [5.0, 4.0, 4.1, 3.9, 3.95, 3.92, 3.91, 1.0], strict=False))
    outcome = train(Quadratic(script=script), tmp_path, steps=28, patience=3)
    assert (outcome.steps, outcome.reason) == (14, "score no longer improves")
    assert [row["score"] for row in rows(tmp_path, "validation")][-1] == 3.91


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"patience": 2}, 4),  # 2.0, 2.0 do not pass 2.0: a tie is no rise
        ({"patience": 3}, 8),  # 2.05 at the fifth is a rise; the three behind it are none
        ({"patience": 2, "tolerance": 0.5}, 4),
        ({"patience": 6, "tolerance": 2.0}, 7),
        ({"patience": None}, None),
    ],
)
def test_patience_and_tolerance_by_hand(options: dict, expected: int | None) -> None:
    values = [1.0, 2.0, 2.0, 2.0, 2.05, 2.04, 2.03, 2.0]
    assert settled(values, higher_is_better=True, **options) == expected


def test_smoothing_by_hand() -> None:
    """Means of two: 1.5 1.5 2.0 2.0 1.75. The single dips at the third and fourth do not stop it, the last two do."""
    values = [1.0, 2.0, 1.0, 3.0, 1.0, 2.5]
    assert settled(values, higher_is_better=True, patience=1) == 3
    assert settled(values, higher_is_better=True, patience=1, smoothing=2) == 3
    assert settled(values, higher_is_better=True, patience=2, smoothing=2) == 6
    assert settled([1.0, 1.0, 1.0], higher_is_better=True, patience=1, smoothing=3) is None  # one mean only


@given(
    values=st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=15),
    patience=st.integers(1, 4),
    tolerance=st.sampled_from([0.0, 1.0, 2.5]),
    smoothing=st.integers(1, 3),
    higher=st.booleans(),
)
def test_early_stopping_is_its_definition(values, patience, tolerance, smoothing, higher) -> None:
    """It stops at the first validation at which none of the last ``patience`` means passed the best one before them."""
    signed = values if higher else [-value for value in values]
    expected = None
    for n in range(1, len(values) + 1):
        means = [math.fsum(signed[i - smoothing : i]) / smoothing for i in range(smoothing, n + 1)]
        if len(means) > patience and all(m <= max(means[:-patience]) + tolerance for m in means[-patience:]):
            expected = n
            break
    found = settled(values, higher_is_better=higher, patience=patience, tolerance=tolerance, smoothing=smoothing)
    assert found == expected


def weights_at(step: int, folder: Path) -> torch.Tensor:
    trainee = Quadratic()
    train(trainee, folder / f"until {step}", steps=step, average_best=0)
    return trainee.model.weight.detach()


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_validated_weights_are_the_final_ones(higher: bool, tmp_path: Path) -> None:
    script = dict(zip(range(2, 11, 2), [3.0, 1.0, 5.0, 1.0, 5.0], strict=True))
    trainee = Quadratic(script=script)
    train(trainee, tmp_path / "run", higher_is_better=higher)
    assert torch.equal(trainee.model.weight, weights_at(6 if higher else 4, tmp_path))  # of equal ones the earlier


def test_none_of_the_best_is_the_last(tmp_path: Path) -> None:
    trainee = Quadratic(script={2: 0.0, 10: 9.0})
    outcome = train(trainee, tmp_path / "run", average_best=0)
    assert torch.equal(trainee.model.weight, weights_at(10, tmp_path))
    assert not (tmp_path / "run" / "checkpoints" / "quadratic" / "best").exists()
    assert outcome.validation["score"] == 9.0


@pytest.mark.parametrize(("choices", "averaged"), [((2.0, 1.0), True), ((1.0, 2.0), False), ((1.0, 1.0), True)])
def test_the_mean_of_the_best_where_it_validates_no_worse(choices: tuple, averaged: bool, tmp_path: Path) -> None:
    trainee = Quadratic(script={2: 3.0, 4: 1.0, 6: 2.0, 8: 1.5, 10: 9.0}, choices=choices)
    outcome = train(trainee, tmp_path / "run", average_best=2)
    best, second = weights_at(4, tmp_path), weights_at(8, tmp_path)
    assert torch.equal(trainee.model.weight, (best + second) / 2 if averaged else best)
    assert outcome.validation["score"] == choices[averaged]


# --- resuming


OPTIONS = {"steps": 9, "validate_every": 3, "checkpoint_every": 2, "average_best": 2}


def uninterrupted(folder: Path, **options: object) -> tuple[list[float], dict[str, bytes], object]:
    trainee = Quadratic(faults={5: math.nan})
    outcome = train(trainee, folder, **{**OPTIONS, **options})
    return weights(trainee), logs(folder), outcome


@pytest.mark.parametrize("crash_at", range(1, 10))
def test_a_run_that_is_cut_in_any_step_computes_the_same_bits(crash_at: int, tmp_path: Path) -> None:
    expected = uninterrupted(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Quadratic(faults={5: math.nan}, crash_at=crash_at), tmp_path / "cut", **OPTIONS)
    trainee = Quadratic(faults={5: math.nan})
    outcome = train(trainee, tmp_path / "cut", **OPTIONS)
    assert (weights(trainee), logs(tmp_path / "cut"), outcome) == expected


@pytest.mark.parametrize("trained", [False, True])
def test_a_run_that_is_cut_before_any_of_its_checkpoints_computes_the_same_bits(trained: bool, tmp_path: Path) -> None:
    """What was logged for the checkpoint that never came is written once, the validation before the first step too."""
    whole = Quadratic(begins_trained=trained)
    outcome = train(whole, tmp_path / "whole", **OPTIONS)
    assert [row["step"] for row in rows(tmp_path / "whole", "validation")] == [0, 3, 6, 9][0 if trained else 1 :]
    for number in range(1, whole.checkpoints + 1):
        folder = tmp_path / f"cut {number}"
        with pytest.raises(KeyboardInterrupt):
            train(Quadratic(begins_trained=trained, crash_at_checkpoint=number), folder, **OPTIONS)
        trainee = Quadratic(begins_trained=trained)
        assert train(trainee, folder, **OPTIONS) == outcome
        assert (weights(trainee), logs(folder)) == (weights(whole), logs(tmp_path / "whole")), number


def test_what_it_began_with_may_stay_the_best(tmp_path: Path) -> None:
    trainee = Quadratic(script={0: 0.0}, begins_trained=True)
    begun = weights(trainee)
    outcome = train(trainee, tmp_path, steps=6, patience=2)
    assert (outcome.steps, outcome.validation["distance"]) == (4, 13.25)
    assert weights(trainee) == begun


@pytest.mark.parametrize("patience", [None, 1])
def test_a_run_may_go_on_from_every_checkpoint_it_ever_wrote(patience: int | None, tmp_path: Path) -> None:
    """Each checkpoint is copied when it is made, and the run taken up from that moment, stale logs and all."""
    moments: list[Path] = []

    class Copying(CheckpointStore):
        def save(self, *arguments: object) -> None:
            super().save(*arguments)
            moments.append(tmp_path / f"moment {len(moments)}")
            shutil.copytree(tmp_path / "run", moments[-1])

    script = {3: 5.0, 6: 1.0, 9: 2.0}
    options = {**OPTIONS, "patience": patience}

    def run(folder: Path, store: type[CheckpointStore]) -> tuple[list[float], object]:
        trainee = Quadratic(script=script)
        loop = LoopOptions(criterion="score", **{k: v for k, v in options.items() if k != "steps"})
        with surroundings(folder, trainee.name, 0) as around:
            around = replace(around, checkpoints=store(around.checkpoints.folder))
            optimiser = OptimiserOptions(0.1, 0, "constant", weight_decay=0.0)
            outcome = Loop(trainee, 9, loop, optimiser, around).run()
        return weights(trainee), outcome

    expected = run(tmp_path / "run", Copying), logs(tmp_path / "run")
    assert len(moments) >= 7
    for moment in moments:
        for name in ("metrics.jsonl", "samples.jsonl"):
            with (moment / name).open("a") as file:
                file.write('{"stage": "quadra')
        last = moment == moments[-1]
        result = run(moment, CheckpointStore)
        assert result == expected[0]
        if not last:  # the last checkpoint is of a stage that is over: its logs are not touched again
            assert logs(moment) == expected[1]


def test_a_finished_stage_computes_nothing_and_touches_no_log(tmp_path: Path) -> None:
    expected = uninterrupted(tmp_path)
    for name in ("metrics.jsonl", "samples.jsonl"):
        with (tmp_path / name).open("a") as file:
            file.write('{"stage": "later", "step": 1}\n')
    later = logs(tmp_path)
    trainee = Quadratic()
    assert train(trainee, tmp_path, **OPTIONS) == expected[2]
    assert weights(trainee) == expected[0]
    assert trainee.validated == []
    assert logs(tmp_path) == later


def test_a_stage_that_is_begun_behind_another_one_cuts_back_to_its_own_beginning(tmp_path: Path) -> None:
    uninterrupted(tmp_path)
    first = logs(tmp_path)["metrics.jsonl"]

    class Second(Quadratic):
        name = "second"

    with pytest.raises(KeyboardInterrupt):
        train(Second(crash_at=2), tmp_path, checkpoint_every=5)
    train(Second(), tmp_path, checkpoint_every=5)
    found = logs(tmp_path)["metrics.jsonl"]
    assert found.startswith(first)
    assert [json.loads(line)["step"] for line in found[len(first) :].splitlines() if b'"train"' in line] == list(range(1, 11))


CHANGES = [{"steps": 10}, {"seed": 1}, {"validate_every": 4}, {"clip_norm": 2.0}, {"average_best": 1}, {"label": "other"}]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_checkpoints_of_other_options_are_refused_and_nothing_is_changed(change: dict, tmp_path: Path) -> None:
    uninterrupted(tmp_path)
    before = logs(tmp_path)
    trainee = Quadratic(label=change.get("label", ""))
    begun = weights(trainee)
    with pytest.raises(CheckpointError, match="belongs to other options") as caught:
        train(trainee, tmp_path, **{**OPTIONS, **{k: v for k, v in change.items() if k != "label"}})
    assert "another run folder" in str(caught.value)
    assert weights(trainee) == begun
    assert logs(tmp_path) == before


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    kept = Quadratic()
    train(kept, tmp_path / "run", **OPTIONS)
    shutil.rmtree(tmp_path / "run")
    trainee = Quadratic()
    train(trainee, None, **OPTIONS)
    assert weights(trainee) == weights(kept)
    assert list(tmp_path.iterdir()) == []


# --- options


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"validate_every": 0}, "validate_every"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"smoothing": 0}, "smoothing"),
        ({"max_skipped": 0}, "max_skipped"),
        ({"average_best": -1}, "average_best"),
        ({"tolerance": -0.1}, "tolerance"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"patience": 0}, "patience"),
        ({"criterion": "nll", "higher_is_better": True}, "worst nll"),
        ({"criterion": "reward"}, "worst reward"),
        ({"criterion": "bleu"}, "worst bleu"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        LoopOptions(**options)
    assert "\n" not in str(caught.value)


def test_recomputing_is_refused_where_nothing_can_be_recomputed(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"quadratic\.loop\.recompute: there is no layer"):
        train(Quadratic(), tmp_path, steps=2, recompute=True)
