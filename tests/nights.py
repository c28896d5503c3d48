"""A small world of inputs, a driver that does what the job does without Ray, and an oracle."""

import dataclasses
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from stores import FakeFileSystem

from koasr.commit import commit_shard
from koasr.ledger import open_ledger
from koasr.packs import Header
from koasr.planning import begin, find_todo
from koasr.retry import wanted
from koasr.rows import Recording, Reject, Shard, StoredFile, recording_id, short_hash
from koasr.runs import (
    PLAN,
    RECORD_KEY,
    Run,
    is_forgotten_key,
    is_group,
    list_committed,
    list_objects,
    read_plan,
    read_record,
    shard_name,
    to_parquet,
    unfinished_runs,
)
from koasr.settling import settle
from koasr.shard_objects import read_object, rejects_uri, rewrite
from koasr.sources import Listing
from koasr.staging import ShardPacks, clear_staged, encode_tables, read_staged, stage_pack
from koasr.stock import find_superseded, take_stock
from koasr.storage import join, remove_tree, write_bytes
from koasr.transcripts import REJECTS, TRANSCRIPTS
from koasr.vanished import prune

OUTPUT = "fake://bucket/out"
INPUTS = ["fake://bucket/in"]
FINGERPRINT = "f" * 12
PARTS = {"model": "a"}
PACK_RECORDINGS = 2

_numbers = itertools.count()


@dataclass
class World:
    """What lies under the inputs. A tar: version and keys; a loose file: version.

    A key tells its fate: `bad…` is rejected always, `flaky…` when the driver's dice say so, and
    `long…` comes in two pieces.
    """

    tars: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)

    def copy(self) -> "World":
        return World(dict(self.tars), dict(self.files))

    def listing(self) -> Listing:
        tars = [Shard(f"{INPUTS[0]}/{n}", v, 9, "tar") for n, (v, _) in sorted(self.tars.items())]
        files = [StoredFile(f"{INPUTS[0]}/{n}", v, 9) for n, v in sorted(self.files.items())]
        return Listing(tuple(tars), tuple(files))

    def expected(self) -> dict[str, tuple[str, str]]:
        """recording_id → its source's URI and version, of everything that is listed."""
        found = {}
        for shard in self.listing().shards:
            for key in self.tars[shard.uri.rsplit("/", 1)[-1]][1]:
                found[recording_id(shard.uri, key)] = (shard.uri, shard.version)
        for file in self.listing().files:
            found[recording_id(file.uri)] = (file.uri, file.version)
        return found


def _recording(uri: str, key: str, version: str) -> Recording:
    return Recording(recording_id(uri, key), uri, key, version, b"")


def _gone(uri: str, key: str, version: str, name: str) -> Reject:
    return Reject(name, uri, key, version, "read", "unreadable", "changed since it was listed")


def read(world: World, shard: Shard) -> Iterator[Recording | Reject]:
    """As `read_recordings`: a shard that changed or vanished is one reject for all of it."""
    if shard.kind == "files":
        for file in shard.files:
            name = file.uri.rsplit("/", 1)[-1]
            if world.files.get(name) == file.version:
                yield _recording(file.uri, "", file.version)
            else:
                yield _gone(file.uri, "", file.version, recording_id(file.uri))
        return
    version, keys = world.tars.get(shard.uri.rsplit("/", 1)[-1], ("", ()))
    if version != shard.version:
        yield _gone(shard.uri, "", shard.version, f"{recording_id(shard.uri)}/")
        return
    for key in keys:
        yield _recording(shard.uri, key, version)


def packs(
    items: list[Recording | Reject], shard: Shard, run: Run, dice: Random
) -> Iterator[tuple[Header, bytes]]:
    """As reading, loading and transcribing: two recordings a pack, each piece with its tables."""
    name, before = shard_name(shard, run.fingerprint), ""
    groups = [items[i : i + PACK_RECORDINGS] for i in range(0, len(items), PACK_RECORDINGS)] or [[]]
    for index, group in enumerate(groups):
        own = short_hash(before, *(item.recording_id for item in group))
        is_last = index == len(groups) - 1
        header = Header(
            name, shard.uri, shard.version, f"{before}.{own}", index, is_last, len(group), 9
        )
        before = own
        is_long = any("long" in item.recording_id for item in group)
        for piece in range(1 + is_long):
            cut = f"{'half' * piece}.{'half' * (is_long - piece)}"
            part = dataclasses.replace(header, piece=piece, is_last_piece=piece == is_long, cut=cut)
            part = dataclasses.replace(part, num_recordings=0) if piece else part
            yield part, encode_tables(part, *_tables(group, piece, run, dice))


