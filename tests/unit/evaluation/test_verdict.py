import pytest

from guerdon.evaluation.results import ComparisonResult, Evaluation, MeasureInfo, SystemResult
from guerdon.evaluation.verdict import judge, verdict
from guerdon.metrics.significance import Interval

REWARD = MeasureInfo("reward", "reward", True, optimised=True)
BLEU = MeasureInfo("bleu", "BLEU", True)
TER = MeasureInfo("ter", "TER", False)
LENGTH = MeasureInfo("length", "words", None)


def evaluation(differences, measures=(BLEU,)):
    """From {(system, baseline): {measure: (difference, half width)}}; every system starts at 50."""
    names = list(dict.fromkeys(["finetuned", *(name for pair in differences for name in pair)]))
    systems = []
    for name in names:
        own = differences.get((name, "finetuned"), {})
        values = {m.name: 50 + own.get(m.name, (0, 0))[0] for m in measures}
        generated = 1600 if name in ("best_of_n", "mbr") else 100
        metrics = {measure: Interval(value, value - 1, value + 1) for measure, value in values.items()}
        systems.append(SystemResult(name, name.replace("_", " "), f"outputs/{name}.jsonl", "beam 5", generated, metrics))
    comparisons = [
        ComparisonResult(a, b, measure, d, d - half, d + half, 0.01)
        for (a, b), found in differences.items()
        for measure, (d, half) in found.items()
    ]
    return Evaluation("test.jsonl", 100, 1000, 0, "finetuned", list(measures), systems, comparisons)


def one(differences, measure=BLEU):
    judged = judge(evaluation({pair: {measure.name: found} for pair, found in differences.items()}, (measure,)))
    return judged, judged.findings[0]


def test_a_gain_that_no_control_shows():
    judged, finding = one(
        {
            ("reinforced", "finetuned"): (1.2, 0.5),
            ("shuffled", "finetuned"): (0.1, 0.4),
            ("constant", "finetuned"): (-0.2, 0.4),
            ("reinforced", "shuffled"): (1.1, 0.5),
            ("reinforced", "constant"): (1.4, 0.5),
        }
    )
    assert (finding.outcome, finding.kind) == ("gain", "held out")
    assert finding.sentence == (
        "BLEU (held out) rose by 1.20 [+0.70, +1.70], from 50.00 to 51.20. Neither control shows it (with shuffled rewards "
        "+0.10 [−0.30, +0.50] and with a constant reward −0.20 [−0.60, +0.20])."
    )
    assert judged.headline == "Reinforcement improved BLEU, which was not in the reward, but not the reward itself."


def test_a_gain_that_a_control_also_shows_is_not_a_gain():
    judged, finding = one(
        {
            ("reinforced", "finetuned"): (1.2, 0.5),
            ("shuffled", "finetuned"): (0.1, 0.4),
            ("constant", "finetuned"): (1.0, 0.5),
            ("reinforced", "shuffled"): (1.1, 0.5),
            ("reinforced", "constant"): (0.2, 0.5),
        },
        REWARD,
    )
    assert finding.outcome == "no gain"
    assert finding.sentence == (
        "Reward (optimised) rose by 1.20 [+0.70, +1.70], from 50.00 to 51.20. But a control shows it too: with a constant "
        "reward +1.00 [+0.50, +1.50]. The reinforced policy differs by +0.20 [−0.30, +0.70] from the run with a constant "
        "reward: not a gain that the reward made."
    )
    assert judged.headline.startswith(
        "Reinforcement made no gain that can be told from chance and from the controls; what reward"
    )


def test_a_control_that_goes_further_explains_the_gain_as_well():
    _, finding = one(
        {
            ("reinforced", "finetuned"): (1.2, 0.5),
            ("shuffled", "finetuned"): (2.2, 0.5),
            ("reinforced", "shuffled"): (-1.0, 0.5),
        }
    )
    assert finding.outcome == "no gain"


def test_a_control_that_the_policy_exceeds_leaves_the_gain():
    _, finding = one(
        {
            ("reinforced", "finetuned"): (3.0, 0.5),
            ("shuffled", "finetuned"): (1.0, 0.5),
            ("reinforced", "shuffled"): (2.0, 0.5),
        }
    )
    assert finding.outcome == "gain"
    assert "A control went the same way (with shuffled rewards +1.00 [+0.50, +1.50])" in finding.sentence
    assert "went further, by +2.00 [+1.50, +2.50] from the run with shuffled rewards" in finding.sentence


def test_a_control_that_moved_the_other_way_explains_nothing():
    _, finding = one(
        {
            ("reinforced", "finetuned"): (1.0, 0.5),
            ("shuffled", "finetuned"): (-1.0, 0.5),
            ("reinforced", "shuffled"): (2.0, 0.5),
        }
    )
    assert finding.outcome == "gain"
    assert "The control does not show it" in finding.sentence


