"""Which engine's options can be, and which cannot."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from helpers.resumable import generator

from guerdon.data.records import Example
from guerdon.errors import CapabilityError, ConfigurationError, DataError, MissingExtraError
from guerdon.generator import Generator
from guerdon.models.transformer import Transformer
from guerdon.training.engine_rollouts import engine_of
from guerdon.training.engines import EngineOptions
from guerdon.training.reinforcement import ReinforceConfig
from guerdon.training.rollouts import Prompts

INT8 = EngineOptions("ctranslate2", "int8")


def test_defaults() -> None:
    assert ReinforceConfig().rollout_engine == EngineOptions("own")
    assert EngineOptions("ctranslate2").largest_weight == 2.0
    assert EngineOptions("ctranslate2").least_share == 0.5
    assert EngineOptions("ctranslate2", cap=5.0, least_effective=0.25).largest_weight == 5.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "vllm"}, "rollout_engine.kind: there is no 'vllm'; choose own, ctranslate2"),
        ({"kind": "ctranslate2", "compute_type": "int4"}, "compute_type: there is no 'int4'; choose float32, int8"),
        ({"compute_type": "int8"}, "compute_type: belongs to the kind ctranslate2"),
        ({"cap": 2.0}, "cap: belongs to the kind ctranslate2"),
        ({"least_effective": 0.5}, "least_effective: belongs to the kind ctranslate2"),
        ({"kind": "ctranslate2", "cap": 0.5}, "rollout_engine.cap: 0.5"),
        ({"kind": "ctranslate2", "cap": float("inf")}, "rollout_engine.cap: inf"),
        ({"kind": "ctranslate2", "cap": float("nan")}, "rollout_engine.cap: nan"),
        ({"kind": "ctranslate2", "least_effective": 0.0}, "rollout_engine.least_effective: 0.0"),
        ({"kind": "ctranslate2", "least_effective": 1.0}, "rollout_engine.least_effective: 1.0"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        EngineOptions(**options)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"temperature": 0.9}, "only at temperature 1"),
        ({"top_p": 0.95}, "only at temperature 1"),
        ({"rollout_precision": "bfloat16"}, "rollout_precision: bfloat16 is of guerdon's own engine"),
        ({"rollout_precision": "auto"}, "rollout_precision: auto is of guerdon's own engine"),
        ({"estimator": "minimum_risk"}, "minimum_risk renormalises"),
    ],
)
def test_what_ctranslate2_cannot_draw_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        ReinforceConfig(rollout_engine=INT8, **changes)
    ReinforceConfig(**changes)  # which guerdon's own can


def prompts(made: Generator, *sources: str) -> Prompts:
    return Prompts.of(made, [Example(source) for source in sources])


def test_the_own_engine_is_none_of_ctranslate2() -> None:
    made = generator()
    assert engine_of(EngineOptions(), made, prompts(made, "")) is None


def test_an_empty_source_is_refused() -> None:
    made = generator()
    with pytest.raises(DataError, match="example 1 has an empty source"):
        engine_of(INT8, made, prompts(made, "name", ""))


class Kin(Transformer):
    """May compute something else."""


def test_policies_that_it_cannot_draw_from_are_refused() -> None:
    pytest.importorskip("ctranslate2")
    made = generator()
    made.policy.double()
    with pytest.raises(CapabilityError, match=r"float32 weights on the CPU, and these are torch\.float64 on cpu"):
        engine_of(INT8, made, prompts(made))
    other = Generator(Kin(made.policy.options), made.tokenizer)
    with pytest.raises(CapabilityError, match="this policy is a Kin"):
        engine_of(INT8, other, prompts(made))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made = generator()
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    with pytest.raises(MissingExtraError, match="ctranslate2"):
        engine_of(INT8, made, prompts(made))