def _tables(
    group: list[Recording | Reject], piece: int, run: Run, dice: Random
) -> tuple[pa.Table, pa.Table]:
    transcripts, rejects = [], []
    for item in group:
        place = {k: getattr(item, k) for k in ("recording_id", "source_uri", "source_key")}
        place |= {"source_version": item.source_version, "run_id": run.run_id}
        is_long = "long" in item.recording_id
        reason = item.reason if isinstance(item, Reject) else _fate(item, dice)
        if piece > is_long or (reason and piece != is_long and "long" not in item.recording_id):
            continue
        if reason and piece == is_long:
            rejects.append(place | {"reason": reason, "message": "why", "stage": "load"})
        elif piece <= is_long:
            text = f"{item.source_uri}@{item.source_version}/{item.source_key}"
            times = {"start_s": 5.0 * piece, "end_s": 5.0 * piece + 5, "duration_s": 5.0}
            segment = {"segment_id": f"{item.recording_id}#{5000 * piece}", "is_empty": False}
            transcripts.append(place | times | segment | {"text": text, "confidence": 0.5})
    return (
        pa.Table.from_pylist(transcripts, schema=TRANSCRIPTS),
        pa.Table.from_pylist(rejects, schema=REJECTS),
    )


def _fate(item: Recording, dice: Random) -> str:
    name = item.recording_id
    if "bad" in name:
        return "truncated"
    return "timeout" if "flaky" in name and dice.random() < 0.5 else ""


def execute(world: World, run: Run, superseded: Mapping[str, Sequence[str]], dice: Random) -> None:
    """Do what is left of a run's plan, as `koasr.job` does; packs end in any order."""
    plan = read_plan(run)
    ledger = open_ledger(run, plan, list_committed(run.output), superseded)

    def commit(name: str, keys: list[str]) -> None:
        staged = read_staged(run, name, keys)
        ledger.close(name, commit_shard(run, name, staged, ledger.superseded(name)))
        clear_staged(run, name)

    for name, keys in ledger.ready.items():
        commit(name, keys)
    made = []
    for name, shard in ledger.left.items():
        held = ShardPacks(ledger.held(name))
        items = list(filter(wanted(run, name), read(world, shard)))
        made += [(h, d) for h, d in packs(items, shard, run, dice) if not held.holds(h)]
    dice.shuffle(made)
    for header, data in made:
        if header.is_whole_shard:
            superseded_here = ledger.superseded(header.shard)
            ledger.close(header.shard, commit_shard(run, header.shard, [data], superseded_here))
            continue
        stage_pack(run, header, data)
        if keys_now := ledger.add(header):
            commit(header.shard, keys_now)
    ledger.check()
    write_bytes(join(run.folder, "summary.json"), b"{}")


def drive(
    world: World,
    *,
    date: str = "2026-11-22",
    with_prune: bool = False,
    dice: Random | None = None,
    listing: Callable[[], Listing] | None = None,
) -> None:
    """One call of `koasr transcribe`."""
    dice = dice or Random(0)
    fresh = Run(OUTPUT, f"run{next(_numbers):06d}", date, FINGERPRINT)

    def look() -> Any:
        return settle(take_stock(OUTPUT, listing or world.listing), fresh)

    stock = look()
    unfinished = unfinished_runs(OUTPUT)
    for run in unfinished:
        execute(world, run, find_superseded(stock, read_plan(run)), dice)
    if unfinished:
        stock = look()
    todo = find_todo(stock, INPUTS, fresh)
    if with_prune:
        prune(fresh, todo.vanished)
    if todo.shards:
        begin(fresh, stock, todo, PARTS)
        execute(world, fresh, find_superseded(stock, todo.shards), dice)


