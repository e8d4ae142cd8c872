"""How costs grow: what is fitted to times, against closed forms and other libraries; the sweeps and the picture, run small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from helpers.scripts import ROOT, imported
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import curve_fit

from guerdon.data.padded import Padded
from guerdon.models.options import TransformerOptions
from guerdon.models.transformer import Transformer

DOUBLING = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])


@pytest.fixture(scope="module")
def exponents() -> ModuleType:
    return imported("exponents")


@pytest.fixture(scope="module")
def loglog() -> ModuleType:
    return imported("loglog")


@pytest.fixture(scope="module")
def scaling() -> ModuleType:
    return imported("scaling")


# --- exponents


@given(
    st.floats(-3, 3),
    st.lists(st.floats(1e-4, 1e3), min_size=2, max_size=6),
    st.lists(st.floats(1.0, 1e7), min_size=2, max_size=8, unique=True),
)
def test_a_power_gives_its_exponent_however_fast_each_pass_was(
    exponents: ModuleType, k: float, factors: list[float], xs: list[float]
) -> None:
    x = np.array(xs)
    assume(np.ptp(np.log(x)) > 0.1)
    found = exponents.exponent(x, np.array(factors)[:, None] * x**k)
    assert [found.value, found.low, found.high] == pytest.approx([k, k, k], abs=1e-8)
    assert found.factor == pytest.approx(stats.gmean(factors), rel=1e-6)
    assert exponents.last_octave(x, np.array(factors)[:, None] * x**k).value == pytest.approx(k, abs=1e-6)


def test_the_interval_is_students_over_the_slopes_of_the_passes(exponents: ModuleType) -> None:
    times = DOUBLING**0.8 * np.exp(np.random.default_rng(1).normal(0, 0.2, (5, 6)))
    found = exponents.exponent(DOUBLING, times)
    slopes = [stats.linregress(np.log(DOUBLING), np.log(own)).slope for own in times]
    interval = stats.ttest_1samp(slopes, 0.0).confidence_interval(0.95)
    assert [found.value, found.low, found.high] == pytest.approx([np.mean(slopes), interval.low, interval.high])


@pytest.mark.parametrize("passes", [3, 7])
def test_the_interval_holds_the_truth_as_often_as_it_says(exponents: ModuleType, passes: int) -> None:
    drawn = np.random.default_rng(passes)
    inside = 0
    for _ in range(1000):  # noise of each point, and the machine's own pace in each pass
        noise = drawn.normal(0, 0.1, (passes, 6)) + drawn.normal(0, 0.5, (passes, 1))
        found = exponents.exponent(DOUBLING, 0.01 * DOUBLING**0.9 * np.exp(noise))
        inside += found.low <= 0.9 <= found.high
    assert 0.93 <= inside / 1000 <= 0.97


def test_the_last_octave_is_that_of_the_largest_x_and_the_nearest_half(exponents: ModuleType) -> None:
    times = 5 + DOUBLING**2
    expected = np.log2((5 + 32.0**2) / (5 + 16.0**2))
    shuffled = np.random.default_rng(0).permutation(6)
    assert exponents.last_octave(DOUBLING[shuffled], np.stack([times, 3 * times])[:, shuffled]).value == pytest.approx(expected)
    # 12 is the largest that is at most half of 26; 18 is nearer and too near.
    x, times = np.array([4.0, 12.0, 18.0, 26.0]), np.array([1.0, 3.0, 100.0, 12.0])
    assert exponents.last_octave(x, np.stack([times, times])).value == pytest.approx(np.log(4) / np.log(26 / 12))
    assert exponents.last_octave(x[1:3], np.stack([times, times])[:, 1:3]).value == pytest.approx(np.log(100 / 3) / np.log(1.5))


@given(st.floats(0.001, 10), st.floats(0.001, 10))
def test_a_straight_line_is_found_again(exponents: ModuleType, fixed: float, each: float) -> None:
    found = exponents.line(DOUBLING, fixed + each * DOUBLING)
    assert found.fixed == pytest.approx(fixed, rel=1e-6, abs=1e-8)
    assert found.each == pytest.approx(each, rel=1e-6, abs=1e-8)
    assert found.r2 == pytest.approx(1.0)
    assert found.off == pytest.approx(0.0, abs=1e-6)


def test_the_nearest_line_weighs_distances_as_shares_of_the_times(exponents: ModuleType) -> None:
    times = 0.01 * DOUBLING**1.5
    (fixed, each), _ = curve_fit(lambda x, a, b: a + b * x, DOUBLING, times, sigma=times)
    found = exponents.line(DOUBLING, times)
    assert (found.fixed, found.each) == pytest.approx((fixed, each))
    assert found.off == pytest.approx(max(abs(t - fixed - each * x) / t for x, t in zip(DOUBLING, times, strict=True)))
    # A curve that is no line: R² hides it, the largest distance does not.
    assert 0.6 < found.r2 < 0.999
    assert found.off > 0.15


def test_r2_is_the_share_of_the_variance(exponents: ModuleType) -> None:
    x, times = np.array([0.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 2.0, 4.0])
    found = exponents.line(x, times)
    # by hand: at x = 1, (2 − m)/2 and (4 − m)/4 have their least squares at m = (2/4 + 4/16) / (1/4 + 1/16)
    at_one = 0.75 / 0.3125
    rest = (2 - at_one) ** 2 + (4 - at_one) ** 2
    assert found.fixed == pytest.approx(1.0)
    assert found.fixed + found.each == pytest.approx(at_one)
    assert found.r2 == pytest.approx(1 - rest / 6)  # about the mean of 2: 1 + 1 + 0 + 4
    assert found.off == pytest.approx((4 - at_one) / 4)


# --- what is measured


@torch.no_grad()
def test_an_endless_policy_gives_the_end_token_no_probability_and_the_others_theirs(scaling: ModuleType) -> None:
    torch.manual_seed(0)
    plain = Transformer(TransformerOptions(300, 32, 2, 1, 1, 64)).eval()
    sources, targets = Padded.from_lists([[5, 6, 7], [8, 9, 2]]), Padded.from_lists([[11, 12], [13, 14]])
    before = plain.logits(sources, targets).double().softmax(-1)
    after = scaling.endless(plain).logits(sources, targets).double().softmax(-1)
    assert before[:, plain.end_id].min() > 1e-5
    assert after[:, plain.end_id].max() < 1e-15
    entropy = [-(p * p.clamp_min(1e-300).log()).sum(-1).mean() for p in (before, after)]
    assert float(entropy[1]) == pytest.approx(float(entropy[0]), rel=0.05)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of made-up words, of several lengths."""
    drawn, path = np.random.default_rng(3), tmp_path_factory.mktemp("records") / "records.jsonl"
    words = ["".join(drawn.choice(list("aeioubdgklmnrst"), size=5)) for _ in range(80)]
    rows = [{n: " ".join(drawn.choice(words, size=drawn.integers(2, 12))) for n in ("source", "reference")} for _ in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_rows_are_the_texts_in_one_stream_and_begin_again_where_it_ends(scaling: ModuleType, records: Path) -> None:
    texts, shape = scaling.Texts(records), scaling.Shape(vocabulary=300)
    rows = texts.rows("source", shape, 5, 7)
    assert [len(row) for row in rows] == [7] * 5
    tokenizer = texts.tokenizer(300)
    stream = [token for text in texts.texts["source"] for token in tokenizer.encode(text)]
    assert [token for row in rows for token in row] == stream[:35]
    longer = texts.rows("source", shape, len(stream), 2)
    assert [token for row in longer for token in row] == stream * 2


def test_outputs_have_the_length_of_their_point_or_it_is_an_error(scaling: ModuleType, records: Path) -> None:
    point = scaling.Point(scaling.Shape(32, 1, 300, 4, 2, 5, 3), scaling.Texts(records), "float32")
    taken = point.seconds(("rollout", "update", "training"), 1)
    assert set(taken) == {"rollout", "update", "training"}
    assert min(taken.values()) > 0
    assert point.reinforcing.metrics()["length"] == 5
    assert point.reinforcing.metrics()["samples"] == 8
    assert point.training.metrics()["tokens"] == 40
    assert point.training.metrics()["fill"] == 1.0
    with torch.no_grad():
        point.reinforcing.generator.policy.embedding.weight[2, 0] = 50.0
    with pytest.raises(RuntimeError, match="ended by themselves"):
        point.seconds(("rollout",), 2)


def test_a_sweep_changes_one_quantity(scaling: ModuleType) -> None:
    base = scaling.Shape()
    names = {"parameters": "width", "length": "length", "samples": "copies", "batch": "sources", "vocabulary": "vocabulary"}
    found = scaling.sweeps(base, scaling.VALUES)
    assert set(found) == set(names)
    for quantity, sweep in found.items():
        for shape, value in zip(sweep.shapes, scaling.VALUES[names[quantity]], strict=True):
            assert shape == scaling.replace(base, **{names[quantity]: value})


# --- the picture


def test_equal_ratios_are_equal_distances_and_labels_are_round(loglog: ModuleType) -> None:
    axis = loglog.Axis(2.0, 200.0, 10.0, 210.0)
    assert [axis.at(value) for value in (2, 20, 200)] == pytest.approx([10, 110, 210])
    assert loglog.marks(0.03, 1.2) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1])
    assert [loglog.number(value) for value in (8, 128, 1000, 26655, 7.64e6)] == ["8", "128", "1k", "26.7k", "7.64M"]


