"""How fast guerdon, Hugging Face's ``generate`` and CTranslate2 write, with the same weights, for the same sources.

    python benchmarks/decoding.py runs/multi30k/finetune ../shared/data/multi30k/val.jsonl --field reference
    python benchmarks/decoding.py runs/e2e/finetune ../shared/data/e2e/dev.jsonl --works greedy samples --repetitions 9

The model is exported to both peers by `guerdon.models`. Each engine lives in a process of its own. Greedy outputs of all in
float32 are compared first: speeds of models that write other texts would compare nothing. Then each work is done in turn by
each engine, as often as asked, and the median and the spread of its tokens a second are printed, with ratios of medians to the
better Hugging Face and to CTranslate2 float32. guerdon and CTranslate2 sort the sources of a call by length; Hugging Face takes
them as they come, and "sorted" where its caller does that. Models of recipes/multi30k.yaml and of benchmarks/base_model.yaml
read German, which Multi30k's files call ``reference``.

"guerdon through CTranslate2" is the engine of `reinforce.rollout_engine`, for samples only. Each call hands over the weights
anew, in memory, as before each step of a run, and measures in a pass of the policy, in bfloat16 as an update would be, what the
outputs weigh; its rate without that pass is reported too ("no pass").

Tokens are those of outputs, end tokens included; encoding of sources counts as time, texts and their ids do not. Greedy and
beam search stop where the model does; samples too, so that the engines' samples differ in length a little, and their tokens a
second compare. Where several batch sizes are named, each engine uses its best, found in a first pass.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any, get_args

import torch
from apart import Apart, all_made, in_turn
from decoding_engines import LIMIT, CTranslate2, HuggingFace, Native, Refreshed, Rows
from figures import device, summary, table

import guerdon
from guerdon.data.files import write_atomically
from guerdon.data.records import FieldMap
from guerdon.models.precision import InferencePrecision, Precision
from guerdon.pipeline.export import export
from guerdon.training.engines import ComputeType

WORKS = {  # name: (sources, batch sizes to choose from)
    "greedy": (256, (64, 128, 256)),
    "samples": (32, (32,)),
    "beam": (64, (32,)),
    "latency": (16, (1,)),
}
SORTED = ", sorted"


def refreshed(model: str, threads: int) -> dict[str, Apart]:
    """The engine of rollouts, each kind in its own process."""
    kinds = [(kind, measures) for kind in get_args(ComputeType) for measures in (True, False)]
    return {
        f"guerdon through CTranslate2 {kind}{'' if measures else ', no pass'}": Apart(
            Refreshed, model, kind, measures, threads=threads
        )
        for kind, measures in kinds
    }


def transformers(model: str, device: str, threads: int) -> dict[str, Apart]:
    """Hugging Face's ``generate``: of texts as they come, and of texts that its caller has sorted by length."""
    kinds = [(kind, alike) for alike in (False, True) for kind in (torch.float32, torch.bfloat16)]
    return {
        f"Hugging Face {str(kind).removeprefix('torch.')}{SORTED if alike else ''}": Apart(
            HuggingFace, model, kind, device, alike, threads=threads
        )
        for kind, alike in kinds
    }


def on_gpu(model: str, rows: Rows, threads: int) -> dict[str, Apart]:
    """Each in its own process."""
    native = [(precision, graphs) for precision in get_args(Precision) for graphs in (True, False)]
    return {
        **{
            f"guerdon {kind}{'' if graphs else ', without graphs'}": Apart(
                Native, model, kind, rows, "cuda", graphs, threads=threads
            )
            for kind, graphs in native
        },
        **transformers(model, "cuda", threads),
    }


def engines(model: str, rows: Rows, place: Path, threads: int) -> dict[str, Apart]:
    """Each in its own process."""
    export(model, "ctranslate2", place / "ct2")
    names = guerdon.load(model).tokenizer.tokens()
    return {
        **{f"guerdon {one}": Apart(Native, model, one, rows, "cpu", threads=threads) for one in get_args(InferencePrecision)},
        **transformers(model, "cpu", threads),
        "CTranslate2 float32": Apart(CTranslate2, place / "ct2", "float32", names, threads, threads=threads),
        "CTranslate2 int8": Apart(CTranslate2, place / "ct2", "int8", names, threads, threads=threads),
    }


