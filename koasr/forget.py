"""Recordings that must not be kept any longer → out of every object, and never in one again."""

import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console

from koasr.errors import JobError
from koasr.inventory import Inventory, open_output, read_column, read_ids, read_runs
from koasr.items import identify, nfc
from koasr.lease import Lease
from koasr.rows import Shard
from koasr.runs import PAGE, is_forgotten_key, read_forgotten, read_plan
from koasr.shard_objects import finish_rewrites, rejects_uri, rewrite
from koasr.storage import job_errors, join, list_names, remove, remove_tree, write_bytes
from koasr.threads import concurrently

OUT_OF_REACH = """\
koasr: out of reach, and yours to see to: old versions in a store that keeps versions; replicas,
  backups and snapshots; exports and copies; what Ray spilled and logged; names of files in the
  plans of runs (_koasr/runs); the speech itself, where it came from"""

_NUM_SHOWN = 5
_ID = re.compile(r"-[0-9a-f]{12}(/|#|\r?$)")
"""In every id; in a file's name, which somebody may take for an id, as good as never."""


@dataclass(frozen=True)
class Found:
    """Where recordings lie.

    Args:
        ids: The recording_ids meant by the lines.
        missing: Lines that no object knows.
        objects: Transcripts objects that hold one, as a row or in their rejects.
        orphans: Copies of rejects that hold one, of shards that were never committed.
        damaged: Objects that cannot be read and so may hold one.
    """

    ids: frozenset[str]
    missing: list[str]
    objects: list[str]
    orphans: list[str]
    damaged: list[str]


def forget(output: str, /, *, ids: Path) -> None:
    """Take recordings out of an output, and keep every later run from bringing them back.

    Remembers a hash of each id first, then writes every object that holds one anew without it,
    and removes the staged packs that may hold one, and all pages of runs. When it is cut off, run
    it again.

    Args:
        output: Folder or URI of the output.
        ids: Text file with a recording_id or a segment_id a line.

    Raises:
        JobError: It is no output of koasr, a run is being done in it, the file cannot be read,
            the output cannot be written, or holds objects that cannot be read.
    """
    lines = _read_lines(ids)
    console = Console(soft_wrap=True, highlight=False)
    place = open_output(output).output
    with job_errors(place), Lease(place, say=partial(console.print, "koasr:")):
        finish_rewrites(place)
        # Listed again under the lease: a run may have committed in between.
        inventory = open_output(place)
        found = find_recordings(inventory, lines)
        known = read_forgotten(place)
        # A line that is nowhere may mean either; one that was found also means itself.
        meant = {*lines, *found.ids, *(n for line in found.missing for n in _candidates(line))}
        _remember(place, {is_forgotten_key(name) for name in meant} - known)
        counts = concurrently(lambda uri: _rewrite(uri, found.ids), found.objects, "rewritten")
        concurrently(remove, found.orphans, "orphans removed")
        num_swept = _sweep(inventory, meant)
        # Any may hold speech and text of one; koasr report makes them anew. Listed after the hashes
        # are there: koasr report takes no lease, and looks at those once its page is written.
        pages = _list_pages(place)
        concurrently(remove, pages, "pages removed")
    console.print(
        f"koasr: {len(found.ids):,} recordings found, {sum(counts):,} taken out of"
        f" {len(found.objects):,} objects; {num_swept:,} staged packs and {len(pages):,} pages of"
        " runs removed"
    )
    _report_missing(found.missing, known, console)
    console.print(OUT_OF_REACH)
    if found.damaged:
        message = f"{len(found.damaged)} objects cannot be read and may hold some"
        raise JobError(f"{message}, such as {found.damaged[0]}: see koasr verify")


