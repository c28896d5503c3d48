"""Input URIs → shards, told apart by what they are."""

import json
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

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


def _first_line(file: StoredFile) -> str:
    head = read_bytes(file.uri, start=0, end=min(65_536, file.size_bytes))
    return head.split(b"\n", 1)[0].decode("utf-8-sig", "replace").strip()


def _is_manifest(file: StoredFile) -> bool:
    try:
        entry = json.loads(_first_line(file))
    except ValueError:
        return False
    return isinstance(entry, dict) and "audio_filepath" in entry


def _kind(file: StoredFile, stems: set[str]) -> Kind | None:
    name = file.uri.lower()
    if name.endswith(_TAR):
        return "tar"
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith(".trn"):
        return "trn"
    if is_audio(name):
        return "files"
    is_sidecar = posixpath.splitext(file.uri)[0] in stems
    if name.endswith(_MANIFEST) and not is_sidecar and file.size_bytes and _is_manifest(file):
        return "manifest"
    return None


def trn_path(line: str) -> str:
    """The audio path of a line of a `.trn` script, `path.pcm :: text`."""
    return line.partition("::")[0].strip()


def _audio_root(file: StoredFile, kind: Kind, uris: set[str]) -> str:
    """Folder that the paths of a manifest start from.

    KsponSpeech keeps its scripts in a folder beside the audio, with paths from their parent.
    """
    here = posixpath.dirname(file.uri)
    if kind == "trn":
        first = trn_path(_first_line(file))
        parent = posixpath.dirname(here)
        if join(here, first) not in uris and join(parent, first) in uris:
            return parent
    return here


def _claimed(shard: Shard) -> Iterable[str]:
    """URIs of the audio that a manifest names: those are its recordings, not loose files."""
    for raw in read_bytes(shard.uri).decode("utf-8-sig", "replace").splitlines():
        if shard.kind == "trn":
            path = trn_path(raw)
        else:
            try:
                path = str(json.loads(raw).get("audio_filepath", ""))
            except (ValueError, AttributeError):
                continue
        yield path if "://" in path else posixpath.normpath(join(shard.audio_root, path))


def _with_references(files: list[StoredFile], uris: set[str]) -> list[StoredFile]:
    """Loose audio with its reference: a `*.trans.txt` of its folder, or a `.txt` of its stem."""
    trans = {posixpath.dirname(uri): uri for uri in sorted(uris) if uri.endswith(".trans.txt")}
    found = []
    for file in files:
        sidecar = posixpath.splitext(file.uri)[0] + ".txt"
        reference = trans.get(posixpath.dirname(file.uri), sidecar if sidecar in uris else "")
        found.append(replace(file, reference_uri=reference))
    return found


def _list_one(uri: str) -> Listing:
    with job_errors(uri):
        files = list_files(uri)
    if not files:
        raise JobError(f"{uri} holds no files: check the path or the prefix")
    base = absolute(uri)
    # References may lie beside the one file that was named.
    alone = len(files) == 1 and files[0].uri == base
    beside = list_files(posixpath.dirname(base)) if alone and is_audio(base) else files
    uris = {file.uri for file in files} | {file.uri for file in beside}
    stems = {posixpath.splitext(u)[0] for u in uris if is_audio(u)}
    shards: list[Shard] = []
    loose: list[StoredFile] = []
    ignored: list[str] = []
    for file in files:
        kind = _kind(file, stems)
        if kind is None:
            ignored.append(file.uri)
        elif kind == "files":
            loose.append(file)
        else:
            root = _audio_root(file, kind, uris) if kind in ("manifest", "trn") else ""
            shards.append(Shard(file.uri, file.version, file.size_bytes, kind, root))
    claimed: set[str] = set()
    sizes = {file.uri: file.size_bytes for file in loose}
    for index, shard in enumerate(shards):
        if shard.kind in ("manifest", "trn"):
            named = set(_claimed(shard))
            size = sum(sizes.get(uri, 0) for uri in named) or shard.size_bytes
            shards[index] = replace(shard, size_bytes=size)
            claimed |= named
    loose = _with_references([file for file in loose if file.uri not in claimed], uris)
    return Listing(tuple(shards), tuple(loose), tuple(ignored))


def list_inputs(inputs: Sequence[str]) -> Listing:
    """List every input afresh; what two inputs both reach is listed once.

    Raises:
        JobError: An input that does not exist, cannot be read, or holds nothing to transcribe.
    """
    shards: dict[str, Shard] = {}
    files: dict[str, StoredFile] = {}
    ignored: list[str] = []
    for uri in inputs:
        listing = _list_one(uri)
        if not listing.shards and not listing.files:
            wanted = "tar, Parquet, JSONL manifest, .trn, " + ", ".join(sorted(BYTES_PER_SECOND))
            raise JobError(f"{uri} holds no speech: found {listing.ignored[0]}, wanted {wanted}")
        shards |= {shard.uri: shard for shard in listing.shards}
        files |= {file.uri: file for file in listing.files}
        ignored += listing.ignored
    return Listing(tuple(shards.values()), tuple(files.values()), tuple(ignored))


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
