"""What an output holds against what an undisturbed run's holds: lost, twice, different."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from torture_world import World

_TRANSCRIPT = ("recording_id", "segment_id", "text", "start_s", "end_s")
_REJECT = ("recording_id", "reason")
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Rows:
    """Rows of an output, as often as they are there."""

    transcripts: Counter[Row]
    rejects: Counter[Row]


@dataclass(frozen=True)
class Difference:
    """Rows of the undisturbed run that are missing, rows that are there twice, rows that differ."""

    lost: int
    twice: int
    different: int


NOTHING = Difference(0, 0, 0)
"""What there is between two outputs that are alike."""


def read_rows(world: World, output: str) -> Rows:
    """All rows, by a plain Parquet reader, straight from the store."""
    is_remote = output.startswith("s3://")
    root = output.removeprefix("s3://")
    found = []
    for table, columns in (("transcripts", _TRANSCRIPT), ("rejects", _REJECT)):
        files = ds.dataset(
            f"{root}/{table}", filesystem=world.store if is_remote else None, format="parquet"
        )
        rows = files.to_table(columns=list(columns)).to_pylist()
        found.append(Counter(tuple(row[name] for name in columns) for row in rows))
    return Rows(*found)


def compare(found: Rows, expected: Rows) -> Difference:
    """Count what is wrong with `found`. Segments and rejected recordings are the keys."""
    lost = twice = different = 0
    pairs = [(found.transcripts, expected.transcripts, 2), (found.rejects, expected.rejects, 1)]
    for ours, theirs, num_key in pairs:
        keys = Counter(row[:num_key] for row in ours.elements())
        wanted = {row[:num_key]: row for row in theirs}
        lost += len(wanted.keys() - keys.keys())
        twice += sum(number - 1 for number in keys.values())
        different += sum(wanted.get(row[:num_key]) != row for row in ours)
    return Difference(lost, twice, different)


def verify(output: str, endpoint: str) -> str:
    """What `koasr verify` says against the output; nothing if it is content."""
    command = [str(Path(sys.executable).parent / "koasr"), "verify", output]
    environment = os.environ | {"AWS_ENDPOINT_URL": endpoint}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    return "" if done.returncode == 0 else f"exit {done.returncode}: {done.stdout}{done.stderr}"
