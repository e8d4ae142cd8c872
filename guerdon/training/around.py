"""Opens the surroundings of a stage: its logs and checkpoints in a run folder, or in a temporary one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guerdon.training.checkpoint import CheckpointStore
from guerdon.training.loop import Surroundings
from guerdon.training.progress import Progressing, Silent
from guerdon.training.runlog import RunLog


@contextmanager
def surroundings(
    folder: Path | None, stage: str, seed: int, progress: Progressing | None = None, tensorboard: bool = False
) -> Iterator[Surroundings]:
    """The surroundings of ``stage`` in the run folder ``folder``; None keeps nothing once the stage has ended."""
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary, surroundings(Path(temporary), stage, seed, progress) as inside:
            yield inside
        return
    log = RunLog(folder, tensorboard)
    try:
        yield Surroundings(log, CheckpointStore(folder / "checkpoints" / stage), progress or Silent(), seed)
    finally:
        log.close()
