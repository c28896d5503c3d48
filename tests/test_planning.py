"""What a run finds to do, what it leaves alone, and what it takes out."""

from collections.abc import Iterator
from contextlib import suppress
from random import Random

import pytest
from nights import (
    FINGERPRINT,
    INPUTS,
    OUTPUT,
    PARTS,
    World,
    check,
    drive,
    execute,
    forget,
    packs,
    plan_retry,
    read,
)
from stores import Crash, FakeFileSystem, Store, fake_stores

from koasr.commit import commit_shard
from koasr.errors import JobError
from koasr.ledger import Ledger, open_ledger, read_removed
from koasr.planning import Todo, begin, find_todo
from koasr.rows import Shard
from koasr.runs import Run, list_committed, list_objects, read_plan, shard_name, unfinished_runs
from koasr.settling import settle
from koasr.shard_objects import rejects_uri
from koasr.sources import group_files
from koasr.staging import stage_pack
from koasr.stock import find_superseded, take_stock
from koasr.storage import exists, remove, write_bytes
from koasr.vanished import find_vanished, prune

FRESH = Run(OUTPUT, "run9", "2026-11-23", FINGERPRINT)


@pytest.fixture(autouse=True)
def store() -> Iterator[Store]:
    with fake_stores():
        FakeFileSystem.store = Store()
        yield FakeFileSystem.store


@pytest.fixture
def world() -> World:
    """Two tars and two loose files, all of them done."""
    tars = {"a.tar": ("v1", ("1", "bad")), "b.tar": ("v1", ("1", "2", "3"))}
    made = World(tars, {"1.wav": "v1", "2.wav": "v1"})
    drive(made)
    return made


def todo_of(world: World, inputs: list[str] = INPUTS) -> Todo:
    return find_todo(settle(take_stock(OUTPUT, world.listing), FRESH), inputs, FRESH)


def uris(todo: Todo) -> set[str]:
    """Last parts of the URIs of what is to be done, loose files one by one."""
    found = [f.uri for shard in todo.shards.values() for f in shard.files or (shard,)]
    return {uri.rsplit("/", 1)[-1] for uri in found}


def commit(world: World, shard: Shard, run: Run = FRESH) -> str:
    """Commit one shard as another driver would; the URI of its object."""
    name = shard_name(shard, FINGERPRINT)
    made = [data for _, data in packs(list(read(world, shard)), shard, run, Random(0))]
    commit_shard(run, name, made)
    return run.transcripts(name)


def test_only_what_is_new_or_changed_is_to_be_done(world: World) -> None:
    assert uris(todo_of(world)) == set()
    world.tars["c.tar"] = ("v1", ("1",))
    world.tars["a.tar"] = ("v2", ("1",))
    world.files |= {"2.wav": "v2", "3.wav": "v1"}
    assert uris(todo_of(world)) == {"a.tar", "c.tar", "2.wav", "3.wav"}


def test_a_forgotten_loose_file_is_not_to_be_done_again(world: World) -> None:
    (name,) = [n for n, (uri, _) in world.expected().items() if uri.endswith("2.wav")]
    forget(name)
    world.files["2.wav"] = "v2"
    assert uris(todo_of(world)) == set()


def test_a_plan_supersedes_the_older_versions_of_what_it_holds(world: World) -> None:
    before = list_committed(OUTPUT)
    world.tars["a.tar"] = ("v2", ("1",))
    world.files["2.wav"] = "v2"
    found = find_superseded(take_stock(OUTPUT, world.listing), todo_of(world).shards)
    older = {uri for uris in found.values() for uri in uris}
    assert {uri.rsplit("/", 1)[-1].split(".")[0].split("-")[0] for uri in older} == {"a", "files"}
    assert older < set(before.values())


def test_a_plan_of_an_older_listing_supersedes_nothing(world: World) -> None:
    """Its driver slept while another one did the version that is under the inputs now."""
    old = {shard_name(s, FINGERPRINT): s for s in world.listing().shards}
    world.tars["a.tar"] = ("v2", ("1",))
    drive(world)
    assert find_superseded(take_stock(OUTPUT, world.listing), old) == {}


def test_of_a_shard_under_two_dates_the_earlier_stays(world: World) -> None:
    shard = world.listing().shards[0]
    name = shard_name(shard, FINGERPRINT)
    (first,) = list_objects(OUTPUT)[name]
    second = commit(world, shard)
    assert list_objects(OUTPUT)[name] == [first, second]
    assert list_committed(OUTPUT)[name] == first
    settle(take_stock(OUTPUT, world.listing), FRESH)
    assert list_objects(OUTPUT)[name] == [first]
    assert name not in read_removed(OUTPUT)
    check(world)


