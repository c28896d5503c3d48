"""Input URIs → shards, told apart by what they are."""

import json
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from koasr.errors import JobError
from koasr.rows import SAMPLE_RATE, Kind, Shard, StoredFile, short_hash
from koasr.storage import absolute, job_errors, join, list_files, read_bytes

BYTES_PER_SECOND = {
    ".wav": 48_000,
    ".flac": 24_000,
    ".mp3": 12_000,
    ".ogg": 10_000,
    ".oga": 10_000,
    ".opus": 4_000,
    ".pcm": 2 * SAMPLE_RATE,
}
"""Usual size of a second, to group loose files before anything is read. Its keys are audio."""

GROUP_SECONDS = 8 * 3600.0
_TAR = (".tar", ".tar.gz", ".tgz")
_MANIFEST = (".jsonl", ".json", ".ndjson")


@dataclass(frozen=True)
class Listing:
    """What lies under the inputs: shards that are one file each, loose audio, and the rest."""

    shards: tuple[Shard, ...] = ()
    files: tuple[StoredFile, ...] = ()
    ignored: tuple[str, ...] = field(default=(), repr=False)


def _extension(uri: str) -> str:
    return posixpath.splitext(uri)[1].lower()


def is_audio(name: str) -> bool:
    """Whether a name ends the way audio does.

    Example:
        >>> is_audio("a/KsponSpeech_000001.PCM"), is_audio("a/notes.txt")
        (True, False)
    """
    return _extension(name) in BYTES_PER_SECOND


def decode_text(data: bytes) -> str:
    """Text of a reference file: UTF-8, else cp949, which older Korean corpora use."""
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        return data.decode("cp949", "replace").strip()


def _first_line(file: StoredFile) -> str:
    head = read_bytes(file.uri, start=0, end=min(65_536, file.size_bytes))
    return decode_text(head.split(b"\n", 1)[0])


def _kind(file: StoredFile, stems: set[str]) -> Kind | None:
    """What a file is: by its name where that says enough, else by its first line."""
    name = file.uri.lower()
    if name.endswith(_TAR):
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    if is_audio(name):
        return "files"
    # sclite's .trn files, which hold hypotheses, have no `::`.
    if name.endswith(".trn") and "::" in _first_line(file):
        return "trn"
    is_sidecar = posixpath.splitext(file.uri)[0] in stems
    if name.endswith(_MANIFEST) and not is_sidecar and file.size_bytes:
        is_manifest = _json_object(_first_line(file)).get("audio_filepath") is not None
        return "manifest" if is_manifest else None
    return None


