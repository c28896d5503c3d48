"""A finished training run → the files beside its weights: tokenizer and model card."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import Wav2Vec2CTCTokenizer

from koasr.vocabulary import DELIMITER, Vocabulary

_CARD = """---
language: ko
library_name: transformers
pipeline_tag: automatic-speech-recognition
tags:
- wav2vec2
- ctc
- koasr
---

# {name}

A `Wav2Vec2ForCTC` for Korean, trained {origin} by `koasr finetune` on {hours:.2f} hours of speech.
Input: 16 kHz mono, zero mean and unit variance, with an attention mask.

## Evaluation during training

CER leaves spaces out; raw CER counts them. All are corpus-level, over NFC text.

| step | epoch | training loss | evaluation loss | CER | raw CER | WER |
|---|---|---|---|---|---|---|
{rows}

## Hyperparameters

| hyperparameter | value |
|---|---|
{hyperparameters}
"""


def write_tokenizer(vocabulary: Vocabulary, output: Path) -> None:
    """Write `vocab.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    output.mkdir(parents=True, exist_ok=True)
    text = json.dumps(vocabulary.ids, ensure_ascii=False, indent=0) + "\n"
    (output / "vocab.json").write_text(text, encoding="utf-8")
    special = {"unk_token": vocabulary.unknown, "pad_token": vocabulary.blank}
    tokenizer = Wav2Vec2CTCTokenizer(
        str(output / "vocab.json"),
        bos_token=None,
        eos_token=None,
        word_delimiter_token=DELIMITER,
        **special,
    )
    tokenizer.save_pretrained(output)
    # transformers 5 sorts the first and no longer writes the second, which older versions read.
    (output / "vocab.json").write_text(text, encoding="utf-8")
    (output / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def write_model_card(
    output: Path,
    history: Sequence[Mapping[str, Any]],
    hyperparameters: Mapping[str, Any],
    origin: str,
    hours: float,
) -> None:
    """Write `README.md` with the run's own curve and hyperparameters.

    Args:
        output: Folder of the checkpoint.
        history: Log entries of the Trainer, in order.
        hyperparameters: Name and value of each.
        origin: What the run started from, to stand after "trained".
        hours: Hours of training speech.
    """
    rows, loss = [], float("nan")
    for entry in history:
        loss = entry.get("loss", loss)
        if "eval_loss" in entry:
            rates = (f"{entry[f'eval_{name}']:.4f}" for name in ("cer", "raw_cer", "wer"))
            cells = [f"{entry['step']:,}", f"{entry['epoch']:.2f}", f"{loss:.4f}"]
            rows.append("| " + " | ".join([*cells, f"{entry['eval_loss']:.4f}", *rates]) + " |")
    card = _CARD.format(
        name=output.resolve().name,
        origin=origin,
        hours=hours,
        rows="\n".join(rows),
        hyperparameters="\n".join(f"| `{k}` | {v} |" for k, v in hyperparameters.items()),
    )
    (output / "README.md").write_text(card, encoding="utf-8")