def test_of_two_groups_that_hold_a_file_one_gives_it_up(world: World) -> None:
    both = group_files(world.listing().files)[0]
    one = group_files(world.listing().files[:1])[0]
    places = [commit(world, one), list_committed(OUTPUT)[shard_name(both, FINGERPRINT)]]
    stock = take_stock(OUTPUT, world.listing)
    assert sorted(len(stock.sources[place]) for place in places) == [1, 2]
    settled = settle(stock, FRESH)
    assert sum(len(settled.sources[place]) for place in places) == 2
    assert take_stock(OUTPUT, world.listing).sources == settled.sources
    check(world)


def test_an_older_version_that_stayed_is_taken_out(world: World) -> None:
    """The driver died between the commit of the new version and the removal of the old one."""
    world.tars["a.tar"] = ("v2", ("1",))
    world.files["2.wav"] = "v2"
    commit(world, world.listing().shards[0])
    commit(world, group_files(world.listing().files[1:])[0])
    with pytest.raises(AssertionError, match=r"what was superseded|twice"):
        check(world)
    settle(take_stock(OUTPUT, world.listing), FRESH)
    check(world)
    assert [name.split(".")[0] for name in read_removed(OUTPUT)] == ["a"]


def test_an_old_version_stays_until_the_new_one_is_committed(world: World) -> None:
    before = list_committed(OUTPUT)
    world.tars["a.tar"] = ("v2", ("1",))
    settle(take_stock(OUTPUT, world.listing), FRESH)
    assert list_committed(OUTPUT) == before


def test_copies_of_rejects_follow_their_objects(world: World, store: Store) -> None:
    first, second, *_ = list_committed(OUTPUT).values()
    remove(first)
    remove(rejects_uri(second))
    settle(take_stock(OUTPUT, world.listing), FRESH)
    assert not exists(rejects_uri(first))
    assert exists(rejects_uri(second))


def test_what_vanished_is_reported_and_removed_only_on_request(world: World) -> None:
    before = list_committed(OUTPUT)
    world.tars.pop("a.tar")
    world.files.pop("2.wav")
    vanished = todo_of(world).vanished
    assert [uri.rsplit("/", 1)[-1] for uri in vanished.uris] == ["2.wav", "a.tar"]
    assert list_committed(OUTPUT) == before
    assert prune(FRESH, vanished) == 2
    check(world, is_pruned=True)
    assert [name.split(".")[0] for name in read_removed(OUTPUT)] == ["a"]
    assert todo_of(world).vanished.uris == []


@pytest.mark.parametrize(
    ("inputs", "found"),
    [
        (["fake://bucket/in/"], {"a.tar", "2.wav"}),
        (["fake://bucket/in/*.tar"], {"a.tar"}),
        (["fake://bucket/*/[0-9].wav"], {"2.wav"}),
        (["fake://bucket/in/a.tar", "fake://bucket/other"], {"a.tar"}),
        (["fake://bucket/i", "fake://bucket/in/b.tar"], set()),
    ],
)
def test_only_what_lay_under_these_inputs_has_vanished(
    world: World, inputs: list[str], found: set[str]
) -> None:
    world.tars.pop("a.tar")
    world.files.pop("2.wav")
    vanished = find_vanished(take_stock(OUTPUT, world.listing), inputs)
    assert {uri.rsplit("/", 1)[-1] for uri in vanished.uris} == found


def test_a_damaged_plan_is_named(world: World, store: Store) -> None:
    plans = [key for key in store.files if key.endswith("plan.parquet")]
    write_bytes(f"fake://{plans[0]}", b"PAR1 and no more")
    world.tars.pop("a.tar")
    with pytest.raises(JobError, match=r"plan.parquet is damaged"):
        todo_of(world)


def test_a_shard_whose_plan_is_gone_is_known_by_its_record(world: World, store: Store) -> None:
    for key in [key for key in store.files if key.endswith("plan.parquet")]:
        remove(f"fake://{key}")
    world.tars.pop("a.tar")
    assert [uri.rsplit("/", 1)[-1] for uri in todo_of(world).vanished.uris] == ["a.tar"]


def test_a_shard_that_is_named_like_a_group_of_files_is_none(store: Store) -> None:
    world = World({"files-202611221530.tar": ("v1", ("1", "2"))})
    drive(world)
    assert todo_of(world).vanished.uris == []
    drive(world, with_prune=True)
    check(world)


