"""Names and the last runs' summaries → what a night has to do, how long it may take, till when.

Reads only: no lease, no plan, no Ray, no model; nothing is written.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from koasr.errors import JobError
from koasr.limits import Limits
from koasr.planning import find_todo
from koasr.rows import Shard
from koasr.runs import (
    RECORD_KEY,
    Run,
    list_committed,
    read_plan,
    read_table,
    unfinished_runs,
)
from koasr.sources import BYTES_PER_SECOND, list_inputs
from koasr.stock import take_stock
from koasr.storage import (
    absolute,
    check_reachable,
    impatient,
    job_errors,
    join,
    list_names,
    read_bytes,
)
from koasr.summary import duration_text, rate_text
from koasr.threads import concurrently

_NUM_LOOKED_AT = 30
_NUM_RUNS = 5
"""Enough of the last runs to go by; older ones had other machines, or other speech."""
_GUESS = BYTES_PER_SECOND[".flac"]
"""Of a tar, a Parquet file or a manifest, before any run has told."""


@dataclass(frozen=True)
class Pace:
    """What the last runs of an output were like.

    Attributes:
        runs: Names of those it is from, the newest first.
        rtfx: Seconds of audio per second and actor, once it is at work; 0 if nothing is known.
        start_s: Seconds of the newest before its first pack.
        num_actors: Of the newest.
        device: Of the newest.
        bytes_per_s: Stored bytes of a second of audio; 0 if nothing is known.
    """

    runs: tuple[str, ...] = ()
    rtfx: float = 0.0
    start_s: float = 0.0
    num_actors: int = 0
    device: str = ""
    bytes_per_s: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """What a night has to do, as listed.

    Attributes:
        shards: To do, that are one file each.
        files: To do, that are loose.
        size_bytes: Of both.
        audio_s: Of both, as estimated.
        unfinished: Runs that it will go on with first; what is left of them is counted.
        pace: By which it was estimated.
        num_actors: That will work, as far as is known.
    """

    shards: int
    files: int
    size_bytes: int
    audio_s: float
    unfinished: tuple[str, ...]
    pace: Pace
    num_actors: int

    @property
    def wall_s(self) -> float | None:
        """Seconds that it may take; None if nothing is known."""
        if not self.pace.rtfx or not self.num_actors:
            return None
        return self.pace.start_s + self.audio_s / self.pace.rtfx / self.num_actors


def estimate(
    inputs: Sequence[str], output: str, date: str, limits: Limits, num_actors: int | None
) -> Estimate:
    """List what is new, and say by the last runs what it may take.

    Args:
        inputs: URIs and patterns.
        output: URI; need not be there yet.
        date: Of the night.
        limits: Of manifests.
        num_actors: If it was chosen; else that of the last run.

    Raises:
        JobError: Something cannot be listed or read.
    """
    for uri in (*inputs, output):
        check_reachable(uri)
    output = absolute(output)
    ours = [join(output, folder) for folder in ("transcripts", "rejects", "_koasr")]
    with job_errors(output):
        fresh = Run(output, "", date, _fingerprint(output))
        stock = take_stock(output, partial(list_inputs, inputs, without=ours, limits=limits))
        todo = _pieces(find_todo(stock, inputs, fresh).shards.values())
        unfinished = unfinished_runs(output)
        committed = list_committed(output) if unfinished else {}
        for run in unfinished:
            plan = read_plan(run)
            todo |= _pieces(shard for name, shard in plan.items() if name not in committed)
        pace = read_pace(output)
    single = sum(not is_loose for _, is_loose in todo.values())
    return Estimate(
        shards=single,
        files=len(todo) - single,
        size_bytes=sum(size for size, _ in todo.values()),
        audio_s=sum(size / _bytes_per_s(uri, pace) for (uri, _), (size, _) in todo.items()),
        unfinished=tuple(f"{run.run_id} of {run.date}" for run in unfinished),
        pace=pace,
        num_actors=num_actors or pace.num_actors,
    )


def _fingerprint(output: str) -> str:
    """Of what is there, so that no model must be opened; an output that is not there has none."""
    try:
        with impatient():
            return str(json.loads(read_bytes(join(output, "_koasr", "format.json")))["fingerprint"])
    except (FileNotFoundError, NotADirectoryError):
        return ""


def _pieces(shards: Iterable[Shard]) -> dict[tuple[str, str], tuple[int, bool]]:
    """(URI, version) of each thing to read → its bytes, and whether it is a loose file."""
    found: dict[tuple[str, str], tuple[int, bool]] = {}
    for shard in shards:
        found |= {(file.uri, file.version): (file.size_bytes, True) for file in shard.files}
        if not shard.files:
            found[shard.uri, shard.version] = (shard.size_bytes, False)
    return found


def _bytes_per_s(uri: str, pace: Pace) -> float:
    return pace.bytes_per_s or BYTES_PER_SECOND.get(posixpath.splitext(uri)[1].lower(), _GUESS)


def read_summaries(output: str) -> list[dict[str, Any]]:
    """Summaries of the last runs, the newest first; of a run without one nothing."""
    folder = join(output, "_koasr", "runs")
    run_ids = sorted(list_names(folder), reverse=True)[:_NUM_LOOKED_AT]

    def read(run_id: str) -> dict[str, Any]:
        try:
            return dict(json.loads(read_bytes(join(folder, run_id, "summary.json"))))
        except (FileNotFoundError, ValueError, TypeError, RecursionError):
            return {}

    return [found for found in concurrently(read, run_ids, "summaries read") if found]


def read_pace(output: str) -> Pace:
    """What the last runs that transcribed something were like."""
    told = [found for found in read_summaries(output) if _has_worked(found)][:_NUM_RUNS]
    if not told:
        return Pace()
    worked_s = sum(_worked_s(run) * run["feeding"]["num_actors"] for run in told)
    sizes = concurrently(partial(_plan_bytes, output), told, "plans read")
    sized = [(size, run["audio_s"]) for size, run in zip(sizes, told, strict=True) if size]
    audio_s = sum(seconds for _, seconds in sized)
    return Pace(
        runs=tuple(run["run_id"] for run in told),
        rtfx=sum(run["session_audio_s"] for run in told) / worked_s,
        start_s=told[0]["feeding"]["start_s"],
        num_actors=told[0]["feeding"]["num_actors"],
        device=told[0]["feeding"]["device"],
        bytes_per_s=sum(size for size, _ in sized) / audio_s if audio_s else 0.0,
    )


def _has_worked(summary: Mapping[str, Any]) -> bool:
    try:
        feeding = summary["feeding"]
        is_sound = feeding["num_actors"] > 0 and isinstance(summary["run_id"], str)
        is_told = isinstance(feeding["device"], str) and isinstance(summary["audio_s"], float | int)
        has_spoken = summary["session_audio_s"] > 0 and _worked_s(summary) > 0
        return bool(is_sound and is_told and has_spoken)
    except (KeyError, TypeError):
        # Whoever wrote it: it only advises.
        return False


def _worked_s(summary: Mapping[str, Any]) -> float:
    """Seconds of a session from its first pack on."""
    return float(summary["wall_s"] - summary["feeding"]["start_s"])


def _plan_bytes(output: str, summary: Mapping[str, Any]) -> int:
    """Bytes that a run read for its `audio_s`; 0 where it did not read all of its plan."""
    if summary.get("state") != "done" or summary.get("gone"):
        return 0
    try:
        plan = join(output, "_koasr", "runs", summary["run_id"], "plan.parquet")
        table = read_table(plan, ["size_bytes"])
        is_retry = json.loads(table.schema.metadata[RECORD_KEY]).get("retry")
        return 0 if is_retry else int(sum(table["size_bytes"].to_pylist()))
    except (FileNotFoundError, JobError, ValueError, TypeError, KeyError, AttributeError):
        # Whoever wrote it: it only advises.
        return 0


def work_text(found: Estimate) -> str:
    """What is to be done, in words."""
    if not found.shards + found.files:
        return "nothing new"
    size = f"{found.size_bytes / 1e6:,.1f} MB, about {duration_text(found.audio_s)} of speech"
    return f"{found.shards:,} shards and {found.files:,} loose files ({size})"


def pace_text(found: Estimate) -> str:
    """What the estimate rests on."""
    pace = found.pace
    if not pace.runs:
        return "nothing is known yet: no run has transcribed anything into this output"
    others = f" and {len(pace.runs) - 1} before it" if len(pace.runs) > 1 else ""
    size = f", {pace.bytes_per_s / 1e3:,.1f} kB a second" if pace.bytes_per_s else ""
    what = "GPU" if pace.device == "cuda" else "CPU actor"
    start = (
        f"{duration_text(pace.start_s)} to start, then {rate_text(pace.rtfx)} real time a {what}"
    )
    return f"{start}{size}, by run {pace.runs[0]}{others}"


def cost_text(found: Estimate) -> str:
    """How long it may take, in words."""
    if found.wall_s is None:
        return "unknown"
    what = "GPU" if found.pace.device == "cuda" else "actor"
    hours = found.wall_s * found.num_actors / 3600
    return (
        f"about {duration_text(found.wall_s)} on {found.num_actors} {what}(s):"
        f" {hours:,.2f} {what}-hours"
    )
