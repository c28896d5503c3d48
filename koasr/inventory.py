"""What an output holds: its format, its runs and its objects, by three listings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from koasr.errors import JobError
from koasr.rows import StoredFile
from koasr.runs import Run, by_shard, has_ended_well, open_parquet, open_plan
from koasr.shard_objects import read_rejects
from koasr.storage import (
    absolute,
    check_reachable,
    job_errors,
    join,
    list_files,
    open_fs,
    read_bytes,
)
from koasr.threads import concurrently


@dataclass(frozen=True)
class Staged:
    """The staged packs of one shard in one run: a folder, and what lies in it."""

    run_id: str
    name: str
    folder: str
    files: tuple[StoredFile, ...]


@dataclass(frozen=True)
class Inventory:
    """An output as listed.

    Args:
        output: Where it is, in full.
        fingerprint: How its transcripts are made, from `format.json`.
        transcripts: The objects that commit a shard, in the order of their URIs.
        rejects: The readable copies of the rejects.
        ours: Everything under `_koasr`.
    """

    output: str
    fingerprint: str
    transcripts: list[StoredFile]
    rejects: list[StoredFile]
    ours: list[StoredFile]

    def committed(self) -> dict[str, list[str]]:
        """Shard name → its committed objects: one, unless a shard is under two dates."""
        return by_shard(self.transcripts)

    def removed(self) -> set[str]:
        """Names of the shards whose objects were taken away on purpose."""
        notes = (file.uri for file in self.ours if "/_koasr/removed/" in file.uri)
        return {note.rsplit("/", 1)[-1].removesuffix(".json") for note in notes}

    def staged(self) -> list[Staged]:
        """Every shard of which a run keeps staged packs."""
        found: dict[str, list[StoredFile]] = {}
        for file in self.ours:
            if file.uri.endswith(".arrows"):
                found.setdefault(file.uri.rpartition("/")[0], []).append(file)
        # …/_koasr/runs/<run_id>/staged/<name>
        return [
            Staged(folder.split("/")[-3], folder.split("/")[-1], folder, tuple(files))
            for folder, files in found.items()
        ]


@dataclass(frozen=True)
class KnownRun:
    """A run that has a plan: what it was to do, and whether it has come to its end."""

    run: Run
    is_finished: bool
    names: tuple[str, ...]

    def is_done(self, name: str, records: Mapping[str, dict[str, Any]]) -> bool:
        """Whether the run has nothing left to do for a shard.

        Args:
            name: Name of a planned shard.
            records: Record by name, of every committed object.
        """
        if not self.run.retry:
            return name in records
        # The object is there before a retry begins; it counts once the retry has rewritten it.
        return name in records and records[name]["run_id"] == self.run.run_id


def open_output(output: str) -> Inventory:
    """List an output.

    Raises:
        JobError: It is not there, is no output of koasr, or cannot be listed.
    """
    output = absolute(output)
    check_reachable(output)
    with job_errors(output):
        try:
            made = json.loads(read_bytes(join(output, "_koasr", "format.json")))
        except FileNotFoundError as error:
            message = f"{output} is not an output of koasr: it has no _koasr/format.json"
            raise JobError(message) from error
        listed = [list_files(join(output, part)) for part in ("transcripts", "rejects", "_koasr")]
    transcripts, rejects, ours = listed
    return Inventory(
        output, made["fingerprint"], _of_parquet(transcripts), _of_parquet(rejects), ours
    )


def _of_parquet(files: list[StoredFile]) -> list[StoredFile]:
    return [file for file in files if file.uri.endswith(".parquet")]


def read_runs(inventory: Inventory) -> list[KnownRun]:
    """Every run of an output that has a plan, oldest first."""
    uris = {file.uri for file in inventory.ours}
    plans = sorted(uri for uri in uris if uri.endswith("/plan.parquet"))

    def read(uri: str) -> KnownRun:
        run, names = open_plan(inventory.output, uri)
        summary = join(run.folder, "summary.json")
        return KnownRun(run, summary in uris and has_ended_well(summary), names)

    return concurrently(read, plans, "plans read")


def read_ids(uri: str) -> set[str]:
    """Every recording_id in a transcripts object, transcribed or rejected."""
    rejects: list[str] = read_rejects(uri)["recording_id"].to_pylist()
    return {*read_column(uri, "recording_id"), *rejects}


def read_column(uri: str, name: str) -> list[str]:
    """One column of names in a Parquet object, without the rest of it."""
    fs, path = open_fs(uri)
    with fs.open(path, "rb") as file:
        values: list[str] = open_parquet(file).read([name])[name].to_pylist()
    return values
