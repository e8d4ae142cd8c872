"""A recipe: one YAML file that says what a run does. It composes the options that each room defines, and validates them."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from guerdon.decoding import DecodingOptions
from guerdon.errors import ConfigurationError, DataError
from guerdon.models.options import TransformerOptions
from guerdon.pipeline.sections import (
    AuditSection,
    ControlsSection,
    DataSection,
    EvaluationSection,
    JudgeSection,
    PreferSection,
    PretrainSection,
    RewardModelSection,
    TokenizerSection,
)
from guerdon.rewards.build import OWN
from guerdon.stages.finetune import FinetuneConfig
from guerdon.training.reinforcement import ReinforceConfig

STAGES = ("pretrain", "finetune", "prefer", "reward_model", "judge", "reinforce")
Scorer = Literal["reward_model", "judge"]


class _Model(BaseModel):
    """The section model where it describes a model, so that its options are checked as all others are."""

    model_config = ConfigDict(extra="forbid")

    model: TransformerOptions


class Recipe(BaseModel):
    """A whole recipe. Sections that are left out take their defaults; those of stages are not run.

    The stages are ``pretrain``, ``finetune``, ``prefer``, ``reward_model``, ``judge`` and ``reinforce``, in this order.
    ``audit`` tests the reward before a policy is trained on it.

    Attributes:
        name: of the run; its folder is ``runs/<name>`` unless said otherwise.
        seed: of every draw.
        data, tokenizer, pretrain, finetune, prefer, reward_model, audit, reinforce: see their classes.
        decoding, evaluation, controls: likewise.
        judge: a reward model of other judgements, by which the systems are measured.
        model: options of a `~guerdon.models.transformer.Transformer` without ``vocabulary_size``; or ``load``: a folder.
        reward: the parts of the reward, each with ``type``, ``weight`` and its own options (`guerdon.rewards.build`).
        tensorboard: whether to write TensorBoard events.
        path: the recipe's own file; paths are relative to its folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    seed: int = 1
    data: DataSection
    tokenizer: TokenizerSection = TokenizerSection()
    model: dict[str, Any] = {}
    pretrain: PretrainSection | None = None
    finetune: FinetuneConfig | None = None
    prefer: PreferSection | None = None
    reward_model: RewardModelSection | None = None
    judge: JudgeSection | None = None
    reward: list[dict[str, Any]] = []
    audit: AuditSection | None = None
    reinforce: ReinforceConfig | None = None
    decoding: DecodingOptions = DecodingOptions()
    evaluation: EvaluationSection = EvaluationSection()
    controls: ControlsSection = ControlsSection()
    tensorboard: bool = True
    path: Path = Path("recipe.yaml")

    def resolve(self, path: str) -> Path:
        """A path of the recipe as one that can be opened."""
        return (self.path.parent / path).resolve()

    def data_file(self, name: str) -> Path:
        """A file of the data folder."""
        return self.resolve(self.data.folder) / name

    def transformer(self, vocabulary_size: int) -> TransformerOptions:
        """The options of the model, where it is trained from scratch.

        Raises:
            ConfigurationError: for an option that does not exist or cannot be.
        """
        try:
            return _Model.model_validate({"model": {**self.model, "vocabulary_size": vocabulary_size}}).model
        except ValidationError as error:
            names = [option.name for option in dataclasses.fields(TransformerOptions) if option.name != "vocabulary_size"]
            raise _first(error, str(self.path), names) from error

    @property
    def waits(self) -> bool:
        """Whether the reward has a part that the run itself must train first."""
        named = any(part.get("type") == "learned" and part.get("from") == OWN for part in self.reward)
        return named and not self.resolve(OWN).is_dir()

    def plain(self) -> dict[str, Any]:
        """The recipe as plain values, defaults filled in."""
        plain: dict[str, Any] = json.loads(self.model_dump_json(exclude={"path"}))
        plain["data"]["folder"] = str(self.resolve(self.data.folder))
        return plain

    def resolved(self) -> dict[str, Any]:
        """The recipe as plain values that mean the same from any folder: its paths are whole.

        The modules of function rewards are no paths: they are looked for beside the file that these values are written to.
        """
        plain = self.plain()
        for section, option in (("evaluation", "slots"), ("tokenizer", "folder"), ("model", "load")):
            if plain[section].get(option) is not None:
                plain[section][option] = str(self.resolve(plain[section][option]))
        for part in plain["reward"]:
            if "patterns" in part:
                part["patterns"] = str(self.resolve(part["patterns"]))
            if "encoder" in part and self.resolve(part["encoder"]).is_dir():  # otherwise it is the name of a model
                part["encoder"] = str(self.resolve(part["encoder"]))
            if part.get("type") == "learned" and "from" in part and not self.waits:
                named = part["from"]
                part["from"] = str(self.resolve(named)) if isinstance(named, str) else [str(self.resolve(n)) for n in named]
        return plain

    def fingerprint(self, *sections: str) -> str:
        """A checksum of some sections: what a finished stage depends on.

        ``prefer`` adds nothing where it is absent: runs that were made before there was such a section stay what they are.
        """
        plain = self.plain()
        plain["data"]["folder"] = ""
        chosen = {name: plain[name] for name in ("seed", *sections) if name != "prefer" or plain[name] is not None}
        return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def read_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Reads and validates a recipe.

    Args:
        path: the YAML file.
        overrides: "section.option=value" each; a ``data.folder`` given so is relative to the current folder.

    Raises:
        DataError: when the file is missing or no YAML.
        ConfigurationError: for an option that does not exist, has the wrong type, or contradicts another.
    """
    path = Path(path)
    if not path.is_file():
        what = "a folder is no recipe" if path.is_dir() else "no such recipe"
        raise DataError(what, where=str(path), cure="name a YAML file, e.g. recipes/e2e.yaml")
    try:
        values = _yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"is not usable YAML ({error})", where=str(path), cure="correct it there") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), cure="see that you may read it") from error
    if not isinstance(values, dict):
        raise DataError("is not a mapping of sections", where=str(path), cure="see recipes/e2e.yaml")
    for override in overrides:
        _override(values, override)
    return validated(values, path)


def _yaml(text: str) -> Any:
    return yaml.load(text, Loader=_UniqueKeys)


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which an option stands once: of two, PyYAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping, its keys checked."""
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def validated(values: Mapping[str, Any], path: Path) -> Recipe:
    """A recipe from plain values; raises as `read_recipe`."""
    if "path" in values:
        raise ConfigurationError("there is no such option", where=f"{path}, path", cure="take it out")
    try:
        recipe = Recipe.model_validate({**values, "path": path})
    except ValidationError as error:
        raise _first(error, str(path)) from error
    _check_model(recipe)
    if not recipe.name.strip() or Path(recipe.name).name != recipe.name or recipe.name == "..":
        raise ConfigurationError(f"{recipe.name!r} names no folder", where=f"{path}, name", cure="give a name without slashes")
    if recipe.reinforce is not None and not recipe.reward:
        raise ConfigurationError("reinforce needs a reward", where=f"{path}, reward", cure="give the section reward")
    if recipe.prefer is not None and recipe.prefer.from_reward is not None and not recipe.reward:
        raise ConfigurationError("prefer.from_reward needs a reward", where=f"{path}, reward", cure="give the section reward")
    if recipe.audit is not None and not recipe.reward:
        raise ConfigurationError("audit needs a reward", where=f"{path}, reward", cure="give the section reward")
    if recipe.waits and recipe.reward_model is None:
        cure = "add the section reward_model, or name the folder of a trained one"
        raise ConfigurationError("its reward model is trained by no section", where=f"{path}, reward", cure=cure)
    if all(getattr(recipe, stage) is None for stage in STAGES):
        raise ConfigurationError("there is nothing to do", where=str(path), cure="give pretrain, finetune, prefer or reinforce")
    return recipe


