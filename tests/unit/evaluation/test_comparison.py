"""The words and figures of a comparison's page, on logs whose answer is known."""

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from scipy import stats

from guerdon.errors import DataError
from guerdon.evaluation.comparison import ComparedCell, Comparison, Noise
from guerdon.evaluation.comparison_page import curves, notes, render, summary, verdict
from guerdon.evaluation.comparison_tables import noise_rows, reaching_rows, system_rows
from guerdon.evaluation.results import ComparisonResult, Evaluation, MeasureInfo, SystemResult
from guerdon.evaluation.runfolder import RunFolder
from guerdon.metrics.significance import Interval

REWARD = MeasureInfo("reward", "reward", True, optimised=True)
ERRORS = MeasureInfo("slot_errors", "slot errors", False)
SAMPLES = 10  # of a step


def run(curve, stage="reinforce", seconds=2.0, kl=0.5):
    """A run folder with a validation every 5 steps; its step 3 was done twice, slowly at first."""
    steps = 5 * (len(curve) - 1)
    rows = [{"stage": stage, "kind": "train", "step": step, "loss": 0.1} for step in range(1, steps + 1)]
    rows += [{"stage": stage, "kind": "validation", "step": 5 * i, "reward": value} for i, value in enumerate(curve)]
    rows.append({"stage": stage, "kind": "final", "step": steps, "reward": max(curve), "kl": kl})
    timings = [{"stage": stage, "step": 3, "seconds": 100.0}]
    timings += [{"stage": stage, "step": step, "seconds": seconds} for step in range(1, steps + 1)]
    return RunFolder(Path("x"), metrics=rows, timings=timings)


def cell(name, curves_of_seeds, **changes):
    return ComparedCell(name, name.upper(), SAMPLES, [run(curve) for curve in curves_of_seeds], **changes)


CURVES = {
    "a": [[1.0, 2.0, 3.0], [1.0, 2.5, 3.5]],
    "b": [[1.0, 1.5, 2.0], [1.0, 1.2, 2.6]],
    "c": [[1.0, 1.1, 1.0], [1.0, 0.8, 0.9]],
}


def compared(values, gains, controls=("shuffled", "constant"), cells=("a", "b", "c"), **changes):
    """From {system: rewards of its seeds} and {(system, baseline): difference of reward}, each ± 0.1."""
    seeds = len(next(iter(values.values())))
    systems = []
    for name, rewards in values.items():
        mean = sum(rewards) / seeds
        metrics = {"reward": Interval(mean, mean - 0.1, mean + 0.1), "slot_errors": Interval(2.0, 1.9, 2.1)}
        runs = {"reward": list(rewards), "slot_errors": [2.0] * seeds} if seeds > 1 else {}
        systems.append(SystemResult(name, name.upper(), "x", "beam", 50 * seeds, metrics, runs))
    found = [ComparisonResult(a, b, "reward", d, d - 0.1, d + 0.1, 0.01) for (a, b), d in gains.items()]
    evaluation = Evaluation("test.jsonl", 50, 1000, 0, "finetuned", [REWARD, ERRORS], systems, found)
    compared_cells = [cell(name, CURVES[name][:seeds]) for name in cells]
    of_controls = [cell(name, [[1.0, 1.0, 1.1]] * seeds) for name in controls]
    recipe = {"data": {"train": "t.jsonl"}, "reinforce": {"steps": 10}, "seed": 1}
    given = {"start": "the policy in <runs>/e2e", "best_of": "Best-of-n is even.", **changes}
    return Comparison("tiny", list(range(1, seeds + 1)), compared_cells, of_controls, evaluation, recipe, **given)


VALUES = {
    "finetuned": [1.0, 1.0],
    "a": [3.0, 3.2],
    "b": [1.9, 2.1],
    "c": [1.0, 1.1],
    "shuffled": [1.0, 1.2],
    "constant": [0.9, 1.0],
    "best_of_n": [2.0, 2.2],
}
GAINS = {
    ("a", "finetuned"): 2.1, ("a", "shuffled"): 2.0, ("a", "constant"): 2.1, ("a", "best_of_n"): 1.0,
    ("b", "finetuned"): 1.0, ("b", "shuffled"): 0.9, ("b", "constant"): 1.0, ("b", "best_of_n"): -0.1,
    ("c", "finetuned"): 0.05, ("c", "shuffled"): 0.0, ("c", "constant"): 0.1, ("c", "best_of_n"): -1.0,
    ("shuffled", "finetuned"): 0.05, ("constant", "finetuned"): 0.0, ("best_of_n", "finetuned"): 1.1,
}  # fmt: skip