@pytest.fixture(scope="module")
def quick(records: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ElementTree.Element]:
    """What `scaling.py --quick` writes."""
    target = tmp_path_factory.mktemp("scaling") / "scaling.json"
    command = [sys.executable, str(ROOT / "benchmarks/scaling.py"), str(records), "--quick", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--output", str(target)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no number of JSON")

    found = json.loads(target.read_text("utf-8"), parse_constant=refused)
    return found, ElementTree.fromstring(target.with_suffix(".svg").read_text("utf-8"))


def test_the_script_measures_each_point_of_each_sweep(
    quick: tuple[dict[str, Any], ElementTree.Element], scaling: ModuleType
) -> None:
    sweeps = quick[0]["sweeps"]
    assert {name: [p["x"] for p in sweeps[name]["points"]] for name in ("length", "samples", "batch", "vocabulary")} == {
        "length": [2, 4], "samples": [1, 2], "batch": [2, 4], "vocabulary": [300, 400]
    }  # fmt: skip
    vocabulary = 400
    sizes = [(32, 1), (64, 1), (64, 4)]
    models = [Transformer(TransformerOptions(vocabulary, w, 1, layers, layers, 4 * w)) for w, layers in sizes]
    points = sweeps["parameters"]["points"]
    assert [point["x"] for point in points] == [sum(one.numel() for one in model.parameters()) for model in models]
    assert ["apart" in point for point in points] == [False, False, True]
    for name, sweep in sweeps.items():
        assert set(sweep["fits"]) == {"rollout", "update"} | ({"training"} if name != "samples" else set())
        assert sweep["passes"] == 3
        for point in sweep["points"]:
            for one in point["works"].values():
                assert sorted(one["all"]) == [one["least"], one["seconds"], one["most"]]


