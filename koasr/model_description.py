"""A model's files → what they say of it, refusing in one line what the job cannot run."""

from collections.abc import Mapping
from typing import Any

from koasr.errors import JobError
from koasr.model_files import EXTRACTOR_FILES, ModelFolder
from koasr.rows import SAMPLE_RATE
from koasr.shape import DEFAULTS, Size
from koasr.tokens import TOKENIZER_FILES, HeadTokens, read_head_tokens


def read_config(folder: ModelFolder) -> dict[str, Any]:
    """`config.json` of a Wav2Vec2ForCTC.

    Raises:
        JobError: There is none, or it is of another model.
    """
    model = folder.model
    if "config.json" not in folder.sizes:
        raise JobError(f"{model}: no config.json there: give the directory that holds the model")
    config = folder.read_json("config.json")
    kind = str(config.get("model_type", "unnamed kind of"))
    classes = config.get("architectures") or ["Wav2Vec2ForCTC"]
    names = [str(name) for name in classes] if isinstance(classes, list) else [str(classes)]
    if kind != "wav2vec2" or "Wav2Vec2ForCTC" not in names:
        raise JobError(
            f"{model}: a {kind} model ({', '.join(names)}): only a Wav2Vec2ForCTC can be run, "
            "so choose another"
        )
    if config.get("add_adapter") or "adapter_config.json" in folder.sizes:
        raise JobError(f"{model}: has adapter layers on top: merge them into the model first")
    kernels, strides = (_layers(config, name, model) for name in ("conv_kernel", "conv_stride"))
    norm = config.get("feat_extract_norm", DEFAULTS["feat_extract_norm"])
    if norm not in ("layer", "group"):
        raise JobError(f"{model}: feat_extract_norm {norm!r} in config.json: unknown norm")
    if len(kernels) != len(strides):
        raise JobError(f"{model}: config.json has {len(kernels)} kernels, {len(strides)} strides")
    return config


def _layers(config: Mapping[str, Any], name: str, model: str) -> Size:
    values = config.get(name, DEFAULTS[name])
    is_list = isinstance(values, (list, tuple)) and len(values) > 0
    if not is_list or not all(isinstance(value, int) and value > 0 for value in values):
        raise JobError(f"{model}: {name} in config.json is {values!r}: wanted positive numbers")
    return tuple(values)


def read_extractor(folder: ModelFolder) -> dict[str, Any]:
    """How the model wants its audio.

    Raises:
        JobError: No file says it, or it wants another sample rate than 16 kHz.
    """
    found = [name for name in EXTRACTOR_FILES if name in folder.sizes]
    if not found:
        raise JobError(
            f"{folder.model}: no preprocessor_config.json, so nothing says how it wants its audio: "
            "copy the one it was trained with"
        )
    content = folder.read_json(found[0])
    nested = content.get("feature_extractor")
    extractor = nested if isinstance(nested, dict) else content
    rate = extractor.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise JobError(f"{folder.model}: made for {rate} Hz: only {SAMPLE_RATE} Hz models can run")
    return dict(extractor)


def read_tokenizer(folder: ModelFolder) -> dict[str, dict[str, Any]]:
    """Contents of the tokenizer's files.

    Raises:
        JobError: There is no `vocab.json`, or a file is not JSON.
    """
    if "vocab.json" not in folder.sizes:
        raise JobError(f"{folder.model}: no vocab.json, so its tokens are unknown: copy it there")
    return {name: folder.read_json(name) for name in TOKENIZER_FILES if name in folder.sizes}


def require_weights(folder: ModelFolder, commit: str) -> list[str]:
    """Names of the safetensors files.

    Args:
        folder: The model's directory.
        commit: Its commit on the hub, "" if it is not from there.

    Raises:
        JobError: There are none, only the pickles of old.
    """
    weights = folder.weights()
    if weights:
        return weights
    pickles = sorted(n for n in folder.sizes if n.startswith("pytorch_model") and n.endswith("bin"))
    if not pickles and not commit:
        raise JobError(f"{folder.model}: no model.safetensors there: give the model's directory")
    found = f"only {pickles[0]}" if pickles else "no safetensors weights"
    raise JobError(
        f"{folder.model}: {found}: make a clean copy once with "
        f"`koasr convert {folder.model} --out DIR`"
    )


def read_head(
    sizes: Mapping[str, Size],
    config: Mapping[str, Any],
    tokenizer: Mapping[str, Mapping[str, Any]],
    model: str,
) -> HeadTokens:
    """The tokens of the head, whose width the weights' sizes tell.

    Raises:
        JobError: There is no head, or the vocabulary does not fit it.
    """
    if len(sizes.get("lm_head.weight", ())) != 2:
        raise JobError(f"{model}: no lm_head in the weights: not trained for CTC, fine-tune first")
    num_rows = sizes["lm_head.weight"][0]
    vocab_size = config.get("vocab_size", DEFAULTS["vocab_size"])
    if vocab_size != num_rows:
        raise JobError(
            f"{model}: vocab_size is {vocab_size} in config.json but the head has {num_rows} rows: "
            "take the config.json this model was trained with"
        )
    pad_id = config.get("pad_token_id")
    if pad_id is not None and not isinstance(pad_id, int):
        raise JobError(f"{model}: pad_token_id is {pad_id!r} in config.json: wanted a whole number")
    return read_head_tokens(tokenizer, num_rows=num_rows, config_pad_id=pad_id, where=model)
