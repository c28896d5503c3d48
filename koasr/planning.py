"""What a run has to do: what lies under the inputs and the output lacks.

A driver that starts does, in this order: `take_stock`, `settle`, the unfinished runs, and when
there were any `take_stock` and `settle` again; then `find_todo`, `prune` if it was asked to, and
`begin` where there is something to do.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from koasr.items import identify
from koasr.ledger import read_removed
from koasr.rows import Shard
from koasr.runs import (
    Run,
    is_forgotten_key,
    read_forgotten,
    shard_name,
    write_format,
    write_plan,
)
from koasr.shard_objects import remove_object
from koasr.sources import group_files
from koasr.stock import Stock
from koasr.storage import join, remove
from koasr.threads import concurrently
from koasr.vanished import Vanished, find_vanished


@dataclass(frozen=True)
class Todo:
    """What a fresh run has to do, by the names of its shards, and what vanished."""

    shards: Mapping[str, Shard]
    vanished: Vanished


def find_todo(stock: Stock, inputs: Sequence[str], run: Run) -> Todo:
    """What was listed and the output lacks, and what the output holds and was not listed.

    Loose files are compared one by one, and forgotten ones left out.

    Args:
        stock: Settled.
        inputs: URIs and patterns, as the user gave them.
        run: The fresh run that will do it.
    """
    forgotten, done = read_forgotten(run.output), stock.done_files
    fresh = [
        file
        for file in stock.listing.files
        if (file.uri, file.version) not in done
        and not (forgotten and is_forgotten_key(identify(file.uri)) in forgotten)
    ]
    single = {shard_name(shard, run.fingerprint): shard for shard in stock.listing.shards}
    # Whether a group is done is asked of its files: an emptied object may have its name.
    todo = {name: shard for name, shard in single.items() if name not in stock.objects}
    todo |= {shard_name(group, run.fingerprint): group for group in group_files(fresh)}
    return Todo(todo, find_vanished(stock, inputs))


def begin(run: Run, stock: Stock, todo: Todo, parts: dict[str, str]) -> None:
    """Fix what a fresh run will do, before its first pack.

    Args:
        run: The fresh run.
        stock: What `todo` was found from.
        todo: Not empty.
        parts: What the fingerprint is made of.
    """
    # A shard that was taken out and came back is to be done again.
    for name in todo.shards.keys() & stock.objects.keys():
        concurrently(remove_object, stock.objects[name], "emptied objects removed")
    for name in todo.shards.keys() & read_removed(run.output):
        remove(join(run.output, "_koasr", "removed", f"{name}.json"))
    # A plan binds whoever comes next, and so must how it is carried out.
    write_format(run.output, parts)
    write_plan(run, todo.shards.values())