def _check_model(recipe: Recipe) -> None:
    """Refuses dimensions that cannot be, and dimensions beside a model that has its own."""
    if "load" not in recipe.model:
        recipe.transformer(vocabulary_size=recipe.tokenizer.vocabulary_size)
        return
    where = f"{recipe.path}, model.load"
    if not isinstance(recipe.model["load"], str):
        raise ConfigurationError(f"{recipe.model['load']!r} is no folder", where=where, cure="name the folder of a model")
    if others := sorted(recipe.model.keys() - {"load"}):
        raise ConfigurationError(
            f"a loaded model brings its own {others[0]}", where=where, cure=f"take out {', '.join(others)}, or load"
        )
    if recipe.tokenizer.folder is not None:
        raise ConfigurationError("a loaded model brings its own tokenizer", where=where, cure="take out tokenizer.folder")


def _override(values: dict[str, Any], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise ConfigurationError(
            f"{override!r} is not section.option=value", where="--set", cure="e.g. --set reinforce.steps=200"
        )
    try:
        value = _yaml(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{text!r} is no YAML value", where=f"--set {override}", cure="put it in quotes") from error
    if name == "data.folder":
        value = str(Path(str(value)).resolve())
    *parents, last = name.split(".")
    section: Any = values
    for parent in parents:
        found = section.get(parent)
        if found is not None and not isinstance(found, dict):
            raise ConfigurationError(f"{parent!r} has no options", where=f"--set {override}", cure="name a section's option")
        section[parent] = dict(found or {})  # a copy: with an anchor, YAML gives one mapping to several sections
        section = section[parent]
    section[last] = value


def _first(error: ValidationError, path: str, options: Sequence[str] = ()) -> ConfigurationError:
    """The first fault as one line that names the option and, for a misspelt one, the nearest that exists."""
    fault = error.errors()[0]
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        names = options or _options(fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), names, n=1)
        cure = f"did you mean {near[0]!r}?" if near else f"options here: {', '.join(names)}"
        return ConfigurationError("there is no such option", where=f"{path}, {where}", cure=cure)
    if fault["type"] in ("missing", "missing_argument"):
        return ConfigurationError("is missing", where=f"{path}, {where}", cure="add it")
    shown = "" if isinstance(fault["input"], dict) else f" (it is {fault['input']!r})"
    return ConfigurationError(f"{fault['msg']}{shown}", where=f"{path}, {where}", cure="correct it")


def _options(location: Sequence[int | str]) -> list[str]:
    """The options that exist in a section."""
    schema: dict[str, Any] = Recipe.model_json_schema()
    node: dict[str, Any] = schema
    for part in location:
        node = _resolved(node.get("properties", {}).get(str(part), {}), schema)
    return [name for name in node.get("properties", {}) if name != "path"]


def _resolved(node: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Follows a reference of the JSON schema; of alternatives, the one that is a section."""
    for choice in [node, *node.get("anyOf", []), *node.get("allOf", [])]:
        if "$ref" in choice:
            found: dict[str, Any] = schema["$defs"][choice["$ref"].rsplit("/", 1)[-1]]
            return found
    return node
