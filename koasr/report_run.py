"""An output and one of its runs → what the run did and every segment it made, as plain columns."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from koasr.errors import JobError
from koasr.runs import Run, by_shard, open_plan
from koasr.shard_objects import read_rejects
from koasr.storage import (
    absolute,
    check_reachable,
    job_errors,
    join,
    list_files,
    list_names,
    read_bytes,
)
from koasr.threads import concurrently

_NUM_EARLIER = 30
"""Runs before this one whose summaries are read."""
_NUM_EXAMPLES = 3
_REJECTS_AT_ONCE = 32
_OPTIONAL: dict[str, Any] = {
    "state": "done",
    "exit_code": 0,
    "reason": "",
    "planned": 0,
    "confidence_counts": [],
    "drift": None,
    "feeding": None,
}
"""Of a summary: what older ones lack."""
_NEEDED = {"run_id", "date", "recordings", "rejected", "reasons", "segments", "audio_s", "wall_s"}


@dataclass(frozen=True)
class ReportedRun:
    """A run with a summary.

    Attributes:
        run: Its place.
        summary: As `summary.json` has it.
        earlier: Summaries of the runs before it, the oldest first.
        objects: URI of the transcripts object by the name of its shard.
    """

    run: Run
    summary: dict[str, Any]
    earlier: list[dict[str, Any]]
    objects: dict[str, str]


def open_run(output: str, run_id: str | None) -> ReportedRun:
    """A run of an output, the newest one with a summary if none is named.

    Raises:
        JobError: There is no such run, it has no summary yet, or it cannot be read.
    """
    output = absolute(output)
    check_reachable(output)
    with job_errors(output):
        folder = join(output, "_koasr", "runs")
        names = [name for name in list_names(folder) if not name.startswith(".")]
        if run_id is not None and run_id not in names:
            held = f"the last are {', '.join(names[-3:])}" if names else "it has none"
            raise JobError(f"{output} has no run {run_id!r}: {held}")
        read = partial(_read_summary, folder)
        if run_id is None:
            run_id = next((name for name in reversed(names) if read(name)), "")
        summary = read(run_id) if run_id else None
        if summary is None:
            which = f"run {run_id}" if run_id else "any run"
            raise JobError(f"{output} has no summary of {which}: koasr transcribe writes it last")
        before = [name for name in names if name < run_id][-_NUM_EARLIER:]
        earlier = concurrently(read, before, "summaries read")
        run, planned = _read_place(output, run_id, summary)
        held_files = list_files(join(output, "transcripts", f"date={run.date}"))
        objects = {name: uris[0] for name, uris in by_shard(held_files).items()}
    if planned is not None:
        objects = {name: uri for name, uri in objects.items() if name in planned}
    return ReportedRun(run, summary, [held for held in earlier if held], objects)


def _read_summary(folder: str, run_id: str) -> dict[str, Any] | None:
    """None where there is none, or one that is damaged."""
    try:
        document = json.loads(read_bytes(join(folder, run_id, "summary.json")))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    is_whole = isinstance(document, dict) and document.keys() >= _NEEDED
    return {**_OPTIONAL, **document} if is_whole else None


def _read_place(
    output: str, run_id: str, summary: Mapping[str, Any]
) -> tuple[Run, frozenset[str] | None]:
    """The run, and the names of its shards; None where it left no plan."""
    try:
        plan = join(output, "_koasr", "runs", run_id, "plan.parquet")
        run, names = open_plan(output, plan)
    except FileNotFoundError:
        return Run(output, run_id, str(summary["date"]), str(summary.get("fingerprint"))), None
    return run, frozenset(names)


def read_examples(reported: ReportedRun) -> dict[str, list[dict[str, Any]]]:
    """A few rejects of each reason; objects are looked at until there are enough."""
    wanted = {reason: min(n, _NUM_EXAMPLES) for reason, n in reported.summary["reasons"].items()}
    found: dict[str, list[dict[str, Any]]] = {reason: [] for reason in wanted}
    uris = list(reported.objects.values())
    for start in range(0, len(uris), _REJECTS_AT_ONCE):
        if all(len(found[reason]) >= count for reason, count in wanted.items()):
            break
        some = uris[start : start + _REJECTS_AT_ONCE]
        for table in concurrently(read_rejects, some, "rejects read"):
            for reason, held in found.items():
                missing = wanted[reason] - len(held)
                is_it = pc.equal(table["reason"].cast(pa.string()), reason)
                held += table.filter(is_it).slice(0, max(missing, 0)).to_pylist()
    return found
