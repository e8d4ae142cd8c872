"""``guerdon export``: a policy in the format of another library, checked against the policy itself before it is kept."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from guerdon.data.files import reported
from guerdon.data.padded import Padded
from guerdon.data.tokenizer import FILE_NAME, Tokenizer
from guerdon.decoding import BeamOptions, DecodingOptions, SamplingOptions
from guerdon.decoding.constraints import inference
from guerdon.errors import CapabilityError, ConfigurationError, GuerdonError, InputError
from guerdon.generator import load
from guerdon.models.as_ctranslate2 import as_ctranslate2
from guerdon.models.as_huggingface import as_huggingface
from guerdon.models.bars import without_bars
from guerdon.models.transformer import Transformer

Format = Literal["huggingface", "ctranslate2"]
Quantisation = Literal["int8", "float16", "bfloat16"]
_TOLERANCE = 1e-3  # nats of a target of some ten tokens: float32 rounding leaves a hundredth of it


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: where.
        largest_difference: in nats, between the log-probabilities of eight targets by the policy and by what was written.
        left_out: what the policy's decoding options say that the format cannot hold; one sentence each.
        usage: how to open it, in Python.
    """

    folder: str
    largest_difference: float
    left_out: Sequence[str]
    usage: Sequence[str]

    def lines(self) -> list[str]:
        """For a person."""
        checked = f"checked: log-probabilities are within {self.largest_difference:.2g} nats of the policy's"
        return [f"written to {self.folder}", checked, *self.left_out, "use it:", *(f"    {line}" for line in self.usage)]

    def plain(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def export(model: str, to: str, folder: Path, quantisation: str | None = None) -> Exported:
    """Writes a policy, its tokenizer and its decoding options into a new folder, whole or not at all.

    What was written is opened again and has to give eight targets of random tokens the log-probabilities that the policy
    gives them; a quantised model's may differ, and the difference is told.

    Args:
        model: a model's folder, or a run's.
        to: "huggingface" or "ctranslate2".
        folder: must not exist, or be empty.
        quantisation: of the weights; for ctranslate2 only. None keeps float32.

    Raises:
        InputError: for a folder in use, or options that cannot be.
        CapabilityError: for a policy that the format cannot hold.
        GuerdonError: when it cannot be written, or what was written is not the same model.
    """
    _check(to, folder, quantisation)
    generator = load(model)
    policy, tokenizer = generator.policy, generator.tokenizer
    if not isinstance(policy, Transformer) or not isinstance(tokenizer, Tokenizer):
        raise CapabilityError(
            "is a Hugging Face model already", where=model, cure="convert it with ct2-transformers-converter of ctranslate2"
        )
    left = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.tmp"
    try:
        with reported(folder):
            left.mkdir(parents=True)
            tokenizer.save(left)
            if to == "huggingface":
                left_out, found = _huggingface(policy, generator.decoding, left), _log_probs_huggingface(policy, left)
            else:
                _ctranslate2(policy, tokenizer, left, quantisation)
                left_out, found = [], _log_probs_ctranslate2(policy, tokenizer, left)
            difference = _difference(policy, found, quantisation is not None)
            if folder.is_dir():
                folder.rmdir()
            left.rename(folder)
    finally:
        shutil.rmtree(left, ignore_errors=True)
    usage = _usage_huggingface(folder) if to == "huggingface" else _usage_ctranslate2(tokenizer, generator.decoding, folder)
    return Exported(str(folder), difference, left_out, usage)


def _check(to: str, folder: Path, quantisation: str | None) -> None:
    for value, kinds, option in ((to, Format, "--to"), (quantisation, Quantisation, "--quantisation")):
        if value is not None and value not in get_args(kinds):
            raise ConfigurationError(f"there is no {value!r}", where=option, cure=f"choose {', '.join(get_args(kinds))}")
    if quantisation is not None and to != "ctranslate2":
        raise ConfigurationError("is for ctranslate2 only", where="--quantisation", cure="leave it out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError("exists already", where=str(folder), cure="choose a new folder (--output), or remove that one")


# --- Hugging Face


def _huggingface(policy: Transformer, decoding: DecodingOptions, folder: Path) -> list[str]:
    """Writes model, tokenizer and generation settings; returns what could not be said in them."""
    model = as_huggingface(policy)
    from tokenizers import Tokenizer as Backend
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    backend = Backend.from_file(str(folder / FILE_NAME))
    pad, start, end, mask = (backend.id_to_token(token) for token in range(4))
    backend.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, policy.end_id)])
    special = {"pad_token": pad, "bos_token": start, "eos_token": end, "mask_token": mask}
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=policy.max_source, clean_up_tokenization_spaces=False, **special
    )
    settings, left_out = _generation(policy, decoding)
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    tokenizer.save_pretrained(folder)
    with without_bars():
        model.save_pretrained(folder)
    return left_out


