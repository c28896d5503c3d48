"""The hyperparameters of a training run."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from cyclopts import Parameter

from koasr.help import ELSEWHERE

_OF_OUR_TRAINER = {
    "max_batch_s",
    "freeze_feature_encoder",
    "head_only_steps",
    "jamo_loss_weight",
    "noise_share",
    "noise_snr_db",
}
_OF_THE_MODEL = {
    "mask_time_prob",
    "mask_feature_prob",
    "hidden_dropout",
    "attention_dropout",
    "layerdrop",
}
_elsewhere = Parameter(group=ELSEWHERE)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters; the defaults are those of `anantoj/wav2vec2-xls-r-1b-korean`.

    A new head would spoil the rest, hence `head_only_steps`. The loss on the jamo is that of a head
    of its own, which is not saved: without it hundreds of syllables are learned late or never from
    scratch. Noise is new in each epoch: white, pink, brown, or babble of other recordings.

    Args:
        learning_rate: Highest learning rate.
        per_device_train_batch_size: Most recordings in a batch.
        max_batch_s: Most seconds of audio in a batch, with padding.
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
        max_steps: Optimizer steps, instead of the epochs.
        fp16: Mixed precision; on CUDA only, elsewhere float32.
        seed: Of everything random.
        eval_steps: Steps between evaluations.
        save_steps: Steps between checkpoints; two are kept.
        logging_steps: Steps between lines of the log.
        freeze_feature_encoder: Keep the convolutions, unless from scratch.
        mask_time_prob: SpecAugment over time. This and the four below: by default as the model
            or config has it.
        mask_feature_prob: SpecAugment over features.
        hidden_dropout: Dropout in the layers.
        attention_dropout: Dropout of attention weights.
        layerdrop: Share of layers left out at random.
        head_only_steps: Steps at the start for a new head alone.
        jamo_loss_weight: Weight of a second CTC loss, on the jamo.
        noise_share: Share of the recordings that get noise.
        noise_snr_db: Lowest and highest ratio of speech to noise.
    """

    learning_rate: float = 7.5e-5
    per_device_train_batch_size: Annotated[int, _elsewhere] = 8
    max_batch_s: float | None = None
    per_device_eval_batch_size: Annotated[int, _elsewhere] = 8
    gradient_accumulation_steps: Annotated[int, _elsewhere] = 4
    adam_beta1: Annotated[float, _elsewhere] = 0.9
    adam_beta2: Annotated[float, _elsewhere] = 0.999
    adam_epsilon: Annotated[float, _elsewhere] = 1e-8
    weight_decay: Annotated[float, _elsewhere] = 0.0
    max_grad_norm: Annotated[float, _elsewhere] = 1.0
    lr_scheduler_type: Annotated[str, _elsewhere] = "linear"
    warmup_steps: Annotated[int, _elsewhere] = 2000
    num_train_epochs: float = 50
    max_steps: Annotated[int, _elsewhere] = -1
    fp16: Annotated[bool, _elsewhere] = True
    seed: Annotated[int, _elsewhere] = 42
    eval_steps: Annotated[int, _elsewhere] = 500
    save_steps: Annotated[int, _elsewhere] = 500
    logging_steps: Annotated[int, _elsewhere] = 50
    freeze_feature_encoder: bool | None = None
    mask_time_prob: Annotated[float | None, _elsewhere] = None
    mask_feature_prob: Annotated[float | None, _elsewhere] = None
    hidden_dropout: Annotated[float | None, _elsewhere] = None
    attention_dropout: Annotated[float | None, _elsewhere] = None
    layerdrop: Annotated[float | None, _elsewhere] = None
    head_only_steps: int = 0
    jamo_loss_weight: float = 0.0
    noise_share: float = 0.0
    noise_snr_db: tuple[float, float] = (3.0, 30.0)

    def model_settings(self) -> dict[str, float]:
        """What the recipe changes in the model's own configuration."""
        values = {name: getattr(self, name) for name in sorted(_OF_THE_MODEL)}
        return {name: value for name, value in values.items() if value is not None}

    def trainer_settings(self) -> dict[str, Any]:
        """What transformers' Trainer takes as it stands."""
        other = _OF_OUR_TRAINER | _OF_THE_MODEL
        return {name: value for name, value in asdict(self).items() if name not in other}
