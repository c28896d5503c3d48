"""A checkpoint's safetensors → tensors as the encoder wants them, and as modules of torch."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import nn

from koasr.model_files import INDEX
from koasr.shape import POS_CONV, WEIGHT_NORM

Weights = dict[str, torch.Tensor]
Function = Callable[[torch.Tensor], torch.Tensor]

_IN_PLACE: dict[str, Function] = {
    "gelu": torch.ops.aten.gelu_,
    "gelu_new": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: torch.ops.aten.gelu_(x, approximate="tanh"),
    "relu": torch.relu_,
    "silu": lambda x: F.silu(x, inplace=True),
    "swish": lambda x: F.silu(x, inplace=True),
}
"""By transformers' names."""


def read_weights(directory: Path) -> Weights:
    """Every weight of a checkpoint by its name, in float32 on the CPU; weight_norm folded."""
    names = ["model.safetensors"]
    if not (directory / names[0]).is_file():
        index = json.loads((directory / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    weights: Weights = {}
    for name in names:
        with safe_open(directory / name, framework="pt") as file:
            weights |= {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    _fold_weight_norm(weights)
    return weights


def _fold_weight_norm(weights: Weights) -> None:
    """The positional convolution's weight, which training keeps as a length and a direction."""
    for g_name, v_name in WEIGHT_NORM:
        if g_name in weights and v_name in weights:
            g, v = weights.pop(g_name), weights.pop(v_name)
            # In float32, so before any cast: its norm is over 100,000 weights.
            weights[f"{POS_CONV}.weight"] = v * (g / v.norm(dim=(0, 1), keepdim=True))


def activation(name: str) -> Function:
    """The function of this name, one of `ACTIVATIONS`; in place where it can be."""
    if name in _IN_PLACE:
        return _IN_PLACE[name]
    # Seconds, for the few that need them.
    from transformers.activations import ACT2FN

    function: Function = ACT2FN[name]
    return function


def frozen(values: torch.Tensor) -> nn.Parameter:
    """A weight that no training changes, but that moves with its module."""
    return nn.Parameter(values, requires_grad=False)


def linear(weights: Weights, *names: str) -> nn.Linear:
    """The linear layer of this name, or of several that have the same input, side by side."""
    weight = torch.cat([weights.pop(f"{name}.weight") for name in names])
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight = frozen(weight)
    layer.bias = frozen(torch.cat([weights.pop(f"{name}.bias") for name in names]))
    return layer


def layer_norm(weights: Weights, name: str, eps: float) -> nn.LayerNorm:
    """The layer norm of this name."""
    layer = nn.LayerNorm(len(weights[f"{name}.weight"]), eps=eps, device="meta")
    layer.weight = frozen(weights.pop(f"{name}.weight"))
    layer.bias = frozen(weights.pop(f"{name}.bias"))
    return layer