def plan_retry(reason: str = "all") -> None:
    """As `koasr retry`: one run a date, over the objects with such rejects."""
    shards: dict[str, Shard] = {}
    for run_id in _run_ids():
        shards |= read_plan(Run(OUTPUT, run_id, "", ""))
    by_date: dict[str, dict[str, Shard]] = {}
    for name, uri in list_committed(OUTPUT).items():
        reasons = read_record(uri)["reasons"]
        if name in shards and (reasons if reason == "all" else reason in reasons):
            date = uri.rsplit("/", 2)[-2].removeprefix("date=")
            by_date.setdefault(date, {})[name] = shards[name]
    for date, plan in by_date.items():
        run = Run(OUTPUT, f"run{next(_numbers):06d}", date, FINGERPRINT, (reason,))
        rows = [{"name": name, **dataclasses.asdict(shard)} for name, shard in plan.items()]
        document = json.dumps(dataclasses.asdict(run) | {"output": ""})
        table = pa.Table.from_pylist(rows, schema=PLAN)
        table = table.replace_schema_metadata({RECORD_KEY: document})
        write_bytes(join(run.folder, "plan.parquet"), to_parquet(table))


def forget(name: str) -> None:
    """As `koasr forget`: the deny list first, then the objects, then what is staged."""
    place = join(OUTPUT, "_koasr", "forgotten", f"{next(_numbers):06d}.txt")
    write_bytes(place, f"{is_forgotten_key(name)}\n".encode())
    for uris in list_objects(OUTPUT).values():
        for uri in uris:
            rewrite(uri, lambda table: pc.equal(table["recording_id"], name), "forgotten")
    for run_id in _run_ids():
        remove_tree(Run(OUTPUT, run_id, "", "").staged(""))


def _run_ids() -> list[str]:
    plans = [k for k in FakeFileSystem.store.files if k.endswith("/plan.parquet")]
    return sorted(key.split("/")[-2] for key in plans)


def check(world: World, *, forgotten: Collection[str] = (), is_pruned: bool = False) -> None:
    """The promise: each recording listed is in the output exactly once, of the listed version.

    Besides: no segment twice, counts and copies right, nothing left of what was superseded. What
    is no longer listed may be there, once, unless it was pruned.

    Args:
        world: What was listed by the undisturbed run that came last.
        forgotten: Ids that must not be there.
        is_pruned: Whether nothing may be there that is not listed.
    """
    expected = {k: v for k, v in world.expected().items() if k not in forgotten}
    files = FakeFileSystem.store.files
    objects = [f"fake://{k}" for k in files if k.startswith("bucket/out/transcripts/")]
    copies = {f"fake://{k}" for k in files if k.startswith("bucket/out/rejects/")}
    names = Counter(uri.rsplit("/", 1)[-1] for uri in objects)
    assert not [name for name, count in names.items() if count > 1], "a shard under two dates"
    assert copies == {rejects_uri(uri) for uri in objects}, "copies of rejects without an object"
    seen: Counter[str] = Counter()
    segments: Counter[str] = Counter()
    sources: dict[str, tuple[str, str]] = {}
    for uri in objects:
        held = read_object(uri)
        copy = pq.ParquetFile(io.BytesIO(files[rejects_uri(uri).removeprefix("fake://")][0]))
        assert json.loads(copy.metadata.metadata[RECORD_KEY]) == held.record
        assert copy.read().to_pylist() == held.rejects.to_pylist()
        rows, rejected = held.transcripts.to_pylist(), held.rejects.to_pylist()
        done = {row["recording_id"] for row in rows}
        seen.update([*done, *(row["recording_id"] for row in rejected)])
        segments.update(row["segment_id"] for row in rows)
        for row in (*rows, *rejected):
            sources[row["recording_id"]] = (row["source_uri"], row["source_version"])
        for row in rows:
            version = row["source_version"]
            assert row["text"] == f"{row['source_uri']}@{version}/{row['source_key']}"
        assert all(segments[f"{name}#5000"] for name in done if "long" in name), "half of it"
        assert (held.record["transcribed"], held.record["rejected"]) == (len(done), len(rejected))
        assert is_group(held.record["shard"].rsplit("/", 1)[-1] + ".") == bool(
            "/files-" in held.record["shard"]
        )
    assert not [name for name, count in seen.items() if count > 1], "a recording twice"
    assert not [name for name, count in segments.items() if count > 1], "a segment twice"
    assert not expected.keys() - seen.keys(), "a recording is lost"
    assert not seen.keys() & set(forgotten), "a forgotten recording is back"
    for name in expected:
        assert sources[name] == expected[name], "an older version"
    listed = {uri for uri, _ in world.expected().values()} | {
        shard.uri for shard in world.listing().shards
    }
    extra = seen.keys() - expected.keys()
    assert not [name for name in extra if sources[name][0] in listed], "what was superseded"
    assert not (is_pruned and extra), "what vanished"
    assert not [k for k in files if "/_koasr/rewriting/" in k], "a rewrite not finished"
