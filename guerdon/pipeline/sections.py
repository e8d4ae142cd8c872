"""The sections of a recipe that belong to no other room's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from guerdon.data.judgements import ComparisonFields, RatingFields
from guerdon.data.records import FieldMap
from guerdon.decoding import SamplingOptions
from guerdon.errors import ConfigurationError
from guerdon.evaluation.requirements import Requirement, requirements_of
from guerdon.evaluation.rewording import language_of
from guerdon.metrics.significance import check_resamples
from guerdon.stages.pretrain import PretrainConfig
from guerdon.training.drawn import FromReward
from guerdon.training.preferences import FIGURES, PreferConfig
from guerdon.training.reward_training import RewardModelConfig

Control = Literal["shuffled", "constant", "best_of_n", "mbr"]


@dataclass(frozen=True)
class DataSection:
    """Where the records are.

    Attributes:
        folder: of the files below; relative to the recipe's own folder.
        train, test: record files (JSONL, CSV, TSV, Parquet).
        validation: likewise; or a number between 0 and 1, the share of the training *sources* that is held out for it, the same
            ones whatever the seed.
        fields: names of the fields in those files.
        on_error: stop at a bad record, or skip and count it.
        limit: read at most so many training records; for a first try.
        note: a sentence about the data for the report.
    """

    train: str
    validation: str | float
    test: str | None = None
    folder: str = "."
    fields: FieldMap = field(default_factory=FieldMap)
    on_error: Literal["stop", "skip"] = "stop"
    limit: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.validation, str) and not 0 < self.validation < 1:
            raise ConfigurationError(
                f"{self.validation} is no share", where="data.validation", cure="name a file, or give a number between 0 and 1"
            )


@dataclass(frozen=True)
class TokenizerSection:
    """The subword tokenizer: trained on the training sources and references, or taken from a folder.

    Attributes:
        vocabulary_size: tokens at the most, the 256 bytes and 4 special ones included.
        folder: of a tokenizer to take instead; relative to the recipe's own folder.
    """

    vocabulary_size: int = 3000
    folder: str | None = None


@dataclass(frozen=True)
class PretrainSection(PretrainConfig):
    """Pre-training and its texts.

    Attributes:
        texts: files of raw text (one text a line, or a field of records), relative to ``data.folder``.
        validation_texts: likewise, to choose the checkpoint by.
        field: the field that holds the text.
        references: whether the references of the training records are texts too.
    """

    texts: Sequence[str] = ()
    validation_texts: Sequence[str] = ()
    field: str = "text"
    references: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.texts and not self.references:
            raise ConfigurationError(
                "there are no texts", where="pretrain.texts", cure="name files, or set pretrain.references"
            )
        if bool(self.texts) != bool(self.validation_texts):
            raise ConfigurationError(
                "texts and validation_texts go together", where="pretrain.validation_texts", cure="give both, or neither"
            )


@dataclass(frozen=True)
class PreferSection(PreferConfig):
    """Learning from comparisons, and where they come from: a file, or the policy's own samples and the recipe's reward.

    Attributes:
        comparisons: a file of comparisons, relative to ``data.folder``.
        validation_comparisons: another one, which measures accuracy, margin and loss.
        validation_share: instead of that file, the share of the *sources* of ``comparisons`` that is held out.
        fields: names of the fields in those files.
        from_reward: draws the comparisons for the training and the validation sources instead, once, before the stage begins.
    """

    comparisons: str | None = None
    validation_comparisons: str | None = None
    validation_share: float | None = None
    fields: ComparisonFields = field(default_factory=ComparisonFields)
    from_reward: FromReward | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.comparisons is None) == (self.from_reward is None):
            raise ConfigurationError(
                "needs either comparisons or from_reward", where="prefer.comparisons", cure="give exactly one of them"
            )
        given = [name for name in ("validation_comparisons", "validation_share") if getattr(self, name) is not None]
        if self.from_reward is not None and (given or self.fields != ComparisonFields()):
            raise ConfigurationError(
                "belongs to a file of comparisons, and from_reward draws them",
                where=f"prefer.{given[0] if given else 'fields'}",
                cure="take it out: validation comparisons are drawn for the validation sources",
            )
        if self.comparisons is not None and len(given) != 1:
            raise ConfigurationError(
                f"needs either validation_comparisons or validation_share, to measure {', '.join(FIGURES)}",
                where="prefer.validation_comparisons",
                cure="give exactly one of them",
            )
        if self.validation_share is not None and not 0 < self.validation_share < 1:
            raise ConfigurationError(
                f"{self.validation_share} is no share", where="prefer.validation_share", cure="give a number between 0 and 1"
            )


@dataclass(frozen=True)
class RewardModelSection(RewardModelConfig):
    """A reward model that the run trains, and its judgements.

    A part of the reward uses it with ``from: reward_model``. The backbone begins with the run's fine-tuned policy, unless
    ``model.scratch`` is given or the kind is linear.

    Attributes:
        judgements: files of comparisons, or of ratings where the loss learns from these; relative to ``data.folder``.
        where: fields and the text that a record must have in them to be trained on, e.g. ``{split: train}``.
        validation_judgements: files to choose the checkpoint by, of other sources; by default the same files.
        validation_where: as ``where``; without it and without files of its own, ``held_out`` of the sources is held out.
        fields: names of the fields of comparisons.
        rating_fields: names of the fields of ratings.
        on_error: stop at a bad record, or skip and count it.
    """

    judgements: Sequence[str] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    validation_judgements: Sequence[str] = ()
    validation_where: Mapping[str, str] = field(default_factory=dict)
    fields: ComparisonFields = field(default_factory=ComparisonFields)
    rating_fields: RatingFields = field(default_factory=RatingFields)
    on_error: Literal["stop", "skip"] = "stop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.judgements:
            raise ConfigurationError("there are none", where="reward_model.judgements", cure="name files of judgements")


@dataclass(frozen=True)
class JudgeSection(RewardModelSection):
    """A reward model of other judgements, which is never optimised: the systems are measured by it."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ConfigurationError as error:
            where = (error.where or "judge").replace("reward_model", "judge", 1)
            raise ConfigurationError(error.what, where=where, cure=error.cure) from error


