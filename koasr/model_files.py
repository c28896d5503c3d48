"""A model's id, directory or URI → its files: found, listed, read and hashed, without torch."""

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from koasr.errors import JobError
from koasr.storage import absolute, job_errors, join, open_fs
from koasr.tokens import TOKENIZER_FILES

INDEX = "model.safetensors.index.json"
RECORD = "koasr.json"
"""What `koasr convert` notes beside a model: its source, its revision and checksums."""
EXTRACTOR_FILES = ("preprocessor_config.json", "processor_config.json")
DESCRIPTION_FILES = ("config.json", *TOKENIZER_FILES, *EXTRACTOR_FILES, INDEX)
"""Everything but the weights that a model is read from, where it exists."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LONGEST_HEADER = 100 << 20  # bytes; the safetensors format's own limit
_COMMIT = re.compile(r"[0-9a-f]{40}")
_HUB_TIMEOUT_S = 4.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelFolder:
    """The directory of a model, local or in a store.

    Attributes:
        uri: Local path or URI, absolute.
        sizes: Bytes of each file in it, by name.

    Args:
        uri: Local path or URI.
        model: What to call it in messages: the model as the user gave it.

    Raises:
        JobError: There is no such directory, or it cannot be listed.
    """

    def __init__(self, uri: str, model: str) -> None:
        self.uri = absolute(uri)
        self.model = model
        self._fs, path = open_fs(uri)
        with job_errors(model):
            self._fs.invalidate_cache()
            infos = self._fs.ls(path, detail=True)
        files = [info for info in infos if info["type"] != "directory"]
        self.sizes = {os.path.basename(info["name"]): int(info["size"]) for info in files}

    @property
    def is_local(self) -> bool:
        """Whether other programs can read it by its path."""
        return "://" not in self.uri

    def path(self, name: str) -> str:
        """A file's path in its file system."""
        return str(open_fs(join(self.uri, name))[1])

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, or the range [start, end) of them."""
        with job_errors(self.model):
            return bytes(self._fs.cat_file(self.path(name), start=start, end=end))

    def read_json(self, name: str) -> dict[str, Any]:
        """A file that holds one JSON object.

        Raises:
            JobError: It holds something else, or cannot be read.
        """
        try:
            content = json.loads(self.read(name))
        except ValueError as error:
            raise JobError(f"{self.model}: {name} is not JSON ({error}): copy it again") from error
        if not isinstance(content, dict):
            raise JobError(f"{self.model}: {name} is not a JSON object: copy it again")
        return content

    def tensor_shapes(self, name: str) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor in a safetensors file, from its header alone.

        Raises:
            JobError: It is no safetensors file, or is cut off.
        """
        broken = f"{self.model}: {name} is not a whole safetensors file"
        start = self.read(name, 0, 8)
        if start == b"version ":
            raise JobError(f"{broken} but a Git LFS pointer: fetch it with `git lfs pull`")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= min(_LONGEST_HEADER, self.sizes[name] - 8):
            raise JobError(f"{broken}: copy it again")
        try:
            header = json.loads(self.read(name, 8, 8 + length))
            header.pop("__metadata__", None)
            end = max((int(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
            shapes = {key: tuple(tensor["shape"]) for key, tensor in header.items()}
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise JobError(f"{broken}: copy it again") from error
        if 8 + length + end != self.sizes[name]:
            wanted = 8 + length + end
            found = self.sizes[name]
            raise JobError(f"{broken}: {found} of {wanted} bytes; copy it again")
        return shapes

    def weights(self) -> list[str]:
        """Names of the safetensors files, in order; [] without any.

        Raises:
            JobError: The index names a file that is not there.
        """
        if "model.safetensors" in self.sizes:
            return ["model.safetensors"]
        if INDEX not in self.sizes:
            return []
        names = self.read_json(INDEX).get("weight_map")
        shards = sorted(set(map(str, names.values()))) if isinstance(names, dict) else []
        absent = [shard for shard in shards if shard not in self.sizes]
        if absent or not shards:
            raise JobError(f"{self.model}: {INDEX} names {absent[:1]} that are not there: copy all")
        return shards

    def sha256(self, name: str) -> str:
        """Checksum of a file, read once from start to end."""
        with job_errors(self.model), self._fs.open(self.path(name), "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def recorded_sha256(self, name: str) -> str | None:
        """Checksum that `koasr convert` noted for a file of this size; None without."""
        noted = self.record().get("files", {}).get(name, {})
        digest = str(noted.get("sha256", ""))
        return digest if noted.get("size") == self.sizes[name] and _SHA256.match(digest) else None

    def record(self) -> Mapping[str, Any]:
        """What `koasr convert` noted; empty for other models."""
        return self.read_json(RECORD) if RECORD in self.sizes else {}

    def copy(self, name: str, target: Path) -> None:
        """Copy a file to a local path."""
        with job_errors(self.model):
            self._fs.get_file(self.path(name), str(target))


def find_model(model: str, revision: str | None, patterns: list[str]) -> tuple[ModelFolder, str]:
    """Where a model's files lie, and its commit on the hub ("" if it is not from there).

    Args:
        model: A directory, an fsspec URI, or an id of the Hugging Face hub.
        revision: Branch, tag or commit on the hub; None for its main branch.
        patterns: Which files to fetch, if it is on the hub.

    Raises:
        JobError: There is no such directory or model, or nothing answers.
    """
    local = os.path.expanduser(model)
    is_hub_id = "://" not in model and not os.path.exists(local) and bool(_HUB_ID.fullmatch(model))
    if revision is not None and not is_hub_id:
        raise JobError(f"{model}: a revision is of a model on the hub, this is a directory", 2)
    if is_hub_id:
        snapshot = download(model, revision, patterns)
        return ModelFolder(str(snapshot), model), snapshot.name
    if "://" not in model and not os.path.isdir(local):
        found = "is a file" if os.path.exists(local) else "does not exist"
        raise JobError(f"{model} {found}: give a model's directory, its URI or its id on the hub")
    return ModelFolder(local, model), ""


def download(model: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetch files of a model on the hub into its cache. The directory's name is the commit.

    Args:
        model: Its id.
        revision: Branch, tag or commit; None for the main branch. A commit that is in the cache
            is not asked for.
        patterns: Names of the files, with `*`.

    Raises:
        JobError: The hub has no such model or revision, does not show it, or does not answer.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if revision is not None and _COMMIT.fullmatch(revision):
        with suppress(LocalEntryNotFoundError):
            return Path(
                snapshot_download(
                    model, revision=revision, allow_patterns=patterns, local_files_only=True
                )
            )
    is_offline = not _hub_answers(model, revision)
    try:
        return Path(
            snapshot_download(
                model,
                revision=revision,
                allow_patterns=patterns,
                local_files_only=is_offline,
            )
        )
    except LocalEntryNotFoundError as error:
        raise JobError(
            f"{model}: no such directory, and the Hugging Face hub does not answer: check the "
            "path, or the network"
        ) from error
    except OSError as error:
        line = str(error).strip().partition("\n")[0]
        raise JobError(f"{model}: cannot be fetched from the Hugging Face hub: {line}") from error


def _hub_answers(model: str, revision: str | None) -> bool:
    """Whether the hub says within seconds that it has this revision."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(model, revision=revision, timeout=_HUB_TIMEOUT_S)
    except RevisionNotFoundError as error:
        raise JobError(f"{model}: the hub has no revision {revision!r}: check its name") from error
    except RepositoryNotFoundError as error:
        raise JobError(
            f"{model}: no such directory, and no such model on the Hugging Face hub (or it is "
            "private): check the name, or set HF_TOKEN"
        ) from error
    # The hub client lets its HTTP library's errors through, and has changed that library twice.
    except Exception:
        return False
    return True