def _json_object(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _trn_path(line: str) -> str:
    return line.partition("::")[0].strip()


def _audio_root(file: StoredFile, kind: Kind, uris: set[str]) -> str:
    """Folder that the paths of a manifest start from.

    KsponSpeech keeps its scripts in a folder beside the audio, with paths from their parent.
    """
    here = posixpath.dirname(file.uri)
    if kind == "trn":
        first = _trn_path(_first_line(file))
        parent = posixpath.dirname(here)
        if join(here, first) not in uris and join(parent, first) in uris:
            return parent
    return here


def manifest_entries(shard: Shard) -> Iterator[tuple[str, dict[str, Any]]]:
    """Key and columns of each line of a manifest or script; no columns if it cannot be read.

    Lines end at newlines alone: JSON may hold the other characters that Python takes for one.
    """
    lines = decode_text(read_bytes(shard.uri)).split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if shard.kind == "trn":
            entry = {"audio_filepath": _trn_path(line), "text": line.partition("::")[2].strip()}
        else:
            entry = _json_object(line)
        path = entry.get("audio_filepath")
        yield (f"{number}:{path}", entry) if isinstance(path, str) else (f"{number}:", {})


def resolve(root: str, path: str) -> str | None:
    """The URI of a manifest's path; None when it leads out of `root` or is no path.

    Example:
        >>> resolve("s3://bucket/corpus", "./a/../b.flac")
        's3://bucket/corpus/b.flac'
        >>> resolve("s3://bucket/corpus", "../secret.flac") is None
        True
    """
    if "\0" in path:
        return None
    try:
        uri = absolute(path) if "://" in path or path.startswith("/") else join(root, path)
    except JobError:
        return None
    scheme, separator, rest = uri.partition("://")
    uri = f"{scheme}://{posixpath.normpath(rest)}" if separator else posixpath.normpath(uri)
    return uri if uri.startswith(root.rstrip("/") + "/") else None


def _with_references(files: list[StoredFile], uris: set[str]) -> list[StoredFile]:
    """Loose audio with its reference: a `*.trans.txt` of its folder, or a `.txt` of its stem."""
    trans = {posixpath.dirname(uri): uri for uri in sorted(uris) if uri.endswith(".trans.txt")}
    found = []
    for file in files:
        sidecar = posixpath.splitext(file.uri)[0] + ".txt"
        reference = trans.get(posixpath.dirname(file.uri), sidecar if sidecar in uris else "")
        found.append(replace(file, reference_uri=reference))
    return found


def _list_one(uri: str) -> tuple[list[StoredFile], set[str]]:
    """The files that one input names, and the names of all that lie beside them."""
    with job_errors(uri):
        files = list_files(uri, expand=True)
        if not files:
            raise JobError(f"{uri} holds no files: check the path or the prefix")
        base = absolute(uri)
        if any(file.uri.startswith(base + "/") for file in files):
            return files, {file.uri for file in files}
        # One file or a pattern: references lie beside what it names.
        folders = {posixpath.dirname(file.uri) for file in files if is_audio(file.uri)}
        beside = {file.uri for folder in sorted(folders) for file in list_files(folder)}
        return files, beside | {file.uri for file in files}


def _classify(files: Iterable[StoredFile], uris: set[str]) -> Listing:
    stems = {posixpath.splitext(uri)[0] for uri in uris if is_audio(uri)}
    shards: list[Shard] = []
    loose: dict[str, StoredFile] = {}
    ignored: list[str] = []
    for file in files:
        kind = _kind(file, stems)
        if kind is None:
            ignored.append(file.uri)
        elif kind == "files":
            loose[file.uri] = file
        else:
            root = _audio_root(file, kind, uris) if kind in ("manifest", "trn") else ""
            shards.append(Shard(file.uri, file.version, file.size_bytes, kind, root))
    claimed: set[str] = set()
    for index, shard in enumerate(shards):
        if shard.kind in ("manifest", "trn"):
            paths = (entry.get("audio_filepath") for _, entry in manifest_entries(shard))
            named = {resolve(shard.audio_root, path) for path in paths if path} & loose.keys()
            size = sum(loose[uri].size_bytes for uri in named if uri) or shard.size_bytes
            shards[index] = replace(shard, size_bytes=size)
            claimed |= {uri for uri in named if uri}
    unclaimed = [file for uri, file in loose.items() if uri not in claimed]
    return Listing(tuple(shards), tuple(_with_references(unclaimed, uris)), tuple(ignored))


def list_inputs(inputs: Sequence[str], *, without: Sequence[str] = ()) -> Listing:
    """List every input afresh; what two inputs both reach is listed once.

    Audio that a manifest names is the manifest's, and no loose file.

    Args:
        inputs: Files, prefixes or patterns.
        without: Prefixes to leave out: those of an output that lies below an input.

    Raises:
        JobError: An input that does not exist, cannot be read, or holds nothing to transcribe.
    """
    outside = tuple(prefix + "/" for prefix in without)
    found: dict[str, list[StoredFile]] = {}
    uris: set[str] = set()
    for uri in inputs:
        files, beside = _list_one(uri)
        found[uri] = [file for file in files if not file.uri.startswith(outside)]
        uris |= beside
    unique = {file.uri: file for files in found.values() for file in files}
    with job_errors(", ".join(inputs)):
        listing = _classify(unique.values(), uris)
    ignored = set(listing.ignored)
    for uri, files in found.items():
        if all(file.uri in ignored for file in files):
            one = next((file.uri for file in files), "nothing")
            wanted = "tar, Parquet, JSONL manifest, .trn, " + ", ".join(sorted(BYTES_PER_SECOND))
            raise JobError(f"{uri} holds no speech: found {one}, wanted {wanted}")
    return listing


def group_files(files: Iterable[StoredFile]) -> list[Shard]:
    """Loose files as shards of about 8 hours, in the order of their names.

    Its name and version come from the files in it, so the same files are the same shard.
    """
    groups: list[list[StoredFile]] = []
    seconds = GROUP_SECONDS
    for file in sorted(files, key=lambda file: file.uri):
        if seconds >= GROUP_SECONDS:
            groups.append([])
            seconds = 0.0
        groups[-1].append(file)
        seconds += file.size_bytes / BYTES_PER_SECOND[_extension(file.uri)]
    return [_group(group) for group in groups]


def _group(files: list[StoredFile]) -> Shard:
    names = short_hash(*(file.uri for file in files))
    folder = posixpath.dirname(files[0].uri)
    return Shard(
        uri=f"{folder}/files-{names}",
        version=short_hash(*(file.version for file in files)),
        size_bytes=sum(file.size_bytes for file in files),
        kind="files",
        files=tuple(files),
    )


def list_shards(inputs: Sequence[str]) -> list[Shard]:
    """Every shard under the inputs, loose files grouped."""
    listing = list_inputs(inputs)
    return [*listing.shards, *group_files(listing.files)]
