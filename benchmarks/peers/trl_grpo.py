"""A step of TRL's GRPO on a decoder with random weights, for `benchmarks/reinforcing.py`. Nothing here imports guerdon."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

Sizes = tuple[int, int, int, int]  # sources, outputs of each, tokens of an output, first steps that are not counted


class Peer:
    """TRL's GRPOTrainer, its options as they are but for sizes and lengths."""

    def __init__(self, folder: Path, texts: list[str], steps: int, device: str, half: bool, sizes: Sizes) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        torch.manual_seed(1)
        self.texts, self.steps, self.device, self.half, self.sizes = texts, steps, device, half, sizes
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), padding_side="left")
        names = self.tokenizer.convert_ids_to_tokens([0, 1, 2])
        self.tokenizer.pad_token, self.tokenizer.bos_token, self.tokenizer.eos_token = names
        self.model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(self.tokenizer), hidden_size=256, intermediate_size=1024, num_hidden_layers=8,
                num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True, max_position_embeddings=512,
                pad_token_id=0, bos_token_id=1, eos_token_id=2,
            )
        )  # fmt: skip

    def parameters(self) -> int:
        return int(self.model.num_parameters())

    def rate(self, repetition: int) -> tuple[float, dict[str, float]]:
        """Outputs a second; nothing is known of the parts."""
        from datasets import Dataset
        from transformers import TrainerCallback
        from trl import GRPOConfig, GRPOTrainer

        sources, copies, length, uncounted = self.sizes
        moments: list[float] = []

        class Clock(TrainerCallback):
            def on_step_end(self, *given: Any, **named: Any) -> None:
                moments.append(time.perf_counter())

        with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
            arguments = GRPOConfig(
                output_dir=place, per_device_train_batch_size=sources * copies, num_generations=copies, temperature=1.0,
                max_completion_length=length, max_steps=self.steps + uncounted, learning_rate=1e-6, bf16=self.half,
                use_cpu=self.device == "cpu", save_strategy="no", report_to="none",
                disable_tqdm=True, logging_steps=100, seed=repetition,
                gradient_checkpointing=False, generation_kwargs={"min_new_tokens": length},
            )  # fmt: skip
            trainer = GRPOTrainer(
                self.model, lambda completions, **named: [len(text) / 100 for text in completions], arguments,
                Dataset.from_dict({"prompt": self.texts}), processing_class=self.tokenizer, callbacks=[Clock()],
            )  # fmt: skip
            trainer.train()
        return sources * copies * self.steps / (moments[-1] - moments[uncounted - 1]), {}
