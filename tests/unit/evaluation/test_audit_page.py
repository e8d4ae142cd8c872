"""The page of an audit and its words: what is said, what is red, and that nothing is taken for markup."""

from __future__ import annotations

import dataclasses
import doctest
import json
import re

import pytest

from guerdon.data.records import Example
from guerdon.errors import InputError
from guerdon.evaluation import audit_wording
from guerdon.evaluation.audit import AuditOptions, audit
from guerdon.evaluation.audit_judging import Check
from guerdon.evaluation.audit_page import bar, render_audit, write_audit
from guerdon.evaluation.audit_results import Agreement, Preference
from guerdon.evaluation.audit_wording import facts, findings, percent, probe_table, requirement_lines
from guerdon.evaluation.probes import PROBES
from guerdon.evaluation.requirements import Requirement
from guerdon.metrics.significance import Interval
from guerdon.rewards import FunctionReward, RequiredContent
from tests.unit.evaluation.test_report import Page

EXAMPLES = [
    Example(f"<b>{name}</b>", (f"{name} is a <i>pub</i> & it has {n} rooms.", f"A pub: {name}. It has {n} rooms & more."))
    for n, name in enumerate(("Zizzi", "Cotto", "Aromi", "Strada"), 3)
]


def letters(sources, outputs, references):
    return [float(len(output)) for output in outputs]


def made(reward=None, requirements=(), **more):
    options = AuditOptions(resamples=100)
    return audit(reward or FunctionReward(letters), EXAMPLES, requirements, options=options, data="some <records>", **more)


def preference(preferred, tied=0.0, gap=1.0):
    gap = None if gap is None else Interval(gap, gap, gap)
    return Preference(100, Interval(preferred, max(0.0, preferred - 0.1), min(1.0, preferred + 0.1)), tied, gap)


def with_probes(found, **probes):
    return dataclasses.replace(found, total=dataclasses.replace(found.total, probes=probes, length_references=None))


def test_examples_in_the_docstrings_hold():
    result = doctest.testmod(audit_wording)
    assert result.attempted >= 2
    assert result.failed == 0


def test_the_page_is_whole_and_escaped():
    html = render_audit(made(0.5 * FunctionReward(letters) - 0.1 * FunctionReward(letters, name="<u>again</u>")))
    page = Page(html)
    assert {"findings", "probes", "examples", "measured", *PROBES} <= set(page.ids)
    assert not {"i", "u"} & set(page.tags)
    assert "<i>pub</i>" not in html
    assert "is a <i>pub</i> & it has" in page.text
    assert "<b>Zizzi</b>" not in html
    assert "<u>again</u>" in page.text
    assert "some <records>" in page.text
    assert all(link.startswith("#") for link in page.links)
    assert {link[1:] for link in page.links} <= set(page.ids)


def test_what_fools_the_reward_is_red():
    found = made(requirements=[Requirement("empty", 0.1), Requirement("one_word", 0.0)])
    probes = {name: preference(0.3) for name in PROBES}
    probes |= {"doubled": preference(0.6), "shuffled": preference(0.0, tied=1.0)}
    found = dataclasses.replace(found, total=dataclasses.replace(found.total, probes=probes))
    failed = dataclasses.replace(found.outcomes[0], measured=0.3)
    found = dataclasses.replace(found, outcomes=[failed, found.outcomes[1]])
    rows = re.findall(r'<tr><th scope="row"><a href="#(\w+)">.*?</tr>', render_audit(found), re.DOTALL)
    red = re.findall(r'<a href="#(\w+)">(?:(?!</tr>).)*?<td class="worse">', render_audit(found), re.DOTALL)
    assert rows == list(PROBES)
    assert red == ["empty", "shuffled", "doubled"]


