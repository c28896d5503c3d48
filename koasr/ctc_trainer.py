"""A recipe and examples → transformers' Trainer for CTC: its batches, evaluation and log."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import (
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from koasr.metrics import ErrorCounts, count_errors
from koasr.training_data import Collator, Example, LengthBatches, SpeechDataset
from koasr.vocabulary import Vocabulary

LOG_FILE = "training_log.jsonl"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters; the defaults are those of `anantoj/wav2vec2-xls-r-1b-korean`.

    Args:
        learning_rate: Highest learning rate, reached after the warm-up.
        per_device_train_batch_size: Most recordings in a batch.
        max_batch_s: Most seconds of audio in a batch, padding included; no limit by default.
        per_device_eval_batch_size: Recordings in a batch of the evaluation.
        gradient_accumulation_steps: Batches in an optimizer step.
        adam_beta1: First moment's decay.
        adam_beta2: Second moment's decay.
        adam_epsilon: Added to the denominator.
        weight_decay: Decoupled weight decay.
        max_grad_norm: Longer gradients are scaled down to this norm.
        lr_scheduler_type: Schedule after the warm-up: linear, cosine, constant_with_warmup, ….
        warmup_steps: Steps from 0 to the learning rate.
        num_train_epochs: Passes over the training speech.
        max_steps: Optimizer steps; if positive, it counts instead of the epochs.
        fp16: Mixed precision (native AMP). Only on CUDA; elsewhere float32.
        seed: Of everything random.
        eval_steps: Steps between evaluations.
        save_steps: Steps between checkpoints, the last two of which are kept.
        logging_steps: Steps between lines of the log.
        freeze_feature_encoder: Keep the convolutions as they are; by default when the run starts
            from a checkpoint, not from scratch.
        mask_time_prob: SpecAugment over time. This and the four below: by default as the model
            or config has it.
        mask_feature_prob: SpecAugment over features.
        hidden_dropout: Dropout in the layers.
        attention_dropout: Dropout of attention weights.
        layerdrop: Share of layers left out at random.
        noise_share: Share of the training recordings that get noise, new in each epoch: white,
            pink, brown, or babble of other recordings.
        noise_snr_db: Lowest and highest ratio of speech to noise.
    """

    learning_rate: float = 7.5e-5
    per_device_train_batch_size: int = 8
    max_batch_s: float | None = None
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lr_scheduler_type: str = "linear"
    warmup_steps: int = 2000
    num_train_epochs: float = 50
    max_steps: int = -1
    fp16: bool = True
    seed: int = 42
    eval_steps: int = 500
    save_steps: int = 500
    logging_steps: int = 50
    freeze_feature_encoder: bool | None = None
    mask_time_prob: float | None = None
    mask_feature_prob: float | None = None
    hidden_dropout: float | None = None
    attention_dropout: float | None = None
    layerdrop: float | None = None
    noise_share: float = 0.0
    noise_snr_db: tuple[float, float] = (3.0, 30.0)

    def model_settings(self) -> dict[str, float]:
        """What the recipe changes in the model's own configuration."""
        values = {name: getattr(self, name) for name in sorted(_OF_THE_MODEL)}
        return {name: value for name, value in values.items() if value is not None}


_OURS = {"max_batch_s", "freeze_feature_encoder", "noise_share", "noise_snr_db"}
_OF_THE_MODEL = {
    "mask_time_prob",
    "mask_feature_prob",
    "hidden_dropout",
    "attention_dropout",
    "layerdrop",
}


class CtcTrainer(Trainer):  # type: ignore[misc]
    """Trainer with batches of similar length, whose evaluation keeps token ids, not emissions."""

    # Wav2Vec2ForCTC takes num_items_in_batch and ignores it. Without this line the Trainer would
    # believe the loss scaled, and accumulated gradients would be summed instead of averaged.
    loss_is_scaled_for_ga = False

    def __init__(self, *, max_batch_s: float | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._max_batch_s = max_batch_s

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """The training batches; see `LengthBatches`."""
        dataset = cast(SpeechDataset, self.train_dataset)
        batches = LengthBatches(dataset, self.args.train_batch_size, self._max_batch_s)
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=cast(Any, batches), collate_fn=self.data_collator
        )
        return cast(torch.utils.data.DataLoader[Any], self.accelerator.prepare(loader))

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss, the most probable token of each frame (-100 where there is no audio), labels."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        token_ids = outputs.logits.argmax(-1)
        if "attention_mask" in inputs:
            network = cast(Any, self.accelerator.unwrap_model(model))
            num_frames = network._get_feat_extract_output_lengths(inputs["attention_mask"].sum(-1))
            frames = torch.arange(token_ids.shape[1], device=token_ids.device)
            token_ids[frames[None] >= num_frames[:, None]] = -100
        return outputs.loss.detach(), token_ids, inputs["labels"]


class LogFile(TrainerCallback):  # type: ignore[misc]
    """Keeps the run's history as JSON lines, complete also after a resume."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the history anew: it is short, and its last line may be missing otherwise."""
        lines = [json.dumps(entry) + "\n" for entry in state.log_history]
        self._path.write_text("".join(lines), encoding="utf-8")


def build_trainer(
    network: Wav2Vec2ForCTC,
    recipe: Recipe,
    extractor: Wav2Vec2FeatureExtractor,
    tokens: Vocabulary,
    train: Sequence[Example],
    dev: Sequence[Example],
    output: Path,
) -> CtcTrainer:
    """A Trainer that learns from `train`, measures CER and WER on `dev`, and logs to `output`."""
    options = {k: v for k, v in asdict(recipe).items() if k not in _OURS | _OF_THE_MODEL}
    options["fp16"] = recipe.fp16 and torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        eval_strategy="steps",
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        **options,
    )

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        rows = np.asarray(prediction.predictions)
        counts = ErrorCounts()
        for example, token_ids in zip(dev, rows, strict=True):
            counts += count_errors(example.reference, tokens.decode(token_ids.tolist()))
        return {"cer": counts.cer, "raw_cer": counts.raw_cer, "wer": counts.wer}

    return CtcTrainer(
        max_batch_s=recipe.max_batch_s,
        model=network,
        args=arguments,
        data_collator=Collator(extractor),
        train_dataset=SpeechDataset(
            train,
            tokens,
            seed=recipe.seed,
            noise_share=recipe.noise_share,
            noise_snr_db=recipe.noise_snr_db,
        ),
        eval_dataset=SpeechDataset(dev, tokens),
        compute_metrics=compute_metrics,
        callbacks=[LogFile(output / LOG_FILE)],
    )