def test_the_fits_are_those_of_the_points_that_are_not_apart(quick: tuple[dict[str, Any], ElementTree.Element]) -> None:
    for sweep in quick[0]["sweeps"].values():
        points = [point for point in sweep["points"] if "apart" not in point]
        x = np.log([point["x"] for point in points])
        for work, fit in sweep["fits"].items():
            passes = np.log([point["works"][work]["all"] for point in points]).T
            slopes = [stats.linregress(x, one).slope for one in passes]
            assert fit["exponent"]["value"] == pytest.approx(np.mean(slopes))


def test_the_picture_has_a_panel_for_each_sweep_with_its_exponents_and_units(
    quick: tuple[dict[str, Any], ElementTree.Element],
) -> None:
    found, root = quick
    name = "{http://www.w3.org/2000/svg}"
    panels = root.findall(f"{name}g")
    assert len(panels) == len(found["sweeps"])
    for panel, sweep in zip(panels, found["sweeps"].values(), strict=True):
        texts = ["".join(text.itertext()) for text in panel.iter(f"{name}text")]
        assert {sweep["title"], sweep["unit"], "seconds a step"} <= set(texts)
        for work, fit in sweep["fits"].items():
            whole = fit["exponent"]
            shown = f"{whole['value']:.2f} ({whole['low']:.2f} to {whole['high']:.2f})"
            assert texts[texts.index(work) + 1] == shown
        marks = [circle for circle in panel.iter(f"{name}circle") if circle.get("stroke")]
        assert len(marks) == len(sweep["points"]) * len(sweep["fits"])


def test_too_few_passes_are_refused(records: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks/scaling.py"), str(records), "--repetitions", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "at least 3" in done.stderr
    assert not list(tmp_path.iterdir())
