"""Manifests and scripts → their lines, and where each line's audio lies."""

import json
import os
import posixpath
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from koasr.errors import JobError, RecordingError
from koasr.items import escape_name, nfc, shorten_name, unescape_name
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.rows import Kind, Shard
from koasr.storage import absolute, join
from koasr.stored import open_stored

MAX_LINE_BYTES = 1 << 20

Line = tuple[str, dict[str, Any] | RecordingError]
"""Key and columns of a line, or why it has none; `audio_filepath` is always one of them."""

_DOTS = re.compile(r"%(2e|2f|5c)", re.IGNORECASE)


def json_object(line: str) -> dict[str, Any]:
    """The JSON object of a line; empty if there is none."""
    try:
        entry = json.loads(line)
    # Deep nesting is a RecursionError.
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def parse_line(line: str, kind: Kind) -> dict[str, Any]:
    """Columns of a line of a JSONL manifest or a `.trn` script."""
    if kind != "trn":
        return json_object(line)
    path, _, text = line.partition("::")
    return {"audio_filepath": path.strip(), "text": text.strip()}


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines with their ends; None for one that is too long."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield None


def _decode(line: bytes, encodings: Sequence[str]) -> str | None:
    for encoding in encodings:
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return None


def _encodings(uri: str) -> tuple[str, str]:
    """UTF-8 and cp949, the one that suits more of the lines first: some lines are both."""
    num_utf8 = num_other = 0
    with open_stored(uri) as file:
        for line in _lines(file):
            if line is None or line.isascii():
                continue
            if _decode(line, ["utf-8"]) is None:
                num_other += 1
            else:
                num_utf8 += 1
    return ("cp949", "utf-8") if num_other > num_utf8 else ("utf-8", "cp949")


def manifest_lines(shard: Shard, limits: Limits = DEFAULT_LIMITS) -> Iterator[Line]:
    """Key and columns of each line that is not blank, of a JSONL manifest or a `.trn` script.

    Lines end at newlines alone: JSON may hold the other characters that Python takes for one.
    """
    encodings = _encodings(shard.uri)
    with open_stored(shard.uri) as file:
        for number, line in enumerate(_lines(file), start=1):
            if line is None:
                message = f"a line of more than {MAX_LINE_BYTES} bytes"
                yield f"{number}:", RecordingError("too_large", message)
                continue
            text = _decode(line, encodings)
            if text is None:
                yield f"{number}:", RecordingError("unreadable", "neither UTF-8 nor cp949")
            elif text.strip("\ufeff \t\r\n"):
                yield _line(number, text, shard.kind, limits)


def _line(number: int, text: str, kind: Kind, limits: Limits) -> Line:
    entry = parse_line(text.strip("\ufeff \t\r\n"), kind)
    path = entry.get("audio_filepath")
    if not isinstance(path, str):
        message = "not a JSON object with audio_filepath"
        return f"{number}:", RecordingError("unreadable", message)
    name = escape_name(path)
    num_bytes = len(name.encode())
    if num_bytes > limits.max_name_bytes:
        message = f"found a path of {num_bytes} bytes, wanted at most {limits.max_name_bytes}"
        return f"{number}:{shorten_name(name)}", RecordingError("bad_name", message)
    return f"{number}:{shorten_name(name)}", entry


def resolve(root: str, path: str, allow: Sequence[str] = ()) -> str | None:
    """The URI of a manifest's path, as a listing names it; None when it is not below the root.

    A path is a key below the root, or a full path or URL below it or below what the operator
    allows. A manifest in a store names nothing on the disks of the workers.

    Args:
        root: Where relative paths start.
        path: From the manifest: anything at all.
        allow: Folders and URIs that may be named besides.

    Example:
        >>> resolve("s3://bucket/corpus", "./a/../b.flac")
        's3://bucket/corpus/b.flac'
        >>> resolve("s3://bucket/corpus", "../secret.flac") is None
        True
        >>> resolve("s3://bucket/corpus", "s3://other/b.flac", allow=["s3://other"])
        's3://other/b.flac'
    """
    is_full = "://" in path or path.startswith("/")
    try:
        path.encode("utf-8", "surrogateescape")
        uri = absolute(path) if is_full else join(unescape_name(root), path)
        roots = [absolute(unescape_name(folder)) for folder in (root, *allow)]
    except (JobError, ValueError):
        return None
    if "\0" in uri or "::" in uri or ("://" in root + uri and not _is_plain_url(uri)):
        return None
    uri = _without_dots(uri)
    is_below = any(uri.startswith(folder.rstrip("/") + "/") for folder in roots)
    return escape_name(uri) if is_below and not uri.endswith("/") else None


def _is_plain_url(uri: str) -> bool:
    """Whether a URL says where it leads: no query, no fragment, no dots behind a percent sign."""
    scheme, separator, rest = uri.partition("://")
    if not separator or "?" in rest:
        return False
    return not (scheme.startswith("http") and ("#" in rest or _DOTS.search(rest)))


def _without_dots(uri: str) -> str:
    """A URI whose `.` and `..` are worked out; it is left as it is where there are none."""
    scheme, separator, rest = uri.rpartition("://")
    if not {".", ".."} & set(rest.split("/")):
        return uri
    return f"{scheme}{separator}{posixpath.normpath(rest)}"


def spellings(uri: str) -> list[str]:
    """The names under which a file may lie: as it is, composed, and decomposed as macOS has it."""
    return list(dict.fromkeys((uri, nfc(uri), unicodedata.normalize("NFD", uri))))


def local_problem(uri: str, root: str, allow: Sequence[str] = ()) -> str | None:
    """Why a local file is not opened: it is none, or a link that leads out. None if it may be.

    Args:
        uri: A file as a listing names it; one in a store has no such problem.
        root: The folder that links may lead to.
        allow: Folders that they may lead to besides.

    Raises:
        FileNotFoundError: There is no such file.
    """
    if "://" in uri:
        return None
    try:
        path = os.path.realpath(unescape_name(uri), strict=True)
    except OSError as error:
        raise FileNotFoundError(f"{uri}: {error.strerror}") from error
    if not os.path.isfile(path):
        return "not a regular file"
    folders = [folder for folder in (unescape_name(root), *allow) if "://" not in folder]
    if any(path.startswith(os.path.realpath(folder).rstrip("/") + "/") for folder in folders):
        return None
    return f"a link that leads out of {root}: pass --allow for the folder it leads to"
