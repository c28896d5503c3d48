"""A checkpoint's config.json → the shape of its network, held against that of its weights."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from koasr.errors import JobError

DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "feat_extract_norm": "group",
    "feat_extract_activation": "gelu",
    "conv_bias": False,
    "conv_dim": (512, 512, 512, 512, 512, 512, 512),
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "conv_stride": (5, 2, 2, 2, 2, 2, 2),
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
    "do_stable_layer_norm": False,
    "adapter_attn_dim": None,
}
"""What transformers' Wav2Vec2Config takes where config.json is silent."""
ACTIVATIONS = frozenset({
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python",
    "gelu_python_tanh", "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear",
    "mish", "prelu", "quick_gelu", "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus",
    "swish", "tanh", "xielu",
})  # fmt: skip
"""Names in transformers' ACT2FN, whose import takes torch and seconds."""

POS_CONV = "wav2vec2.encoder.pos_conv_embed.conv"
WEIGHT_NORM = (
    (
        f"{POS_CONV}.parametrizations.weight.original0",
        f"{POS_CONV}.parametrizations.weight.original1",
    ),
    (f"{POS_CONV}.weight_g", f"{POS_CONV}.weight_v"),
)
"""Names of its length and direction, as transformers writes them now, and as it did before."""
_UNUSED = "wav2vec2.masked_spec_embed"
"""Only training masks frames, so it may be absent."""

Size = tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """A wav2vec2-CTC network. Fields are named as in config.json, or shorter."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    hidden_act: str
    conv_act: str
    layer_norm_eps: float
    conv_norm: str
    conv_bias: bool
    conv_dim: Size
    conv_kernel: Size
    conv_stride: Size
    pos_kernel: int
    pos_groups: int
    is_stable: bool
    adapter_dim: int | None

    def tensors(self) -> Iterator[tuple[str, Size]]:
        """Name and size of each weight, in the network's order; weight_norm folded."""
        size, num_in = self.hidden_size, 1
        for index, (num_out, kernel) in enumerate(
            zip(self.conv_dim, self.conv_kernel, strict=True)
        ):
            name = f"wav2vec2.feature_extractor.conv_layers.{index}"
            yield from _pair(f"{name}.conv", num_out, num_in, kernel, has_bias=self.conv_bias)
            if self.conv_norm == "layer" or index == 0:
                yield from _pair(f"{name}.layer_norm", num_out)
            num_in = num_out
        yield from _pair("wav2vec2.feature_projection.layer_norm", num_in)
        yield from _pair("wav2vec2.feature_projection.projection", size, num_in)
        yield from _pair(POS_CONV, size, size // self.pos_groups, self.pos_kernel)
        yield from _pair("wav2vec2.encoder.layer_norm", size)
        for index in range(self.num_layers):
            yield from self._layer(f"wav2vec2.encoder.layers.{index}")
        yield from _pair("lm_head", self.vocab_size, size)

    def _layer(self, name: str) -> Iterator[tuple[str, Size]]:
        size = self.hidden_size
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _pair(f"{name}.attention.{part}", size, size)
        yield from _pair(f"{name}.layer_norm", size)
        yield from _pair(f"{name}.feed_forward.intermediate_dense", self.intermediate_size, size)
        yield from _pair(f"{name}.feed_forward.output_dense", size, self.intermediate_size)
        yield from _pair(f"{name}.final_layer_norm", size)
        if self.adapter_dim is not None:
            yield from _pair(f"{name}.adapter_layer.norm", size)
            yield from _pair(f"{name}.adapter_layer.linear_1", self.adapter_dim, size)
            yield from _pair(f"{name}.adapter_layer.linear_2", size, self.adapter_dim)


def _pair(name: str, *size: int, has_bias: bool = True) -> Iterator[tuple[str, Size]]:
    yield f"{name}.weight", size
    if has_bias:
        yield f"{name}.bias", size[:1]


def read_shape(given: Mapping[str, Any], model: str) -> Shape:
    """The shape of a network.

    Args:
        given: Its config.json, as `read_config` returns it.
        model: What to call it in messages.

    Raises:
        JobError: A field of config.json is of another kind, or does not fit the others.
    """
    config = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    kinds: dict[type, tuple[type, ...]] = {tuple: (list, tuple), float: (float, int)}
    for name, default in DEFAULTS.items():
        wanted = kinds.get(type(default), (type(default),))
        if default is not None and not isinstance(config[name], wanted):
            raise JobError(f"{model}: {name} is {config[name]!r} in config.json")
    for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
        if config[name] < 1 or config["hidden_size"] % config[name]:
            found = f"{name} is {config[name]}, hidden_size {config['hidden_size']}"
            raise JobError(f"{model}: {found} in config.json: wanted a divisor of it")
    if not len(config["conv_dim"]) == len(config["conv_kernel"]) == len(config["conv_stride"]):
        raise JobError(f"{model}: conv_dim, conv_kernel and conv_stride differ in length")
    for name in (config["hidden_act"], config["feat_extract_activation"]):
        if name not in ACTIVATIONS:
            found = f"activation {name!r} in config.json"
            raise JobError(f"{model}: {found} is not known to transformers")
    return Shape(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        intermediate_size=config["intermediate_size"],
        hidden_act=config["hidden_act"],
        conv_act=config["feat_extract_activation"],
        layer_norm_eps=config["layer_norm_eps"],
        conv_norm=config["feat_extract_norm"],
        conv_bias=config["conv_bias"],
        conv_dim=tuple(config["conv_dim"]),
        conv_kernel=tuple(config["conv_kernel"]),
        conv_stride=tuple(config["conv_stride"]),
        pos_kernel=config["num_conv_pos_embeddings"],
        pos_groups=config["num_conv_pos_embedding_groups"],
        is_stable=config["do_stable_layer_norm"],
        # Transformers has them in the stable kind of layer only.
        adapter_dim=config["adapter_attn_dim"] if config["do_stable_layer_norm"] else None,
    )


def refuse_misfit(shape: Shape, found: Mapping[str, Size], model: str) -> None:
    """Hold the weights' sizes, by name, against those that the network wants.

    Raises:
        JobError: One is missing, left over, or of another size than config.json says.
    """
    left = {name: size for name, size in found.items() if name != _UNUSED}
    lengths = []
    for length, direction in WEIGHT_NORM:
        if length in left and direction in left:
            lengths.append((length, (1, 1, shape.pos_kernel)))
            left[f"{POS_CONV}.weight"] = left.pop(direction)
    fault = f"{model}: weights do not fit their config"
    for name, wanted in chain(lengths, shape.tensors()):
        size = left.pop(name, "none")
        if size != wanted:
            raise JobError(f"{fault}: {name}: found {size}, wanted {wanted}")
    if left:
        name = min(left)
        # Not one of ours, so it may hold anything.
        told = name.encode("unicode_escape").decode()
        raise JobError(f"{fault}: {told}: found {left[name]}, wanted none")
