"""An output and one of its runs → what the run did and every segment it made, as plain columns."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from koasr.calibration import CONFIDENCE_BINS
from koasr.drift import Drift
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
_NUMBERS = {"rtfx", "transcribed", "empty_segments", "shards", "planned", "session_audio_s"}
_NUMBERS |= {"exit_code", "float32_retries"}
"""Of a summary: what may be missing, but is a number where it is there."""
_log = logging.getLogger(__name__)


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
    """None where there is none, or one that is damaged, which is said."""
    uri = join(folder, run_id, "summary.json")
    try:
        document = json.loads(read_bytes(uri))
        return _checked({**_OPTIONAL, **document})
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        _log.warning("%s is left out: it is damaged, or of another version", uri)
        return None


def _checked(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary of which everything that a page counts with is of its kind.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, OverflowError: It is not.
    """
    for name in _NEEDED - {"run_id", "date", "reasons"} | (_NUMBERS & summary.keys()):
        check_number(summary[name])
    for number in [*summary["reasons"].values(), *summary["confidence_counts"]]:
        check_number(number)
    if len(summary["confidence_counts"]) not in (0, CONFIDENCE_BINS + 1):
        raise ValueError("not the bins of a confidence")
    if summary.get("mean_confidence") is not None:
        check_number(summary["mean_confidence"])
    if drift := summary["drift"]:
        known = {field.name: drift[field.name] for field in dataclasses.fields(Drift)}
        if known["psi"] is not None:
            check_number(known["psi"])
        summary["drift"] = known
    try:
        for number in (summary["cer"], summary["wer"], summary["errors"]["ref_chars"]):
            check_number(number)
    except (KeyError, TypeError, ValueError):
        summary.pop("cer", None)
    return summary | {"feeding": _known_feeding(summary)}


def _known_feeding(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """How a run was fed; None where its summary does not say all of it."""
    try:
        feeding: dict[str, Any] = summary["feeding"]
        times = feeding["times"]
        numbers = [feeding["num_actors"], feeding.get("models_per_actor", 1), feeding["start_s"]]
        for number in [*numbers, times["model_s"], times["wait_s"]]:
            check_number(number)
        return feeding if {"bound_by", "advice"} <= summary.keys() and feeding["device"] else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def check_number(value: Any) -> float:
    """A number that a page can count with.

    Raises:
        ValueError: It is none, below 0, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18:
        raise ValueError("not a number from 0 on")
    return float(value)


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