@pytest.mark.parametrize(("difference", "outcome"), [(-2.0, "gain"), (2.0, "loss"), (0.2, "no change")])
def test_lower_is_better(difference, outcome):
    _, finding = one({("reinforced", "finetuned"): (difference, 0.5)}, TER)
    assert finding.outcome == outcome


def test_a_control_explains_a_fall_too():
    _, finding = one(
        {
            ("reinforced", "finetuned"): (-2.0, 0.5),
            ("constant", "finetuned"): (-1.9, 0.5),
            ("reinforced", "constant"): (-0.1, 0.5),
        },
        TER,
    )
    assert finding.outcome == "no gain"
    assert finding.sentence.startswith("TER (held out) fell by 2.00 [−2.50, −1.50], from 50.00 to 48.00. But a control")


def test_without_controls_a_gain_is_called_so_with_a_warning():
    judged, finding = one({("reinforced", "finetuned"): (2.0, 0.5)})
    assert finding.sentence.endswith("No control was run, so that this may owe nothing to what the reward said.")
    assert "Not run: the control with shuffled rewards and with a constant reward." in judged.notes


def test_a_loss_tells_whether_controls_lost_too():
    judged, finding = one({("reinforced", "finetuned"): (-2.0, 0.5), ("constant", "finetuned"): (-1.0, 0.5)})
    assert finding.outcome == "loss"
    assert finding.sentence.endswith("48.00: worse. So it did in the run with a constant reward −1.00 [−1.50, −0.50].")
    assert "it made BLEU worse" in judged.headline


def test_no_change():
    judged, finding = one({("reinforced", "finetuned"): (0.2, 0.5)})
    assert finding.sentence == (
        "BLEU (held out) went from 50.00 to 50.20, by +0.20 [−0.30, +0.70]: no change that this test set can show."
    )
    assert judged.headline == "Reinforcement made no gain that can be told from chance and from the controls."


def test_a_description_changes_without_being_judged():
    judged, finding = one({("reinforced", "finetuned"): (-4.0, 0.5)}, LENGTH)
    assert (finding.kind, finding.outcome) == ("description", "changed")
    assert finding.sentence == "Words fell by 4.00 [−4.50, −3.50], from 50.00 to 46.00."
    assert "gain that can be told" in judged.headline


def test_headline_of_a_whole_report():
    pair = ("reinforced", "finetuned")
    both = {"reward": (3.0, 0.5), "bleu": (1.0, 0.5), "ter": (2.0, 0.5)}
    judged = judge(evaluation({pair: both}, (REWARD, BLEU, TER)))
    assert judged.headline == (
        "Reinforcement improved what it was optimised for (reward) and, held out from the reward, BLEU; it made TER worse."
    )
    alone = judge(evaluation({pair: {"reward": (3.0, 0.5), "bleu": (0.1, 0.5)}}, (REWARD, BLEU)))
    assert alone.headline.endswith("(reward); no held-out measure got measurably better or worse.")


def test_searches_are_set_beside_with_their_cost():
    judged = judge(
        evaluation(
            {
                ("reinforced", "finetuned"): {"reward": (3.0, 0.5), "ter": (-3.0, 0.5)},
                ("reinforced", "best_of_n"): {"reward": (-0.5, 0.2), "ter": (-1.0, 0.5)},
            },
            (REWARD, TER),
        )
    )
    assert judged.notes[0] == (
        "Against best of n, which generates 16 times as many outputs, the reinforced policy stands at −0.50 [−0.70, −0.30] "
        "reward (worse) and −1.00 [−1.50, −0.50] TER (better)."
    )
    assert any("not" in note or "would" in note for note in judged.notes[1:])


def test_nothing_to_judge():
    assert judge(evaluation({("shuffled", "finetuned"): {"bleu": (1.0, 0.5)}})) is None
    assert judge(evaluation({})) is None
    assert verdict(evaluation({})) == []


def test_sentences_in_order():
    found = evaluation({("reinforced", "finetuned"): {"reward": (3.0, 0.5), "bleu": (1.0, 0.5)}}, (REWARD, BLEU))
    judged = judge(found)
    assert verdict(found) == [judged.headline, *(finding.sentence for finding in judged.findings), *judged.notes]
    assert [sentence.split()[0] for sentence in verdict(found)[:3]] == ["Reinforcement", "Reward", "BLEU"]


def test_a_control_that_kept_what_it_began_with_is_said_to():
    same = {("shuffled", "finetuned"): (0.0, 0.0), ("reinforced", "shuffled"): (1.2, 0.5)}
    moved = {("constant", "finetuned"): (0.1, 0.4), ("reinforced", "constant"): (1.1, 0.5)}
    judged, _ = one({("reinforced", "finetuned"): (1.2, 0.5), **same, **moved})
    said = [note for note in judged.notes if "those that it began with" in note]
    assert len(said) == 1
    assert said[0].startswith("Measured in everything as the fine-tuned policy: the control with shuffled rewards. Later")
    judged, _ = one({("reinforced", "finetuned"): (1.2, 0.5), **moved})
    assert not any("those that it began with" in note for note in judged.notes)
