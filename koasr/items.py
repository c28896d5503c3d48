"""What a source gives, recordings and rejects: how they are named, and what comes along."""

import re
import unicodedata
from typing import Any

from koasr.errors import Reason
from koasr.rows import Recording, Reject, Shard, recording_id, short_hash

Item = Recording | Reject

REFERENCE_KEYS = ("text", "sentence", "transcript", "transcription", "reference")
_MAX_ID_BYTES = 1_024
_MAX_REFERENCE_CHARS = 1 << 20
_MAX_METADATA_CHARS = 1 << 16
"""Members of one group share a sidecar, and each carries a copy of it."""

# A control character would break a list of ids, half a surrogate pair breaks Parquet.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u[0-9a-f]{4}")


def escape_name(name: str) -> str:
    r"""A name that every table and list can hold; different names stay different.

    Only a name with a control character, or with bytes that are not UTF-8, is changed; and one
    that looks as if it had been.

    Example:
        >>> escape_name("한국.flac"), escape_name("caf\udce9.wav")
        ('한국.flac', 'caf\\udce9.wav')
    """
    if not (_UNSAFE.search(name) or _ESCAPED.search(name)):
        return name
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", name.replace("\\", "\\\\"))


def unescape_name(name: str) -> str:
    r"""The name that `escape_name` was given.

    Example:
        >>> unescape_name(escape_name("caf\udce9.wav")) == "caf\udce9.wav"
        True
    """
    if not _ESCAPED.search(name):
        return name
    parts = re.split(r"(\\\\|\\u[0-9a-f]{4})", name)
    return "".join(
        part if not part.startswith("\\") else "\\" if part == "\\\\" else chr(int(part[2:], 16))
        for part in parts
    )


def nfc(name: str) -> str:
    """The composed form: macOS writes the name of a Korean file in jamo, other systems do not."""
    return unicodedata.normalize("NFC", name)


def shorten_name(name: str) -> str:
    """A name as it can be part of an id: of a very long one its beginning, and a hash of all.

    What counts as long is fixed, so that an id does not depend on a limit that a retry may raise.

    Example:
        >>> shorten_name("x" * 5_000)[-16:]
        'xxx~0359a81b0290'
    """
    return name if len(name.encode()) <= _MAX_ID_BYTES else f"{name[:64]}~{short_hash(name)}"


def identify(uri: str, key: str = "") -> str:
    """The id of a recording: in NFC, so that it does not depend on who packed the source."""
    return nfc(recording_id(uri, key))


def unread(shard: Shard, key: str, reason: Reason, message: str, size_bytes: int = 0) -> Reject:
    """The reject of what could not be read: a recording, or with key "" the rest of the shard."""
    name = identify(shard.uri, key) if key else f"{identify(shard.uri)}/"
    message = storable(message)[:500]
    return Reject(name, shard.uri, key, shard.version, "read", reason, message, size_bytes)


def storable(text: str) -> str:
    """Text that Parquet takes: what is not Unicode (an EUC-KR name, half a pair) is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def split_columns(columns: dict[str, Any]) -> tuple[str | None, dict[str, str]]:
    """Reference and metadata among the columns that came along with a recording.

    What is longer than any transcript or description is left out, and the metadata say so.

    Example:
        >>> split_columns({"text": "안녕", "speaker": 3, "path": None})
        ('안녕', {'speaker': '3'})
    """
    key = next((k for k in REFERENCE_KEYS if isinstance(columns.get(k), str)), None)
    reference = storable(columns[key]) if key else None
    metadata: dict[str, str] = {}
    if reference is not None and len(reference) > _MAX_REFERENCE_CHARS:
        reference, metadata["left_out"] = None, "a reference that is too long"
    num_chars = 0
    for name, value in columns.items():
        if name == key or not isinstance(value, str | int | float):
            continue
        name, text = storable(name), storable(str(value))
        num_chars += len(name) + len(text)
        if num_chars > _MAX_METADATA_CHARS:
            metadata["left_out"] = "metadata that are too long"
            break
        metadata[name] = text
    return reference, metadata
