"""The progress bars of transformers, which print even where nobody watches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Loading and saving without them; raises ImportError without transformers."""
    from transformers.utils import logging as hugging_face_logging

    logging: Any = hugging_face_logging  # its functions are not typed
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
