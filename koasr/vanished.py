"""What is committed and no longer lies under the inputs: found, and removed on request."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import pyarrow as pa
from fsspec.utils import glob_translate

from koasr.rows import short_hash
from koasr.runs import Run, is_group, read_record, read_table
from koasr.shard_objects import mark_removed, remove_object, rewrite
from koasr.stock import Stock, hash_of_uri
from koasr.storage import absolute, join, list_names
from koasr.threads import concurrently


@dataclass(frozen=True)
class Vanished:
    """Objects of shards that are no longer listed, and such loose files in objects of groups."""

    objects: Mapping[str, str] = field(default_factory=dict)
    """URI of each object → of its shard."""
    files: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """URI of an object → the loose files in it that vanished."""

    @property
    def uris(self) -> list[str]:
        """Shards and files, each once."""
        files = {uri for found in self.files.values() for uri in found}
        return sorted({*self.objects.values(), *files})


def find_vanished(stock: Stock, inputs: Sequence[str]) -> Vanished:
    """What is committed, was under these inputs, and was not listed under them."""
    is_below = _below(inputs)
    hashes = {short_hash(shard.uri) for shard in stock.listing.shards}
    names = {
        name for name in stock.objects if not is_group(name) and hash_of_uri(name) not in hashes
    }
    objects = {
        uri: shard_uri
        for name, shard_uri in (_shard_uris(stock, names) if names else {}).items()
        if is_below(shard_uri)
        for uri in stock.objects[name]
    }
    listed = {file.uri for file in stock.listing.files}
    files = {
        place: frozenset(uri for uri, _ in sources if uri not in listed and is_below(uri))
        for place, sources in stock.sources.items()
    }
    return Vanished(objects, {place: found for place, found in files.items() if found})


def _shard_uris(stock: Stock, names: set[str]) -> dict[str, str]:
    """Name → URI of shards that were planned once; from the footer where no plan is left."""
    runs = join(stock.output, "_koasr", "runs")
    plans = [join(runs, run_id, "plan.parquet") for run_id in list_names(runs)]
    planned = concurrently(_planned_uris, plans, "plans read")
    known = {name: uri for found in planned for name, uri in found}
    others = sorted(names - known.keys())
    records = concurrently(read_record, [stock.objects[name][0] for name in others], "records read")
    known |= {name: record["shard"] for name, record in zip(others, records, strict=True)}
    return {name: known[name] for name in names}


def _planned_uris(plan: str) -> list[tuple[str, str]]:
    try:
        table = read_table(plan, ["name", "uri"])
    except FileNotFoundError:
        return []
    return list(zip(table["name"].to_pylist(), table["uri"].to_pylist(), strict=True))


def _below(inputs: Sequence[str]) -> Callable[[str], bool]:
    """Whether a URI is one that these inputs name or would find."""

    def path(uri: str) -> str:
        return absolute(uri).rpartition("://")[2]

    places = tuple(path(uri) for uri in inputs)
    folders = tuple(f"{place}/" for place in places)
    patterns = [re.compile(glob_translate(p)) for p in places if re.search(r"[*?\[]", p)]

    def is_below(uri: str) -> bool:
        place = path(uri)
        named = place in places or place.startswith(folders)
        return named or any(pattern.match(place) for pattern in patterns)

    return is_below


def prune(run: Run, vanished: Vanished) -> int:
    """Remove what vanished: objects of shards as a whole, loose files out of their objects.

    Returns:
        The number of shards and loose files removed.
    """
    for uri in vanished.objects:
        mark_removed(uri, "pruned", run.run_id)
    concurrently(remove_object, sorted(vanished.objects), "objects removed")

    def drop(uri: str) -> None:
        rewrite(uri, partial(_lies_in, vanished.files[uri]), "pruned")

    concurrently(drop, sorted(vanished.files), "groups rewritten")
    return len(vanished.uris)


def _lies_in(uris: frozenset[str], table: pa.Table) -> pa.Array:
    return pa.array([uri in uris for uri in table["source_uri"].to_pylist()], pa.bool_())