def test_a_lead_beyond_the_spread_over_seeds_is_called_one():
    found = compared(VALUES, GAINS)
    first, second = verdict(found)
    interval = stats.ttest_ind([3.0, 3.2], [1.9, 2.1], equal_var=False).confidence_interval(0.95)
    assert interval.low > 0
    assert first == (
        f"Highest reward on the test sources: A, 3.1 [1.8, 4.4] over 2 seeds. That is 1.10 [+{interval.low:.2f}, "
        f"+{interval.high:.2f}] above the next, B: more than seeds differ."
    )
    assert second.startswith("Against the start policy, A: Reward (optimised) rose by 2.10 [+2.00, +2.20]")
    assert "Neither control shows it" in second
    assert "picked after looking" in " ".join(notes(found))


def test_cells_that_are_the_same_are_named():
    assert compared(VALUES, GAINS).twins == []
    found = compared({**VALUES, "c": VALUES["a"]}, GAINS)
    assert found.twins == [["A", "C"]]
    assert "A and C came out alike in every figure of every seed: their options mean the same here." in notes(found)


def test_a_lead_within_the_spread_is_none():
    found = compared({**VALUES, "b": [2.5, 3.6], "c": [2.0, 3.9]}, GAINS)
    first = verdict(found)[0]
    assert "The next, B, stands 0.1 [" in first
    assert "lower: no more than seeds differ. Nor can these be told from it: C." in first


def test_level_cells_and_single_seeds_are_no_ranking():
    assert "It is level with B." in verdict(compared({**VALUES, "b": VALUES["a"]}, GAINS))[0]
    single = compared({name: values[:1] for name, values in VALUES.items()}, GAINS)
    assert verdict(single)[0] == (
        "Highest reward on the test sources: A, 3 of a single seed. The next, B, stands 1.1 lower; one seed does not tell "
        "whether that is more than seeds differ."
    )
    assert 'class="band' not in render(single)
    assert 'class="band' in render(compared(VALUES, GAINS))


def test_a_gain_that_a_control_shows_is_said_not_to_be_one():
    shown = {**GAINS, ("shuffled", "finetuned"): 2.1, ("a", "shuffled"): 0.0, ("b", "shuffled"): -1.1}
    found = compared(VALUES, shown)
    assert "not a gain that the reward made" in verdict(found)[1]
    rows = {row.label: row for row in system_rows(found)}
    assert rows["A"].figures[0].mark == "△"
    assert rows["A"].figures[0].kind == ""
    assert rows["B"].figures[0].mark == "△"  # rose by less than that control
    rows = {row.label: row for row in system_rows(compared(VALUES, GAINS))}
    assert (rows["A"].figures[0].mark, rows["A"].figures[0].kind) == ("▲", "better")
    assert rows["C"].figures[0].mark == ""


def test_the_table_has_every_system_and_what_it_cost():
    rows = system_rows(compared(VALUES, GAINS))
    assert [(row.kind, row.label) for row in rows] == [
        ("start", "start policy"), ("cell", "A"), ("cell", "B"), ("cell", "C"),
        ("control", "SHUFFLED"), ("control", "CONSTANT"), ("search", "BEST_OF_N"),
    ]  # fmt: skip
    reward, _, kl, seconds, samples = rows[1].figures
    half = stats.t.ppf(0.975, 1) * 0.1
    assert (reward.figure, reward.interval) == ("3.10", f"± {half:.2f}")
    assert (kl.figure, seconds.figure, samples.figure) == ("0.5", "2", "100")
    assert rows[0].figures[0].interval == ""
    assert rows[-1].figures[-1].figure == "50"