CHANGED = {
    "a tar": (World({"t.tar": ("v2", ("1", "2", "3"))}), World()),
    "a loose file": (World({}, {"1.wav": "v2", "2.wav": "v1"}), World({}, {"2.wav": "v1"})),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_of_what_changed_and_was_then_deleted_one_version_stays(store: Store, kind: str) -> None:
    """The night of the change dies at any operation; after the deletion nobody lists a version."""
    changed, deleted = CHANGED[kind]
    first = World({"t.tar": ("v1", ("1", "2", "3"))}, {"1.wav": "v1", "2.wav": "v1"})
    changed = World({**first.tars, **changed.tars}, changed.files or first.files)
    deleted = World({} if kind == "a tar" else first.tars, deleted.files or first.files)
    drive(first)
    held = store.copy()
    FakeFileSystem.store = held.copy()
    drive(changed, date="2026-11-23")
    for change in FakeFileSystem.store.changes:
        FakeFileSystem.store = held.copy()
        FakeFileSystem.store.crash_at = change + 1
        with suppress(Crash):
            drive(changed, date="2026-11-23")
        FakeFileSystem.store.calm()
        drive(deleted, date="2026-11-24")
        check(deleted)


def test_what_was_pruned_and_comes_back_is_done_again(world: World) -> None:
    """Also a group of which all files were pruned: its emptied object has the new one's name."""
    whole = world.copy()
    world.tars.pop("a.tar")
    world.files.clear()
    drive(world, with_prune=True)
    check(world, is_pruned=True)
    drive(whole)
    check(whole, is_pruned=True)
    assert read_removed(OUTPUT) == frozenset()


def test_what_another_driver_took_out_is_not_done_again(world: World) -> None:
    """An unfinished plan names a version that was superseded meanwhile."""
    world.tars["a.tar"] = ("v2", ("1",))
    stock = take_stock(OUTPUT, world.listing)
    begin(FRESH, stock, todo_of(world), PARTS)
    (name,) = read_plan(FRESH)
    commit(world, world.listing().shards[0])
    world.tars["a.tar"] = ("v3", ("1",))
    commit(world, world.listing().shards[0])
    settle(take_stock(OUTPUT, world.listing), FRESH)
    ledger = open_ledger(FRESH, read_plan(FRESH), list_committed(OUTPUT))
    assert ledger.gone == {name}
    assert not ledger.left
    assert not ledger.records
    ledger.check()


def ledger_of(world: World, run: Run = FRESH) -> Ledger:
    return open_ledger(run, read_plan(run), list_committed(OUTPUT))


def test_a_ledger_knows_what_is_done_staged_and_left(world: World) -> None:
    world.tars |= {n: ("v1", ("1", "2", "3")) for n in ("c.tar", "d.tar", "e.tar", "f.tar")}
    begin(FRESH, take_stock(OUTPUT, world.listing), todo_of(world), PARTS)
    done, ready, begun, new = (s for s in world.listing().shards if s.uri[-5] in "cdef")
    commit(world, done)
    made = {s.uri: list(packs(list(read(world, s)), s, FRESH, Random(0))) for s in (ready, begun)}
    for header, data in [*made[ready.uri], made[begun.uri][0]]:
        stage_pack(FRESH, header, data)
    ledger = ledger_of(world)
    names = {shard.uri: shard_name(shard, FINGERPRINT) for shard in (done, ready, begun, new)}
    assert set(ledger.records) == {names[done.uri]}
    assert set(ledger.ready) == {names[ready.uri]}
    assert set(ledger.left) == {names[begun.uri], names[new.uri]}
    assert len(ledger.held(names[begun.uri])) == 1
    assert ledger.held(names[new.uri]) == []
    with pytest.raises(JobError, match="1 of 4 shards were committed: run it again"):
        ledger.check()
    last, _ = made[begun.uri][1]
    assert len(ledger.add(last) or ()) == 2
    assert ledger.add(last) is None


def test_an_adopted_run_makes_the_copies_that_its_driver_did_not(world: World) -> None:
    world.tars["c.tar"] = ("v1", ("1", "bad"))
    begin(FRESH, take_stock(OUTPUT, world.listing), todo_of(world), PARTS)
    uri = commit(world, world.listing().shards[2])
    remove(rejects_uri(uri))
    ledger_of(world)
    assert exists(rejects_uri(uri))


def test_a_retry_is_an_unfinished_run_that_merges_into_what_is_there(world: World) -> None:
    plan_retry("truncated")
    (run,) = unfinished_runs(OUTPUT)
    assert run.retry == ("truncated",)
    ledger = ledger_of(world, run)
    assert [shard.uri[-5] for shard in ledger.left.values()] == ["a"]
    before = list_committed(OUTPUT)
    execute(world, run, {}, Random(0))
    assert not ledger_of(world, run).left
    assert (list_committed(OUTPUT), unfinished_runs(OUTPUT)) == (before, [])
    check(world)


def test_a_retry_leaves_out_what_is_not_there_any_more(world: World) -> None:
    plan_retry("truncated")
    (run,) = unfinished_runs(OUTPUT)
    (name,) = read_plan(run)
    remove(run.transcripts(name))
    ledger = ledger_of(world, run)
    assert ledger.gone == {name}
    assert not ledger.left
    ledger.check()
