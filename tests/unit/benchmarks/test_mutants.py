"""The mutation run: which mutants are drawn, which tests concern them, and what is believed of an earlier run."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[3]
ADVANTAGE = "guerdon/objectives/advantage.py"


@pytest.fixture(scope="module")
def mutants() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import mutants
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return mutants


@pytest.fixture
def written(mutants: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module over a tree of its own, whose mutants can be counted by hand."""
    files = {
        "guerdon/objectives/a.py": "def f(x: int | None, *, y: int = 3) -> int | None:\n    z: int | str = 1\n    return x + y",
        "guerdon/rewards/b.py": "def g(x):\n    return not x\n",
        "guerdon/decoding/c.py": "",
        "tests/test_a.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    return mutants


def test_all_that_is_computed_is_changed_and_no_annotation(written: ModuleType) -> None:
    found = written.mutants_of("guerdon/objectives/a.py")
    sources = [mutant.applied() for mutant in found]
    assert len(set(sources)) == len(sources)
    assert all("(x: int | None, *, y: int" in source and "z: int | str" in source for source in sources)
    assert Counter(mutant.line for mutant in found) == {1: 2, 2: 2, 3: 11}  # 3 ± 1, 1 ± 1, and eleven operators for +
    assert any("return x - y" in source for source in sources)
    for mutant in found:
        before, after = mutant.diff()
        assert before[0] == "-"
        assert after[0] == "+"


def test_the_sample_is_drawn_by_the_seed_in_proportion_to_each_files_mutants(written: ModuleType) -> None:
    sizes = {name: len(written.mutants_of(f"guerdon/{name}.py")) for name in ("objectives/a", "rewards/b", "decoding/c")}
    assert sizes["decoding/c"] == 0
    total = sum(sizes.values())
    whole = written.sample(total, 1)
    assert len({mutant.key() for mutant in whole}) == total
    one, again, other = written.sample(9, 1), written.sample(9, 1), written.sample(9, 2)
    assert one == again
    assert one != other
    drawn = Counter(mutant.path for mutant in one)
    assert drawn.total() == 9
    for name, size in sizes.items():
        assert abs(drawn[f"guerdon/{name}.py"] - 9 * size / total) < 1


def test_what_is_no_python_is_not_drawn(written: ModuleType) -> None:
    (written.ROOT / "guerdon/rewards/b.py").write_text("def g(x):\n    while x:\n        break\n    return [*x]\n")
    for mutant in written.sample(40, 1):
        ast.parse(mutant.applied())


def test_tests_come_nearest_first(mutants: ModuleType) -> None:
    own, room, others, flows = mutants.levels(ADVANTAGE)
    assert "tests/unit/objectives/test_advantage.py" in own
    assert "tests/unit/objectives/test_likelihood.py" in room
    assert "tests/oracle/test_exact_gradient.py" in others
    assert "tests/flow/test_reinforce.py" in flows
    named = [name for level in (own, room, others, flows) for name in level]
    assert len(set(named)) == len(named)
    assert not set(mutants.BLIND) & set(named)
    assert all((ROOT / name).is_file() for name in (*named, *mutants.BLIND))


COUNT = """
def count(n):
    found = 0
    while found < n:
        found += 1
    return found
"""
CHECK = "from guerdon.objectives.a import count\n\ndef test_count():\n    assert count(3) == 3\n"


def test_each_mutant_is_tried_in_a_copy_and_the_tree_stays_as_it_is(
    written: ModuleType, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that a test sees, one that hangs, and one that is as good as the original: `!=` for `<`."""
    monkeypatch.setattr(written, "SLACK", 5.0)
    source, test = tmp_path / "guerdon/objectives/a.py", tmp_path / "tests/unit/objectives/test_a.py"
    for package in ("guerdon", "guerdon/objectives"):
        (tmp_path / package / "__init__.py").write_text("")
    test.parent.mkdir(parents=True)
    source.write_text(COUNT)
    test.write_text(CHECK)
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    written.levels.cache_clear()
    journal = written.Journal(tmp_path / "journal.jsonl")
    copies = written.Copies(tmp_path_factory.mktemp("copies"), 1, journal)
    names = {"killed": ("Lt_Gt", 4), "survived": ("Lt_NotEq", 4), "timeout": ("NumberReplacer", 5)}
    for verdict, (operator, line) in names.items():
        chosen = [m for m in written.mutants_of("guerdon/objectives/a.py") if m.operator.endswith(operator) and m.line == line]
        outcome = copies.tried(chosen[-1])
        assert outcome["verdict"] == verdict, outcome
        assert outcome.get("by", "").startswith("" if verdict == "survived" else "tests/unit/objectives/test_a.py")
    assert source.read_text() == COUNT
    written.levels.cache_clear()


def test_killed_ones_stay_killed_and_survivors_are_tried_again_with_other_tests(written: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first, second, third = written.mutants_of("guerdon/objectives/a.py")[:3]
    journal = written.Journal(path)
    journal.note(first, {"verdict": "killed", "by": "tests/test_a.py::test", "seconds": 1.0})
    journal.note(second, {"verdict": "survived", "seconds": 2.0})
    journal.took("tests/test_a.py", 3.21)
    again = written.Journal(path)
    assert [row and row["verdict"] for row in map(again.result, (first, second, third))] == ["killed", "survived", None]
    assert again.seconds == {"tests/test_a.py": 3.2}
    (tmp_path / "tests/test_a.py").write_text("def test(): ...")
    later = written.Journal(path)
    assert [row and row["verdict"] for row in map(later.result, (first, second))] == ["killed", None]
    (tmp_path / "guerdon/objectives/a.py").write_text((tmp_path / "guerdon/objectives/a.py").read_text() + "\n")
    assert written.Journal(path).result(first) is None
    assert len(path.read_text().splitlines()) == 3


def test_the_summary_counts_what_hangs_apart(written: ModuleType) -> None:
    row = {"operator": "core/AddNot", "diff": ["-a", "+b"]}
    rows = [
        {**row, "where": "guerdon/rewards/b.py:2", "verdict": "killed"},
        {**row, "where": "guerdon/rewards/b.py:1", "verdict": "survived"},
        {**row, "where": "guerdon/objectives/a.py:9", "verdict": "timeout"},
        {**row, "where": "guerdon/objectives/a.py:3", "verdict": "killed"},
    ]
    found = json.loads(json.dumps(written.summary(rows)))
    assert {name: found[name] for name in ("mutants", "killed", "timeout", "survived", "noticed")} == {
        "mutants": 4, "killed": 2, "timeout": 1, "survived": 1, "noticed": 0.75,
    }  # fmt: skip
    assert found["survivors"] == [{"where": "guerdon/rewards/b.py:1", **row}]
    assert found["by_room"] == {"rewards": {"killed": 1, "survived": 1}, "objectives": {"timeout": 1, "killed": 1}}
