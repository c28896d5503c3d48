"""Checked objects against each other, and against the plans and summaries of the runs."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from koasr.checks import Checked, Difference, Hashes, hashes
from koasr.inventory import Inventory, KnownRun, read_column, read_ids
from koasr.items import identify
from koasr.rows import Shard
from koasr.runs import is_forgotten_key
from koasr.shard_objects import rejects_uri
from koasr.summary import add_up


def check_repeats(checked: Sequence[Checked]) -> Iterator[Difference]:
    """No segment_id twice, and no recording in two objects."""
    segments = [one.segments for one in checked]
    yield from _repeated(
        checked, "segment_ids twice", segments, partial(read_column, name="segment_id")
    )
    recordings = [one.recordings for one in checked]
    yield from _repeated(checked, "recordings in two objects", recordings, read_ids)


def _repeated(
    checked: Sequence[Checked],
    what: str,
    held: Sequence[Hashes],
    read_ids: Callable[[str], Iterable[str]],
) -> Iterator[Difference]:
    """Hashes find the few that may be there twice; only of those are the names read again."""
    values, counts = np.unique(np.concatenate([hashes([]), *held]), return_counts=True)
    suspects = values[counts > 1]
    known = set(suspects.tolist())
    first: dict[str, str] = {}
    pairs: Counter[tuple[str, str]] = Counter()
    for one, mine in zip(checked, held, strict=True):
        if not np.isin(mine, suspects).any():
            continue
        for name in read_ids(one.uri):
            if hash(name) in known and name in first:
                pairs[first[name], one.uri] += 1
            elif hash(name) in known:
                first[name] = one.uri
    for (uri, other), count in pairs.items():
        yield Difference(other, what, f"{count:,} also in {uri}", "0")


def check_places(inventory: Inventory, runs: Sequence[KnownRun]) -> Iterator[Difference]:
    """One object a shard, and no copy of rejects without its object."""
    versions: dict[str, set[str]] = {}
    for name, uris in inventory.committed().items():
        versions.setdefault(name.split(".")[-2] if "." in name else name, set()).add(name)
        for uri in uris[1:]:
            yield Difference(uri, "a shard under two dates", "a second object", uris[0])
    for names in versions.values():
        several = sorted(names)
        for name in several[1:]:
            message = "one: transcribe once more to take the old one away"
            yield Difference(name, "two versions of a shard", f"beside {several[0]}", message)
    wanted = {rejects_uri(file.uri) for file in inventory.transcripts}
    wanted |= {run.run.rejects(n) for run in runs if not run.is_finished for n in run.names}
    for file in inventory.rejects:
        if file.uri not in wanted:
            yield Difference(file.uri, "rejects without a shard", "a copy", "none: koasr gc")


def check_runs(
    inventory: Inventory,
    runs: Sequence[KnownRun],
    records: Mapping[str, dict[str, Any]],
    summaries: Mapping[str, dict[str, Any]],
) -> Iterator[Difference]:
    """What finished runs planned is there or was taken away on purpose, and sums up.

    Args:
        inventory: The output.
        runs: All its runs.
        records: Record by name, of every object that can be read.
        summaries: Of finished runs, by run_id.
    """
    present = inventory.committed().keys() | inventory.removed()
    # What was taken out and came back is planned anew, and its mark is gone.
    present |= {name for run in runs if not run.is_finished for name in run.names}
    for run in runs:
        if not run.is_finished:
            continue
        place = run.run.folder
        for name in sorted(set(run.names) - present):
            yield Difference(place, "planned shard", "no object", name)
        summary = summaries[run.run.run_id]
        num_shards = summary.get("shards", 0) + summary.get("gone", 0)
        if num_shards != len(run.names):
            planned = f"{len(run.names):,} as planned"
            yield Difference(place, "shards of the summary", f"{num_shards}", planned)
        held = [records.get(name) for name in run.names]
        # What a later run, prune or forget has changed no longer sums up to this run's summary.
        if all(r and r["run_id"] == run.run.run_id and not r.get("removed") for r in held):
            yield from _check_sums(place, summary, [r for r in held if r])


def _check_sums(
    place: str, summary: dict[str, Any], records: Sequence[dict[str, Any]]
) -> Iterator[Difference]:
    for name, found in add_up(records).items():
        held = summary.get(name)
        is_same = held == found
        if isinstance(found, float) and isinstance(held, int | float):
            is_same = math.isclose(found, held, abs_tol=1e-6)
        if not is_same:
            yield Difference(place, name, f"{found} in its records", f"{held} as in the summary")


def check_group(one: Checked, shard: Shard, forgotten: frozenset[str]) -> Iterator[Difference]:
    """Every listed file of a group of loose files has its rows, or was taken out on purpose."""
    rest = hash((shard.uri, shard.version))
    if rest in one.files:
        return  # One reject stands for all files that could not be read.
    listed = hashes((file.uri, file.version) for file in shard.files)
    strangers = len(np.setdiff1d(one.files, listed))
    if strangers:
        yield Difference(one.uri, "files not listed", f"{strangers:,}", "0")
    out = set(np.setdiff1d(listed, one.files).tolist())
    absent = [file for file in shard.files if hash((file.uri, file.version)) in out]
    kept_out = [f for f in absent if is_forgotten_key(identify(f.uri)) in forgotten]
    removed = one.record.get("removed", {})
    gone = removed.get("superseded", 0) + removed.get("pruned", 0)
    # A file may be forgotten after it was taken out for another reason, or before it was read.
    if not len(absent) - len(kept_out) <= gone <= len(absent):
        found = f"{len(absent):,} listed files without a row"
        yield Difference(one.uri, "listed files", found, f"{gone:,} taken out")
