"""Selected rows of an output → a training set that stands for them, whole and written once."""

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from koasr.clips import COLUMNS
from koasr.datasets import FOLDERS, Format, write_index
from koasr.errors import JobError
from koasr.inventory import open_output, read_runs
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.progress import LOG_INTERVAL_S
from koasr.rows import Shard, short_hash
from koasr.runs import read_plan
from koasr.shard_sets import Exported, Target
from koasr.stages import guard_own_cluster
from koasr.storage import (
    absolute,
    check_reachable,
    impatient,
    job_errors,
    join,
    list_names,
    read_bytes,
    remove,
    remove_tree,
    write_bytes,
)
from koasr.summary import duration_text
from koasr.threads import concurrently

_COMMIT = "koasr_selection.json"
"""Written last: a set that has it is whole."""
_BEGUN = "koasr_selection.begun.json"
"""Written first, and gone once the set is whole."""
_PLACE = ["run_id", "source_uri", "source_version"]


@dataclass(frozen=True)
class ExportCounts:
    """What became of the selected rows: clips, and those without one by why."""

    num_clips: int
    hours: float
    num_skipped: dict[str, int] = field(default_factory=dict)


def export_selection(
    rows: pa.Table,
    *,
    output: str,
    to: Format,
    out: str,
    selection: str,
    trim: bool = False,
    limits: Limits = DEFAULT_LIMITS,
    console: Console,
) -> ExportCounts:
    """Cut the audio of selected rows and write it as a training set, in parallel.

    The same selection makes the same bytes. A set that was cut off is begun anew; one that is
    whole is left as it is.

    Args:
        rows: Transcripts, with `clips.COLUMNS` and run_id at least. Each segment once.
        output: Folder or URI of the output that they are from: its runs know their sources.
        to: Layout of the set.
        out: Folder or URI for the set: new, empty, or with the same set in it.
        selection: How the rows were selected, in a line. It is noted with each.
        trim: Cut to the words, not to the segments.
        limits: Of a recording; `allow` for folders that manifests name audio under.
        console: Where progress is shown.

    Raises:
        JobError: Nothing is selected or could be cut, the rows are not of this output, or `out`
            holds something else or cannot be written.
    """
    if not rows.num_rows:
        raise JobError(f"nothing to export: {selection} selects no segment")
    if pc.count_distinct(rows["segment_id"]).as_py() != rows.num_rows:
        raise JobError("a segment is selected twice: see koasr verify")
    out = absolute(out)
    check_reachable(out)
    columns = [name for name in COLUMNS if trim or name != "words"]
    selected, num_unplanned = find_shards(rows, columns, output)
    document = {"to": to, "selection": selection, "trim": trim, "digest": _digest(rows)}
    if held := _begin(out, document):
        console.print(f"koasr: {out} holds this selection already", highlight=False)
        return ExportCounts(**held)
    guard_own_cluster()
    from koasr import export_job

    target = Target(out, to, selection, trim, limits)
    skipped = Counter({"unplanned": num_unplanned} if num_unplanned else {})
    done: list[Exported] = []
    with _Progress(console, rows.num_rows) as progress:
        for found in export_job.export_shards(selected, target):
            done.append(found)
            skipped.update(found.skipped)
            progress.add(found.num_clips + sum(found.skipped.values()), found.audio_s)
    sources = {name: sorted(set(rows[name].to_pylist())) for name in ("model", "fingerprint")}
    counts = _count(done, skipped, rows.num_rows)
    with job_errors(out):
        lines = (shard.lines for shard in sorted(done, key=lambda shard: shard.name))
        write_index(lines, to, out, selection)
        whole = document | {"output": absolute(output)} | sources | {"counts": asdict(counts)}
        write_bytes(join(out, _COMMIT), _to_json(whole))
        remove(join(out, _BEGUN))
    return counts


def _count(done: Sequence[Exported], skipped: Counter[str], num_rows: int) -> ExportCounts:
    num_clips = sum(shard.num_clips for shard in done)
    if num_clips + skipped.total() != num_rows:
        raise JobError(f"of {num_rows} rows {num_clips} are clips, and skipped are {skipped}")
    if not num_clips:
        why = ", ".join(f"{count:,} {why}" for why, count in sorted(skipped.items()))
        raise JobError(f"no segment could be cut: {why}; is the speech still where it was?")
    # Exact, for shards are done in any order.
    hours = math.fsum(shard.audio_s for shard in done) / 3600
    return ExportCounts(num_clips, hours, dict(sorted(skipped.items())))


