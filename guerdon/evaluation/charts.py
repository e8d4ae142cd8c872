"""The charts of a run: learning curves of each stage, and reinforcement beside its controls."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from guerdon.evaluation.plots import WIDE, Chart, Series, line_chart
from guerdon.evaluation.runfolder import RunFolder

STAGES = {
    "pretrain": "Pre-training",
    "finetune": "Fine-tuning",
    "prefer": "Learning from comparisons",
    "reward_model": "Reward model",
    "judge": "Judge, which is not optimised",
    "audit": "Audit of the reward",
    "reinforce": "Reinforcement",
    "reinforce-shuffled": "Control: shuffled rewards",
    "reinforce-constant": "Control: constant reward",
    "evaluation": "Evaluation",
    "run": "The whole run, as far as it was done in the last call",
}
_LINES = {
    "reinforce": ("reinforced", 0),
    "reinforce-shuffled": ("shuffled rewards", 1),
    "reinforce-constant": ("constant reward", 2),
}
_TITLES = {
    "nll": "Negative log-likelihood per token (nats)",
    "loss": "Loss",
    "bleu": "BLEU on validation sources",
    "chrf": "chrF on validation sources",
    "accuracy": "Share of validation pairs whose preferred output gets more",
    "margin": "Margin of the preferred output in implied reward",
    "chosen_log_prob": "Log-probability of preferred outputs",
    "rejected_log_prob": "Log-probability of rejected outputs",
    "reward": "Reward, raw weighted sum",
    "advantage_std": "Standard deviation of the advantages",
    "kl": "KL to the fine-tuned policy (nats)",
    "entropy": "Entropy of the policy (nats per token)",
    "length": "Length of outputs (tokens)",
    "finished": "Share of finished outputs",
    "flat_groups": "Share of sample groups without spread",
    "anchor_nll": "Cost to the anchor (nats per token)",
    "copied": "Share of an output copied from its source",
    "repeated": "Share of an output's word pairs that repeat",
    "generic": "Share of outputs written for several sources",
    "grad_norm": "Gradient norm",
    "learning_rate": "Learning rate",
}
_HEALTH = (
    "kl", "entropy", "length", "finished", "advantage_std", "flat_groups", "anchor_nll", "copied", "repeated", "generic",
    "grad_norm",
)  # fmt: skip


def stage_label(stage: str) -> str:
    """A stage as people call it."""
    return STAGES.get(stage, stage)


def title(name: str) -> str:
    """A logged figure as people call it."""
    if name.startswith("reward/"):
        return f"Reward part: {name.removeprefix('reward/')}"
    return _TITLES.get(name, name.replace("_", " "))


def learning_charts(run: RunFolder, stage: str) -> list[Chart]:
    """Of a stage that draws no samples: the loss in training and validation, and each further validation figure."""
    training, validation = run.points(stage, "train", "nll"), run.points(stage, "validation", "nll")
    losses = [Series("training", training, 0, smooth=True), Series("validation", validation, 1, markers=True)]
    further = [name for name in run.names(stage, "validation") if name not in ("nll", "loss")]
    curves = [(title("nll"), losses)]
    curves += [
        (title(name), [Series("validation", run.points(stage, "validation", name), 1, markers=True)]) for name in further
    ]
    if not training:
        curves.insert(0, (title("loss"), [Series("training", run.points(stage, "train", "loss"), 0, smooth=True)]))
    curves.append((title("grad_norm"), [Series("training", run.points(stage, "train", "grad_norm"), 0, smooth=True)]))
    return _drawn(line_chart(name, lines, "step") for name, lines in curves)


def reward_against_kl(run: RunFolder) -> Chart | None:
    """The validation reward over the KL paid for it, each run a path away from the fine-tuned policy."""
    series = []
    for stage, (label, style) in _present(run):
        rows = [row for row in run.metrics if row.get("stage") == stage and row.get("kind") == "validation"]
        found = [(row["kl"], row["reward"]) for row in rows if None not in (row.get("kl"), row.get("reward"))]
        series.append(Series(label, found, style, markers=True))
    return line_chart("Reward against KL, on validation sources", series, title("kl"), size=WIDE)


def reward_charts(run: RunFolder) -> list[Chart]:
    """The reward and each of its parts over the steps: in training, and on validation sources."""
    names = ["reward", *sorted(name for name in run.names("reinforce", "train") if name.startswith("reward/"))]
    single = len(names) == 2
    charts = [_beside(run, "validation", name, "validation sources, greedy") for name in names[: 1 if single else None]]
    charts += [_beside(run, "train", name, "sampled outputs of each step") for name in names[: 1 if single else None]]
    return _drawn(charts)


def validation_charts(run: RunFolder) -> list[Chart]:
    """What validation measures beside the reward: whether anything else moves with it."""
    names = [name for name in run.names("reinforce", "validation") if not name.startswith("reward") and name not in _HEALTH]
    return _drawn(_beside(run, "validation", name, "") for name in names)


def health_charts(run: RunFolder) -> list[Chart]:
    """KL, entropy, lengths, finished outputs, spread of advantages and gradient norm over the steps."""
    return _drawn(_beside(run, "train", name, "") for name in _HEALTH)


def _beside(run: RunFolder, kind: str, name: str, note: str) -> Chart | None:
    """One figure of the reinforced run and its controls."""
    seldom = kind == "validation"
    series = [
        Series(label, run.points(stage, kind, name), style, markers=seldom, smooth=not seldom)
        for stage, (label, style) in _present(run)
    ]
    limits = (0.0, 1.0) if name == "finished" else (-math.inf, math.inf)
    return line_chart(title(name), series, "step", note, limits=limits)


def _present(run: RunFolder) -> list[tuple[str, tuple[str, int]]]:
    return [(stage, line) for stage, line in _LINES.items() if stage in run.stages]


def _drawn(charts: Iterable[Chart | None]) -> list[Chart]:
    return [chart for chart in charts if chart is not None]


def teaching_stages(run: RunFolder) -> Sequence[str]:
    """The stages that draw no samples: those that learn from texts or from comparisons."""
    return [stage for stage in run.stages if not stage.startswith("reinforce")]
