"""How fast a policy samples: tokens a second of a run's model on its own validation sources, and the same by Hugging Face.

    python benchmarks/rollouts.py runs/e2e/finetune ../shared/data/e2e/dev.jsonl
    python benchmarks/rollouts.py runs/e2e/finetune ../shared/data/e2e/dev.jsonl --peer

A sampled token is one that belongs to an output, its end token included; encoding the sources and turning ids into text
count as time. The peer is a Marian-shaped Hugging Face model of the same dimensions with random weights, whose ``generate``
samples the same number of outputs of exactly the mean length; both are timed in turn, and the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch

import guerdon
from guerdon.decoding import LengthLimit, SamplingOptions
from guerdon.training.rollouts import Prompts, Rollout, draw


def rollout(generator: Any, prompts: Prompts, sources: int, copies: int, step: int) -> tuple[Rollout, float]:
    numbers = [(step * sources + i) % len(prompts) for i in range(sources)]
    began = time.perf_counter()
    found = draw(generator, prompts, numbers, copies, SamplingOptions(), LengthLimit(96), 1, step)
    return found, time.perf_counter() - began


def peer_model(options: Any) -> Any:
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=options.vocabulary_size, d_model=options.width, encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers, encoder_attention_heads=options.heads, decoder_attention_heads=options.heads,
        encoder_ffn_dim=options.feed_forward, decoder_ffn_dim=options.feed_forward, max_position_embeddings=512,
        pad_token_id=0, eos_token_id=2, decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    return MarianMTModel(config).eval()


@torch.no_grad()
def peer_rate(model: Any, found: Rollout, copies: int) -> float:
    length = round(found.samples.tokens.tokens() / len(found.texts))
    began = time.perf_counter()
    model.generate(
        input_ids=found.sources.ids, attention_mask=found.sources.mask.long(), do_sample=True, top_k=0,
        num_return_sequences=copies, min_new_tokens=length, max_new_tokens=length,
    )  # fmt: skip
    return length * len(found.texts) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("records")
    parser.add_argument("--sources", type=int, default=32)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--peer", action="store_true", help="time Hugging Face's generate beside it")
    options = parser.parse_args()
    generator = guerdon.load(options.model)
    prompts = Prompts.of(generator, guerdon.read_examples(options.records).examples)
    peer = peer_model(generator.policy.options) if options.peer else None
    own, other = [], []
    for step in range(options.repetitions + 2):
        found, seconds = rollout(generator, prompts, options.sources, options.copies, step)
        own.append(found.samples.tokens.tokens() / seconds)
        if peer is not None:
            other.append(peer_rate(peer, found, options.copies))
    rates = sorted(own[2:])
    print(
        json.dumps({"tokens/s": {"median": round(statistics.median(rates)), "min": round(rates[0]), "max": round(rates[-1])}})
    )
    if peer is not None:
        ratio = statistics.median(rates) / statistics.median(other[2:])
        print(json.dumps({"peer tokens/s, median": round(statistics.median(other[2:])), "ratio": round(ratio, 2)}))


if __name__ == "__main__":
    main()