def find_recordings(inventory: Inventory, lines: Sequence[str]) -> Found:
    """Look for recordings in every object, by the columns that name them alone.

    A line that names a recording is that recording; only otherwise is a `#` and digits at its end
    taken for the start of a segment.
    """
    sought = {name for line in lines for name in _candidates(line)}
    objects = {file.uri for file in inventory.transcripts}
    orphans = {file.uri for file in inventory.rejects} - {rejects_uri(uri) for uri in objects}

    def search(uri: str) -> set[str] | None:
        try:
            ids = read_ids(uri) if uri in objects else set(read_column(uri, "recording_id"))
            return ids & sought
        except FileNotFoundError:
            return set()
        except (pa.ArrowException, JobError):
            return None
        except OSError as error:
            # Parquet's own findings carry no number; the store's failures must stop this.
            if error.errno is not None:
                raise
            return None

    uris = [*objects, *orphans]
    held = dict(zip(uris, concurrently(search, uris, "objects searched"), strict=True))
    present = {name for names in held.values() for name in names or ()}
    meant = [next((name for name in _candidates(line) if name in present), None) for line in lines]
    ids = frozenset(name for name in meant if name)
    holders = [uri for uri, names in held.items() if names and names & ids]
    return Found(
        ids=ids,
        missing=[line for line, name in zip(lines, meant, strict=True) if name is None],
        objects=[uri for uri in holders if uri in objects],
        orphans=[uri for uri in holders if uri not in objects],
        damaged=[uri for uri, names in held.items() if names is None],
    )


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"--ids: {path} cannot be read as UTF-8 text: {error}", 2) from error
    lines = list(dict.fromkeys(line for line in text.split("\n") if line.strip()))
    if not lines:
        raise JobError(f"--ids: {path} holds no ids", 2)
    if strangers := [line for line in lines if not _ID.search(line)]:
        found = f"{len(strangers)} lines of {path} are no ids, such as {strangers[0][:100]!r}"
        raise JobError(f"--ids: {found}: wanted values of recording_id or segment_id", 2)
    return list(dict.fromkeys(nfc(line.removesuffix("\r")) for line in lines))


def _candidates(line: str) -> tuple[str, ...]:
    """What a line may mean, the likelier first.

    Example:
        >>> _candidates("train-000.tar-37d94b0a987a/utt1.flac#3000")
        ('train-000.tar-37d94b0a987a/utt1.flac#3000', 'train-000.tar-37d94b0a987a/utt1.flac')
    """
    return tuple(dict.fromkeys((line, re.sub(r"#[0-9]+$", "", line))))


def _remember(output: str, keys: Iterable[str]) -> None:
    lines = "".join(f"{key}\n" for key in sorted(keys))
    if lines:
        name = f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{uuid.uuid4().hex[:6]}.txt"
        write_bytes(join(output, "_koasr", "forgotten", name), lines.encode())


def _rewrite(uri: str, ids: frozenset[str]) -> int:
    values = pa.array(sorted(ids), pa.string())
    return rewrite(
        uri, lambda table: pc.is_in(table["recording_id"], value_set=values), "forgotten"
    )


def _list_pages(output: str) -> list[str]:
    """Pages of runs, and what a killed koasr report left of one: hidden, so named by no listing."""
    folder = join(output, "_koasr", "runs")
    folders = [join(folder, run_id) for run_id in list_names(folder)]
    listed = zip(folders, concurrently(_list_folder, folders, "runs listed"), strict=True)
    return [
        join(place, name)
        for place, names in listed
        for name in names
        if name == PAGE or name.startswith(f".{PAGE}.")
    ]


def _list_folder(uri: str) -> list[str]:
    try:
        return list_names(uri)
    except NotADirectoryError:
        return []


def _sweep(inventory: Inventory, ids: Iterable[str]) -> int:
    """Remove the staged packs of every shard that one of the recordings is of.

    All of a shard's: without one recording the packs behind it may begin elsewhere.
    """
    names = set(ids)
    heads = {name.partition("/")[0] for name in names}
    runs = {known.run.run_id: known for known in read_runs(inventory)}
    plans: dict[str, dict[str, Shard]] = {}
    num_removed = 0
    for staged in inventory.staged():
        known = runs.get(staged.run_id)
        if known and not known.is_finished and staged.run_id not in plans:
            plans[staged.run_id] = read_plan(known.run)
        shard = plans.get(staged.run_id, {}).get(staged.name)
        # What no run that may go on has planned is nobody's, and may hold anything.
        if shard is None or identify(shard.uri) in heads or _lists(shard, names):
            remove_tree(staged.folder)
            num_removed += len(staged.files)
    return num_removed


def _lists(shard: Shard, ids: set[str]) -> bool:
    return any(identify(file.uri) in ids for file in shard.files)


def _report_missing(missing: Sequence[str], known: frozenset[str], console: Console) -> None:
    before = [m for m in missing if any(is_forgotten_key(name) in known for name in _candidates(m))]
    if before:
        console.print(f"koasr: {len(before):,} were forgotten before")
    nowhere = sorted(set(missing) - set(before))
    if nowhere:
        shown = ", ".join(nowhere[:_NUM_SHOWN]) + (", …" if len(nowhere) > _NUM_SHOWN else "")
        console.print(f"koasr: {len(nowhere):,} are nowhere, and will not be transcribed: {shown}")
