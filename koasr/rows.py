"""What travels between the stages: shards, recordings, rejects, and the packs that carry them."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Literal

from koasr.errors import Reason

SAMPLE_RATE = 16_000
"""Hz. What wav2vec 2.0 models hear, and so the only rate after loading."""

SCHEMA_VERSION = 1
"""Of the output's columns; part of the fingerprint."""

Kind = Literal["tar", "parquet", "manifest", "trn", "files"]


def short_hash(*parts: str, length: int = 12) -> str:
    """Hash of the parts in order, as hex; the same on every machine and day.

    Example:
        >>> short_hash("s3://bucket/a.tar", "etag")
        '42d19ac1934f'
        >>> short_hash("ab", "c") == short_hash("a", "bc")
        False
    """
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()[:length]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One object or file as the listing shows it.

    `version` is its ETag, or size and modification time where the store has no ETag.
    `reference_uri` names the text file that holds its reference, "" without one.
    """

    uri: str
    version: str
    size_bytes: int
    reference_uri: str = ""


@dataclass(frozen=True, slots=True)
class Shard:
    """What is committed together: a tar, a Parquet file, a manifest, or a group of loose files.

    `audio_root` is where a manifest's relative paths start. `files` is filled for a group only.
    """

    uri: str
    version: str
    size_bytes: int
    kind: Kind
    audio_root: str = ""
    files: tuple[StoredFile, ...] = ()

    @property
    def slug(self) -> str:
        """Short readable name, safe in a file name on every store."""
        stem = self.uri.rstrip("/").rsplit("/", 1)[-1]
        if self.kind != "files":
            stem = re.sub(r"\.(tar|parquet|jsonl?|trn)$", "", stem)
            # Names of that form are those of groups of loose files; see `is_group`.
            stem = f"shard-{stem}" if re.match(r"files-[0-9a-f]{12}", stem) else stem
        return re.sub(r"[^0-9A-Za-z_-]+", "-", stem).strip("-")[:48] or "shard"


@dataclass(frozen=True, slots=True)
class Recording:
    """A source audio file with what came along: encoded, any length.

    `recording_id` is stable over runs and unique over all sources. `offset_s` and `duration_s`
    cut a manifest's line out of its file (`duration_s` None: to the end). `raw_pcm` marks
    headerless s16le mono 16 kHz. `reference` is None without one; "" says that nothing is spoken.
    """

    recording_id: str
    source_uri: str
    source_key: str
    source_version: str
    audio: bytes = field(repr=False)
    reference: str | None = field(default=None, repr=False)
    metadata: dict[str, str] = field(default_factory=dict)
    raw_pcm: bool = False
    offset_s: float = 0.0
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A recording that cannot be transcribed: a row of the rejects."""

    recording_id: str
    source_uri: str
    source_key: str
    source_version: str
    stage: str
    reason: Reason
    message: str
    size_bytes: int = 0
    sha256: str = ""


def recording_id(source_uri: str, source_key: str = "") -> str:
    """Name of a recording: readable, and unique over every source ever listed.

    Example:
        >>> recording_id("s3://bucket/train-000.tar", "utt1.flac")
        'train-000.tar-37d94b0a987a/utt1.flac'
        >>> recording_id("/data/a/utt1.flac")
        'utt1.flac-34a8971cf9fb'
    """
    name = source_uri.rstrip("/").rsplit("/", 1)[-1]
    container = f"{name}-{short_hash(source_uri)}"
    return f"{container}/{source_key}" if source_key else container


def reject(recording: Recording, stage: str, reason: Reason, message: str) -> Reject:
    """The reject of a recording, with the size and checksum of its bytes where they are at hand."""
    checksum = hashlib.sha256(recording.audio).hexdigest() if recording.audio else ""
    return Reject(
        recording.recording_id,
        recording.source_uri,
        recording.source_key,
        recording.source_version,
        stage,
        reason,
        message[:500],
        len(recording.audio),
        checksum,
    )
