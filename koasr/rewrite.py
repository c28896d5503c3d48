"""Untrusted weights of a wav2vec2 model → a clean model directory. Runs in a child process."""

import json
import os
import pickle
import re
import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

from koasr.checkpoint import open_checkpoint
from koasr.errors import JobError
from koasr.rows import SAMPLE_RATE
from koasr.tokens import HeadTokens, declared, read_head_tokens

_SPEC_EMBED = "wav2vec2.masked_spec_embed"
"""Hides frames in training and nothing else, so a checkpoint may lack it or carry it in vain."""

_TOLERANCE = 1e-6


def rewrite(
    source: Path,
    target: Path,
    *,
    model: str,
    tokenizer: Mapping[str, Mapping[str, Any]],
    extractor: Mapping[str, Any],
    target_lang: str | None,
) -> dict[str, int]:
    """Load the weights without running what they carry, check them, and write them anew.

    Args:
        source: Directory that holds `config.json` and the weights, nothing else.
        target: Made here.
        model: What to call it in messages.
        tokenizer: Contents of the tokenizer's files, of one language.
        extractor: What the preprocessor's file says.
        target_lang: Language of the adapter weights to merge (MMS); None without adapters.

    Returns:
        Counts: `num_parameters`, `num_frames` of the one-second check.

    Raises:
        JobError: The weights are not tensors alone, or do not fit the model or the vocabulary.
    """
    network = _load(source, model, target_lang)
    head = read_head_tokens(
        tokenizer,
        num_rows=network.lm_head.out_features,
        config_pad_id=network.config.pad_token_id,
        where=model,
    )
    network.config.architectures = ["Wav2Vec2ForCTC"]
    network.config.pad_token_id = head.blank_id
    num_parameters = sum(weight.numel() for weight in network.parameters())
    wanted = _logits_of_a_second(network)
    target.mkdir()
    network.save_pretrained(target)
    del network
    for path in target.glob("*.safetensors"):
        # safetensors makes its files readable to their owner alone, jobs may run as another user.
        path.chmod((target / "config.json").stat().st_mode)
    _write_processor(target, head, tokenizer, extractor)
    _check(target, head, wanted, model)
    return {"num_parameters": num_parameters, "num_frames": len(wanted)}


