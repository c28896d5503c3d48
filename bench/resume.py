"""How long it takes to see what a run that died has staged, and what memory that takes."""

import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cyclopts
from rich.console import Console
from rich.table import Table

from koasr.ledger import open_ledger
from koasr.packs import Header
from koasr.rows import Shard, short_hash
from koasr.runs import (
    Run,
    list_committed,
    read_plan,
    shard_name,
    unfinished_runs,
    write_plan,
)
from koasr.staging import staged_key
from koasr.storage import write_bytes
from koasr.threads import concurrently

ROOT = Path(__file__).parent.parent
AIM = 1_000_000
"""Packs: 330,000 hours of audio."""


def lay_out(output: str, num_packs: int, packs_per_shard: int) -> None:
    """A run of which every pack but the last of each shard is staged, each a small file."""
    run = Run(output, "20261123T000000Z-bench", "2026-11-23", "f" * 12)
    num_shards = num_packs // packs_per_shard
    shards = [
        Shard(f"s3://corpus/2026-11/{i:06d}.tar", f"{i:032x}", 1, "tar") for i in range(num_shards)
    ]
    write_plan(run, shards)

    def stage(shard: Shard) -> None:
        name, before = shard_name(shard, run.fingerprint), ""
        for index in range(packs_per_shard):
            own = short_hash(name, str(index))
            place = (name, shard.uri, shard.version, f"{before}.{own}", index)
            key = staged_key(Header(*place, is_last=False, num_recordings=1, size_bytes=1))
            before = own
            if "://" in output:
                write_bytes(run.staged(name, key), b"x")
                continue
            # A million calls of fsync would take an hour.
            path = Path(run.staged(name, key))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    concurrently(stage, shards, "shards laid out")


def resume(output: str, found: "multiprocessing.Queue[dict[str, Any]]") -> None:
    """What a driver does before it starts the first task; in a process of its own."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start_s = time.perf_counter()
    (run,) = unfinished_runs(output)
    ledger = open_ledger(run, read_plan(run), list_committed(output))
    seconds = time.perf_counter() - start_s
    growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    num_held = sum(len(ledger.held(name)) for name in ledger.left)
    found.put({"seconds": seconds, "growth_mb": growth_mb, "num_held": num_held})


def measure(output: str, num_packs: int, packs_per_shard: int) -> dict[str, Any]:
    """Lay out, then resume, in a fresh process so that its memory is its own."""
    lay_out(output, num_packs, packs_per_shard)
    context = multiprocessing.get_context("spawn")
    found: multiprocessing.Queue[dict[str, Any]] = context.Queue()
    process = context.Process(target=resume, args=(output, found))
    process.start()
    result = found.get()
    process.join()
    assert result["num_held"] == num_packs, result
    return result | {"packs": num_packs, "shards": num_packs // packs_per_shard}


def main(
    *,
    num_packs: tuple[int, ...] = (10_000, 100_000),
    packs_per_shard: int = 100,
    num_packs_s3: int = 0,
    out: Path = ROOT / "runs" / "bench" / "resume.json",
) -> None:
    """Measure the planning of a resume on disk and, where asked for, on the Swift server.

    Args:
        num_packs: How many packs are staged, one row of the table each.
        packs_per_shard: How many of them in a shard.
        num_packs_s3: As many on the S3 server of the tests.
        out: Where the JSON goes.
    """
    results = []
    with ExitStack() as stack:
        for count in num_packs:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            results.append({"store": "disk"} | measure(folder, count, packs_per_shard))
        if num_packs_s3:
            sys.path.insert(0, str(ROOT / "tests"))
            import s3fs
            from s3 import find_data_dir, make_environment, run_server

            folder_s3 = find_data_dir()
            assert folder_s3, "no file system with extended attributes"
            server = stack.enter_context(run_server(make_environment(), folder_s3))
            os.environ |= server.environment()
            s3fs.S3FileSystem().mkdir("resume")
            found = measure("s3://resume/out", num_packs_s3, packs_per_shard)
            results.append({"store": "Swift"} | found)
    table = Table("store", "staged packs", "shards", "s", "MB more", f"s at {AIM:,}", "MB")
    for row in results:
        factor = AIM / row["packs"]
        row |= {"seconds_at_aim": row["seconds"] * factor, "mb_at_aim": row["growth_mb"] * factor}
        counts = (f"{row['packs']:,}", f"{row['shards']:,}")
        measured = (f"{row['seconds']:.2f}", f"{row['growth_mb']:.0f}")
        aim = (f"{row['seconds_at_aim']:.1f}", f"{row['mb_at_aim']:.0f}")
        table.add_row(row["store"], *counts, *measured, *aim)
    Console().print(table)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    cyclopts.run(main)
