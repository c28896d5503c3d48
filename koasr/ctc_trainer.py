"""A recipe and examples → transformers' Trainer for CTC: its batches, evaluation and log."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from unicodedata import normalize

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
from koasr.recipe import Recipe
from koasr.training_data import Collator, Example, LengthBatches, SpeechDataset
from koasr.vocabulary import Vocabulary, build_vocabulary

LOG_FILE = "training_log.jsonl"


class CtcTrainer(Trainer):  # type: ignore[misc]
    """Trainer with batches of similar length, whose evaluation keeps token ids, not emissions."""

    # Wav2Vec2ForCTC takes num_items_in_batch and ignores it. Without this line the Trainer would
    # believe the loss scaled, and accumulated gradients would be summed instead of averaged.
    loss_is_scaled_for_ga = False

    def __init__(
        self, *, max_batch_s: float | None, jamo: "JamoHead | None", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._max_batch_s = max_batch_s
        self.jamo = jamo

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """The training batches; see `LengthBatches`."""
        dataset = cast(SpeechDataset, self.train_dataset)
        batches = LengthBatches(dataset, self.args.train_batch_size, self._max_batch_s)
        loader = torch.utils.data.DataLoader(
            dataset, batch_sampler=cast(Any, batches), collate_fn=self.data_collator
        )
        return cast(torch.utils.data.DataLoader[Any], self.accelerator.prepare(loader))

    def compute_loss(
        self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """The model's own loss, and that of the jamo head where there is one."""
        if self.jamo is None:
            return super().compute_loss(model, inputs, *args, **kwargs)
        jamo_labels = inputs.pop("jamo_labels")
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss + self.jamo.loss(jamo_labels, self._num_frames(model, inputs))

    def prediction_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss, the most probable token of each frame (-100 where there is no audio), labels."""
        inputs = self._prepare_inputs(inputs)
        inputs.pop("jamo_labels", None)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        token_ids = outputs.logits.argmax(-1)
        frames = torch.arange(token_ids.shape[1], device=token_ids.device)
        token_ids[frames[None] >= self._num_frames(model, inputs)[:, None]] = -100
        return outputs.loss.detach(), token_ids, inputs["labels"]

    def _num_frames(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Frames of each recording; those of the longest for models that take no mask."""
        values = inputs["input_values"]
        num_samples = inputs.get("attention_mask", torch.ones_like(values)).sum(-1).long()
        network = cast(Any, self.accelerator.unwrap_model(model))
        return cast(torch.Tensor, network._get_feat_extract_output_lengths(num_samples))


class JamoHead:
    """A second head beside the network's own, on the same hidden states, for training only."""

    def __init__(self, network: Wav2Vec2ForCTC, vocabulary: Vocabulary, weight: float) -> None:
        self._network = network
        self._weight = weight
        self._blank_id = vocabulary.ids[vocabulary.blank]
        self._hidden_states = torch.empty(0)
        # Part of the network, so that the optimizer and the checkpoints have it.
        network.jamo_head = torch.nn.Linear(network.lm_head.in_features, len(vocabulary.ids))
        self._hook = network.lm_head.register_forward_pre_hook(self._keep)

    def _keep(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._hidden_states = inputs[0]

    def loss(self, labels: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Weighted CTC loss of the batch that the network has just seen."""
        logits = cast(torch.Tensor, self._network.jamo_head(self._hidden_states))
        log_probs = logits.log_softmax(-1, dtype=torch.float32).transpose(0, 1)
        is_label = labels >= 0
        loss = torch.nn.functional.ctc_loss(
            log_probs,
            labels[is_label],
            num_frames,
            is_label.sum(-1),
            blank=self._blank_id,
            zero_infinity=True,
        )
        return self._weight * loss

    def remove(self) -> None:
        """Leave the network as it was."""
        self._hook.remove()
        del self._network.jamo_head


class HeadFirst(TrainerCallback):  # type: ignore[misc]
    """Trains only the heads for the first steps, then everything that was trainable before."""

    def __init__(self, network: Wav2Vec2ForCTC, num_steps: int) -> None:
        self._num_steps = num_steps
        self._body = [p for p in network.wav2vec2.parameters() if p.requires_grad]

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Frozen or not: decided anew at each step, so that a resumed run is right too."""
        for parameter in self._body:
            parameter.requires_grad_(state.global_step >= self._num_steps)


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
    jamo_tokens = jamo = None
    if recipe.jamo_loss_weight:
        jamo_tokens = build_vocabulary(normalize("NFD", example.reference) for example in train)
        jamo = JamoHead(network, jamo_tokens, recipe.jamo_loss_weight)

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        rows = np.asarray(prediction.predictions)
        counts = ErrorCounts()
        for example, token_ids in zip(dev, rows, strict=True):
            counts += count_errors(example.reference, tokens.decode(token_ids.tolist()))
        return {"cer": counts.cer, "raw_cer": counts.raw_cer, "wer": counts.wer}

    return CtcTrainer(
        max_batch_s=recipe.max_batch_s,
        jamo=jamo,
        model=network,
        args=_arguments(recipe, output),
        data_collator=Collator(extractor),
        train_dataset=SpeechDataset(
            train,
            tokens,
            jamo=jamo_tokens,
            seed=recipe.seed,
            noise_share=recipe.noise_share,
            noise_snr_db=recipe.noise_snr_db,
        ),
        eval_dataset=SpeechDataset(dev, tokens),
        compute_metrics=compute_metrics,
        callbacks=[LogFile(output / LOG_FILE), HeadFirst(network, recipe.head_only_steps)],
    )


def _arguments(recipe: Recipe, output: Path) -> TrainingArguments:
    has_gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        eval_strategy="steps",
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_pin_memory=has_gpu,
        disable_tqdm=not sys.stderr.isatty(),
        report_to="none",
        **recipe.trainer_settings() | {"fp16": recipe.fp16 and has_gpu},
    )
