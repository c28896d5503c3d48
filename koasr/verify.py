"""Everything an output says of itself, held against its data; every difference is named."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from koasr.checks import Checked, Difference, check_object
from koasr.cross_checks import check_group, check_places, check_repeats, check_runs
from koasr.dates import check_date
from koasr.inventory import Inventory, KnownRun, open_output, read_runs
from koasr.lease import describe_lease
from koasr.rows import Shard
from koasr.runs import is_of_date, object_name, read_forgotten, read_plan
from koasr.shard_objects import ensure_rejects, rejects_uri
from koasr.storage import job_errors, join, read_bytes, remove
from koasr.threads import concurrently

EXIT_SAME, EXIT_DIFFERENT = 0, 1


@dataclass(frozen=True)
class Verified:
    """What verifying an output found."""

    checked: list[Checked]
    differences: list[Difference]
    unfinished: list[KnownRun]


def verify(output: str, /, *, date: str | None = None, repair: bool = False) -> int:
    """Read everything an output holds and count it again.

    Holds rows against records, rejects, plans and summaries, looks for what is there twice, and
    verifies the checksums of the pages. Exit code: 0 when nothing differs, 1 when something does.

    Args:
        output: Folder or URI of the output.
        date: Read only the objects of this date, YYYY-MM-DD; of the others the names alone.
        repair: Make the readable copies of rejects anew where they differ from the truth, which
            is in the transcripts' own objects. Nothing else is touched.

    Raises:
        JobError: It is no output of koasr, or cannot be read.
    """
    console = Console(soft_wrap=True, highlight=False)
    inventory = open_output(output)
    with job_errors(inventory.output):
        lease, is_alive = describe_lease(inventory.output)
        if is_alive:
            console.print(f"koasr: {lease}: what is half done may show as a difference")
        found = find_differences(inventory, date and check_date(date), repair=repair)
    if found.differences:
        console.print(_table(found.differences, inventory.output))
    for run in found.unfinished:
        console.print(f"koasr: run {run.run.run_id} is unfinished: run its command again")
    console.print(_last_line(found))
    return EXIT_DIFFERENT if found.differences else EXIT_SAME


def find_differences(
    inventory: Inventory, date: str | None = None, *, repair: bool = False
) -> Verified:
    """Check every object alone, then against the others, the plans and the summaries.

    Args:
        inventory: The output.
        date: Of the objects that are read, and held against each other; None for all.
        repair: Make copies of rejects anew where they differ.
    """
    runs = read_runs(inventory)
    plans = _read_plans(runs)
    forgotten = read_forgotten(inventory.output)

    def check(uri: str) -> Checked:
        one = check_object(uri, inventory.fingerprint, forgotten)
        copy = rejects_uri(uri)
        if repair and any(difference.place == copy for difference in one.differences):
            # A damaged copy may still carry the right record, so it must go to be made anew.
            remove(copy)
            ensure_rejects(uri)
            one = check_object(uri, inventory.fingerprint, forgotten)
        return one

    uris = [file.uri for file in inventory.transcripts if is_of_date(file.uri, date)]
    checked = concurrently(check, uris, "objects read")
    differences = [difference for one in checked for difference in one.differences]
    differences += check_repeats(checked)
    differences += check_places(inventory, runs)
    records = {object_name(one.uri): one.record for one in checked if one.record}
    differences += check_runs(inventory, runs, records, _read_summaries(runs))
    for one in checked:
        shard = plans.get(object_name(one.uri))
        if one.record and shard and shard.kind == "files":
            differences += check_group(one, shard, forgotten)
    return Verified(checked, differences, [run for run in runs if not run.is_finished])


def _read_plans(runs: Sequence[KnownRun]) -> dict[str, Shard]:
    plans: dict[str, Shard] = {}
    for plan in concurrently(lambda known: read_plan(known.run), runs, "plans read"):
        plans |= plan
    return plans


def _read_summaries(runs: Sequence[KnownRun]) -> dict[str, dict[str, Any]]:
    def read(known: KnownRun) -> dict[str, Any]:
        try:
            return dict(json.loads(read_bytes(join(known.run.folder, "summary.json"))))
        except (TypeError, ValueError):
            return {}  # Damaged: every number of it is missing, and is told as such.

    finished = [run for run in runs if run.is_finished]
    summaries = concurrently(read, finished, "summaries read")
    return {run.run.run_id: summary for run, summary in zip(finished, summaries, strict=True)}


def _table(differences: Sequence[Difference], output: str) -> Table:
    table = Table("object", "what", "found", "wanted", title=output, title_justify="left")
    for difference in differences:
        place = difference.place.removeprefix(f"{output}/")
        table.add_row(place, difference.what, difference.found, difference.wanted)
    return table


def _last_line(found: Verified) -> str:
    def total(key: str) -> int:
        return sum(one.record.get(key, 0) for one in found.checked)

    return (
        f"koasr: {len(found.checked):,} shards, {total('recordings'):,} recordings ="
        f" {total('transcribed'):,} transcribed + {total('rejected'):,} rejected,"
        f" {total('rows'):,} segments; {len(found.unfinished)} unfinished runs;"
        f" {len(found.differences):,} differences"
    )
