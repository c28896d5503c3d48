"""Writers of small checkpoints with random weights, and of one laid out like the seed's of 2022."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

SYLLABLES = "가나다라마바사아자차카타파하고노도로모보소오조초코토포호구누두루무부수우주추쿠투"
CONJOINING_JAMO = "".join(map(chr, [*range(0x1100, 0x1113), *range(0x1161, 0x1176)])) + "".join(
    map(chr, range(0x11A8, 0x11C3))
)

_TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
    "conv_bias": True,
}
SEED_SIZE: dict[str, Any] = {
    "hidden_size": 1280,
    "output_hidden_size": 1280,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "intermediate_size": 5120,
    "conv_dim": [512] * 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}
_SEED_SIZE_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "output_hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 128,
    "num_conv_pos_embedding_groups": 16,
}


def write_json(path: Path, content: object) -> None:
    """Write one JSON file."""
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; a value of `...` removes the key."""
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    write_json(path, {key: value for key, value in content.items() if value is not ...})


def edit_weights(directory: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights of a `tiny`, in place."""
    from safetensors.torch import load_file, save_file

    weights = load_file(directory / "model.safetensors")
    edit(weights)
    save_file(weights, directory / "model.safetensors")


def tiny(directory: Path, *, letters: str = SYLLABLES, **changes: Any) -> Path:
    """Write a layer-norm Wav2Vec2ForCTC of some 40,000 random weights, the same every time.

    Its head is scaled so that tokens win by nats, not by rounding, and about half are blanks.

    Args:
        directory: Made if missing.
        letters: Tokens before the delimiter, `[UNK]` and `[PAD]`.
        changes: Fields of its Wav2Vec2Config.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tokens = [*letters, "|", "[UNK]", "[PAD]"]
    fields = _TINY | {"vocab_size": len(tokens), "pad_token_id": len(tokens) - 1} | changes
    config = Wav2Vec2Config(architectures=["Wav2Vec2ForCTC"], **fields)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Wav2Vec2ForCTC(config)
        torch.nn.init.normal_(model.lm_head.weight)
        model.lm_head.bias.data[config.pad_token_id] = 13.0
    model.save_pretrained(directory)
    write_json(directory / "vocab.json", {token: row for row, token in enumerate(tokens)})
    _write_processor(directory, return_attention_mask=config.feat_extract_norm == "layer")
    return directory


def tiny_jamo(directory: Path, **changes: Any) -> Path:
    """Write a `tiny` whose tokens are conjoining jamo, of which three make a syllable."""
    return tiny(directory, letters=CONJOINING_JAMO, **changes)


def tiny_group_norm(directory: Path, **changes: Any) -> Path:
    """Write a `tiny` of wav2vec2-base's kind, whose first norm is over a whole row."""
    base: dict[str, Any] = {
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "conv_bias": False,
    }
    return tiny(directory, **(base | changes))


def tiny_mms(directory: Path, language: str = "kor") -> Path:
    """Write a `tiny` of MMS's kind: a vocabulary by language, and adapter weights for one."""
    from safetensors.torch import save_file

    tokens = ["[PAD]", "|", "[UNK]"]
    english = {token: row for row, token in enumerate([*tokens, "a"])}
    korean = {token: row for row, token in enumerate([*tokens, *SYLLABLES])}
    tiny(directory, letters="a", adapter_attn_dim=4, pad_token_id=0)
    write_json(directory / "vocab.json", {"eng": english, language: korean})
    edit_json(directory / "tokenizer_config.json", target_lang="eng")
    model = Wav2Vec2ForCTC.from_pretrained(directory)
    model.lm_head = torch.nn.Linear(model.config.hidden_size, len(korean))
    generator = torch.Generator().manual_seed(1)
    adapter = {
        name: torch.randn(weight.shape, generator=generator)
        for name, weight in model._get_adapters().items()
    }
    save_file(adapter, directory / f"adapter.{language}.safetensors")
    return directory


def _write_processor(directory: Path, *, return_attention_mask: bool) -> None:
    names = {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "[PAD]"}
    more = {
        "do_lower_case": False,
        "word_delimiter_token": "|",
        "replace_word_delimiter_char": " ",
        "special_tokens_map_file": None,
        "name_or_path": "./",
        "tokenizer_class": "Wav2Vec2CTCTokenizer",
    }
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    additional = [{"content": token, **flags} for token in ("<s>", "</s>")]
    write_json(directory / "tokenizer_config.json", names | more)
    write_json(
        directory / "special_tokens_map.json", names | {"additional_special_tokens": additional}
    )
    extractor = {
        "do_normalize": True,
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "padding_side": "right",
        "padding_value": 0,
        "return_attention_mask": return_attention_mask,
        "sampling_rate": 16000,
    }
    write_json(directory / "preprocessor_config.json", extractor)


def seed_2022(directory: Path, *, small: bool, num_rows: int = 1207) -> Path:
    """Write a checkpoint laid out like the seed's repository: pickled weights with their old names.

    Args:
        directory: Made if missing.
        small: 2 layers of 64 instead of 48 of 1280 (3.9 GB, of which twice as much in memory).
        num_rows: Width of the head: 1207, or 1205 without the two added tokens.
    """
    directory.mkdir(parents=True, exist_ok=True)
    syllables = [chr(0xAC00 + 9 * n) for n in range(1202)]
    tokens = ["|", *syllables, "[UNK]", "[PAD]"]
    config = {
        "architectures": ["Wav2Vec2ForCTC"],
        "model_type": "wav2vec2",
        "transformers_version": "4.17.0.dev0",
        "torch_dtype": "float32",
        "vocab_size": num_rows,
        "pad_token_id": 1204,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "feat_extract_norm": "layer",
        "feat_extract_activation": "gelu",
        "do_stable_layer_norm": True,
        "conv_bias": True,
        "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2],
        "hidden_act": "gelu",
        "gradient_checkpointing": False,
        "mask_time_prob": 0.05,
        "mask_feature_prob": 0.0,
        "add_adapter": False,
    } | (_SEED_SIZE_SMALL if small else SEED_SIZE)
    write_json(directory / "config.json", config)
    write_json(directory / "vocab.json", {token: row for row, token in enumerate(tokens)})
    write_json(directory / "added_tokens.json", {"<s>": 1205, "</s>": 1206})
    _write_processor(directory, return_attention_mask=True)
    torch.save(_old_weights(config), directory / "pytorch_model.bin")
    (directory / "training_args.bin").write_bytes(b"a pickle that nobody should open")
    return directory


def _old_weights(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Random float32 weights under the names of 2022, tensor by tensor: no model is made."""
    with torch.device("meta"):
        shapes = Wav2Vec2ForCTC(Wav2Vec2Config(**config)).state_dict()
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, like in shapes.items():
        old = name.replace("parametrizations.weight.original0", "weight_g")
        old = old.replace("parametrizations.weight.original1", "weight_v")
        if old.endswith("norm.weight") or old.endswith("weight_g"):
            weights[old] = torch.ones(like.shape)
        elif old.endswith("bias"):
            weights[old] = torch.zeros(like.shape)
        else:
            scale = 1.0 if old == "lm_head.weight" else 0.05
            weights[old] = torch.empty(like.shape).normal_(std=scale, generator=generator)
    return weights
