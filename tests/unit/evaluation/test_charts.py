import re

import pytest

from guerdon.evaluation.charts import (
    health_charts,
    learning_charts,
    reward_against_kl,
    reward_charts,
    stage_label,
    teaching_stages,
    title,
    validation_charts,
)
from guerdon.evaluation.runfolder import RunFolder


def run_of(tmp_path, rows):
    return RunFolder(tmp_path, metrics=rows)


def rows(stage, kind, steps, **values):
    """One row a step; a list gives one value a step."""
    return [
        {"stage": stage, "kind": kind, "step": step}
        | {name: given[i] if isinstance(given, list) else given for name, given in values.items()}
        for i, step in enumerate(steps)
    ]


def labels(chart):
    return [label for label, _, _ in chart.legend]


def test_the_frontier_has_a_path_for_each_run(tmp_path):
    log = rows("reinforce", "validation", [10, 20, 30], kl=[0.0, 1.0, 2.0], reward=[0.1, 0.5, 0.7])
    log += rows("reinforce-shuffled", "validation", [10, 20, 30], kl=[0.0, 0.2, 0.3], reward=[0.1, 0.1, 0.2])
    chart = reward_against_kl(run_of(tmp_path, log))
    assert labels(chart) == ["reinforced", "shuffled rewards"]
    told = re.findall(r"<title>([^<]*)</title>", chart.svg)
    assert told[:3] == ["reinforced: 0.1 at 0", "reinforced: 0.5 at 1", "reinforced: 0.7 at 2"]


def test_the_frontier_leaves_out_what_was_not_finite(tmp_path):
    log = rows("reinforce", "validation", [10, 20, 30], kl=[0.0, None, 2.0], reward=[0.1, 0.5, 0.7])
    chart = reward_against_kl(run_of(tmp_path, log))
    assert len(re.findall("<circle", chart.svg)) == 2
    assert reward_against_kl(run_of(tmp_path, log[:2])) is None


def test_training_rows_are_not_mistaken_for_validation(tmp_path):
    log = rows("reinforce", "train", [1, 2, 3], kl=[0.0, 1.0, 2.0], reward=[1.0, 2.0, 3.0])
    run = run_of(tmp_path, log)
    assert reward_against_kl(run) is None
    assert [chart.note for chart in reward_charts(run)] == ["sampled outputs of each step"]


def test_each_part_has_a_chart_in_training_and_in_validation(tmp_path):
    values = {"reward": [1.0, 2.0], "reward/b": [1.0, 2.0], "reward/a": [0.0, 1.0]}
    log = rows("reinforce", "train", [1, 2], **values) + rows("reinforce", "validation", [1, 2], **values)
    titles = [chart.title for chart in reward_charts(run_of(tmp_path, log))]
    assert titles == ["Reward, raw weighted sum", "Reward part: a", "Reward part: b"] * 2


def test_a_single_part_is_the_reward_itself(tmp_path):
    log = rows("reinforce", "train", [1, 2], **{"reward": [1.0, 2.0], "reward/a": [1.0, 2.0]})
    assert [chart.title for chart in reward_charts(run_of(tmp_path, log))] == ["Reward, raw weighted sum"]


def test_what_is_measured_beside_the_reward(tmp_path):
    given = {
        "reward": [1.0, 2.0],
        "reward/a": [1.0, 2.0],
        "kl": [0.0, 1.0],
        "length": 3.0,
        "bleu": [1.0, 2.0],
        "slot_errors": [2.0, 1.0],
    }
    run = run_of(tmp_path, rows("reinforce", "validation", [1, 2], **given))
    assert [chart.title for chart in validation_charts(run)] == ["BLEU on validation sources", "slot errors"]


def test_health(tmp_path):
    log = rows("reinforce", "train", [1, 2], entropy=[1.0, 0.5], finished=[1.0, 1.0], grad_norm=[1.0, 2.0], reward=[0.0, 1.0])
    log += rows("reinforce-constant", "train", [1, 2], entropy=[1.0, 1.0])
    charts = health_charts(run_of(tmp_path, log))
    assert [chart.title for chart in charts] == [
        "Entropy of the policy (nats per token)",
        "Share of finished outputs",
        "Gradient norm",
    ]
    assert [labels(chart) for chart in charts] == [["reinforced", "constant reward"], ["reinforced"], ["reinforced"]]
    scale = [float(text) for text in re.findall(r'class="y">([\d.]+)<', charts[1].svg)]
    assert max(scale) == 1


@pytest.mark.parametrize(
    ("given", "first"), [({"nll": [2.0, 1.0], "loss": [3.0, 2.0]}, "Negative"), ({"loss": [3.0, 2.0]}, "Loss")]
)
def test_learning_shows_the_likelihood_or_else_the_loss(tmp_path, given, first):
    log = rows("finetune", "train", [1, 2], **given) + rows("finetune", "validation", [1, 2], bleu=[1.0, 2.0])
    titles = [chart.title for chart in learning_charts(run_of(tmp_path, log), "finetune")]
    assert titles[0].startswith(first)
    assert titles[1:] == ["BLEU on validation sources"]


def test_stages_in_the_order_of_the_run(tmp_path):
    log = [
        row
        for stage in ("pretrain", "finetune", "reinforce", "reinforce-shuffled")
        for row in rows(stage, "train", [1], loss=1.0)
    ]
    assert teaching_stages(run_of(tmp_path, log)) == ["pretrain", "finetune"]
    assert (stage_label("finetune"), stage_label("another")) == ("Fine-tuning", "another")
    assert (title("reward/x"), title("some_thing")) == ("Reward part: x", "some thing")
