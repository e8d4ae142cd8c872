"""A policy that lies on a GPU becomes the same model of transformers as on the processor."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_policies import tiny_policy

pytest.importorskip("transformers")

from guerdon.models.as_huggingface import as_huggingface


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_transformers_gets_the_same_weights(positions: str) -> None:
    policy = tiny_policy(decoder_layers=2, norm="pre", positions=positions, activation="gelu").float()
    wanted = as_huggingface(policy).state_dict()
    found = as_huggingface(policy.to("cuda")).state_dict()
    assert {name: weight.tolist() for name, weight in found.items()} == {name: one.tolist() for name, one in wanted.items()}
