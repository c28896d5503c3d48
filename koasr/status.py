"""What an output holds and what its runs have left to do, from footers and names alone."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from koasr.ending import EXIT_DONE
from koasr.errors import JobError
from koasr.inventory import Inventory, open_output, read_runs
from koasr.lease import describe_lease
from koasr.runs import object_name, read_forgotten, read_record
from koasr.storage import job_errors, read_bytes
from koasr.summary import add_counts, add_up, duration_text
from koasr.threads import concurrently
from koasr.watch import watch as watch_run


@dataclass(frozen=True)
class RunStatus:
    """One run. `state` is finished, unfinished, or being done; `retry` holds a retry's reasons.

    Shards that were taken away after they were committed (`removed`) count as committed.
    """

    run_id: str
    date: str
    state: str
    retry: tuple[str, ...]
    planned: int
    committed: int
    removed: int
    staged_packs: int


@dataclass(frozen=True)
class OutputStatus:
    """An output, counted.

    Args:
        output: Where it is.
        fingerprint: How its transcripts are made.
        lease: Who is at work on it, in words.
        runs: Oldest first.
        shards: Committed objects.
        recordings: In the output: transcribed and rejected.
        transcribed: Recordings with transcripts.
        rejected: Recordings without.
        reasons: Rejected recordings by reason.
        segments: Rows of transcripts.
        empty_segments: Rows without speech.
        audio_s: Seconds of them.
        removed_recordings: Taken out of objects that stayed, by why.
        removed_shards: Whole objects taken away, by why.
        forgotten: Ids that no run will transcribe.
        damaged: Objects whose record cannot be read.
    """

    output: str
    fingerprint: str
    lease: str
    runs: list[RunStatus]
    shards: int
    recordings: int
    transcribed: int
    rejected: int
    reasons: dict[str, int]
    segments: int
    empty_segments: int
    audio_s: float
    removed_recordings: dict[str, int]
    removed_shards: dict[str, int]
    forgotten: int
    damaged: list[str]


def status(
    output: str, /, *, json: bool = False, watch: bool = False, interval: float = 5.0
) -> int:
    """Say what an output holds, which runs it has, and what they have left to do.

    Reads names and footers, no rows: koasr verify counts the rows.

    Args:
        output: Folder or URI of the output.
        json: Print one JSON document instead of tables.
        watch: Then show how far the run that is being done is, until its end.
        interval: Seconds between two looks of --watch.

    Returns:
        The exit code: 0, or 130 when watching was interrupted.

    Raises:
        JobError: It is no output of koasr, or cannot be read.
    """
    if json and watch:
        raise JobError("--json and --watch: found both, wanted one", 2)
    if not interval > 0:
        raise JobError(f"--interval: found {interval:g}, wanted seconds above 0", 2)
    inventory = open_output(output)
    with job_errors(inventory.output):
        found = read_status(inventory)
    if json:
        print(_to_json(found))
        return EXIT_DONE
    console = Console(soft_wrap=True, highlight=False)
    if found.runs:
        console.print(_runs_table(found.runs))
    console.print(_totals_table(found))
    return watch_run(inventory.output, interval, console) if watch else EXIT_DONE


def read_status(inventory: Inventory) -> OutputStatus:
    """Count an output by its listing, its plans and its records."""
    uris = [file.uri for file in inventory.transcripts]
    read = concurrently(_record, uris, "records read")
    held = [record for record in read if record]
    records = {object_name(uri): r for uri, r in zip(uris, read, strict=True) if r}
    lease, is_alive = describe_lease(inventory.output)
    return OutputStatus(
        output=inventory.output,
        fingerprint=inventory.fingerprint,
        lease=lease,
        runs=_run_statuses(inventory, records, is_alive=is_alive),
        shards=len(uris),
        **add_up(held),
        removed_recordings=add_counts(record.get("removed", {}) for record in held),
        removed_shards=_removed_shards(inventory),
        forgotten=len(read_forgotten(inventory.output)),
        damaged=[uri for uri, record in zip(uris, read, strict=True) if not record],
    )


def _record(uri: str) -> dict[str, Any]:
    """The record of an object; empty when it is damaged or gone since it was listed."""
    try:
        return read_record(uri)
    except (FileNotFoundError, JobError, ValueError):
        return {}


def _run_statuses(
    inventory: Inventory, records: Mapping[str, dict[str, Any]], *, is_alive: bool
) -> list[RunStatus]:
    packs: Counter[str] = Counter()
    for staged in inventory.staged():
        packs[staged.run_id] += len(staged.files)
    removed = inventory.removed()
    statuses = []
    for known in read_runs(inventory):
        names = set(known.names)
        gone = names & removed - records.keys()
        done = {name for name in names - gone if known.is_finished or known.is_done(name, records)}
        state = "being done" if is_alive else "unfinished"
        statuses.append(
            RunStatus(
                run_id=known.run.run_id,
                date=known.run.date,
                state="finished" if known.is_finished else state,
                retry=known.run.retry,
                planned=len(names),
                committed=len(done) + len(gone),
                removed=len(gone),
                staged_packs=packs[known.run.run_id],
            )
        )
    return statuses


def _removed_shards(inventory: Inventory) -> dict[str, int]:
    notes = [file.uri for file in inventory.ours if "/_koasr/removed/" in file.uri]
    read = concurrently(lambda uri: str(json.loads(read_bytes(uri))["reason"]), notes, "notes read")
    return dict(Counter(read).most_common())


def _to_json(found: OutputStatus) -> str:
    return json.dumps(asdict(found), indent=2, ensure_ascii=False)


def _runs_table(runs: Sequence[RunStatus]) -> Table:
    table = Table(title="runs", title_justify="left")
    for column in ("run", "date", "state"):
        table.add_column(column, no_wrap=column != "state")
    for column in ("shards done", "packs staged"):
        table.add_column(column, justify="right")
    for run in runs:
        state = f"{run.state}, retry of {', '.join(run.retry)}" if run.retry else run.state
        done = f"{run.committed:,} of {run.planned:,}"
        table.add_row(run.run_id, run.date, state, done, f"{run.staged_packs:,}")
    return table


def _totals_table(found: OutputStatus) -> Table:
    table = Table(title=found.output, title_justify="left", show_header=False)
    rows = {
        "shards": f"{found.shards:,} committed",
        "recordings": f"{found.recordings:,} = {found.transcribed:,} transcribed"
        f" + {found.rejected:,} rejected",
        "rejected": _listed(found.reasons),
        "audio": f"{duration_text(found.audio_s)} in {found.segments:,} segments",
        "taken out": _listed(found.removed_recordings, "recordings"),
        "taken away": _listed(found.removed_shards, "shards"),
        "deny list": f"{found.forgotten:,} ids",
        "lease": found.lease,
    }
    if found.damaged:
        rows["damaged"] = f"{len(found.damaged):,} objects: see koasr verify"
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _listed(counts: Mapping[str, int], unit: str = "") -> str:
    if not counts:
        return "none"
    return ", ".join(f"{count:,} {why}" for why, count in counts.items()) + (unit and f" {unit}")