def find_shards(
    rows: pa.Table, columns: list[str], output: str
) -> tuple[dict[str, tuple[Shard, pa.Table]], int]:
    """The shards that rows come from, as the runs planned them that made the rows.

    Args:
        rows: Transcripts, with run_id, source_uri and source_version.
        columns: Which of their columns are wanted.
        output: Where the runs keep their plans.

    Returns:
        Name → shard and its rows; and how many rows no plan knows.

    Raises:
        JobError: No plan knows any of them.
    """
    places = list(zip(*(rows[name].to_pylist() for name in _PLACE), strict=True))
    wanted = set(places)
    run_ids = {place[0] for place in wanted}
    runs = [known.run for known in read_runs(open_output(output)) if known.run.run_id in run_ids]
    shards: dict[str, Shard] = {}
    names: dict[tuple[str, str, str], str] = {}
    for run, plan in zip(runs, concurrently(read_plan, runs, "plans read"), strict=True):
        for name, shard in plan.items():
            held = {(run.run_id, file.uri, file.version) for file in shard.files or (shard,)}
            if found := held & wanted:
                names |= dict.fromkeys(found, name)
                shards[name] = shard
    indices: dict[str, list[int]] = {}
    for index, place in enumerate(places):
        if place in names:
            indices.setdefault(names[place], []).append(index)
    if not indices:
        message = "no run of it has planned what the selected rows come from"
        raise JobError(f"cannot find the speech of {absolute(output)}: {message}")
    table = rows.select(columns)
    selected = {name: (shards[name], table.take(indices[name])) for name in sorted(indices)}
    return selected, len(places) - sum(map(len, indices.values()))


def _digest(rows: pa.Table) -> str:
    columns = (rows[name].to_pylist() for name in ("segment_id", "source_version", "text"))
    return short_hash(*chain.from_iterable(sorted(zip(*columns, strict=True))), length=32)


def _to_json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode()


def _begin(out: str, document: dict[str, Any]) -> dict[str, Any]:
    """Make `out` ready for a set.

    Returns:
        The counts of this very set, if it is there; else empty.

    Raises:
        JobError: There is something else, or it cannot be written.
    """
    with job_errors(out), impatient():
        names = list_names(out)
        for name in (_COMMIT, _BEGUN):
            if name not in names:
                continue
            held = json.loads(read_bytes(join(out, name)))
            if any(held.get(key) != value for key, value in document.items()):
                found = f"{out} holds another selection ({held.get('selection')})"
                raise JobError(f"{found}: name a new folder, or remove it")
            if name == _COMMIT:
                counts: dict[str, Any] = held["counts"]
                return counts
        if names and _BEGUN not in names:
            raise JobError(f"{out} is not empty: found {names[0]}, wanted a new or empty folder")
        write_bytes(join(out, _BEGUN), _to_json(document))
        # Parts of an attempt that was cut off; their sources may have changed since.
        for folder in FOLDERS if names else ():
            remove_tree(join(out, folder))
    return {}


class _Progress:
    """A live line in a terminal, a line now and then in a log."""

    def __init__(self, console: Console, num_rows: int) -> None:
        self._console, self._num_rows = console, num_rows
        self._num_done, self._audio_s, self._spoken_s = 0, 0.0, time.monotonic()
        columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        is_quiet = not console.is_terminal
        self._live = Progress(*columns, console=console, transient=True, disable=is_quiet)
        self._task = self._live.add_task("starting", total=num_rows)

    def __enter__(self) -> "_Progress":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def add(self, num_rows: int, audio_s: float) -> None:
        """Count what is done of a shard."""
        self._num_done += num_rows
        self._audio_s += audio_s
        line = f"{self._num_done:,} of {self._num_rows:,} segments, {duration_text(self._audio_s)}"
        self._live.update(self._task, completed=self._num_done, description=line)
        is_time = time.monotonic() - self._spoken_s >= LOG_INTERVAL_S
        if not self._console.is_terminal and is_time:
            self._spoken_s = time.monotonic()
            self._console.print(f"koasr: exported {line}", highlight=False)
