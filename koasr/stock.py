"""What an output holds, and what lies under the inputs.

What is committed is listed before the inputs. So an object in the listing was made of a version of
its shard that is not newer than the one under the inputs, and the input's is the one that stays:
a driver with an old listing cannot take out what a later one wrote.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from koasr.rows import Shard, StoredFile
from koasr.runs import is_group, list_objects
from koasr.shard_objects import read_sources
from koasr.sources import Listing
from koasr.threads import concurrently

Source = tuple[str, str]
"""URI and version of a loose file."""


@dataclass(frozen=True)
class Stock:
    """What an output held, and what lay under the inputs after that.

    `objects` are the URIs of each shard's objects, the earliest date first; `sources` the loose
    files in each object of a group.
    """

    output: str
    listing: Listing
    objects: Mapping[str, Sequence[str]]
    sources: Mapping[str, frozenset[Source]] = field(repr=False)

    @property
    def committed(self) -> dict[str, str]:
        """As `list_committed` gives it."""
        return {name: uris[0] for name, uris in self.objects.items()}

    @property
    def done_files(self) -> set[Source]:
        """Every loose file that is transcribed or rejected."""
        return {source for sources in self.sources.values() for source in sources}


def take_stock(output: str, list_inputs: Callable[[], Listing]) -> Stock:
    """List what is committed, then the inputs.

    Args:
        output: URI of the output.
        list_inputs: Lists the inputs afresh.
    """
    objects = list_objects(output)
    groups = [uri for name, uris in objects.items() if is_group(name) for uri in uris]
    sources = dict(zip(groups, concurrently(_sources, groups, "groups read"), strict=True))
    return Stock(output, list_inputs(), objects, sources)


def _sources(uri: str) -> frozenset[Source]:
    try:
        return frozenset(read_sources(uri))
    except FileNotFoundError:
        return frozenset()


def find_superseded(stock: Stock, plan: Mapping[str, Shard]) -> dict[str, list[str]]:
    """For each shard of a plan the objects that its commit makes obsolete.

    A plan made of an older listing than the stock's may name versions that are not under the inputs
    any more; those supersede nothing.

    Args:
        stock: Taken before any of the plan was done, or after: it is found again.
        plan: Shard name → shard.
    """
    listed = {shard.uri: shard.version for shard in stock.listing.shards}
    listed |= {file.uri: file.version for file in stock.listing.files}
    versions: dict[str, set[str]] = {}
    for name, uris in stock.objects.items():
        versions.setdefault(hash_of_uri(name), set()).update(uris)
    holders = holders_of(stock) if any(shard.files for shard in plan.values()) else {}
    found: dict[str, list[str]] = {}
    for name, shard in plan.items():
        sources = shard.files or (StoredFile(shard.uri, shard.version, 0),)
        if any(listed.get(source.uri) != source.version for source in sources):
            continue
        older = versions.get(hash_of_uri(name), set()) - set(stock.objects.get(name, ()))
        for file in shard.files:
            places = holders.get(file.uri, {}).items()
            older = older.union(*(held for version, held in places if version != file.version))
        if older:
            found[name] = sorted(older)
    return found


def holders_of(stock: Stock, gone: Collection[str] = ()) -> dict[str, dict[str, set[str]]]:
    """Loose file → version → objects that hold it, `gone` ones left out."""
    holders: dict[str, dict[str, set[str]]] = {}
    for place in stock.sources.keys() - set(gone):
        for uri, version in stock.sources[place]:
            holders.setdefault(uri, {}).setdefault(version, set()).add(place)
    return holders


def hash_of_uri(name: str) -> str:
    """The part of a shard's name that is the same for all of its versions."""
    return name.rsplit(".", 2)[1]
