import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import yaml

from guerdon.data.files import write_jsonl
from guerdon.errors import DataError
from guerdon.evaluation.report import write_report
from guerdon.evaluation.runfolder import read_run

_VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """The page as a browser reads it: its words, its ids, and a check that tags nest."""

    def __init__(self, html):
        super().__init__()
        self.open, self.words, self.ids, self.links, self.tags = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [value for name, value in attributes if name in ("href", "src", "xlink:href", "action", "srcset")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open[-1:] == [tag], f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def page_of(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_a_whole_run(run_folder, evaluated):
    path = write_report(run_folder)
    assert path == run_folder / "report.html"
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    sections = ["verdict", "systems", "differences", "reward", "health", "monitors", "learning", "samples", "run", "further"]
    assert page.ids == sections
    assert page.links == [f"#{section}" for section in sections]
    for expected in (
        "A corpus that a program wrote",
        "training records 4,862",
        "0.5 × frequency + 0.5 × similarity",
        "KL coefficient 0.05 in the reward",
        "Reward against KL, on validation sources",
        "Reward part: similarity",
        "Entropy of the policy",
        "Reinforcement 41 length drift outputs are now 5.1 tokens long on average, 21.3 at the beginning",
        "Control: constant reward 8 flat groups the rewards of 100% have no spread",
        "Nothing fired in: Control: shuffled rewards.",
        "BLEU on validation sources",
        "record could not be used",
        "source is empty",
        "Fine-tuning ended after 600 steps: all steps done. 2 steps were skipped",
        "rollout 60%, reward 10%, update 30%",
        "10 min 40 s",
        "sacrebleu",
        "guerdon generate",
    ):
        assert expected in page.text or expected in html, expected
    assert f"{16 * len(evaluated[0]):,}" in page.text
    assert "Not finished" not in page.text
    assert "does not have" not in page.text


def test_values_in_the_page_are_those_of_the_evaluation(run_folder, evaluated):
    *_, evaluation = evaluated
    text = page_of(run_folder).text
    bleu = evaluation.system("reinforced").metrics["bleu"].value
    difference = evaluation.comparison("reinforced", "finetuned", "bleu").difference
    shown = re.search(r"BLEU \(held out\) rose by ([\d.]+) .*?, from [\d.]+ to (\d+\.?\d*)", text)
    assert float(shown[1]) == pytest.approx(difference, abs=0.5)
    assert float(shown[2]) == pytest.approx(bleu, abs=0.5)
    assert text.index("Verdict") < text.index("What was run")


def test_the_page_asks_for_nothing_from_elsewhere(run_folder):
    html = write_report(run_folder).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<img|<iframe", html.replace("<!doctype html>", ""))
    assert "default-src 'none'" in html


def test_side_by_side_marks_words(run_folder, evaluated):
    sources, references, _, _ = evaluated
    rows = [
        {"id": None, "source": s, "references": r, "output": "It is near the pub."}
        for s, r in zip(sources, references, strict=True)
    ]
    write_jsonl(run_folder / "outputs" / "finetuned.jsonl", rows)
    write_jsonl(run_folder / "outputs" / "reinforced.jsonl", [*rows[:-1], rows[-1] | {"output": "It is far from the pub."}])
    html = write_report(run_folder).read_text(encoding="utf-8")
    assert "It is <del>near</del> the pub." in html
    assert "It is <ins>far from</ins> the pub." in html
    assert f"1 of {len(rows)} outputs differ" in html


def test_hostile_texts_stay_texts(run_folder):
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)>&amp;\"'"
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["name"] = evil
    recipe["data"]["note"] = evil
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    row = {"source": evil, "references": [evil], "output": evil}
    write_jsonl(run_folder / "outputs" / "finetuned.jsonl", [row])
    write_jsonl(run_folder / "outputs" / "reinforced.jsonl", [row | {"output": evil + evil}])
    write_jsonl(run_folder / "skipped.jsonl", [{"line": 1, "reason": evil, "text": evil, "split": evil}])
    write_jsonl(run_folder / "alarms.jsonl", [{"stage": evil, "step": evil, "monitor": evil, "sentence": evil}])
    stage = {"stage": "finetune", "kind": "validation", evil: 1.0}
    rows = [stage | {"step": 1}, stage | {"step": 2}]
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.writelines(json.dumps(row) + "\n" for row in rows)
    (run_folder / "environment.json").write_text(json.dumps({evil: evil}), encoding="utf-8")
    html = write_report(run_folder).read_text(encoding="utf-8")
    page = Page(html)
    assert not {"script", "img"} & set(page.tags)
    assert page.text.count("<script>alert(1)</script>") >= 9


def keep(folder, *names):
    for path in list(folder.iterdir()):
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut_log(folder, stages):
    rows = [row for row in read_run(folder).metrics if row["stage"] in stages]
    write_jsonl(folder / "metrics.jsonl", rows)


def test_only_fine_tuning(run_folder):
    keep(run_folder, "recipe.yaml", "environment.json", "metrics.jsonl", "timings.jsonl", "finetune")
    cut_log(run_folder, ["finetune"])
    page = page_of(run_folder)
    assert page.ids == ["learning", "run", "further"]
    assert "does not have: samples of validation, the systems' outputs, an evaluation. What depends on them" in page.text
    assert "Fine-tuning" in page.text
    assert "Pre-training" not in page.text.split("What was run")[0]


def test_a_run_that_is_still_going_on(run_folder):
    keep(run_folder, "recipe.yaml", "environment.json", "metrics.jsonl", "samples.jsonl")
    cut_log(run_folder, ["pretrain", "reinforce"])
    with (run_folder / "metrics.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"stage": "reinforce", "step": 20')  # being written at this moment
    page = page_of(run_folder)
    assert page.ids == ["reward", "health", "monitors", "learning", "samples", "run", "further"]
    assert "Not finished. Pre-training, Reinforcement: still going on, or cut." in page.text
    assert "Reinforcement: the same validation sources at both steps." in page.text
    assert "only in step 200" in page.text


def test_the_first_minutes(run_folder):
    keep(run_folder, "recipe.yaml")
    write_jsonl(run_folder / "metrics.jsonl", [{"stage": "reinforce", "step": 1, "kind": "train", "loss": None, "reward": 0.5}])
    page = page_of(run_folder)
    assert "needs two validations" in page.text
    assert "Too few steps so far to draw" in page.text


@pytest.mark.parametrize(
    "name",
    [
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "timings.jsonl",
        "samples.jsonl",
        "alarms.jsonl",
        "outputs",
        "evaluation.json",
        "run.json",
    ],
)
def test_any_part_may_be_absent(run_folder, name):
    gone = run_folder / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    text = page_of(run_folder).text
    assert ("does not have" in text) == (name not in ("run.json", "alarms.jsonl"))


def monitors_of(folder):
    text = page_of(folder).text.split("Outputs, before and after")[0]
    return text[text.rindex(" Monitors ") + len(" Monitors ") :].split(" Learning curves ")[0]


def test_monitors_that_did_not_fire(run_folder):
    (run_folder / "alarms.jsonl").write_text("", encoding="utf-8")
    assert monitors_of(run_folder).endswith("only after it has cleared. Nothing fired.")


def test_monitors_that_had_no_log(run_folder):
    (run_folder / "alarms.jsonl").unlink()
    assert monitors_of(run_folder) == "This run kept no log of alarms."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"enabled": False, "held_out": None}, "The recipe turned the monitors off (reinforce.monitors.enabled)."),
        ({"enabled": True, "held_out": None}, "Nothing fired. No held-out figure was watched: the recipe names none"),
    ],
)
def test_monitors_that_were_turned_off(run_folder, options, sentence):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text(encoding="utf-8"))
    recipe["reinforce"]["monitors"] = options
    (run_folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    (run_folder / "alarms.jsonl").write_text("", encoding="utf-8")
    text = monitors_of(run_folder)
    assert sentence in text
    assert ("Nothing fired" in text) == options["enabled"]


def test_two_systems_without_controls(run_folder, evaluated):
    from dataclasses import replace

    *_, evaluation = evaluated
    pair = ("reinforced", "finetuned")
    systems = [system for system in evaluation.systems if system.name in pair]
    comparisons = [c for c in evaluation.comparisons if (c.system, c.baseline) == pair]
    replace(evaluation, systems=systems, comparisons=comparisons).write(run_folder)
    page = page_of(run_folder)
    assert "No control was run" in page.text
    assert "against the others" not in page.text


def test_one_system_alone(run_folder, evaluated):
    from dataclasses import replace

    *_, evaluation = evaluated
    replace(evaluation, systems=evaluation.systems[:1], comparisons=[]).write(run_folder)
    page = page_of(run_folder)
    assert "1 system on" in page.text
    assert "verdict" not in page.ids
    assert "differences" not in page.ids


def test_a_report_is_the_same_every_time(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(run_folder).read_bytes() == first


def test_refusals(tmp_path, run_folder):
    with pytest.raises(DataError, match="no such run folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no run"):
        write_report(tmp_path / "empty")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", '{"a": 1}\n{broken\n{"b": 2}\n', r"metrics\.jsonl, line 2: is not JSON"),
        ("timings.jsonl", "[1]\n", "line 1: is not a JSON object"),
        ("recipe.yaml", "a: [", r"recipe\.yaml: cannot be read"),
        ("environment.json", "[1]", "is not a mapping"),
        ("evaluation.json", "{}", "is not an evaluation"),
        ("samples.jsonl", b"\xff\xfe\n", "is not UTF-8"),
    ],
)
def test_a_damaged_file_is_named_and_nothing_is_written(run_folder, name, content, message):
    path = run_folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        write_report(run_folder)
    assert not (run_folder / "report.html").exists()
