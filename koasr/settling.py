"""Finish what earlier drivers left half done, so that nothing is held twice."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

import pyarrow as pa

from koasr.rows import short_hash
from koasr.runs import Run, is_group, object_name, read_record, shard_name
from koasr.shard_objects import (
    ensure_rejects,
    finish_rewrites,
    mark_removed,
    rejects_uri,
    remove_object,
    rewrite,
)
from koasr.stock import Source, Stock, find_superseded, hash_of_uri, holders_of
from koasr.storage import exists, join, list_files, remove
from koasr.threads import concurrently

Drops = dict[str, set[Source]]
"""URI of a group's object → what is to go from it."""


def settle(stock: Stock, run: Run) -> Stock:
    """Finish what earlier drivers left half done; no two objects hold the same recording then.

    All drivers come to the same result, whatever each has seen: of two objects of a shard the one
    of the earliest date stays, of two versions the one under the inputs, or where none is there the
    one of the latest run, of two groups that hold a file the one of the smaller name. What goes is
    held by another committed object.

    Args:
        stock: Just taken.
        run: Gives the fingerprint, and the id that is noted where something is removed.

    Returns:
        The stock without what was taken out.
    """
    finish_rewrites(stock.output)
    _settle_copies(stock)
    twice = {uri for uris in stock.objects.values() for uri in uris[1:]}
    named = {shard_name(shard, run.fingerprint): shard for shard in stock.listing.shards}
    done = {name: shard for name, shard in named.items() if name in stock.objects}
    older = {uri for uris in find_superseded(stock, done).values() for uri in uris} - twice
    older |= _unlisted_older(stock) - twice
    drops = _find_drops(stock, gone=twice | older)
    for uri in older:
        mark_removed(uri, "superseded", run.run_id)
    concurrently(remove_object, sorted({*twice, *older}), "older objects removed")

    def drop(uri: str) -> None:
        rewrite(uri, partial(_holds, drops[uri]), "superseded")

    concurrently(drop, sorted(drops), "groups rewritten")
    objects = {n: [u for u in uris if u not in twice | older] for n, uris in stock.objects.items()}
    sources = {
        uri: found - drops.get(uri, set())
        for uri, found in stock.sources.items()
        if uri not in twice | older
    }
    return replace(stock, objects={n: u for n, u in objects.items() if u}, sources=sources)


def _settle_copies(stock: Stock) -> None:
    """Make copies of rejects that are missing; remove those whose object is gone."""
    copies = {file.uri for file in list_files(join(stock.output, "rejects"))}
    places = {rejects_uri(uri): uri for uris in stock.objects.values() for uri in uris}
    concurrently(_ensure, sorted(places[copy] for copy in places.keys() - copies), "copies made")
    concurrently(_remove_orphan, sorted(copies - places.keys()), "orphans removed")


def _ensure(uri: str) -> None:
    with suppress(FileNotFoundError):
        ensure_rejects(uri)


def _remove_orphan(copy: str) -> None:
    root, _, below = copy.rpartition("/rejects/")
    uri = join(root, "transcripts", below)
    if not exists(uri):
        remove(copy)
    # Its shard may have been committed in this very moment, or after the objects were listed.
    _ensure(uri)


def _unlisted_older(stock: Stock) -> set[str]:
    """Objects of shards that are no longer listed, where a later run has another version."""
    listed = {short_hash(shard.uri) for shard in stock.listing.shards}
    versions: dict[str, dict[str, set[str]]] = {}
    for name, uris in stock.objects.items():
        if not is_group(name) and hash_of_uri(name) not in listed:
            versions.setdefault(hash_of_uri(name), {})[name] = set(uris)
    return {
        uri
        for names in versions.values()
        for name in names.keys() - {_of_latest_run(names)}
        for uri in names[name]
    }


def _of_latest_run(places: Mapping[str, Collection[str]]) -> str:
    """Of several versions the one that the latest run made; names of runs sort by age."""
    if len(places) == 1:
        return next(iter(places))
    return max(places, key=lambda version: (max(map(_run_id, places[version])), version))


def _run_id(uri: str) -> str:
    try:
        return str(read_record(uri)["run_id"])
    except FileNotFoundError:
        return ""


def _find_drops(stock: Stock, gone: set[str]) -> Drops:
    """Files that two groups hold, or of which an older version is held beside the listed one."""
    listed = {file.uri: file.version for file in stock.listing.files}
    drops: Drops = {}
    for uri, versions in holders_of(stock, gone).items():
        newest = listed.get(uri) or _of_latest_run(versions)
        for version, places in versions.items():
            is_older = version != newest and newest in versions
            keep = "" if is_older else min(places, key=lambda place: (object_name(place), place))
            for place in places - {keep}:
                drops.setdefault(place, set()).add((uri, version))
    return drops


def _holds(sources: set[Source], table: pa.Table) -> pa.Array:
    """Mask of the rows that are of these sources."""
    pairs = zip(table["source_uri"].to_pylist(), table["source_version"].to_pylist(), strict=True)
    return pa.array([pair in sources for pair in pairs], pa.bool_())
