"""What a run keeps in its folder: finished stages, each with the fingerprint of what it was made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from filelock import FileLock, Timeout

from guerdon.data.fields import Skipped
from guerdon.data.files import remove_temporaries, reported, write_atomically, write_jsonl
from guerdon.data.lines import check_file
from guerdon.data.records import Example
from guerdon.errors import CheckpointError, InputError
from guerdon.evaluation.results import CONTROLS, EVALUATION
from guerdon.pipeline.judgements import judgement_files
from guerdon.pipeline.prepare import measured_split, split_files
from guerdon.pipeline.recipe import STAGES, Recipe, Scorer
from guerdon.training.checkpoint import sha256, sync
from guerdon.training.runlog import writing

DONE, BEGUN, LOCK, SKIPPED = "done.json", "begun.json", ".lock", "skipped.jsonl"
_TOKENIZER = ("data", "tokenizer")
_DEPENDS = {
    "tokenizer": _TOKENIZER,
    "pretrain": (*_TOKENIZER, "model", "pretrain"),
    "finetune": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation"),
    "comparisons": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation", "reward", "prefer"),
    "prefer": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation", "prefer"),
    "reward_model": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation", "reward_model"),
    "judge": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation", "judge"),
    "reinforce": (*_TOKENIZER, "model", "pretrain", "finetune", "evaluation", "reward", "prefer", "reinforce"),
}
_AUDIT = (*_DEPENDS["reinforce"], "audit")  # no other stage depends on it: an audit of other options is done again


class RunFiles:
    """The folder of one run of a recipe.

    Args:
        recipe: what is run.
        folder: where; nothing is written before the first call that says so.
        start: what tells the policy that the run begins with from any other, where the recipe does not say.

    Raises:
        CheckpointError: when a stage in the folder, finished or begun, was made with other options or other data.
        DataError: when a file of data is missing.
    """

    def __init__(self, recipe: Recipe, folder: Path, start: str = "") -> None:
        self.recipe, self.folder, self._start = recipe, folder, start
        self._lock = FileLock(folder / LOCK, timeout=0)
        for stage in _DEPENDS:
            self._check_same(stage)

    def hold(self) -> None:
        """Keeps other processes out until `release`, or until this one ends, however it does; clears up after a kill.

        Raises:
            InputError: when another process holds the folder.
        """
        with reported(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire()
            except Timeout as error:
                raise InputError(
                    "another process is writing here",
                    where=str(self.folder),
                    cure="wait for it, or choose another run folder (--folder)",
                ) from error
        remove_temporaries(self.folder)

    def release(self) -> None:
        """Lets others in."""
        self._lock.release()

    def write(self, name: str, text: str) -> Path:
        """Writes a small file of the run folder, which is made where it is missing; whole or not at all."""
        path = self.folder / name
        with reported(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, [text.encode()])
        return path

    def write_counts(
        self, examples: Mapping[str, Sequence[Example]], left_out: Mapping[str, Sequence[Skipped]], facts: Mapping[str, int]
    ) -> None:
        """``run.json``, and ``skipped.jsonl`` where records were left out of a split, or of a file of comparisons."""
        skipped = [
            {"split": split, "line": bad.line, "reason": bad.reason, "text": bad.text[:500]}
            for split, records in left_out.items()
            for bad in records
        ]
        if skipped:
            write_jsonl(self.folder / SKIPPED, skipped)
        counts = {f"{split} records": len(found) for split, found in examples.items()}
        counts |= {f"{split} references": sum(len(e.references) for e in found) for split, found in examples.items()}
        counts |= {"records skipped": len(skipped)} if skipped else {}
        self.write("run.json", json.dumps({"counts": {**counts, **facts}}, indent=2) + "\n")

    # --- stages

    def finished(self, stage: str) -> bool:
        """Whether the stage has left its final files."""
        return (self.folder / stage / DONE).is_file()

    def store(self, stage: str, save: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
        """Writes the stage's folder, whole or not at all, with the fingerprint of what it depends on."""
        final, partial = self.folder / stage, self.folder / f".{stage}.partial"
        done = {"fingerprint": self._fingerprint(stage), **facts}
        with writing(final):
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir(parents=True)
                save(partial)
                (partial / DONE).write_text(json.dumps(done, indent=2) + "\n", encoding="utf-8")
                for path in partial.iterdir():
                    sync(path)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)  # on a full disk it would stand in the way of its own cure
                raise
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync(self.folder)

    def _fingerprint(self, stage: str) -> str:
        kind, section = stage.split("-")[0], self.recipe.prefer
        drawn = kind == "prefer" and section is not None and section.from_reward is not None
        chosen = _AUDIT if kind == "audit" else _DEPENDS["comparisons" if drawn else kind]
        paid = self.recipe.reward_model is not None and (kind in ("comparisons", "reinforce", "audit") or drawn)
        scorers: list[Scorer] = [name for name in get_args(Scorer) if name == kind or (paid and name == "reward_model")]
        compared = self._comparisons_fingerprint if kind in ("prefer", "reinforce") else ""
        marks = [*compared.split(), *self._start.split(), *self._judgement_marks(scorers)]
        return " ".join([self.recipe.fingerprint(*dict.fromkeys([*chosen, *scorers])), self._data_fingerprint, *marks])

    def _judgement_marks(self, scorers: Sequence[Scorer]) -> list[str]:
        return [sha256(check_file(path))[:16] for name in scorers for path in judgement_files(self.recipe, name)]

    @cached_property
    def _data_fingerprint(self) -> str:
        pretrain = self.recipe.pretrain
        data = self.recipe.data
        names = [data.train, *([data.validation] if isinstance(data.validation, str) else [])]
        names += [] if pretrain is None else [*pretrain.texts, *pretrain.validation_texts]
        return " ".join(sha256(check_file(self.recipe.data_file(name)))[:16] for name in names)

    @cached_property
    def _comparisons_fingerprint(self) -> str:
        """Of the files of comparisons; nothing where there are none."""
        section = self.recipe.prefer
        names = [] if section is None else [section.comparisons, section.validation_comparisons]
        return " ".join(sha256(check_file(self.recipe.data_file(name)))[:16] for name in names if name is not None)

    def current(self, stage: str) -> bool:
        """Whether the stage has left its final files, and was made from what the recipe now says."""
        path = self.folder / stage / DONE
        return path.is_file() and _facts_of(path).get("fingerprint") == self._fingerprint(stage)

    def facts(self, stage: str) -> dict[str, Any]:
        """What a finished stage noted; raises CheckpointError where the note is damaged."""
        return _facts_of(self.folder / stage / DONE)

    def _check_same(self, stage: str) -> None:
        """Refuses what the folder holds of a stage, finished or begun, where it was made with other options or data."""
        begun = self.folder / "checkpoints"
        single = [self.folder / stage / DONE, begun / stage / BEGUN]
        for path in [*single, *self.folder.glob(f"{stage}-*/{DONE}"), *begun.glob(f"{stage}-*/{BEGUN}")]:
            if path.is_file():
                self._check_fingerprint(stage, path)

    def mark_begun(self, stage: str) -> None:
        """Checkpoints are only resumed by the recipe that began them."""
        path = self.folder / "checkpoints" / stage / BEGUN
        if not path.is_file():
            self.write(f"checkpoints/{stage}/{BEGUN}", json.dumps({"fingerprint": self._fingerprint(stage)}) + "\n")

    # --- evaluation

    def evaluated(self) -> bool:
        """Whether ``evaluation.json`` is that of this recipe, these data and the stages as they stand."""
        stored = self._facts()
        stages = [stage for stage in STAGES if getattr(self.recipe, stage) is not None]
        if self.recipe.reinforce is not None:
            stages += [f"reinforce-{name}" for name in self.recipe.controls.run if name in CONTROLS]
        whole = all(map(self.finished, stages)) and (self.folder / EVALUATION).is_file()
        audited = self.recipe.audit is None or self.current("audit")
        return whole and audited and stored.get("evaluated") == self._evaluation_fingerprint()

    def mark_evaluated(self) -> None:
        """Notes in ``run.json`` what ``evaluation.json`` was made from."""
        self.write("run.json", json.dumps({**self._facts(), "evaluated": self._evaluation_fingerprint()}, indent=2) + "\n")

    def _facts(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        return _facts_of(path) if path.is_file() else {}

    def _evaluation_fingerprint(self) -> str:
        recipe, slots = self.recipe, self.recipe.evaluation.slots
        read = [split_files(recipe)[measured_split(recipe)], *([recipe.resolve(slots)] if slots else [])]
        marks = [sha256(path)[:16] for path in read if path.is_file()]
        scorers: list[Scorer] = [name for name in get_args(Scorer) if getattr(recipe, name) is not None]
        sections = recipe.fingerprint(*_DEPENDS["reinforce"], *scorers, "decoding", "controls")
        marks = [*self._comparisons_fingerprint.split(), *self._judgement_marks(scorers), *marks]
        return " ".join([sections, self._data_fingerprint, *marks])

    def _check_fingerprint(self, stage: str, path: Path) -> None:
        stored = _facts_of(path, cure=f"remove {path.parent}")
        if "fingerprint" not in stored:
            raise CheckpointError("is damaged ('fingerprint')", where=str(path), cure=f"remove {path.parent}")
        if stored["fingerprint"] != self._fingerprint(stage):
            raise CheckpointError(
                "was made with other options or other data than the recipe now has",
                where=str(path.parent),
                cure="choose another run folder (--folder), or remove that one",
            )


def _facts_of(path: Path, cure: str = "remove it") -> dict[str, Any]:
    """A small JSON file that holds one mapping."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"is damaged ({error})", where=str(path), cure=cure) from error