def compared(found: dict[str, Apart], rows: Rows) -> tuple[dict[str, float], dict[str, float]]:
    """The share of greedy outputs that are guerdon's in float32, token for token; and how long those of guerdon are.

    Outputs that run to the limit are those of a model that has not learned to end: speeds would be of no use that anyone has.
    """
    outputs = {name: engine.call("outputs", rows) for name, engine in found.items()}
    wanted = outputs["guerdon float32"]
    equal = {name: sum(a == b for a, b in zip(own, wanted, strict=True)) / len(rows) for name, own in outputs.items()}
    lengths = [len(one) for one in wanted]
    return equal, {"mean": sum(lengths) / len(rows), "cut off": sum(length == LIMIT for length in lengths) / len(rows)}


def measured(found: dict[str, Apart], work: str, every: Rows, repetitions: int) -> dict[str, dict[str, Any]]:
    """Each engine's rates at its best batch size, in turn."""
    count, sizes = WORKS[work]
    rows, best = every[:count], {}
    if count == sizes[0] or sizes == (1,):  # one batch, or none
        found = {name: engine for name, engine in found.items() if not name.endswith(SORTED)}
    for name, engine in found.items():
        tried = {size: engine.call("rate", work, rows, size, 1) for size in sizes for _ in range(2)}  # the second pass counts
        best[name] = max(tried, key=lambda size: tried[size])
    rates = in_turn(found, repetitions, lambda name, n: found[name].call("rate", work, rows, best[name], 2 + n))
    return {name: {"batch": best[name], **summary(values, "tokens/s")} for name, values in rates.items()}


def with_ratios(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The same, with ratios to Hugging Face's better, to its better of sorted texts, and to CTranslate2 float32."""
    peers = {name: values["tokens/s"] for name, values in found.items() if name.startswith("Hugging Face")}
    ratios = {"× Hugging Face's best": max(rate for name, rate in peers.items() if not name.endswith(SORTED))}
    if any(name.endswith(SORTED) for name in peers):
        ratios["× its best, sorted"] = max(rate for name, rate in peers.items() if name.endswith(SORTED))
    if "CTranslate2 float32" in found:
        ratios["× CTranslate2 float32"] = found["CTranslate2 float32"]["tokens/s"]
    return {
        name: {**one, **{against: round(one["tokens/s"] / rate, 2) for against, rate in ratios.items()}}
        for name, one in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a folder of a model that transformers has a kind for")
    parser.add_argument("records")
    parser.add_argument("--field", default="source", help="the records' field that holds the sources")
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="of guerdon and Hugging Face; workers of CTranslate2"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: without CTranslate2")
    parser.add_argument("--output", type=Path, default=Path("decoding.json"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as place:
        examples = guerdon.read_examples(options.records, FieldMap(source=options.field)).examples
        texts = [example.source for example in examples][:256]
        rows = guerdon.load(options.model).encode_sources(texts)
        gpu = options.device == "cuda"
        found = (
            on_gpu(options.model, rows, options.threads) if gpu else engines(options.model, rows, Path(place), options.threads)
        )
        more = refreshed(options.model, options.threads) if "samples" in options.works and not gpu else {}
        all_made({**found, **more})
        shares, lengths = compared(found, rows)
        print(
            "greedy outputs equal to guerdon's in float32:", ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        )
        print(f"they have {lengths['mean']:.1f} tokens; {lengths['cut off']:.1%} are cut off at {LIMIT}")
        results = {}
        for work in options.works:
            of_work = {**found, **more} if work == "samples" else found
            results[work] = measured(of_work, work, rows, options.repetitions)
            print(f"\n{work}\n{table(with_ratios(results[work]))}", flush=True)
        for engine in [*found.values(), *more.values()]:
            engine.close()
    record = {
        "model": options.model, "threads": options.threads, "equal": shares, "lengths": lengths, "works": results,
        **device(options.device),
    }  # fmt: skip
    write_atomically(options.output, [json.dumps(record, indent=1).encode(), b"\n"])


if __name__ == "__main__":
    main()
