"""Checkpoints with random weights in the shapes that people use, to measure with."""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from checkpoints import SEED_SIZE, edit_weights, tiny

_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "conv_dim": (512,) * 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}
_IDENTITY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 16,
    "conv_dim": (8, 8),
    "conv_kernel": (40, 20),
    "conv_stride": (20, 16),
}
"""As little as a model can do: what is left is what everything around it costs."""

SYLLABLES = "".join(chr(0xAC00 + 9 * n) for n in range(1_204))


_BLANK_BIAS = 3.5
"""Standard deviations: the best of 1,206 random logits exceeds it in about one frame of eight, so
that six tokens a second are spoken, as in Korean speech. Left to chance it is 40, and then the
evidence of the tokens takes more than the forward pass."""


def _spoken(directory: Path, **shape: Any) -> Path:
    """Random weights whose blank wins about as often as a trained model's."""
    tiny(directory, letters=SYLLABLES, **shape)

    def edit(weights: dict[str, torch.Tensor]) -> None:
        # What leaves the last norm has the length of its number of channels' root.
        head, bias = weights["lm_head.weight"], weights["lm_head.bias"]
        head[-1], bias[-1] = 0.0, _BLANK_BIAS * shape["hidden_size"] ** 0.5

    edit_weights(directory, edit)
    return directory


def write_base(directory: Path) -> Path:
    """Wav2vec2-base, 95 million weights, with layer norm and 1,207 tokens."""
    return _spoken(directory, **_BASE)


def write_xlsr_1b(directory: Path) -> Path:
    """XLS-R 1B, 964 million weights, with 1,207 tokens: the seed's shape."""
    return _spoken(directory, **SEED_SIZE)


def write_identity(directory: Path) -> Path:
    """A model that costs next to nothing."""
    return tiny(directory, **_IDENTITY)
