"""What a run writes down while it trains: metrics, samples, skipped steps and alarms, timings, and TensorBoard events.

All but the last two belong to what was computed: a run that is cut and resumed cuts them back to its checkpoint and writes
the same bytes again. Durations differ from one machine and hour to the next, and live apart.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guerdon.errors import CheckpointError, TrainingError

METRICS, SAMPLES, SKIPPED_STEPS, TIMINGS = "metrics.jsonl", "samples.jsonl", "skipped_steps.jsonl", "timings.jsonl"
ALARMS = "alarms.jsonl"
_EXACT = (METRICS, SAMPLES, SKIPPED_STEPS, ALARMS)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns a failure to write into one clear line.

    Raises:
        TrainingError: in place of an `OSError` (disk full, no permission, ...).
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        cure = "free space there and run again: it resumes" if full else "see that the folder is there and yours to write into"
        raise TrainingError(f"cannot write: {error.strerror or error}", where=str(path), cure=cure) from error


class RunLog:
    """Appends to the logs of one run folder.

    Args:
        folder: the run folder, made where it is missing.
        tensorboard: whether to write TensorBoard events beside ``metrics.jsonl``.
    """

    def __init__(self, folder: Path, tensorboard: bool = False) -> None:
        self.folder = folder
        self._tensorboard = tensorboard
        self._events: Any = None
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._mend()

    def metrics(self, stage: str, step: int, kind: str, values: Mapping[str, float]) -> None:
        """One line of ``metrics.jsonl``. A value that is not finite is written as null: JSON has no nan."""
        clean = {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._append(METRICS, [{"stage": stage, "step": step, "kind": kind, **clean}])
        if self._tensorboard:
            self._write_events(stage, step, kind, values)

    def samples(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Lines of ``samples.jsonl``."""
        self._append(SAMPLES, [{"stage": stage, "step": step, **row} for row in rows])

    def skipped_step(self, stage: str, step: int, reason: str, batch: Sequence[Mapping[str, Any]]) -> None:
        """Keeps the batch of a step that was skipped because a number was not finite."""
        self._append(SKIPPED_STEPS, [{"stage": stage, "step": step, "reason": reason, "batch": list(batch)}])

    def alarms(self, stage: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Lines of ``alarms.jsonl``, which is there, empty, where no monitor has fired."""
        self._append(ALARMS, [{"stage": stage, "step": step, **row} for row in rows])

    def timing(self, stage: str, **values: float | str | Mapping[str, float]) -> None:
        """One line of ``timings.jsonl``."""
        self._append(TIMINGS, [{"stage": stage, **values}])

    def offsets(self) -> dict[str, int]:
        """The lengths of the exact logs in bytes, synced to disk: part of a checkpoint."""
        lengths = {}
        for name in _EXACT:
            path = self.folder / name
            lengths[name] = path.stat().st_size if path.exists() else 0
            if path.exists():
                with writing(path), path.open("rb+") as file:
                    os.fsync(file.fileno())
        return lengths

    def cut_back(self, offsets: Mapping[str, int]) -> None:
        """Drops what was written after a checkpoint.

        Raises:
            CheckpointError: when a log has lost what was written before it.
        """
        for name in _EXACT:
            path, length = self.folder / name, offsets.get(name, 0)
            if length > (path.stat().st_size if path.exists() else 0):
                raise CheckpointError(
                    f"is shorter than the {length} bytes that it had at the last checkpoint",
                    where=str(path),
                    cure="restore the file, or begin again in another run folder",
                )
            if path.exists():
                with writing(path), path.open("rb+") as file:
                    file.truncate(length)

    def close(self) -> None:
        """Flushes the TensorBoard events."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _mend(self) -> None:
        """Drops a last line that a kill has cut short from the log that is not cut back to a checkpoint."""
        path = self.folder / TIMINGS
        if path.exists() and not (content := path.read_bytes()).endswith(b"\n"):
            os.truncate(path, content.rfind(b"\n") + 1)

    def _append(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        path = self.folder / name
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        with writing(path), path.open("a", encoding="utf-8") as file:
            file.write(text)

    def _write_events(self, stage: str, step: int, kind: str, values: Mapping[str, float]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            with writing(self.folder):
                self._events = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        for name, value in values.items():
            self._events.add_scalar(f"{stage}/{kind}/{name}", value, step)
