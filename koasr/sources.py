"""Input URIs → shards, told apart by what they are."""

import os
import posixpath
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from koasr.errors import JobError, RecordingError, TransientError
from koasr.items import escape_name, nfc, unescape_name
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.manifests import MAX_LINE_BYTES, manifest_lines, parse_line, resolve, spellings
from koasr.rows import SAMPLE_RATE, Kind, Shard, StoredFile, short_hash
from koasr.storage import absolute, job_errors, join, list_files
from koasr.stored import read_at_most

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
_GROUP_FILES = 50_000
"""Files of no length would fill no group."""
_HEAD_BYTES = 1 << 16
_OF_OUTPUT = "_koasr/format.json"
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


def decode(data: bytes) -> str:
    """UTF-8, else cp949, which older Korean corpora use."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp949", "replace")


def decode_text(data: bytes) -> str:
    """Text of a reference file, without what surrounds it."""
    return decode(data).strip()


def _first_lines(file: StoredFile) -> list[str]:
    """Lines of a file's beginning; enough of it to hold one."""
    head = read_at_most(file.uri, _HEAD_BYTES)
    if b"\n" not in head and file.size_bytes > len(head):
        head = read_at_most(file.uri, MAX_LINE_BYTES + _HEAD_BYTES)
    return [decode_text(line) for line in head.split(b"\n")[:100] if line.strip()]


def _kind(file: StoredFile, stems: set[str]) -> Kind | None:
    """What a file is: by its name where that says enough, else by its first lines."""
    name = file.uri.lower()
    if is_audio(name):
        return "files"
    # A pipe would keep whoever opens it waiting.
    if "://" not in name and not os.path.isfile(unescape_name(file.uri)):
        return None
    if name.endswith(_TAR):
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    # sclite's .trn files, which hold hypotheses, have no `::`.
    if name.endswith(".trn") and any("::" in line for line in _first_lines(file)[:1]):
        return "trn"
    is_sidecar = nfc(posixpath.splitext(file.uri)[0]) in stems
    if name.endswith(_MANIFEST) and not is_sidecar and file.size_bytes:
        entries = (parse_line(line, "manifest") for line in _first_lines(file))
        is_manifest = any(entry.get("audio_filepath") is not None for entry in entries)
        return "manifest" if is_manifest else None
    return None


def _audio_root(file: StoredFile, kind: Kind, uris: set[str]) -> str:
    """Folder that the paths of a manifest start from.

    KsponSpeech keeps its scripts in a folder beside the audio, with paths from their parent.
    """
    here = posixpath.dirname(file.uri)
    if kind == "trn":
        first = escape_name(parse_line(_first_lines(file)[0], kind)["audio_filepath"])
        parent = posixpath.dirname(here)
        if not _lies(join(here, first), uris) and _lies(join(parent, first), uris):
            return parent
    return here


def _lies(uri: str, uris: Container[str]) -> str | None:
    """The name among `uris` that a file has, composed or decomposed."""
    return next((name for name in spellings(uri) if name in uris), None)


def _with_references(files: list[StoredFile], uris: set[str]) -> list[StoredFile]:
    """Loose audio with its reference: a `*.trans.txt` of its folder, or a `.txt` of its stem."""
    trans = {posixpath.dirname(uri): uri for uri in sorted(uris) if uri.endswith(".trans.txt")}
    texts = {nfc(uri): uri for uri in uris if uri.endswith(".txt")}
    found = []
    for file in files:
        sidecar = texts.get(nfc(posixpath.splitext(file.uri)[0]) + ".txt", "")
        reference = trans.get(posixpath.dirname(file.uri), sidecar)
        found.append(replace(file, reference_uri=reference))
    return found


def _list_escaped(uri: str, *, expand: bool = False) -> list[StoredFile]:
    """A listing whose names every table can hold: see `escape_name`."""
    return [
        file if (name := escape_name(file.uri)) == file.uri else replace(file, uri=name)
        for file in list_files(uri, expand=expand)
    ]


def _list_one(uri: str) -> tuple[list[StoredFile], set[str]]:
    """The files that one input names, and the names of all that lie beside them."""
    with job_errors(uri):
        files = _list_escaped(uri, expand=True)
        if not files:
            raise JobError(f"{uri} holds no files: check the path or the prefix")
        base = escape_name(absolute(uri))
        if any(file.uri.startswith(base + "/") for file in files):
            return files, {file.uri for file in files}
        # One file or a pattern: references lie beside what it names.
        folders = {posixpath.dirname(file.uri) for file in files if is_audio(file.uri)}
        beside = {f.uri for folder in sorted(folders) for f in _list_escaped(unescape_name(folder))}
        return files, beside | {file.uri for file in files}


def _claimed(shard: Shard, loose: dict[str, StoredFile], limits: Limits) -> set[str]:
    """The loose files that a manifest names."""
    claimed: set[str] = set()
    for _, entry in manifest_lines(shard, limits):
        if isinstance(entry, RecordingError):
            continue
        uri = resolve(shard.audio_root, entry["audio_filepath"], limits.allow)
        found = _lies(uri, loose) if uri else None
        if found:
            claimed.add(found)
    return claimed


def _classify(files: Iterable[StoredFile], uris: set[str], limits: Limits) -> Listing:
    stems = {nfc(posixpath.splitext(uri)[0]) for uri in uris if is_audio(uri)}
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
            named = _claimed(shard, loose, limits)
            size = sum(loose[uri].size_bytes for uri in named) or shard.size_bytes
            shards[index] = replace(shard, size_bytes=size)
            claimed |= named
    unclaimed = [file for uri, file in loose.items() if uri not in claimed]
    return Listing(tuple(shards), tuple(_with_references(unclaimed, uris)), tuple(ignored))


def _inside_outputs(uris: Iterable[str]) -> tuple[str, ...]:
    """Prefixes of what lies in an output of koasr: its Parquet files would pass for speech."""
    roots = [uri.removesuffix(_OF_OUTPUT) for uri in uris if uri.endswith(f"/{_OF_OUTPUT}")]
    return tuple(
        f"{root}{part}/" for root in roots for part in ("transcripts", "rejects", "_koasr")
    )


def list_inputs(
    inputs: Sequence[str], *, without: Sequence[str] = (), limits: Limits = DEFAULT_LIMITS
) -> Listing:
    """List every input afresh; what two inputs both reach is listed once.

    Audio that a manifest names is the manifest's, and no loose file. What koasr wrote is no input.

    Args:
        inputs: Files, prefixes or patterns.
        without: Prefixes to leave out: those of an output that lies below an input.
        limits: `allow` and `max_name_bytes` say which files a manifest may name.

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
    outputs = _inside_outputs(file.uri for files in found.values() for file in files)
    found = {u: [f for f in files if not f.uri.startswith(outputs)] for u, files in found.items()}
    unique = {file.uri: file for files in found.values() for file in files}
    with job_errors(", ".join(inputs)):
        try:
            listing = _classify(unique.values(), uris, limits)
        except TransientError as error:
            raise JobError(f"cannot list the inputs: {error}") from error
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
        if seconds >= GROUP_SECONDS or len(groups[-1]) >= _GROUP_FILES:
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


def list_shards(inputs: Sequence[str], limits: Limits = DEFAULT_LIMITS) -> list[Shard]:
    """Every shard under the inputs, loose files grouped."""
    listing = list_inputs(inputs, limits=limits)
    return [*listing.shards, *group_files(listing.files)]
