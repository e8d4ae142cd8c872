"""What the verb overoptimise does: samples from a file, rewards by name, a run's validations from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from guerdon.errors import ConfigurationError, DataError, InputError
from guerdon.evaluation.audit import name_of
from guerdon.evaluation.audit_judging import judge_all
from guerdon.evaluation.judged_pairs import total_of
from guerdon.evaluation.overoptimisation import (
    PROXY,
    Course,
    Overoptimisation,
    OveroptimisationOptions,
    SampledSource,
    best_of_n_course,
    course,
)
from guerdon.evaluation.overoptimisation_page import write_overoptimisation
from guerdon.evaluation.runfolder import read_run
from guerdon.metrics.base import FloatArray
from guerdon.pipeline.files import Scored, open_reward
from guerdon.pipeline.recipe import read_recipe
from guerdon.rewards.base import Judged, Reward
from guerdon.rewards.normalise import NormaliserOptions
from guerdon.training.progress import Progressing


def named_judges(texts: Sequence[str]) -> dict[str, str]:
    """Judges by name, from NAME=REWARD each.

    Raises:
        ConfigurationError: for a text of another form, a name that comes twice or is that of the proxy, or no judge.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, reward = text.partition("=")
        if not (equals and name and reward) or name in found or name == PROXY:
            cure = "write NAME=REWARD, each name once, and none of them 'proxy'"
            raise ConfigurationError(f"{text!r} is no judge", where="--judge", cure=cure)
        found[name] = reward
    if not found:
        raise ConfigurationError("there is no judge", where="--judge", cure="name one that is not optimised")
    return found


def overoptimise_file(
    reward: str,
    samples: Path,
    judges: Mapping[str, str],
    run: Path | None,
    options: OveroptimisationOptions,
    overrides: Sequence[str],
    folder: Path | None,
    progress: Progressing,
) -> Overoptimisation:
    """Judges the samples of a file by a reward and by judges that it is not; writes page and JSON into ``folder``.

    Args:
        reward: the proxy, as `open_reward` takes it.
        samples: records with ``source``, ``outputs`` (many, drawn from the policy) and, where a reward reads them, references.
        judges: rewards by name.
        run: the folder of a reinforcement run, whose validations make a second curve.
        options: how it is done.
        overrides: of a recipe.
        folder: where to write; None for nowhere.
        progress: is told how far it is.

    Raises:
        DataError, ConfigurationError, RewardError, InputError: for files, options and rewards that cannot be used.
    """
    normalisation = NormaliserOptions()
    if Path(reward).suffix in (".yaml", ".yml") and (section := read_recipe(reward, overrides).reinforce) is not None:
        normalisation = section.normalisation
    opened = {PROXY: open_reward(reward, overrides), **{name: open_reward(given) for name, given in judges.items()}}
    scored = Scored.read(samples)
    known = _Known(scored, normalisation)
    progress.begin("judge", len(opened))
    scores, label = {}, reward
    for place, (name, judge) in enumerate(opened.items(), 1):
        scores[name], told = known.scores(judge)
        label = told if name == PROXY else label
        progress.advance(place, {})
    progress.end()
    sources, left_out = _sources(scores)
    courses = [best_of_n_course(sources, options)]
    if run is not None:
        courses.append(_run_course(run, {name: opened[name] for name in judges}, known, options))
    spread = {name: float(np.concatenate(found)[~np.isnan(np.concatenate(found))].std()) for name, found in scores.items()}
    found = Overoptimisation(
        proxy=label,
        judges=list(judges),
        data=samples.name,
        samples=min(len(source.proxy) for source in sources),
        left_out=left_out,
        spread=spread,
        courses=courses,
        options=asdict(options),
    )
    if folder is not None:
        write_overoptimisation(found, folder)
    return found


