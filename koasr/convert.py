"""`koasr convert`: a model as it is in the wild → a clean safetensors directory, made once."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import koasr
from koasr.checkpoint import Checkpoint, open_checkpoint
from koasr.errors import JobError
from koasr.model_description import read_config, read_extractor, read_tokenizer
from koasr.model_files import DESCRIPTION_FILES, RECORD, ModelFolder, download, find_model
from koasr.rows import SAMPLE_RATE
from koasr.tokens import refuse_nested

_PICKLE_INDEX = "pytorch_model.bin.index.json"
_BASE_TIME_S = 600.0
_BYTES_PER_S = 5e6  # a slow disk, five times over


def convert(
    model: str, *, out: str, revision: str | None = None, target_lang: str | None = None
) -> None:
    """Make a clean copy of a wav2vec2-CTC model that `koasr transcribe` can run.

    Reads the pickled weights (`pytorch_model.bin`) of older models in a process of its own that
    runs no code from them, checks that weights, config and vocabulary fit each other, transcribes
    one second as a check, and writes safetensors. The commit it came from is noted in
    `koasr.json`.

    Args:
        model: Id on the Hugging Face hub, directory, or URI (s3://…) of the model.
        out: Local directory to make. It must not exist, or be empty.
        revision: Branch, tag or commit on the hub. Default: its main branch.
        target_lang: Language to keep of a model of many languages (MMS), such as kor.

    Raises:
        JobError: The model is not there, is not usable, or `out` is taken.
    """
    target = _require_free(out)
    folder, commit = find_model(model, revision, list(DESCRIPTION_FILES))
    config = read_config(folder)
    extractor = read_extractor(folder)
    tokenizer = _one_language(read_tokenizer(folder), target_lang, model)
    if commit:
        folder = _fetch(model, commit, target_lang)
    weights = _find_weights(folder, target_lang)
    with _workspace(target) as workspace:
        source, clean = workspace / "source", workspace / "model"
        _gather(folder, config, weights, source)
        seconds = _BASE_TIME_S + sum(folder.sizes[name] for name in weights) / _BYTES_PER_S
        arguments = {
            "model": model,
            "tokenizer": tokenizer,
            "extractor": extractor,
            "target_lang": target_lang,
        }
        counts = run_apart(_child, source, clean, arguments, model=model, limit_s=seconds)
        origin = {
            "source": model,
            "revision": commit or folder.record().get("revision", ""),
            "target_lang": target_lang,
            "source_sha256": {name: _sha256(source / name) for name in weights},
        }
        _write_record(clean, origin)
        checkpoint = open_checkpoint(str(clean))
        clean.rename(target)
    _tell(checkpoint, model, weights, counts, out)


def _require_free(out: str) -> Path:
    """The directory to make, as an absolute path."""
    if "://" in out:
        raise JobError(f"--out {out}: give a local directory, and copy it to the store after", 2)
    target = Path(out).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise JobError(f"--out {out} exists and is not empty: remove it, or give another", 2)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JobError(f"--out {out} cannot be made: {error.strerror or error}") from error
    return target


def _one_language(
    tokenizer: dict[str, dict[str, Any]], target_lang: str | None, model: str
) -> dict[str, dict[str, Any]]:
    """The tokenizer's files with one vocabulary in them."""
    vocabulary = tokenizer["vocab.json"]
    if target_lang is None:
        refuse_nested(vocabulary, model)
        return tokenizer
    languages = sorted(name for name, value in vocabulary.items() if isinstance(value, dict))
    if target_lang not in languages:
        has = f"only {', '.join(languages[:5])} … ({len(languages)})" if languages else "no"
        raise JobError(f"{model}: --target-lang {target_lang}: vocab.json has {has} languages", 2)
    return tokenizer | {"vocab.json": vocabulary[target_lang]}


def _adapters(target_lang: str | None) -> list[str]:
    return (
        [f"adapter.{target_lang}.{kind}" for kind in ("safetensors", "bin")] if target_lang else []
    )


def _fetch(model: str, commit: str, target_lang: str | None) -> ModelFolder:
    """The weights of a model on the hub: the pickles only if it has nothing better."""
    wanted = [*DESCRIPTION_FILES, "model*.safetensors", *_adapters(target_lang)]
    folder = ModelFolder(str(download(model, commit, wanted)), model)
    if not folder.weights():
        folder = ModelFolder(str(download(model, commit, [*wanted, "pytorch_model*"])), model)
    return folder


def _find_weights(folder: ModelFolder, target_lang: str | None) -> list[str]:
    """Names of the files to read: safetensors where there are any, else pickles."""
    weights = folder.weights()
    if not weights and "pytorch_model.bin" in folder.sizes:
        weights = ["pytorch_model.bin"]
    if not weights and _PICKLE_INDEX in folder.sizes:
        shards = folder.read_json(_PICKLE_INDEX).get("weight_map", {})
        weights = sorted(set(shards.values()) & folder.sizes.keys())
    if not weights:
        raise JobError(
            f"{folder.model}: neither model.safetensors nor pytorch_model.bin there: "
            "give the directory that holds the weights"
        )
    adapters = [name for name in _adapters(target_lang) if name in folder.sizes]
    if target_lang and not adapters:
        raise JobError(f"{folder.model}: no adapter.{target_lang}.safetensors there: copy it too")
    return weights + adapters[:1]


@contextmanager
def _workspace(target: Path) -> Iterator[Path]:
    """A directory on the file system of `target`, gone at the end."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise JobError(f"cannot write into {target.parent}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _gather(
    folder: ModelFolder, config: Mapping[str, Any], weights: list[str], source: Path
) -> None:
    """Lay the config and the weights, and nothing else, into a directory of their own."""
    source.mkdir()
    indexes = [name for name in DESCRIPTION_FILES if name.endswith(".index.json")]
    for name in [*weights, *indexes, _PICKLE_INDEX]:
        if name not in folder.sizes:
            continue
        if folder.is_local:
            (source / name).symlink_to(folder.path(name))
        else:
            folder.copy(name, source / name)
    plain = {key: value for key, value in config.items() if key != "auto_map"}
    (source / "config.json").write_text(json.dumps(plain), encoding="utf-8")


def _child(pipe: Connection, source: Path, clean: Path, arguments: dict[str, Any]) -> None:
    """Run in the child: send the counts of `rewrite`, or the line that says what is wrong."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    model = arguments["model"]
    try:
        from koasr.rewrite import confine, rewrite

        confine(source)
        pipe.send(rewrite(source, clean, **arguments))
    except JobError as error:
        pipe.send(str(error))
    # Hostile or broken files fail in many ways, all of which end here as one line.
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            pipe.send(
                f"{model}: reading the weights takes far more memory than their size: refused"
            )
            return
        line = textwrap.shorten(str(error), 160, placeholder=" …")
        kind = type(error).__name__
        pipe.send(f"{model}: the weights cannot be read: fetch them again ({kind}: {line})")


def run_apart(
    function: Callable[..., None], *arguments: object, model: str, limit_s: float
) -> dict[str, int]:
    """What `function` sends, run in a fresh process that may crash or hang without harm.

    Args:
        function: Called there with the end of a pipe and `arguments`; sends a dict, or a line
            that says what is wrong.
        arguments: Handed on.
        model: What to call it in messages.
        limit_s: Seconds it may take.

    Raises:
        JobError: It sent a line, crashed, or took too long.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=function, args=(sender, *arguments), daemon=True)
    process.start()
    sender.close()
    try:
        if not receiver.poll(limit_s):
            raise JobError(f"{model}: reading the weights took over {limit_s:.0f} s: given up")
        answer = receiver.recv()
    except EOFError as error:
        process.join()
        code = process.exitcode or 0
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        raise JobError(f"{model}: the process that reads the weights {how}: not usable") from error
    finally:
        process.kill()
        process.join()
        receiver.close()
    if isinstance(answer, str):
        raise JobError(answer)
    return dict(answer)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _write_record(clean: Path, origin: Mapping[str, Any]) -> None:
    """Note where the model came from, and what it consists of."""
    files = {
        path.name: {"size": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(clean.iterdir())
    }
    record = {"koasr": koasr.__version__, **origin, "files": files}
    (clean / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _tell(
    checkpoint: Checkpoint, model: str, weights: list[str], counts: Mapping[str, int], out: str
) -> None:
    at = f" at {checkpoint.revision[:12]}" if checkpoint.revision else ""
    blank = checkpoint.tokens[checkpoint.blank_id]
    print(f"{model}{at}: {', '.join(weights)}, {counts['num_parameters']:,} parameters")
    print(
        f"head: {len(checkpoint.tokens)} tokens, blank {blank} ({checkpoint.blank_id}); "
        f"{SAMPLE_RATE / checkpoint.samples_per_frame:g} frames a second"
    )
    print(f"check: 1 s gave {counts['num_frames']} frames, finite and equal to the original's")
    print(f"{out}: ready for `koasr transcribe INPUT --output OUT --model {out}`")
