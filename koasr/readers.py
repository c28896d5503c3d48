"""One shard → its recordings, encoded, in the order they lie in it; nothing goes to disk."""

import math
import os.path
import posixpath
from collections.abc import Callable, Iterator
from typing import Any

from koasr.errors import JobError, RecordingError, TransientError
from koasr.items import Item, identify, nfc, split_columns, storable, unescape_name, unread
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.manifests import local_problem, manifest_lines, resolve, spellings
from koasr.parquets import read_parquet
from koasr.rows import Kind, Recording, Reject, Shard, StoredFile
from koasr.sources import decode_text
from koasr.storage import transient_errors, version_of
from koasr.stored import read_at_most
from koasr.tars import read_tar

_MAX_REFERENCE_FILE_BYTES = 16 << 20


def read_recordings(shard: Shard, limits: Limits = DEFAULT_LIMITS) -> Iterator[Item]:
    """Every recording of a shard, once; what cannot be read is a reject.

    A shard that vanished, changed or breaks off is one reject for all that could not be read.

    Raises:
        TransientError: The store failed in a way that may pass.
        JobError: The store denied access.
    """
    try:
        if shard.kind != "files":
            with transient_errors(shard.uri):
                if version_of(unescape_name(shard.uri)) != shard.version:
                    message = "changed since it was listed: the next run takes the new version"
                    yield unread(shard, "", "unreadable", message)
                    return
        for number, item in enumerate(_READERS[shard.kind](shard, limits)):
            # A group of files was bounded when it was made, and each of its files is accounted for.
            if number == limits.max_members and shard.kind != "files":
                message = f"wanted at most {limits.max_members} recordings in a shard"
                yield unread(shard, "", "too_large", message)
                return
            yield item
    except (TransientError, JobError):
        raise
    except (FileNotFoundError, PermissionError) as error:
        yield unread(shard, "", "unreadable", f"{type(error).__name__} since it was listed")
    # Untrusted bytes fail in more ways than can be named; the rest of a shard must not stop a run.
    except Exception as error:
        message = f"the rest of it cannot be read: {type(error).__name__}: {error}"
        yield unread(shard, "", "unreadable", message)


def _read_file(uri: str, root: str, limits: Limits) -> bytes:
    """The bytes of a recording that is a file.

    Raises:
        RecordingError: Gone, no file, a link out of `root`, or too large.
    """
    try:
        problem = local_problem(uri, root, limits.allow)
        if problem is not None:
            raise RecordingError("unreadable", f"found {problem}")
        audio = read_at_most(uri, limits.max_bytes + 1)
    except (FileNotFoundError, PermissionError) as error:
        raise RecordingError("unreadable", f"{uri}: {type(error).__name__}") from error
    if len(audio) > limits.max_bytes:
        message = f"found more than {limits.max_bytes} bytes, wanted at most that"
        raise RecordingError("too_large", message)
    return audio


def _read_spelled(uri: str, root: str, limits: Limits) -> bytes:
    """The bytes of a file whose name a manifest may have composed otherwise than the store."""
    *others, last = spellings(uri)
    for name in others:
        try:
            return _read_file(name, root, limits)
        except RecordingError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
    return _read_file(last, root, limits)


def _read_manifest(shard: Shard, limits: Limits) -> Iterator[Item]:
    """Lines of a JSONL manifest or a `.trn` script; several lines may cut one file."""
    held: tuple[str, bytes] = ("", b"")
    for key, entry in manifest_lines(shard, limits):
        try:
            if isinstance(entry, RecordingError):
                raise entry
            uri = resolve(shard.audio_root, entry.pop("audio_filepath"), limits.allow)
            if uri is None:
                message = f"the path leads out of {shard.audio_root}: wanted one below it, without"
                message += " '..', '::', credentials or query; or pass --allow for its folder"
                raise RecordingError("bad_name", message)
            if held[0] != uri:
                held = ("", b"")
                held = (uri, _read_spelled(uri, shard.audio_root, limits))
            yield _cut(shard, key, held[1], uri, entry)
        except RecordingError as error:
            yield unread(shard, key, error.reason, error.message)


def _seconds(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value < 1e7:
        message = "offset and duration are not numbers of seconds from 0 on"
        raise RecordingError("unreadable", message)
    return float(value)


def _cut(shard: Shard, key: str, audio: bytes, uri: str, entry: dict[str, Any]) -> Recording:
    offset, duration = entry.get("offset"), entry.get("duration")
    reference, metadata = split_columns(entry)
    return Recording(
        identify(shard.uri, key),
        shard.uri,
        key,
        shard.version,
        audio,
        reference,
        metadata,
        raw_pcm=uri.lower().endswith(".pcm"),
        offset_s=0.0 if offset is None else _seconds(offset),
        duration_s=None if duration is None else _seconds(duration),
    )


def read_reference_file(uri: str) -> dict[str, str]:
    """The lines of a `*.trans.txt` by the names they start with; any other text by ""."""
    text = storable(decode_text(read_at_most(uri, _MAX_REFERENCE_FILE_BYTES)))
    if not uri.endswith(".trans.txt"):
        return {"": text}
    lines = (line.partition(" ") for line in text.splitlines())
    return {nfc(name): reference.strip() for name, _, reference in lines}


def group_folder(shard: Shard) -> str:
    """The folder that links among a group's loose files must not lead out of."""
    folder = posixpath.dirname(shard.files[0].uri)
    if "://" in folder:
        return folder
    return os.path.commonpath([posixpath.dirname(file.uri) for file in shard.files])


def _read_files(shard: Shard, limits: Limits) -> Iterator[Item]:
    held: tuple[str, dict[str, str]] = ("", {})
    folder = group_folder(shard)
    for file in shard.files:
        try:
            if file.size_bytes > limits.max_bytes:
                message = f"found {file.size_bytes} bytes, wanted at most {limits.max_bytes}"
                raise RecordingError("too_large", message)
            audio = _read_file(file.uri, folder, limits)
            if file.reference_uri != held[0]:
                held = (file.reference_uri, _held_references(file))
            stem = nfc(posixpath.splitext(posixpath.basename(file.uri))[0])
            place = (identify(file.uri), file.uri, "", file.version)
            reference, _ = split_columns({"text": held[1].get(stem, held[1].get(""))})
            raw_pcm = file.uri.lower().endswith(".pcm")
            yield Recording(*place, audio, reference, {}, raw_pcm)
        except RecordingError as error:
            place = (identify(file.uri), file.uri, "", file.version)
            yield Reject(*place, "read", error.reason, storable(error.message), file.size_bytes)


def _held_references(file: StoredFile) -> dict[str, str]:
    try:
        return read_reference_file(file.reference_uri) if file.reference_uri else {}
    except (FileNotFoundError, PermissionError) as error:
        message = f"its reference {file.reference_uri}: {type(error).__name__}"
        raise RecordingError("unreadable", message) from error


_READERS: dict[Kind, Callable[[Shard, Limits], Iterator[Item]]] = {
    "tar": read_tar,
    "parquet": read_parquet,
    "manifest": _read_manifest,
    "trn": _read_manifest,
    "files": _read_files,
}
