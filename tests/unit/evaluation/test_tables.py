from guerdon.evaluation.results import ComparisonResult, Evaluation, MeasureInfo, SystemResult
from guerdon.evaluation.runfolder import RunFolder
from guerdon.evaluation.tables import (
    SAMPLES,
    alarms_table,
    differences_table,
    quiet_stages,
    recipe_facts,
    samples_of,
    timings_table,
    values_table,
    watching,
)
from guerdon.metrics.significance import Interval

BLEU, TER, WORDS = MeasureInfo("bleu", "BLEU", True), MeasureInfo("ter", "TER", False), MeasureInfo("length", "words", None)


def evaluation(low, high):
    """Two systems whose difference has this interval on every measure."""
    measures = [BLEU, TER, WORDS]
    metrics = {measure.name: Interval(50.0, 48.0, 52.0) for measure in measures}
    systems = [SystemResult(name, name.title(), "", "greedy", 2, metrics) for name in ("a", "b")]
    comparisons = [ComparisonResult("b", "a", m.name, (low + high) / 2, low, high, 0.01) for m in measures]
    return Evaluation("", 2, 1000, 0, "a", measures, systems, comparisons)


def test_better_and_worse_follow_the_good_direction():
    for interval, expected in (
        ((1, 3), ["better", "worse", "other"]),
        ((-3, -1), ["worse", "better", "other"]),
        ((-1, 1), [""] * 3),
    ):
        found = evaluation(*interval)
        assert [row.cells[1].verdict for row in values_table(found)] == expected
        assert [row.cells[0].verdict for row in differences_table(found, [("b", "a")])] == expected


def test_cells():
    value = values_table(evaluation(1, 3))[0].cells[1]
    assert (value.figure, value.interval) == ("50.0", "48.0 to 52.0")
    difference = differences_table(evaluation(1, 3), [("b", "a"), ("a", "b")])[0].cells
    assert (difference[0].figure, difference[0].interval, difference[0].p) == ("+2.0", "[+1.0, +3.0]", "p = 0.010")
    assert difference[1] is None


def rows(*texts):
    return [{"source": f"s{i}", "references": ["r"], "output": text} for i, text in enumerate(texts)]


def shown(run):
    return [
        (sample.source, "".join(p.text for p in sample.before), "".join(p.text for p in sample.after)) for sample in run.shown
    ]


def test_samples_are_the_changed_ones_evenly_spread(tmp_path):
    before = rows(*(f"text {i}" for i in range(100)))
    after = [row if i % 2 else row | {"output": f"other {i}"} for i, row in enumerate(before)]
    found = samples_of(RunFolder(tmp_path, outputs={"finetuned": before, "reinforced": after}))
    assert found.note.startswith("50 of 100 outputs differ. Shown are 12")
    sources = [int(sample.source[1:]) for sample in found.shown]
    assert len(set(sources)) == SAMPLES
    assert all(source % 2 == 0 for source in sources)
    assert sources[0] == 0
    assert sources[-1] >= 88
    same = samples_of(RunFolder(tmp_path, outputs={"finetuned": before, "reinforced": before}))
    assert (same.note, same.shown) == ("0 of 100 outputs differ. ", [])


def test_samples_of_validations(tmp_path):
    log = [
        {"stage": "finetune", "step": 5, "source": "x", "output": "not this"},
        {"stage": "reinforce", "step": 0, "source": "x", "output": "old", "reference": "ref"},
        {"stage": "reinforce", "step": 9, "source": "x", "output": "new", "reference": "ref"},
        {"stage": "reinforce", "step": 9, "source": "unseen", "output": "new"},
        {"stage": "reinforce-constant", "step": 9, "source": "x", "output": "not this"},
    ]
    found = samples_of(RunFolder(tmp_path, samples=log))
    assert (found.before, found.after) == ("step 0", "step 9")
    assert shown(found) == [("x", "old", "new")]
    assert found.shown[0].references == ["ref"]
    assert samples_of(RunFolder(tmp_path)) is None


def test_timings(tmp_path):
    log = [
        {"stage": "finetune", "step": 1, "seconds": 2.0, "rollout": 0.5},
        {"stage": "finetune", "step": 2, "seconds": 2.0, "rollout": 1.5},
        {"stage": "finetune", "event": "finished", "seconds": 70.0},
        {"stage": "finetune", "event": "finished", "seconds": 60.0},
        {"stage": "reinforce", "step": 1, "seconds": 3.0},
    ]
    assert timings_table(RunFolder(tmp_path, timings=log)) == [
        ("Fine-tuning", "2", "2 min 10 s", "rollout 50%"),
        ("Reinforcement", "1", "3.0 s", ""),
    ]


def test_alarms_and_the_stages_without():
    metrics = [{"stage": stage, "step": 1, "kind": "train"} for stage in ("finetune", "reinforce", "reinforce-shuffled")]
    log = [{"stage": "reinforce", "step": step, "monitor": "held_out_fall", "sentence": f"no {step}"} for step in (30, 60)]
    assert alarms_table(RunFolder("", alarms=log)) == [
        ("Reinforcement", "30", "held out fall", "no 30"),
        ("Reinforcement", "60", "held out fall", "no 60"),
    ]
    assert quiet_stages(RunFolder("", metrics=metrics, alarms=log)) == ["Control: shuffled rewards"]
    assert quiet_stages(RunFolder("", metrics=metrics, alarms=[])) == ["Reinforcement", "Control: shuffled rewards"]
    off = {"reinforce": {"monitors": {"enabled": False}}}
    assert quiet_stages(RunFolder("", recipe=off, metrics=metrics, alarms=[])) == []
    assert (watching({}), watching({"reinforce": {"monitors": {"held_out": "bleu"}}})) == ("", "")


def test_facts_of_recipes():
    assert recipe_facts({}) == []
    assert recipe_facts({"reward": [{"type": "chrf"}], "seed": 3, "reinforce": None, "model": None}) == [
        ("Reward", "1 × chrf"),
        ("Seed", "3"),
    ]
    limited = recipe_facts({"data": {"train": "a.csv", "validation": "b.csv", "limit": 10}})
    assert limited == [("Data", "a.csv and b.csv (the first 10 training records)")]