def test_a_bar_is_as_long_as_its_share():
    drawn = bar(preference(0.25, tied=0.5))
    assert '<rect class="share" width="30.0"' in drawn
    assert '<rect class="ties" x="30.0" width="60.0"' in drawn
    assert 'd="M18.0 7H42.0"' in drawn


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (preference(0.984), "Prefers silence to the reference for 98% of sources."),
        (preference(0.3, tied=0.2), "Prefers silence to the reference for 30% of sources, and scores both alike for 20%."),
        (preference(0.0, tied=1.0), "Cannot tell silence from the reference: scores both alike for 100% of sources."),
        (
            preference(0.1, tied=0.9, gap=0.0),
            "Cannot tell silence from the reference: scores both alike for 90% of sources; for 10% it prefers the former.",
        ),
        (
            preference(0.15, gap=-0.2),
            "Prefers silence to the reference for 15% of sources; "
            "it hardly tells the two apart (mean gap −0.20 of its spread).",
        ),
    ],
)
def test_sentences(found, sentence):
    first = findings(with_probes(made(), empty=found, doubled=preference(0.01)))
    assert first[0] == (sentence, True)
    assert first[-1].sentence == "Prefers the reference to the other 1 probes (fooled for at most 1% of sources)."


def test_a_good_reward_is_told_of_in_one_sentence():
    found = with_probes(made(), **dict.fromkeys(PROBES, preference(0.15, gap=-2.0)))
    assert findings(found) == [("Prefers the reference to all 12 probes (fooled for at most 15% of sources).", False)]
    worst = with_probes(made(), empty=preference(1.0))
    assert findings(worst)[-1].sentence == "There is no probe that it holds against."


def test_faults_and_people_are_told_of():
    check = Check(40, 0.5, 0.123, ("one", "two"))
    found = dataclasses.replace(made(), nondeterministic=check, batch_dependent=check, applies_by_output=check)
    agreement = Agreement(1200, Interval(0.61, 0.58, 0.64), 0.0)
    total = dataclasses.replace(found.total, agreement=agreement, unanimous=dataclasses.replace(agreement, pairs=500))
    told = [finding.sentence for finding in findings(dataclasses.replace(found, total=total))]
    assert sum("(50% of 40 outputs, by up to 0.123 of the spread; at fault: one and two)." in text for text in told) == 3
    assert "Agrees with people on 61% [58, 64] of 1,200 pairs; of the 500 unanimous ones 61% [58, 64]." in told
    assert "no: 50% of 40 outputs" in dict(facts(found))["deterministic"]


def test_the_table_has_a_row_a_probe_and_a_column_a_part():
    half = [Example(e.source, e.references, meta={"k": ["pub"]} if n else {}) for n, e in enumerate(EXAMPLES)]
    found = audit(0.5 * FunctionReward(letters) + 0.5 * RequiredContent(field="k"), half, options=AuditOptions(resamples=100))
    columns, rows = probe_table(found)
    assert columns[-3:] == ["letters", "required_content", "sources"]
    assert [row[0] for row in rows] == list(PROBES)
    assert all(len(row) == len(columns) for row in rows)
    assert dict(zip(columns, rows[0], strict=True))["required_content"] == "0%"
    doubled = next(dict(zip(columns, row, strict=True)) for row in rows if row[0] == "doubled")
    assert doubled["letters"] == "100%"
    assert doubled["required_content"] == "0% (100% ties)"


def test_requirements_are_lines():
    found = made(requirements=[Requirement("doubled", 0.5), Requirement("empty", 0.5)])
    assert requirement_lines(found) == ["FAILED: doubled <= 0.5 (measured: 1)", "met: empty <= 0.5 (measured: 0)"]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0%"), (0.004, "<1%"), (0.005, "<1%"), (0.995, ">99%"), (0.5, "50%"), (0.996, ">99%"), (1.0, "100%")],
)
def test_percent_never_says_none_or_all_of_some(share, text):
    assert percent(share) == text


def test_both_files_are_written(tmp_path):
    found = made()
    path = write_audit(found, tmp_path / "new" / "folder")
    assert path.read_text("utf-8") == render_audit(found)
    stored = json.loads((path.parent / "audit.json").read_text("utf-8"))
    assert stored == json.loads(json.dumps(found.plain()))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_audit(found, tmp_path / "file")