class _Known:
    """Samples, and what is known of their sources."""

    def __init__(self, scored: Scored, normalisation: NormaliserOptions) -> None:
        self.scored, self.normalisation = scored, normalisation
        self.references = dict(zip(scored.sources, scored.references, strict=True))
        self.meta = dict(zip(scored.sources, scored.rows, strict=True))

    def judged(self, sources: Sequence[str], texts: Sequence[str], own: Sequence[Sequence[str]] | None = None) -> Judged:
        """Texts with the references that the samples' file has of their sources, else ``own`` ones."""
        given = own or [()] * len(sources)
        references = [self.references.get(source) or one for source, one in zip(sources, given, strict=True)]
        return Judged.of(sources, texts, references, [self.meta.get(source, {}) for source in sources])

    def scores(self, reward: Reward) -> tuple[list[FloatArray], str]:
        """Of the samples of each source, NaN where the reward does not apply; and the reward's name.

        A text that was drawn several times for a source is judged once.
        """
        flat = [(s, text) for s, texts in zip(self.scored.sources, self.scored.outputs, strict=True) for text in texts]
        distinct = list(dict.fromkeys(flat))
        judged = self.judged([source for source, _ in distinct], [text for _, text in distinct])
        judgement = judge_all(reward, judged)
        total = total_of(judgement, judged, self.normalisation)
        values = dict(zip(distinct, np.where(total.applies, total.values, np.nan).tolist(), strict=True))
        found = [
            np.array([values[source, text] for text in texts], dtype=np.float64)
            for source, texts in zip(self.scored.sources, self.scored.outputs, strict=True)
        ]
        return found, name_of(judgement)


def _sources(scores: Mapping[str, Sequence[FloatArray]]) -> tuple[list[SampledSource], int]:
    """The sources to which everything applies, and how many others there are."""
    found = []
    for own in zip(*scores.values(), strict=True):
        values = dict(zip(scores, own, strict=True))
        if not any(np.isnan(given).any() for given in own):
            found.append(SampledSource(values[PROXY], {name: v for name, v in values.items() if name != PROXY}))
    if not found:
        raise InputError("there is no source to which all rewards apply", where="--judge", cure="choose another judge")
    return found, len(next(iter(scores.values()))) - len(found)


def _run_course(run: Path, judges: Mapping[str, Reward], known: _Known, options: OveroptimisationOptions) -> Course:
    """The validations of a run: KL and reward as logged, and judges of the outputs that it kept of each.

    Raises:
        DataError: when the run has no two validations with KL, reward and outputs of the same sources.
    """
    folder = read_run(run)
    logged = {
        int(row["step"]): row
        for row in folder.metrics
        if row.get("stage") == "reinforce"
        and row.get("kind") == "validation"
        and None not in (row.get("kl"), row.get("reward"))
    }
    kept: dict[int, dict[str, Mapping[str, Any]]] = {}
    for row in folder.samples:
        if row.get("stage") == "reinforce" and row.get("kind") == "validation" and int(row["step"]) in logged:
            kept.setdefault(int(row["step"]), {})[str(row["source"])] = row
    steps = sorted(kept)
    sources = [s for s in kept[steps[0]] if all(s in kept[step] for step in steps)] if steps else []
    if len(steps) < 2 or len(sources) < 2:
        raise DataError(
            "has no two validations of reinforcement with outputs of the same sources",
            where=str(run),
            cure="name the folder of a run that was reinforced",
        )
    rows = [kept[step][source] for source in sources for step in steps]
    judged = known.judged(
        [str(row["source"]) for row in rows],
        [str(row["output"]) for row in rows],
        [[str(row["reference"])] if row.get("reference") else [] for row in rows],
    )
    columns = []
    for name, judge in judges.items():
        total = total_of(judge_all(judge, judged), judged, known.normalisation)
        if not total.applies.all():
            raise DataError(f"judge {name!r} does not apply to every output kept", where=str(run), cure="leave it out")
        columns.append(total.values.reshape(len(sources), len(steps)))
    proxy = {PROXY: [float(logged[step]["reward"]) for step in steps]}
    kls = [float(logged[step]["kl"]) for step in steps]
    return course(run.name, "step", steps, kls, list(judges), np.stack(columns, axis=2), options, proxy)
