"""What dead runs left in an output → removed, where no run that may go on needs it."""

import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

from rich.console import Console

from koasr.beacon import NAME as BEACON
from koasr.inventory import Inventory, KnownRun, open_output, read_runs
from koasr.lease import Lease
from koasr.rows import StoredFile
from koasr.runs import read_record
from koasr.shard_objects import finish_rewrites, rejects_uri
from koasr.storage import job_errors, remove, remove_tree
from koasr.threads import concurrently

_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{32}|\d+)")
"""A file that was being written when its process was killed."""

_TEMPORARY_AGE_S = 600.0
"""Younger ones may be in use: the lease's own heartbeat makes one now and then."""


@dataclass(frozen=True)
class Garbage:
    """Files of one kind that nobody needs any more.

    `folder` is what to remove when they are all that lies there, "" otherwise.
    """

    kind: str
    files: tuple[StoredFile, ...]
    folder: str = ""


def gc(output: str, /, *, dry_run: bool = False) -> None:
    """Remove what dead runs left: staged packs, orphan rejects, temporary files.

    Nothing that an unfinished run needs to go on is touched, nor any transcript.

    Args:
        output: Folder or URI of the output.
        dry_run: Say what would be removed, and remove nothing.

    Raises:
        JobError: It is no output of koasr, a run is being done in it, or it cannot be written.
    """
    console = Console(soft_wrap=True, highlight=False)
    place = open_output(output).output
    with (
        job_errors(place),
        nullcontext() if dry_run else Lease(place, say=partial(console.print, "koasr:")),
    ):
        if not dry_run:
            finish_rewrites(place)
        # Listed again under the lease: what a run did in between is no garbage.
        found = find_garbage(open_output(place))
        if not dry_run:
            concurrently(_remove, found, "removed")
    kinds = sorted({garbage.kind for garbage in found})
    for kind in kinds:
        console.print(f"koasr: {kind}: {_size([g for g in found if g.kind == kind])}")
    verb = "would be removed" if dry_run else "removed"
    console.print(f"koasr: {_size(found)} {verb}" if found else "koasr: nothing to remove")


def find_garbage(inventory: Inventory) -> list[Garbage]:
    """Everything in an output that no reader and no run needs."""
    runs = {known.run.run_id: known for known in read_runs(inventory)}
    return [
        *_staged(inventory, runs),
        *_orphans(inventory, list(runs.values())),
        *_beacons(inventory, runs),
        *_probes(inventory),
        *_temporary(inventory.output),
    ]


def _staged(inventory: Inventory, runs: dict[str, KnownRun]) -> Iterator[Garbage]:
    committed = inventory.committed()
    for staged in inventory.staged():
        known = runs.get(staged.run_id)
        if known is None:
            kind = "staged packs of runs without a plan"
        elif known.is_finished:
            kind = "staged packs of finished runs"
        elif staged.name not in known.names:
            kind = "staged packs that no plan names"
        elif staged.name in committed and known.is_done(
            staged.name, {staged.name: read_record(committed[staged.name][0])}
        ):
            kind = "staged packs of committed shards"
        else:
            continue
        yield Garbage(kind, staged.files, staged.folder)


def _orphans(inventory: Inventory, runs: Sequence[KnownRun]) -> Iterator[Garbage]:
    needed = {rejects_uri(file.uri) for file in inventory.transcripts}
    needed |= {known.run.rejects(n) for known in runs if not known.is_finished for n in known.names}
    for file in inventory.rejects:
        if file.uri not in needed:
            yield Garbage("rejects without a shard", (file,))


def _beacons(inventory: Inventory, runs: dict[str, KnownRun]) -> Iterator[Garbage]:
    for file in inventory.ours:
        folder, _, name = file.uri.rpartition("/")
        known = runs.get(folder.rpartition("/")[2])
        if name == BEACON and known and known.is_finished:
            yield Garbage("progress of finished runs", (file,))


def _probes(inventory: Inventory) -> Iterator[Garbage]:
    for file in inventory.ours:
        if file.uri.endswith("/_koasr/probe"):
            yield Garbage("probes of whether the output can be written", (file,))


def _temporary(output: str) -> Iterator[Garbage]:
    """Half-written files on a disk; a store has none, since what is put there is there whole."""
    if "://" in output:
        return
    for part in ("transcripts", "rejects", "_koasr"):
        for folder, _, names in os.walk(os.path.join(output, part)):
            for path in (os.path.join(folder, n) for n in names if _TEMPORARY.fullmatch(n)):
                info = os.stat(path)
                if time.time() - info.st_mtime > _TEMPORARY_AGE_S:
                    file = StoredFile(path, "", info.st_size)
                    yield Garbage("temporary files of killed processes", (file,))


def _remove(garbage: Garbage) -> None:
    if garbage.folder:
        remove_tree(garbage.folder)
        return
    for file in garbage.files:
        remove(file.uri)


def _size(found: Sequence[Garbage]) -> str:
    files = [file for garbage in found for file in garbage.files]
    return f"{len(files):,} objects, {sum(file.size_bytes for file in files) / 1e6:,.1f} MB"
