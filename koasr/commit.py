"""Packs of a shard → the one object that commits it.

A shard's transcripts are one object whose name depends on the shard, its version and the
fingerprint alone. That it exists is the commit; its footer holds the record and the rejects.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from koasr import __version__
from koasr.errors import JobError
from koasr.packs import Header
from koasr.runs import Run, object_name
from koasr.shard_objects import (
    ShardObject,
    ensure_rejects,
    make_copy,
    make_object,
    mark_removed,
    read_object,
    read_sources,
    remove_object,
    replace_object,
    rewrite,
)
from koasr.staging import (
    ShardPacks,
    clear_staged,
    decode_tables,
    staged_key,
)
from koasr.storage import transient_errors, write_bytes, write_new

_MAX_ROUNDS = 20
_JOINT_S = 1e-3


class _Mismatch(Exception):
    """The packs of a shard do not make a whole."""


def commit_shard(
    run: Run, name: str, packs: Sequence[bytes], superseded: Sequence[str] = ()
) -> dict[str, Any]:
    """Write a shard's object, which commits it, then take out what it supersedes.

    A shard that is committed already is left as it is: its record is adopted. A recording whose
    later piece failed is in the rejects, so its earlier rows are dropped. A retry run merges its
    packs, which hold only what was tried again, into the object that is there.

    Args:
        run: Names the objects.
        name: Name of the shard's output.
        packs: `encode_tables` of every pack of the shard, in order.
        superseded: Objects that hold other versions of the shard, or of files of the group.

    Returns:
        The record, as it stands in the footer.

    Raises:
        JobError: A pack is missing; recordings read are not those transcribed and rejected, and
            then staged packs are removed; or the object at this name is not of this shard.
        TransientError: The store failed in a way that may pass.
    """
    place = run.transcripts(name)
    with transient_errors(place):
        record = _adopt(run, place)
        if record is None:
            try:
                record = (_merge if run.retry else _create)(run, name, packs)
            except _Mismatch as error:
                # Else the next run would come to the same with what is staged.
                clear_staged(run, name)
                message = f"shard {name}: {error}; nothing was written: run it again, or report it"
                raise JobError(message) from error
        if superseded:
            take_out_superseded(run, place, superseded)
    return record


def _adopt(run: Run, place: str) -> dict[str, Any] | None:
    """The record of the object that is there, if it is what this run would write."""
    try:
        record = ensure_rejects(place)
    except FileNotFoundError:
        return None
    return record if not run.retry or record["run_id"] == run.run_id else None


def _create(run: Run, name: str, packs: Sequence[bytes]) -> dict[str, Any]:
    place = run.transcripts(name)
    headers, transcripts, rejects = _join(name, packs)
    known = {
        "shard": headers[0].uri,
        "version": headers[0].version,
        "fingerprint": run.fingerprint,
        "run_id": run.run_id,
        "koasr": __version__,
        "removed": {},
        "retried": 0,
    }
    made, data = make_object(known, transcripts, rejects)
    # The copy first, so that there is one whenever the shard counts as done.
    write_bytes(run.rejects(name), make_copy(made))
    is_new = write_new(place, data)
    try:
        record = ensure_rejects(place)
    except FileNotFoundError as error:
        if is_new:
            return made.record  # Another driver has a newer version and took this one out.
        raise JobError(f"shard {name}: its object came and went: run it again") from error
    if record["attempt"] != made.attempt and _content(record) != _content(made.record):
        message = f"{place} holds another shard's work ({_content(record)}, {_content(made.record)}"
        raise JobError(f"{message} here): nothing was written: report this")
    return record


def _content(record: dict[str, Any]) -> tuple[Any, ...]:
    """What two attempts at a shard agree on, whatever became of single recordings."""
    count = record["recordings"] + sum(record["removed"].values())
    return (record["shard"], record["version"], record["fingerprint"], count)


def _join(name: str, packs: Sequence[bytes]) -> tuple[list[Header], pa.Table, pa.Table]:
    """All packs of a shard as one: each recording transcribed or rejected, once."""
    decoded = [decode_tables(data) for data in packs]
    headers = [header for header, _, _ in decoded]
    keys = [staged_key(header) for header in headers]
    if ShardPacks(keys).all_keys() != keys:
        raise JobError(f"shard {name}: packs are missing, found {keys}: run it again")
    rejects = _first_of_each(pa.concat_tables([table for _, _, table in decoded]), "recording_id")
    kept = [_without(table, _ids(rejects)) for _, table, _ in decoded]
    transcripts = pa.concat_tables(kept)
    num_read = sum(header.num_recordings for header in headers)
    num_held = len(_ids(transcripts)) + rejects.num_rows
    if num_read != num_held:
        raise _Mismatch(f"{num_read} recordings read, {num_held} in the output")
    for one, other in itertools.pairwise(kept):
        _check_joint(one, other)
    _check_segments(transcripts)
    return headers, transcripts, rejects


def _check_joint(one: pa.Table, other: pa.Table) -> None:
    """Compare where a piece starts with where the one before ends.

    Pieces of two attempts of which one gave a recording up (its time was over) are cut at other
    places: side by side they would hold some speech twice or not at all.
    """
    if not other.num_rows:
        return
    first = other.slice(0, 1).to_pylist()[0]
    before = one.filter(pc.equal(one["recording_id"], first["recording_id"]))
    end_s = pc.max(before["end_s"]).as_py() if before.num_rows else 0.0
    if end_s is not None and abs(first["start_s"] - end_s) > _JOINT_S:
        raise _Mismatch(f"a piece starts at {first['start_s']} s, {end_s} s is where it should")


def _merge(run: Run, name: str, packs: Sequence[bytes]) -> dict[str, Any]:
    """Put what a retry run found into the object that is there."""
    place = run.transcripts(name)
    for _ in range(_MAX_ROUNDS):
        try:
            held = read_object(place)
            _, transcripts, rejects = _join(name, packs)
            made, data = make_object(*_merge_tables(run, held, transcripts, rejects))
            _check_segments(made.transcripts)
            if replace_object(place, held.attempt, data):
                return made.record
        except FileNotFoundError as error:
            message = f"shard {name} was removed while it was retried: run it again"
            raise JobError(message) from error
    raise JobError(f"{place} is written by others again and again: stop them and run it again")


def _merge_tables(
    run: Run, held: ShardObject, new: pa.Table, new_rejects: pa.Table
) -> tuple[dict[str, Any], pa.Table, pa.Table]:
    """The record and the tables with the new outcomes of what was rejected.

    What is transcribed stays as it is. A reject that stands for the rest of a shard, which could
    not be read, makes way for the recordings that can be read now; without one, nothing that the
    shard did not hold is taken in.
    """
    rest = _rest(run, held)
    transcribed, waiting = _ids(held.transcripts), _ids(held.rejects)
    found, again = _ids(new), _ids(new_rejects)
    taken = (found | again) - transcribed if rest else (found | again) & waiting
    replaced = (taken & waiting) | (rest - again)
    retried = held.record["retried"] + len(found & taken & waiting)
    return (
        held.record | {"run_id": run.run_id, "retried": retried},
        pa.concat_tables([held.transcripts, _only(new, taken)]),
        pa.concat_tables([_without(held.rejects, replaced), _only(new_rejects, taken)]),
    )


def _rest(run: Run, held: ShardObject) -> set[str]:
    """Ids of the rejects to be retried that stand for the rest of a shard."""
    columns = ["recording_id", "source_uri", "source_key", "reason"]
    return {
        row["recording_id"]
        for row in held.rejects.select(columns).to_pylist()
        if row["source_uri"] == held.record["shard"] and not row["source_key"]
        if "all" in run.retry or row["reason"] in run.retry
    }


def take_out_superseded(run: Run, place: str, superseded: Sequence[str]) -> None:
    """Remove what an object that is committed supersedes.

    Args:
        run: Whose doing it is.
        place: The committed object.
        superseded: A shard's older objects go as a whole; of groups of loose files go the rows
            of the files that changed.
    """
    shard = object_name(place).rsplit(".", 2)[1]
    sources: dict[str, str] = {}
    for uri in superseded:
        if object_name(uri).rsplit(".", 2)[1] == shard:
            mark_removed(uri, "superseded", run.run_id)
            remove_object(uri)
            continue
        sources = sources or dict(read_sources(place))
        rewrite(uri, partial(_is_older, sources=sources), "superseded")


def _is_older(table: pa.Table, sources: dict[str, str]) -> pa.Array:
    """Mask of the rows whose source is held in another version elsewhere."""
    pairs = zip(table["source_uri"].to_pylist(), table["source_version"].to_pylist(), strict=True)
    return pa.array([sources.get(uri, version) != version for uri, version in pairs], pa.bool_())


def _ids(table: pa.Table) -> set[str]:
    return set(table["recording_id"].to_pylist())


def _only(table: pa.Table, ids: set[str]) -> pa.Table:
    wanted = pa.array(sorted(ids), pa.string())
    return table.filter(pc.is_in(table["recording_id"], value_set=wanted))


def _without(table: pa.Table, ids: set[str]) -> pa.Table:
    return _only(table, _ids(table) - ids)


def _first_of_each(table: pa.Table, column: str) -> pa.Table:
    first: dict[str, int] = {}
    for index, value in enumerate(table[column].to_pylist()):
        first.setdefault(value, index)
    return table.take(pa.array(list(first.values()), pa.int64()))


def _check_segments(transcripts: pa.Table) -> None:
    if pc.count_distinct(transcripts["segment_id"]).as_py() != transcripts.num_rows:
        raise _Mismatch("a segment_id twice")