@dataclass(frozen=True)
class AuditSection:
    """The audit of the reward, before a policy is trained on it: see `guerdon.evaluation.audit`.

    Attributes:
        require: upper bounds by what they are of, e.g. ``{empty: 0.05, shuffled: 0.2}``
            (`guerdon.evaluation.requirements.Requirement`). Where one is not met the run ends before a policy is trained on
            the reward.
        sources: of the validation records, the first so many; None for all.
        language: of the outputs, for filler and negation.
        bootstrap: resamples of each interval.
    """

    require: Mapping[str, float] = field(default_factory=dict)
    sources: int | None = None
    language: str = "en"
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        check_resamples(self.bootstrap, "audit.bootstrap")
        language_of(self.language)
        if any(requirement.probe == "disagreement" for requirement in self.requirements):
            raise ConfigurationError(
                "needs human pairs, which a run does not give its audit",
                where="audit.require.disagreement",
                cure="take it out, and use guerdon audit --pairs",
            )
        if self.sources is not None and self.sources < 2:
            raise ConfigurationError(f"{self.sources} give no interval", where="audit.sources", cure="give at least 2")

    @property
    def requirements(self) -> list[Requirement]:
        """What must hold."""
        return requirements_of(self.require)


@dataclass(frozen=True)
class EvaluationSection:
    """How systems are measured.

    Attributes:
        lowercase: whether BLEU, chrF and TER ignore case.
        bootstrap: resamples of each interval.
        slots: a file of slot patterns (relative to the recipe's own folder): slot errors become a measure.
        validation_limit: sources on which outputs are written at each validation; None for all.
    """

    lowercase: bool = False
    bootstrap: int = 1000
    slots: str | None = None
    validation_limit: int | None = None

    def __post_init__(self) -> None:
        check_resamples(self.bootstrap, "evaluation.bootstrap")


@dataclass(frozen=True)
class ControlsSection:
    """What the reinforced policy is compared with, beside the fine-tuned one.

    Attributes:
        run: any of shuffled, constant (runs that differ only in the reward), best_of_n, mbr (choices among samples of
            the fine-tuned policy).
        samples: how many samples best_of_n and mbr choose from.
        temperature: of those samples. Label smoothing flattens a policy: at 1 its samples are worse than it knows.
    """

    run: Sequence[Control] = ("shuffled", "constant", "best_of_n", "mbr")
    samples: int = 16
    temperature: float = 1.0

    def __post_init__(self) -> None:
        SamplingOptions(temperature=self.temperature)
        if self.samples < 2:
            raise ConfigurationError("there is nothing to choose from", where="controls.samples", cure="give at least 2")