def _generation(policy: Transformer, decoding: DecodingOptions) -> tuple[dict[str, Any], list[str]]:
    """The settings of ``generate`` that search as the options say, and what none of them says."""
    settings: dict[str, Any] = {"max_new_tokens": min(decoding.limit.absolute, policy.max_target)}
    settings |= {"num_return_sequences": decoding.returned, "no_repeat_ngram_size": decoding.ngram_block}
    left_out = []
    if decoding.limit.ratio is not None:
        left_out.append(f"left out: limit.ratio {decoding.limit.ratio:g}, since generate has no limit relative to the source")
    search = decoding.search()
    if isinstance(search, SamplingOptions):
        settings |= {"do_sample": True, "temperature": search.temperature, "top_k": search.top_k}
        settings |= {"top_p": search.top_p, "min_p": search.min_p or None}
    elif search is not None:
        settings |= {"num_beams": search.beam_size, "length_penalty": search.length_penalty, "early_stopping": True}
        for option, kept in (("patience", 1.0), ("length_normalisation", "power")):
            if getattr(search, option) != kept:
                left_out.append(f"left out: {option} {getattr(search, option)}; generate searches as with {kept}")
    return settings, left_out


def _log_probs_huggingface(policy: Transformer, folder: Path) -> list[float]:
    from transformers import AutoModelForSeq2SeqLM

    sources, targets = _probe(policy)
    with without_bars():
        model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    start = targets.ids.new_full((len(targets), 1), policy.start_id)
    with torch.no_grad():
        logits = model(
            input_ids=sources.ids,
            attention_mask=sources.mask.long(),
            decoder_input_ids=torch.cat([start, targets.ids[:, :-1]], dim=1),
        ).logits
    each = torch.log_softmax(logits.double(), -1).gather(-1, targets.ids[:, :, None])[:, :, 0]
    return list(torch.where(targets.mask, each, 0.0).sum(1).tolist())


# --- CTranslate2


def _ctranslate2(policy: Transformer, tokenizer: Tokenizer, folder: Path, quantisation: str | None) -> None:
    spec = as_ctranslate2(policy, tokenizer.tokens())
    spec.validate()
    spec.optimize(quantization=quantisation)
    spec.save(str(folder))


def _log_probs_ctranslate2(policy: Transformer, tokenizer: Tokenizer, folder: Path) -> list[float]:
    import ctranslate2  # type: ignore[import-untyped]

    sources, targets = _probe(policy)
    names = tokenizer.tokens()
    read, written = ([[names[token] for token in row] for row in rows.to_lists()] for rows in (sources, targets))
    translator = ctranslate2.Translator(str(folder), compute_type="default")
    scored = translator.score_batch(read, [row[:-1] for row in written])  # it adds the end itself
    return [sum(one.log_probs) for one in scored]


# --- the check


def _probe(policy: Transformer) -> tuple[Padded, Padded]:
    """Eight sources and targets of ordinary tokens, up to twelve long, drawn anew alike each time."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for limit in (policy.max_source, policy.max_target):
        lengths = [min(limit, 2 + 2 * (number % 6)) - 1 for number in range(8)]
        drawn = [torch.randint(4, policy.vocabulary_size, (n,), generator=generator).tolist() for n in lengths]
        rows.append(Padded.from_lists([[*ids, policy.end_id] for ids in drawn], policy.pad_id))
    return rows[0], rows[1]


def _difference(policy: Transformer, found: Sequence[float], quantised: bool) -> float:
    with inference(policy):
        wanted = policy.evaluate(*_probe(policy)).log_prob.double().sum(1).tolist()
    difference = max(abs(ours - theirs) for ours, theirs in zip(wanted, found, strict=True))
    if difference != difference or (difference > _TOLERANCE and not quantised):
        raise GuerdonError(
            f"what was written gives a target another log-probability, by {difference:.3g} nats",
            where="export",
            cure="install the releases that guerdon's constraints name; nothing was kept",
        )
    return difference


def _usage_huggingface(folder: Path) -> list[str]:
    return [
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        f"model, tokenizer = (kind.from_pretrained({str(folder)!r}) for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))",
        "outputs = model.generate(**tokenizer(sources, return_tensors='pt', padding=True))",
        "texts = tokenizer.batch_decode(outputs, skip_special_tokens=True)",
    ]


def _usage_ctranslate2(tokenizer: Tokenizer, decoding: DecodingOptions, folder: Path) -> list[str]:
    search, settings = decoding.search(), "beam_size=1"
    if isinstance(search, BeamOptions):
        settings = f"beam_size={search.beam_size}, length_penalty={search.length_penalty:g}"
    elif isinstance(search, SamplingOptions):
        settings += f", sampling_topk={search.top_k}, sampling_topp={search.top_p:g}"
        settings += f", sampling_temperature={search.temperature:g}"
    settings += f", max_decoding_length={decoding.limit.absolute}"
    end = tokenizer.tokens()[tokenizer.end_id]
    return [
        "import ctranslate2, tokenizers",
        f"translator = ctranslate2.Translator({str(folder)!r})",
        f"tokenizer = tokenizers.Tokenizer.from_file({str(folder / FILE_NAME)!r})",
        f"rows = [[*tokenizer.encode(source).tokens, {end!r}] for source in sources]",
        f"found = translator.translate_batch(rows, {settings})",
        "texts = [tokenizer.decode([tokenizer.token_to_id(t) for t in one.hypotheses[0]]) for one in found]",
    ]