def confine(source: Path) -> None:
    """Make this process quiet, and cap its memory to a multiple of the files in `source`.

    A file that unpacks to far more than its size then ends in a MemoryError, not in the machine's.
    """
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # Each thread takes address space, of which a machine with 64 cores would take gigabytes.
    torch.set_num_threads(min(torch.get_num_threads(), 8))
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return
    now = int(statm.read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    # Mapped file, float32 copy of halves, the bytes being written, the file read again.
    weights = sum(file.stat().st_size for file in source.iterdir())
    limit = now + 8 * weights + (8 << 30)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _load(source: Path, model: str, target_lang: str | None) -> Any:
    """The source's model in float32, its keys checked. Old names of weight norm are known to it."""
    is_pickled = not list(source.glob("model*.safetensors"))
    options = {"target_lang": target_lang} if target_lang else {}
    try:
        network, report = Wav2Vec2ForCTC.from_pretrained(
            source,
            dtype=torch.float32,
            use_safetensors=not is_pickled,
            weights_only=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    except (pickle.UnpicklingError, EOFError) as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if found is None:
            raise JobError(
                f"{model}: its .bin file holds no tensors (cut off, or a Git LFS pointer?): "
                "fetch it again"
            ) from error
        raise JobError(
            f"{model}: its .bin file holds {found[1]} beside tensors: refused, since a pickle can "
            "run any program; take the model from a source you trust, as safetensors"
        ) from error
    _check_keys(report, model)
    if _SPEC_EMBED in report["missing_keys"]:
        network.wav2vec2.masked_spec_embed.data.zero_()
    return network.eval()


def _check_keys(report: Mapping[str, Any], model: str) -> None:
    """Nothing missing, nothing left over, every shape as the config says."""
    missing = set(report["missing_keys"]) - {_SPEC_EMBED}
    left_over = set(report["unexpected_keys"]) - {_SPEC_EMBED}
    misshapen = {str(key[0]) for key in report["mismatched_keys"]}
    for fault, keys in (
        ("lack", missing),
        ("hold, besides the model,", left_over),
        ("have another shape than config.json says for", misshapen),
    ):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise JobError(
                f"{model}: the weights {fault} {', '.join(sorted(keys)[:3])}{more}: "
                "they are not those of its config.json"
            )


@torch.inference_mode()
def _logits_of_a_second(network: Any) -> torch.Tensor:
    """Logits of one second of noise. Shape (num_frames, vocab_size)."""
    noise = torch.randn(1, SAMPLE_RATE, generator=torch.Generator().manual_seed(0))
    logits: torch.Tensor = network(noise).logits[0]
    return logits


def _write_processor(
    target: Path,
    head: HeadTokens,
    tokenizer: Mapping[str, Mapping[str, Any]],
    extractor: Mapping[str, Any],
) -> None:
    """Write vocabulary and preprocessor as transformers 5 wants them: a token for each row.

    Not by its own `save_pretrained`: it reads `additional_special_tokens` of 2022 as text.
    """
    names = {kind: declared(tokenizer, kind) for kind in ("bos_token", "eos_token", "unk_token")}
    specials = {head.tokens[row] for row in head.special_ids} - {*names.values()}
    blank = head.tokens[head.blank_id]
    old = tokenizer.get("tokenizer_config.json", {})
    description = {
        "vocab.json": {token: row for row, token in enumerate(head.tokens)},
        "tokenizer_config.json": names
        | {
            "tokenizer_class": "Wav2Vec2CTCTokenizer",
            "pad_token": blank,
            "word_delimiter_token": declared(tokenizer, "word_delimiter_token"),
            "replace_word_delimiter_char": old.get("replace_word_delimiter_char", " "),
            "do_lower_case": bool(old.get("do_lower_case", False)),
            "extra_special_tokens": sorted(specials - {blank}),
        },
        "preprocessor_config.json": {
            "feature_extractor_type": "Wav2Vec2FeatureExtractor",
            "feature_size": 1,
            "padding_side": "right",
            "padding_value": 0.0,
            "sampling_rate": SAMPLE_RATE,
            "do_normalize": bool(extractor.get("do_normalize", True)),
            "return_attention_mask": bool(extractor.get("return_attention_mask", False)),
        },
    }
    for name, content in description.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (target / name).write_text(text + "\n", encoding="utf-8")


def _check(target: Path, head: HeadTokens, wanted: torch.Tensor, model: str) -> None:
    """Read the new directory back, with koasr and with plain transformers, and run it."""
    checkpoint = open_checkpoint(str(target))
    network = Wav2Vec2ForCTC.from_pretrained(
        target, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).eval()
    found = _logits_of_a_second(network)
    tokenizer = Wav2Vec2Processor.from_pretrained(target, local_files_only=True).tokenizer
    num_frames = checkpoint.num_frames(SAMPLE_RATE)
    faults = {
        "not finite": not bool(found.isfinite().all()),
        f"{len(found)} frames, not {num_frames}": len(found) != num_frames,
        "not those of the original": bool((found - wanted).abs().max() > _TOLERANCE),
    }
    for fault in (fault for fault, is_so in faults.items() if is_so):
        raise JobError(f"{model}: the logits of one second of noise are {fault}: not usable")
    tokens = tuple(tokenizer.convert_ids_to_tokens(list(range(len(head.tokens)))))
    rows = (checkpoint.tokens, checkpoint.blank_id, checkpoint.delimiter_id, checkpoint.special_ids)
    if rows != (head.tokens, head.blank_id, head.delimiter_id, head.special_ids) or (
        (tokens, tokenizer.pad_token_id) != (head.tokens, head.blank_id)
    ):
        raise JobError(f"{model}: its vocabulary does not survive conversion: please report this")