def test_steps_to_a_reward_count_each_run():
    found = compared(VALUES, GAINS)
    assert found.reachable == pytest.approx((1.1 + 1.0) / 2)  # of c, whose best weights are kept
    assert "The start policy stands at 1." in render(found)
    assert "The start policy has it already (1)" in render(replace(found, target=0.9))
    a, b, c = reaching_rows(found, 2.2)
    assert (a.reached, a.steps, a.drawn, a.time) == ("2 of 2", "8 (5 to 10)", "75 (50 to 100)", "15 s (10 s to 20 s)")
    assert (b.reached, b.steps, b.time) == ("1 of 2", "10", "20 s")
    assert (c.reached, c.steps) == ("0 of 2", "–")
    assert "as asked for" in render(replace(found, target=2.2))


def test_curves_end_where_the_first_run_ends_and_bands_hold_all_seeds():
    one = ComparedCell("a", "A", SAMPLES, [run([1.0, 2.0, 3.0, 4.0]), run([1.0, 3.0])])
    assert [tuple(b) for b in one.curve()] == [(0, 1.0, 1.0, 1.0), (5, 2.5, 2.0, 3.0)]
    assert [b.x for b in one.curve(samples=True)] == [0, 50]
    assert one.steps() == [15, 5]
    assert one.samples() == [150.0, 50.0]
    row = system_rows(replace(compared(VALUES, GAINS), cells=[one]))[1]
    assert (row.figures[-1].figure, row.figures[-1].interval) == ("100", "50 to 150")


def test_many_cells_go_on_in_further_charts():
    found = compared(VALUES, GAINS)
    many = replace(found, cells=[replace(found.cells[0], label=f"cell {n}") for n in range(9)])
    drawn = curves(many)
    assert [len(chart.legend) for chart in drawn] == [9, 9, 4, 4]  # seven cells and two controls, then two and two
    assert all(len({style for _, style, _ in chart.legend}) == len(chart.legend) for chart in drawn)


def test_noise_is_compared_at_equal_samples():
    noises = [Noise(10, 16, 8.0, 2.0, 0.5), Noise(40, 16, 2.0, 1.0, 0.9), Noise(10, 16, 5.0, -0.1, 0.0)]
    found = compared(VALUES, GAINS)
    found = replace(found, cells=[replace(c, noise=n) for c, n in zip(found.cells, noises, strict=True)], warmup=4)
    rows = noise_rows(found)
    assert [row.ratio for row in rows] == ["4", "2", "no signal"]
    assert [row.at_equal_samples for row in rows] == ["4", "8", "no signal"]  # a quarter of 40 samples is four times as noisy
    page = render(found)
    assert "at 10 samples" in page
    assert "4 steps were drawn before" in page
    assert "at 10 samples" not in render(replace(found, cells=found.cells[:1]))
    assert "Gradient variance" not in render(compared(VALUES, GAINS))


class Nesting(HTMLParser):
    """Checks that tags nest, and gathers words."""

    def __init__(self, html):
        super().__init__()
        self.open, self.words = [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open += [] if tag in ("meta", "br") else [tag]

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_is_whole_and_escapes_what_it_is_given():
    found = compared(VALUES, GAINS)
    found = replace(found, name="<i>name", cells=[replace(found.cells[0], label="<script>x"), *found.cells[1:]])
    html = render(found)
    text = " ".join(Nesting(html).words)
    assert "<script>x" in text
    assert "<script" not in html
    assert "<i>name: comparison" in text
    assert "the policy in <runs>/e2e" in text
    assert "Best-of-n is even." in text
    none = render(
        compared({n: v for n, v in VALUES.items() if n in ("finetuned", "a", "b", "c")}, GAINS, controls=(), best_of="")
    )
    assert "No control was run" in none
    assert "Best-of-n" not in none.split("</style>")[1].split('id="each"')[0].split('id="learning"')[0]


def test_for_machines():
    told = summary(compared(VALUES, GAINS))
    assert told["best"] == "a"
    assert told["systems"]["b"]["reward"] == [1.9, 2.1]
    assert told["cells"]["a"]["steps"] == [10, 10]
    assert told["cells"]["a"]["kl"] == [0.5, 0.5]
    assert told["cells"]["shuffled"]["noise_to_signal"] is None
    assert told["target"] == pytest.approx(1.05)


def test_a_figure_that_is_not_there_is_asked_for_in_vain():
    with pytest.raises(DataError, match="compare again"):
        compared(VALUES, GAINS).spread("a", "bleu")
