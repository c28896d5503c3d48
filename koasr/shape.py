"""A checkpoint's config.json → the shape of its network, and of each of its weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
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
    conv_dim: tuple[int, ...]
    conv_kernel: tuple[int, ...]
    conv_stride: tuple[int, ...]
    pos_kernel: int
    pos_groups: int
    is_stable: bool
    adapter_dim: int | None

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """The shape of every weight by its name; the positional convolution's is folded."""
        found: dict[str, tuple[int, ...]] = {}

        def add(name: str, *weight: int) -> None:
            found[f"{name}.weight"], found[f"{name}.bias"] = weight, weight[:1]

        size, num_in = self.hidden_size, 1
        for index, (num_out, kernel) in enumerate(
            zip(self.conv_dim, self.conv_kernel, strict=True)
        ):
            name = f"wav2vec2.feature_extractor.conv_layers.{index}"
            add(f"{name}.conv", num_out, num_in, kernel)
            if not self.conv_bias:
                del found[f"{name}.conv.bias"]
            if self.conv_norm == "layer" or index == 0:
                add(f"{name}.layer_norm", num_out)
            num_in = num_out
        add("wav2vec2.feature_projection.layer_norm", num_in)
        add("wav2vec2.feature_projection.projection", size, num_in)
        width = size // self.pos_groups
        add("wav2vec2.encoder.pos_conv_embed.conv", size, width, self.pos_kernel)
        add("wav2vec2.encoder.layer_norm", size)
        for index in range(self.num_layers):
            layer = f"wav2vec2.encoder.layers.{index}"
            for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                add(f"{layer}.attention.{part}", size, size)
            add(f"{layer}.layer_norm", size)
            add(f"{layer}.feed_forward.intermediate_dense", self.intermediate_size, size)
            add(f"{layer}.feed_forward.output_dense", size, self.intermediate_size)
            add(f"{layer}.final_layer_norm", size)
            if self.adapter_dim is not None:
                add(f"{layer}.adapter_layer.norm", size)
                add(f"{layer}.adapter_layer.linear_1", self.adapter_dim, size)
                add(f"{layer}.adapter_layer.linear_2", size, self.adapter_dim)
        add("lm_head", self.vocab_size, size)
        return found


def read_shape(directory: Path) -> Shape:
    """The shape of a network, from a directory that `open_checkpoint` accepted.

    Raises:
        JobError: A field of config.json is of another kind, or does not fit the others.
    """
    given = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config = {name: given.get(name, default) for name, default in DEFAULTS.items()}
    kinds: dict[type, tuple[type, ...]] = {tuple: (list, tuple), float: (float, int)}
    for name, default in DEFAULTS.items():
        wanted = kinds.get(type(default), (type(default),))
        if default is not None and not isinstance(config[name], wanted):
            raise JobError(f"{directory}: {name} is {config[name]!r} in config.json")
    for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
        if config[name] < 1 or config["hidden_size"] % config[name]:
            found = f"{name} is {config[name]}, hidden_size {config['hidden_size']}"
            raise JobError(f"{directory}: {found} in config.json: wanted a divisor of it")
    if not len(config["conv_dim"]) == len(config["conv_kernel"]) == len(config["conv_stride"]):
        raise JobError(f"{directory}: conv_dim, conv_kernel and conv_stride differ in length")
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
