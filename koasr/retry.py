"""Rejects that may do better now → runs that read them once more.

A retry run plans whole shards, since an object's name is its shard's. What of a shard is done
again is decided where it is read, by `wanted`.
"""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from typing import get_args

from koasr.errors import JobError, Reason
from koasr.inventory import Inventory, read_ids, read_runs
from koasr.rows import Recording, Reject
from koasr.runs import (
    Run,
    is_forgotten_key,
    new_run_id,
    read_forgotten,
    read_plan,
    read_record,
    write_plan,
)
from koasr.shard_objects import read_rejects
from koasr.storage import transient_errors
from koasr.threads import concurrently

_log = logging.getLogger(__name__)

EVERY_REASON = "all"
DEFAULT_REASONS: tuple[Reason, ...] = ("timeout", "crashed", "unreadable")
"""What a crowded machine, a store's bad hour or a decoder's bug may have caused. The others say
something of the recording itself, which stays true until a limit is raised or its file changes."""


def check_reasons(reasons: Iterable[str]) -> tuple[str, ...]:
    """The reasons to retry, in order, each once; the default ones if none is given.

    Raises:
        JobError: One that is no reason of a reject.

    Example:
        >>> check_reasons([])
        ('crashed', 'timeout', 'unreadable')
        >>> check_reasons(["too_long", "all"])
        ('all',)
    """
    asked = set(reasons) or set(DEFAULT_REASONS)
    known = {*get_args(Reason), EVERY_REASON}
    if unknown := sorted(asked - known):
        listed = ", ".join(sorted(known))
        raise JobError(f"--reason: found {unknown[0]!r}, wanted one of {listed}", 2)
    return (EVERY_REASON,) if EVERY_REASON in asked else tuple(sorted(asked))


def plan_retries(inventory: Inventory, reasons: Collection[str]) -> list[Run]:
    """Plan a run for each date that has rejects of these reasons, and write the plans.

    Shards that an unfinished retry is going to read again anyway are left to it.

    Args:
        inventory: The output.
        reasons: What `check_reasons` gave.

    Returns:
        The runs, ready to be done like any unfinished run; empty when nothing is to be retried.
    """
    runs = read_runs(inventory)
    taken = {n for known in runs if known.run.retry and not known.is_finished for n in known.names}
    by_date = _names_by_date(inventory, reasons, taken)
    names = {name for found in by_date.values() for name in found}
    sources = [known.run for known in runs if names & set(known.names)]
    plans = concurrently(read_plan, sources, "plans read")
    shards = {name: shard for plan in plans for name, shard in plan.items() if name in names}
    if lost := len(names - shards.keys()):
        _log.warning("%d shards with rejects are in no plan any more and stay as they are", lost)
    planned = []
    for date, found in sorted(by_date.items()):
        if todo := [shards[name] for name in found if name in shards]:
            run = Run(inventory.output, new_run_id(), date, inventory.fingerprint, tuple(reasons))
            write_plan(run, todo)
            planned.append(run)
    return planned


def held_reasons(inventory: Inventory) -> Counter[str]:
    """How many rejects an output holds, by reason."""
    uris = [uri for uris in inventory.committed().values() for uri in uris]
    records = concurrently(read_record, uris, "records read")
    return sum((Counter(record["reasons"]) for record in records), Counter[str]())


def _names_by_date(
    inventory: Inventory, reasons: Collection[str], taken: Collection[str]
) -> dict[str, list[str]]:
    objects = [
        (date, name, uri)
        for name, uris in inventory.committed().items()
        for date, uri in ((uri.split("/")[-2].removeprefix("date="), uri) for uri in uris)
        if name not in taken
    ]
    records = concurrently(lambda place: read_record(place[2]), objects, "records read")
    found: dict[str, list[str]] = {}
    for (date, name, _), record in zip(objects, records, strict=True):
        if _holds(record["reasons"], reasons):
            found.setdefault(date, []).append(name)
    return found


def wanted(run: Run, name: str) -> Callable[[Recording | Reject], bool]:
    """Which of a shard's recordings a run is to do, as a filter on what is read of the shard.

    No run does a forgotten one. A retry does those that were rejected for one of its reasons and,
    where the rest of a shard was such a reject, all that its object does not know. It takes in
    nothing else: what is not in the object may have been superseded or pruned.

    Args:
        run: The run.
        name: Name of the shard's output.

    Raises:
        TransientError: The store failed in a way that may pass.
        JobError: A retry's object has been removed, or is damaged.
    """
    place = run.transcripts(name)
    with transient_errors(place):
        forgotten = read_forgotten(run.output)

    def is_kept(item: Recording | Reject) -> bool:
        return not forgotten or is_forgotten_key(item.recording_id) not in forgotten

    if not run.retry:
        return is_kept
    try:
        with transient_errors(place):
            again, settled = _again_and_settled(place, run.retry)
    except FileNotFoundError as error:
        raise JobError(f"shard {name} was removed while it was retried: run it again") from error
    if settled is None:
        return lambda item: is_kept(item) and item.recording_id in again
    return lambda item: is_kept(item) and item.recording_id not in settled


def _again_and_settled(uri: str, reasons: Collection[str]) -> tuple[set[str], set[str] | None]:
    """Ids of an object to do again; all others in it where the rest of its shard is among them."""
    columns = ["recording_id", "source_uri", "source_key", "reason"]
    shard = read_record(uri)["shard"]
    rows = [
        row
        for row in read_rejects(uri).select(columns).to_pylist()
        if _holds([row["reason"]], reasons)
    ]
    again = {row["recording_id"] for row in rows}
    has_rest = any(row["source_uri"] == shard and not row["source_key"] for row in rows)
    return again, read_ids(uri) - again if has_rest else None


def _holds(found: Collection[str], reasons: Collection[str]) -> bool:
    return bool(found) if EVERY_REASON in reasons else not set(reasons).isdisjoint(found)
