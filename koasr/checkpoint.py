"""A model's id, directory or URI → what the job must know of it without torch; then staged."""

import hashlib
import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from koasr.errors import JobError
from koasr.model_description import (
    read_config,
    read_extractor,
    read_head,
    read_tokenizer,
    require_weights,
)
from koasr.model_files import DESCRIPTION_FILES, INDEX, ModelFolder, download, find_model
from koasr.rows import SAMPLE_RATE
from koasr.shape import Shape, read_shape, refuse_misfit
from koasr.tokens import refuse_nested


@dataclass(frozen=True)
class Checkpoint:
    """A wav2vec2-CTC checkpoint, as far as it can be known without loading it.

    Attributes:
        model: Id, path or URI as the user gave it.
        revision: Commit on the hub, also of what `koasr convert` read; "" if unknown.
        directory: Local directory or URI that holds the files.
        sha256: Checksum of every file the job loads, by name.
        shape: Of its network, which its weights fit.
        sample_rate_hz: Of the audio it was trained on.
        do_normalize: Whether it wants zero mean and unit variance.
        tokens: Token of each row of the head.
        blank_id: Row of the CTC blank.
        delimiter_id: Row of the word delimiter; None without one.
        unk_id: Row of the unknown token; None without one.
        special_ids: Rows that never reach the text, the blank among them.
    """

    model: str
    revision: str
    directory: str
    sha256: dict[str, str]
    shape: Shape
    sample_rate_hz: int
    do_normalize: bool
    tokens: tuple[str, ...]
    blank_id: int
    delimiter_id: int | None
    unk_id: int | None
    special_ids: frozenset[int]

    @property
    def samples_per_frame(self) -> int:
        """Samples from one frame to the next: 320 for XLS-R."""
        return math.prod(self.shape.conv_stride)

    @property
    def receptive_field(self) -> int:
        """Samples that one frame sees: 400 for XLS-R. Fewer samples give no frame."""
        field, shape = 1, self.shape
        for kernel, stride in zip(shape.conv_kernel[::-1], shape.conv_stride[::-1], strict=True):
            field = (field - 1) * stride + kernel
        return field

    def num_frames(self, num_samples: int) -> int:
        """Frames that so many samples give, 0 for fewer than `receptive_field`."""
        frames = num_samples
        for kernel, stride in zip(self.shape.conv_kernel, self.shape.conv_stride, strict=True):
            frames = max((frames - kernel) // stride + 1, 0)
        return frames

    @property
    def weights_sha256(self) -> str:
        """One checksum of all that is loaded."""
        return hashlib.sha256(json.dumps(self.sha256, sort_keys=True).encode()).hexdigest()


def open_checkpoint(model: str, revision: str | None = None) -> Checkpoint:
    """Read what a checkpoint says about itself, and refuse what the job cannot run.

    Only JSON files and the headers of the weights are parsed; the weights are read once more for
    their checksum, unless they lie in a store and `koasr convert` noted it there.

    Args:
        model: A directory, an fsspec URI, or an id of the Hugging Face hub.
        revision: Branch, tag or commit on the hub; None for its main branch.

    Raises:
        JobError: It is not there, or is not a Wav2Vec2ForCTC with safetensors weights that fit its
            config, a vocabulary that fits its head, and a blank.
    """
    folder, commit = find_model(model, revision, list(DESCRIPTION_FILES))
    config = read_config(folder)
    shape = read_shape(config, model)
    extractor = read_extractor(folder)
    tokenizer = read_tokenizer(folder)
    refuse_nested(tokenizer["vocab.json"], model)
    if commit:
        snapshot = download(model, commit, [*DESCRIPTION_FILES, "model*.safetensors"])
        folder = ModelFolder(str(snapshot), model)
    weights = require_weights(folder, commit)
    sizes = {name: size for file in weights for name, size in folder.tensor_shapes(file).items()}
    head = read_head(sizes, config, tokenizer, model)
    refuse_misfit(shape, sizes, model)
    sha256, is_as_recorded = _checksums(folder, weights)
    return Checkpoint(
        model=model,
        revision=commit or (str(folder.record().get("revision", "")) if is_as_recorded else ""),
        directory=folder.uri,
        sha256=sha256,
        shape=shape,
        sample_rate_hz=SAMPLE_RATE,
        do_normalize=bool(extractor.get("do_normalize", True)),
        tokens=head.tokens,
        blank_id=head.blank_id,
        delimiter_id=head.delimiter_id,
        unk_id=head.unk_id,
        special_ids=head.special_ids,
    )


def _checksums(folder: ModelFolder, weights: list[str]) -> tuple[dict[str, str], bool]:
    """Checksum of each file to load, and whether `koasr.json` tells of these very weights."""
    names = [name for name in DESCRIPTION_FILES if name in folder.sizes]
    if weights == ["model.safetensors"]:
        names = [name for name in names if name != INDEX]
    sha256 = {name: folder.sha256(name) for name in names}
    is_as_recorded = True
    for name in weights:
        recorded = folder.recorded_sha256(name)
        # Reading gigabytes from a store to learn what is noted there would cost minutes; every
        # node checks its own copy anyway.
        trusted = recorded if not folder.is_local else None
        sha256[name] = trusted or folder.sha256(name)
        is_as_recorded = is_as_recorded and recorded == sha256[name]
    return sha256, is_as_recorded


def stage_checkpoint(checkpoint: Checkpoint) -> Path:
    """A directory on this node that holds the checkpoint's files, each with the right checksum.

    A local directory stays where it is. From a store the files are copied once a node, below
    `KOASR_CACHE` (default `~/.cache/koasr`), whoever comes first.

    Raises:
        JobError: The files cannot be read here, or are not those the run started with.
    """
    if "://" in checkpoint.directory:
        return _stage_copy(checkpoint)
    directory = Path(checkpoint.directory)
    # The driver's hub cache is not on every node; its directories are named by the commit.
    if not directory.is_dir() and directory.name == checkpoint.revision:
        directory = download(checkpoint.model, checkpoint.revision, sorted(checkpoint.sha256))
    _verify(checkpoint, directory)
    return directory


def _stage_copy(checkpoint: Checkpoint) -> Path:
    root = Path(os.environ.get("KOASR_CACHE") or "~/.cache/koasr").expanduser() / "models"
    target = root / checkpoint.weights_sha256[:32]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_dir():
                _copy(checkpoint, target)
                return target
        if _first_difference(checkpoint, target) is None:
            return target
        with FileLock(f"{target}.lock"):
            if _first_difference(checkpoint, target) is not None:
                shutil.rmtree(target)
                _copy(checkpoint, target)
        return target
    except OSError as error:
        raise JobError(
            f"cannot keep {checkpoint.model} below {root} ({error.strerror or error}): set "
            "KOASR_CACHE to a folder with room"
        ) from error


def _copy(checkpoint: Checkpoint, target: Path) -> None:
    """Copy into a temporary directory beside `target`, check, and rename: whole or not at all."""
    folder = ModelFolder(checkpoint.directory, checkpoint.model)
    temporary = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.parent))
    try:
        for name in checkpoint.sha256:
            folder.copy(name, temporary / name)
        _verify(checkpoint, temporary)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _first_difference(checkpoint: Checkpoint, directory: Path) -> str | None:
    """The first file that is missing or has another checksum."""
    for name, wanted in checkpoint.sha256.items():
        try:
            with (directory / name).open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            return name
        if found != wanted:
            return name
    return None


def _verify(checkpoint: Checkpoint, directory: Path) -> None:
    name = _first_difference(checkpoint, directory)
    if name is None:
        return
    if not (directory / name).exists():
        raise JobError(
            f"{checkpoint.model}: {name} is not in {checkpoint.directory} on this node: put the "
            "model where every node reads it, such as s3://"
        )
    raise JobError(
        f"{checkpoint.model}: wrong checksum of {name} in {checkpoint.directory}: it changed "
        "since it was opened or converted, so copy the model there again"
    )
