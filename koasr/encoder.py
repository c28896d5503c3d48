"""wav2vec2's forward pass over rows laid end to end: nothing is padded, no row sees another.

Frames are rows of matrices, channels lie last. Tested against transformers' own module, each row
alone.
"""

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from koasr.convolutions import CONV_NORM_EPS, FeatureEncoder, PositionalConv
from koasr.layout import Rows
from koasr.shape import Shape
from koasr.weights import Weights, activation, layer_norm, linear, read_weights


@cache
def _flash() -> Any:
    """Attention of all rows in one kernel. Its import takes two seconds, which a CPU can save."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def _has_flash(qkv: torch.Tensor) -> bool:
    """Whether one kernel attends to all rows: flash, so half precision from Ampere on.

    It takes heads of a multiple of 8 up to 256 only: XLS-R's have 80, the bundled model's 36.
    """
    return (
        qkv.is_cuda
        and qkv.dtype != torch.float32
        and qkv.shape[-1] % 8 == 0
        and qkv.shape[-1] <= 256
        and torch.cuda.get_device_capability(qkv.device) >= (8, 0)
    )


class _Attention(nn.Module):
    """Each frame looks at all frames of its own row."""

    def __init__(self, weights: Weights, name: str, num_heads: int) -> None:
        super().__init__()
        self._inputs = linear(weights, *(f"{name}.{part}_proj" for part in "qkv"))
        self._output = linear(weights, f"{name}.out_proj")
        self._num_heads = num_heads

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Shapes in and out (num_frames, channels)."""
        qkv = self._inputs(x).view(len(x), 3, self._num_heads, -1)
        if _has_flash(qkv):
            longest = max(rows.num_frames)
            found = _flash()(*qkv.unbind(1), rows.ends, rows.ends, longest, longest)
            return self._output(found.reshape(x.shape))  # type: ignore[no-any-return]
        found = torch.empty_like(x)
        for start, end in rows.bounds:
            query, key, value = qkv[start:end].permute(1, 2, 0, 3)[:, None]
            row = F.scaled_dot_product_attention(query, key, value)
            found[start:end].view(end - start, self._num_heads, -1).copy_(row[0].transpose(0, 1))
        return self._output(found)  # type: ignore[no-any-return]


class _Layer(nn.Module):
    """One layer of the transformer."""

    def __init__(self, weights: Weights, shape: Shape, name: str) -> None:
        super().__init__()
        self._is_stable = shape.is_stable
        self._attention = _Attention(weights, f"{name}.attention", shape.num_heads)
        self._norm = layer_norm(weights, f"{name}.layer_norm", shape.layer_norm_eps)
        self._inner = linear(weights, f"{name}.feed_forward.intermediate_dense")
        self._outer = linear(weights, f"{name}.feed_forward.output_dense")
        self._final_norm = layer_norm(weights, f"{name}.final_layer_norm", shape.layer_norm_eps)
        self._act = activation(shape.hidden_act)
        self._adapter = None
        if shape.adapter_dim is not None:
            adapter = f"{name}.adapter_layer"
            self._adapter = nn.Sequential(
                layer_norm(weights, f"{adapter}.norm", CONV_NORM_EPS),
                linear(weights, f"{adapter}.linear_1"),
                nn.ReLU(),
                linear(weights, f"{adapter}.linear_2"),
            )

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Shapes in and out (num_frames, channels)."""
        if self._is_stable:
            x = x + self._attention(self._norm(x), rows)
            x = x + self._feed_forward(self._final_norm(x))
            return x if self._adapter is None else x + self._adapter(x)
        x = self._norm(x + self._attention(x, rows))
        return self._final_norm(x + self._feed_forward(x))  # type: ignore[no-any-return]

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._outer(self._act(self._inner(x)))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """Everything of a checkpoint up to its head. The weights are the checkpoint's own."""

    def __init__(self, weights: Weights, shape: Shape) -> None:
        super().__init__()
        base, projection = "wav2vec2.encoder", "wav2vec2.feature_projection"
        self._is_stable = shape.is_stable
        self._features = FeatureEncoder(weights, shape)
        self._feature_norm = layer_norm(weights, f"{projection}.layer_norm", shape.layer_norm_eps)
        self._projection = linear(weights, f"{projection}.projection")
        self._positions = PositionalConv(weights, shape)
        self._norm = layer_norm(weights, f"{base}.layer_norm", shape.layer_norm_eps)
        self._layers = nn.ModuleList(
            _Layer(weights, shape, f"{base}.layers.{index}") for index in range(shape.num_layers)
        )

    def forward(self, waveform: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Hidden states of every row's frames.

        Args:
            waveform: Normalized, the rows end to end as `rows` says and a receptive field of
                anything behind them. Shape (num_samples,).
            rows: Where each row lies.

        Returns:
            Shape (num_frames, channels); `rows.bounds` says which are whose.
        """
        x = self._projection(self._feature_norm(self._features(waveform, rows)))
        x = x + self._positions(x, rows)
        x = x if self._is_stable else self._norm(x)
        for layer in self._layers:
            x = layer(x, rows)
        return self._norm(x) if self._is_stable else x  # type: ignore[no-any-return]


def load_encoder(directory: Path, shape: Shape) -> tuple[Encoder, nn.Linear]:
    """A checkpoint's encoder and its head, in float32 on the CPU.

    Args:
        directory: Its files on this machine.
        shape: Of its network, which `open_checkpoint` held against its weights.
    """
    weights = read_weights(directory)
    return Encoder(weights, shape).eval(), linear(weights, "lm_head")
