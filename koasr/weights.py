"""A checkpoint's config.json and safetensors → tensors as the encoder wants them."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from koasr.errors import JobError
from koasr.model_files import INDEX

_DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "conv_bias": False,
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "adapter_attn_dim": None,
}
"""What transformers' Wav2Vec2Config takes where config.json is silent."""

_UNUSED = "wav2vec2.masked_spec_embed"
"""Only training masks frames, so it may be absent, and is not read."""

Tensors = dict[str, torch.Tensor]
Function = Callable[[torch.Tensor], torch.Tensor]

_ACTIVATIONS: dict[str, Function] = {
    "gelu": torch.ops.aten.gelu_,
    "gelu_new": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
    "silu": lambda x: F.silu(x, inplace=True),
    "swish": lambda x: F.silu(x, inplace=True),
}
"""In place, by transformers' names."""


@dataclass(frozen=True)
class Shape:
    """What config.json says and the weights do not tell by themselves."""

    num_layers: int
    num_heads: int
    hidden_act: str
    conv_act: str
    layer_norm_eps: float
    conv_norm: Literal["layer", "group"]
    conv_bias: bool
    conv_stride: tuple[int, ...]
    pos_groups: int
    is_stable: bool
    has_adapters: bool


def read_shape(directory: Path) -> Shape:
    """The encoder's shape, from a directory that `open_checkpoint` accepted."""
    config = {**_DEFAULTS, **json.loads((directory / "config.json").read_text(encoding="utf-8"))}
    return Shape(
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_act=config["hidden_act"],
        conv_act=config["feat_extract_activation"],
        layer_norm_eps=config["layer_norm_eps"],
        conv_norm=config["feat_extract_norm"],
        conv_bias=config["conv_bias"],
        conv_stride=tuple(config["conv_stride"]),
        pos_groups=config["num_conv_pos_embedding_groups"],
        is_stable=config["do_stable_layer_norm"],
        has_adapters=config["adapter_attn_dim"] is not None and config["do_stable_layer_norm"],
    )


def read_weights(directory: Path) -> Tensors:
    """Every tensor of a checkpoint by its name, in float32 on the CPU; weight_norm folded."""
    names = ["model.safetensors"]
    if not (directory / names[0]).is_file():
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    tensors: Tensors = {}
    for name in names:
        with safe_open(directory / name, framework="pt") as file:
            tensors |= {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    tensors.pop(_UNUSED, None)
    return _fold_weight_norm(tensors)


def _fold_weight_norm(tensors: Tensors) -> Tensors:
    """The positional convolution's weight, which training keeps as a length and a direction."""
    base = "wav2vec2.encoder.pos_conv_embed.conv"
    for length, direction in (("weight_g", "weight_v"), ("original0", "original1")):
        prefix = base if length == "weight_g" else f"{base}.parametrizations.weight"
        if f"{prefix}.{length}" in tensors and f"{prefix}.{direction}" in tensors:
            g, v = tensors.pop(f"{prefix}.{length}"), tensors.pop(f"{prefix}.{direction}")
            # In float32, so before any cast: its norm is over 100,000 weights.
            tensors[f"{base}.weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))
    return tensors


class Reader:
    """Hands out tensors by name once each, so that what is missing or left over is noticed."""

    def __init__(self, tensors: Tensors, directory: Path) -> None:
        self._tensors, self._directory = dict(tensors), directory

    def take(self, name: str) -> torch.Tensor:
        """The tensor of this name.

        Raises:
            JobError: There is none.
        """
        if name not in self._tensors:
            raise JobError(f"{self._directory}: weights do not fit their config: {name} is missing")
        return self._tensors.pop(name)

    def pair(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight and bias of a module."""
        return self.take(f"{name}.weight"), self.take(f"{name}.bias")

    def check_empty(self) -> None:
        """Refuse weights that nothing reads.

        Raises:
            JobError: Some are left over.
        """
        left = sorted(self._tensors)
        if left:
            found = f"{len(left)} are left over, such as {left[0]}"
            raise JobError(f"{self._directory}: weights do not fit their config: {found}")


def activation(name: str) -> Function:
    """The function of this name, in place.

    Raises:
        JobError: None is known by it.
    """
    if name not in _ACTIVATIONS:
        wanted = ", ".join(_ACTIVATIONS)
        raise JobError(f"activation {name!r} in config.json is not known: wanted one of {wanted}")
    return _ACTIVATIONS[name]


def frozen(values: torch.Tensor) -> nn.Parameter:
    """A weight that no training changes, but that moves with its module."""
    return nn.Parameter(values, requires_grad=False)


def linear(reader: Reader, *names: str) -> nn.Linear:
    """The linear layer of this name, or of several that have the same input, side by side."""
    pairs = [reader.pair(name) for name in names]
    weight, bias = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = frozen(weight), frozen(bias)
    return layer


def layer_norm(reader: Reader, name: str, eps: float) -> nn.LayerNorm:
    """The layer norm of this name."""
    weight, bias = reader.pair(name)
    layer = nn.LayerNorm(len(weight), eps=eps, device="meta")
    layer.weight, layer.bias = frozen(weight), frozen(bias)
    return layer
