"""Speech with references → a wav2vec2-CTC checkpoint, fine-tuned or trained from scratch."""

import logging
import pickle
import re
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter
from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC, set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import cached_file

from koasr.ctc_trainer import build_trainer
from koasr.errors import JobError
from koasr.help import TRAINING
from koasr.model_card import write_model_card, write_tokenizer
from koasr.recipe import Recipe
from koasr.rows import SAMPLE_RATE
from koasr.training_data import Example, read_examples
from koasr.vocabulary import Vocabulary, build_vocabulary, load_vocabulary

logger = logging.getLogger(__name__)


def finetune(
    inputs: list[str],
    /,
    *,
    output: Path,
    eval: list[str],
    model: str | None = None,
    config: Path | None = None,
    vocabulary: Path | None = None,
    max_duration_s: float = 20.0,
    max_unknown_share: float = 0.02,
    resume: bool = True,
    recipe: Annotated[Recipe | None, Parameter(name="*", group=TRAINING)] = None,
) -> None:
    """Fine-tune a wav2vec2 checkpoint on speech with references, or train one from scratch.

    Reads what `koasr transcribe` reads. Recordings without a reference are left out and counted;
    an empty reference is silence, and is learned. Speech is held in memory: 115 MB an hour.

    Args:
        inputs: Files, folders or URIs with the training speech.
        output: Local folder for the checkpoint, its card and log.
        eval: Files, folders or URIs with the speech to evaluate on.
        model: Checkpoint to start from: a folder or a hub id.
        config: JSON of a wav2vec2 model to train from scratch, instead of a model.
        vocabulary: A vocab.json; else the model's own, else the references' letters.
        max_duration_s: Longer recordings are left out.
        max_unknown_share: Share of the letters that the vocabulary may lack.
        resume: Go on from the output's last checkpoint.
        recipe: The hyperparameters.

    Raises:
        JobError: No model and no config, no recording with a reference, a vocabulary that does
            not fit the references, or an output that holds another run.
    """
    if re.match(r"\w+:/", str(output)):
        raise JobError(f"--output {output}: give a local folder, and copy it to the store after", 2)
    recipe = recipe or Recipe()
    settings = _load_config(model, config)
    checkpoint = _last_checkpoint(output, resume)
    train = read_examples(inputs, max_duration_s=max_duration_s)
    dev = read_examples(eval, max_duration_s=max_duration_s)
    tokens, is_own = _choose_vocabulary(vocabulary, model, train)
    _check_vocabulary(tokens, train, output, max_unknown_share, is_resumed=checkpoint is not None)
    set_seed(recipe.seed)
    network = _build_model(model, settings, tokens, recipe, keep_head=is_own)
    train = _long_enough(train, network, tokens)
    extractor = Wav2Vec2FeatureExtractor(
        sampling_rate=SAMPLE_RATE,
        do_normalize=True,
        return_attention_mask=settings.feat_extract_norm == "layer",
    )
    write_tokenizer(tokens, output)
    trainer = build_trainer(network, recipe, extractor, tokens, train, dev, output)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.jamo is not None:
        trainer.jamo.remove()
    network.save_pretrained(output)
    extractor.save_pretrained(output)
    origin = f"from `{model}`" if model else "from scratch"
    hours = sum(len(example.samples) for example in train) / SAMPLE_RATE / 3600
    write_model_card(output, trainer.state.log_history, asdict(recipe), origin, hours)


def _load_config(model: str | None, config: Path | None) -> Wav2Vec2Config:
    if (model is None) == (config is None):
        raise JobError("give either --model or --config", exit_code=2)
    try:
        if model is not None:
            return Wav2Vec2Config.from_pretrained(model)
        return Wav2Vec2Config.from_json_file(config)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise JobError(f"{model or config} is no wav2vec2 configuration: {reason}") from error


def _last_checkpoint(output: Path, resume: bool) -> str | None:
    folder = output / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint: str | None = get_last_checkpoint(str(folder))
    if checkpoint and not resume:
        raise JobError(f"{folder} holds an earlier run: go on with --resume, or remove it")
    return checkpoint


def _choose_vocabulary(
    path: Path | None, model: str | None, train: Sequence[Example]
) -> tuple[Vocabulary, bool]:
    """The vocabulary, and whether it is the checkpoint's own, so that its head can stay."""
    if path is not None:
        return load_vocabulary(path), False
    if model is not None:
        own = cached_file(model, "vocab.json", _raise_exceptions_for_missing_entries=False)
        if own is not None:
            return load_vocabulary(Path(own)), True
    return build_vocabulary(example.reference for example in train), False


def _check_vocabulary(
    tokens: Vocabulary, train: Sequence[Example], output: Path, allowed: float, *, is_resumed: bool
) -> None:
    share = tokens.unknown_share(example.reference for example in train)
    if share > allowed:
        raise JobError(
            f"the vocabulary lacks {share:.1%} of the references' characters: give one that has "
            f"them, or raise --max-unknown-share above {allowed:g}"
        )
    if is_resumed and load_vocabulary(output / "vocab.json") != tokens:
        raise JobError(f"{output} holds a run with another vocabulary: give another --output")


def _build_model(
    model: str | None,
    config: Wav2Vec2Config,
    tokens: Vocabulary,
    recipe: Recipe,
    *,
    keep_head: bool,
) -> Wav2Vec2ForCTC:
    config.update(recipe.model_settings())
    config.update({"pad_token_id": tokens.ids[tokens.blank], "ctc_zero_infinity": True})
    config.update({"ctc_loss_reduction": "mean", "bos_token_id": None, "eos_token_id": None})
    if not keep_head:
        config.vocab_size = len(tokens.ids)
    freeze = recipe.freeze_feature_encoder
    if model is None:
        network = Wav2Vec2ForCTC(config)
    else:
        try:
            network = Wav2Vec2ForCTC.from_pretrained(
                model, config=config, dtype=torch.float32, ignore_mismatched_sizes=True
            )
        except (OSError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise JobError(f"{model} has no weights to start from: {reason}") from error
        freeze = True if freeze is None else freeze
    if freeze:
        network.freeze_feature_encoder()
    return network


def _long_enough(
    examples: Sequence[Example], network: Wav2Vec2ForCTC, tokens: Vocabulary
) -> list[Example]:
    """Without what CTC cannot align: it needs a frame a token, and one between two equal ones."""
    kept = []
    for example in examples:
        ids = tokens.encode(example.reference)
        needed = len(ids) + sum(a == b for a, b in pairwise(ids))
        if network._get_feat_extract_output_lengths(len(example.samples)) >= max(1, needed):
            kept.append(example)
    if len(kept) < len(examples):
        logger.info("left out: %d too short for their reference", len(examples) - len(kept))
    if not kept:
        raise JobError("every recording is too short for its reference: are they the right texts?")
    return kept
