"""Any Python function as a reward."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from guerdon.errors import ConfigurationError
from guerdon.rewards.base import Judged, Reward

RewardFunction = Callable[..., Tensor | Sequence[float]]


class FunctionReward(Reward):
    """A function ``f(sources, outputs, references) -> one number per output`` as a reward.

    It is passed ``meta`` (the further fields of each record) and ``finished`` (False where an output was cut) when its
    signature names them.

    >>> def brevity(sources, outputs, references):
    ...     return [-len(output.split()) for output in outputs]
    >>> FunctionReward(brevity)(["x", "x"], ["a cheap pub", "a pub"]).tolist()
    [-3.0, -2.0]

    Args:
        function: the function, or "module:function" to import it.
        name: under which its scores are logged; the function's own where left out.
        needs_references: True to refuse samples without references before the function sees them.
        folder: where a module may lie that is not installed; the working directory where left out.
        scores_prefixes: True where the function's score of an unfinished output estimates that of the whole (see `Reward`).

    Raises:
        ConfigurationError: when there is no such function, or it cannot be called with three lists.
    """

    def __init__(
        self,
        function: str | RewardFunction,
        name: str | None = None,
        needs_references: bool = False,
        folder: str | Path | None = None,
        scores_prefixes: bool = False,
    ) -> None:
        self._spec, self._folder = function if isinstance(function, str) else None, folder
        self._function = load_function(function, folder) if isinstance(function, str) else function
        self.needs_references, self.scores_prefixes = needs_references, scores_prefixes
        self.name = name or str(getattr(self._function, "__name__", type(self._function).__name__))
        if not callable(self._function):
            raise ConfigurationError(
                f"{self._function!r} cannot be called",
                where=f"reward {self.name!r}",
                cure="pass a function, or module:function",
            )
        self._extra = _extra_arguments(self._function, self.name)

    def score(self, judged: Judged) -> Tensor | Sequence[float]:
        """What the function returns."""
        further = {name: list(getattr(judged, name)) for name in self._extra}
        texts = [list(judged.sources), list(judged.outputs), [list(r) for r in judged.references]]
        return self._function(*texts, **further)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_function": None if self._spec else self._function}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._spec:
            self._function = load_function(self._spec, self._folder)


def load_function(spec: str, folder: str | Path | None = None) -> RewardFunction:
    """Imports "module:function"; the function may be an attribute of one ("module:Class.method").

    Args:
        spec: as above.
        folder: where a module may lie that is not installed; the working directory where left out.

    Raises:
        ConfigurationError: when ``spec`` has another form, the module cannot be imported, or has no such function.
    """
    where = f"reward function {spec!r}"
    module_name, colon, attribute = spec.partition(":")
    if not (colon and attribute and module_name):
        raise ConfigurationError(
            "this is not of the form module:function", where=where, cure="write for example my_rewards:brevity"
        )
    place = str(Path(folder or Path.cwd()).resolve())
    sys.path.insert(0, place)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # a user's module may raise anything
        raise ConfigurationError(
            f"importing it raised {type(error).__name__}: {error}",
            where=where,
            cure=f"see that {module_name.replace('.', '/')}.py is installed, or lies in {place}, and can be imported",
        ) from error
    finally:
        sys.path.remove(place)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(f"there is no {part!r} in {module_name}", where=where, cure="check the spelling")
        found = getattr(found, part)
    if not callable(found):
        raise ConfigurationError(f"it is of type {type(found).__name__}, not a function", where=where, cure="name a function")
    function: RewardFunction = found
    return function


def _extra_arguments(function: RewardFunction, name: str) -> list[str]:
    """Which of meta and finished the function's signature names."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some functions written in C have no signature
        return []
    extra = [argument for argument in ("meta", "finished") if argument in parameters]
    try:
        inspect.signature(function).bind([], [], [], **dict.fromkeys(extra))
    except TypeError as error:
        raise ConfigurationError(
            f"it cannot be called with (sources, outputs, references): {error}",
            where=f"reward {name!r}",
            cure="give it these three arguments, and meta or finished beside them where it needs them",
        ) from error
    return extra
