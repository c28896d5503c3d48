"""The convolutions of wav2vec2, as products of matrices over views of their input."""

import torch
from torch import nn

from koasr.layout import Rows
from koasr.shape import Shape
from koasr.weights import Weights, activation, frozen, layer_norm

CONV_NORM_EPS = 1e-5
"""Of the norms in the feature encoder and the adapters, which config.json does not set."""
_POS_CHANNELS = 256
"""Width of a product in the positional convolution: wider ones multiply more zeros."""


class _Conv(nn.Module):
    """A convolution without padding. Shapes in (num_in, channels), out (num_out, channels).

    Its kernel is cut into pieces of one stride. The inputs of a piece overlap nowhere, so they are
    the rows of a matrix that is a view; the layer is one product a piece, added up in place.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, stride: int) -> None:
        super().__init__()
        num_out, self._num_in, self.kernel = weight.shape
        self.stride = stride
        # A single channel has so few taps that to copy them side by side costs least.
        step = self.kernel if self._num_in == 1 else stride
        self._firsts = range(0, self.kernel, step)
        taps = weight.permute(2, 1, 0)
        self._pieces = nn.ParameterList(
            frozen(taps[first : first + step].reshape(-1, num_out)) for first in self._firsts
        )
        self._bias = frozen(weight.new_zeros(num_out) if bias is None else bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        num_out = (len(x) - self.kernel) // self.stride + 1
        found = None
        for first, weight in zip(self._firsts, self._pieces, strict=True):
            strides = (self.stride * self._num_in, 1)
            offset = x.storage_offset() + first * self._num_in
            piece = x.as_strided((num_out, len(weight)), strides, offset)
            if found is None:
                found = torch.addmm(self._bias, piece, weight)
            else:
                found.addmm_(piece, weight)
        assert found is not None
        return found


class FeatureEncoder(nn.Module):
    """Waveform → features, one a frame: all the convolutions."""

    def __init__(self, weights: Weights, shape: Shape) -> None:
        super().__init__()
        self._act = activation(shape.conv_act)
        self._by_row = shape.conv_norm == "group"
        self._convs, self._norms = nn.ModuleList(), nn.ModuleList()
        for index, stride in enumerate(shape.conv_stride):
            name = f"wav2vec2.feature_extractor.conv_layers.{index}"
            bias = weights.pop(f"{name}.conv.bias") if shape.conv_bias else None
            self._convs.append(_Conv(weights.pop(f"{name}.conv.weight"), bias, stride))
            if not self._by_row:
                self._norms.append(layer_norm(weights, f"{name}.layer_norm", CONV_NORM_EPS))
            elif index == 0:
                size = shape.conv_dim[0]
                norm = nn.GroupNorm(size, size, CONV_NORM_EPS, device="meta")
                norm.weight = frozen(weights.pop(f"{name}.layer_norm.weight"))
                norm.bias = frozen(weights.pop(f"{name}.layer_norm.bias"))
                self._norms.append(norm)

    def forward(self, waveform: torch.Tensor, rows: Rows) -> torch.Tensor:
        """The features of every row's frames. Shapes in (num_samples,), out (frames, channels)."""
        hop = rows.samples_per_frame
        if self._by_row:
            # A group norm takes in the whole row, and nothing beside it.
            starts = zip(rows.starts, rows.num_samples, strict=True)
            return torch.cat([self._convolve(waveform[s * hop : s * hop + n]) for s, n in starts])
        return self._convolve(waveform)[rows.frames]

    def _convolve(self, waveform: torch.Tensor) -> torch.Tensor:
        x = waveform[:, None]
        for index, conv in enumerate(self._convs):
            x = conv(x)
            if not self._by_row:
                x = self._norms[index](x)
            elif index == 0:
                x = self._norms[0](x.T[None])[0].T.contiguous()
            x = self._act(x)
        return x


class PositionalConv(nn.Module):
    """The grouped convolution over some 128 frames that tells a frame where it is.

    Each group's frames are taken in blocks, so that what reaches from one block to another is one
    product: block Toeplitz matrices of the kernel, zeros where it does not reach.
    """

    def __init__(self, weights: Weights, shape: Shape) -> None:
        super().__init__()
        name = "wav2vec2.encoder.pos_conv_embed.conv"
        weight, kernel = weights.pop(f"{name}.weight"), shape.pos_kernel
        self._act = activation(shape.conv_act)
        self._bias = frozen(weights.pop(f"{name}.bias"))
        self._groups, self._width = shape.pos_groups, shape.hidden_size // shape.pos_groups
        self._reach = kernel // 2
        self._block = block = max(1, _POS_CHANNELS // self._width)
        num_products = -(-(block + kernel - 1) // block)
        taps = weight.view(self._groups, self._width, self._width, kernel).permute(3, 0, 2, 1)
        toeplitz = weight.new_zeros(
            num_products, self._groups, block, self._width, block, self._width
        )
        for i in range(num_products * block):
            for out in range(block):
                if 0 <= i - out < kernel:
                    toeplitz[i // block, :, i % block, :, out] = taps[i - out]
        width = block * self._width
        self._products = frozen(toeplitz.view(num_products, self._groups, width, width))

    def forward(self, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """Shapes in and out (num_frames, channels)."""
        gap, block, reach = self._reach, self._block, len(self._products)
        # Zeros between rows, so that no row reaches another.
        places = rows.spread(gap)
        num_blocks = -(-(len(x) + gap * len(rows.bounds)) // block)
        spread = x.new_zeros(self._groups, (num_blocks + reach - 1) * block, self._width)
        spread[:, places] = x.view(len(x), self._groups, self._width).transpose(0, 1)
        blocks = spread.view(self._groups, -1, block * self._width)
        found = torch.bmm(blocks[:, :num_blocks], self._products[0])
        for offset in range(1, reach):
            found.baddbmm_(blocks[:, offset : offset + num_blocks], self._products[offset])
        frames = found.view(self._groups, -1, self._width)[:, places - gap]
        return self._act(frames.transpose(0, 1).reshape(len(x), -1) + self._bias)
