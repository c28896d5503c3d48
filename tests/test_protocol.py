"""Nothing lost, nothing twice: the protocol against a store that fails at every operation."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from nights import World, check, drive, forget, plan_retry
from stores import Crash, FakeFileSystem, Store, Turns, at_random, fake_stores

from koasr.errors import JobError, TransientError

FIRST = World(
    tars={
        "a.tar": ("v1", ("1", "bad", "long", "2", "flaky")),
        "b.tar": ("v1", ("1", "2", "long-flaky")),
        "c.tar": ("v1", ("1",)),
    },
    files={"1.wav": "v1", "2.wav": "v1", "bad.wav": "v1"},
)
SECOND = World(
    tars={
        "a.tar": ("v2", ("1", "long-2", "2")),
        "b.tar": ("v1", ("1", "2", "long-flaky")),
        "d.tar": ("v1", ("bad", "2", "3")),
    },
    files={"1.wav": "v1", "2.wav": "v2", "3.wav": "v1"},
)


@pytest.fixture(autouse=True)
def _fakes() -> Iterator[None]:
    with fake_stores():
        yield


def fresh_store(held: Store | None = None) -> Store:
    """An empty store, or a copy of one, in use from now on."""
    FakeFileSystem.store = held.copy() if held else Store()
    return FakeFileSystem.store


def after(world: World) -> Store:
    """A store that holds an undisturbed night over these inputs."""
    fresh_store()
    drive(world)
    return FakeFileSystem.store


def changes_of(held: Store, night: Callable[[], None]) -> list[int]:
    """Numbers of the operations by which an undisturbed night changes the store."""
    store = fresh_store(held)
    night()
    return store.changes


def test_an_undisturbed_night_is_exact() -> None:
    store = after(FIRST)
    check(FIRST)
    files = dict(store.files)
    drive(FIRST)
    check(FIRST)
    assert {k for k in store.files if "runs" not in k} == {k for k in files if "runs" not in k}
    drive(SECOND, date="2026-11-23", with_prune=True)
    check(SECOND, is_pruned=True)


NIGHTS = {"the first night": (World(), FIRST, False), "the second night": (FIRST, SECOND, True)}
"""Inputs before, inputs now, and whether what vanished is removed."""


@pytest.mark.parametrize("name", NIGHTS)
def test_a_run_that_dies_at_any_point_is_made_exact_by_the_next(name: str) -> None:
    """Before and after each change: at any other operation the store is the same as at one."""
    before, world, with_prune = NIGHTS[name]

    def night() -> None:
        drive(world, date="2026-11-23", with_prune=with_prune)

    held = after(before)
    changes = changes_of(held, night)
    assert len(changes) > 20
    for number in [0, *(change + 1 for change in changes)]:
        store = fresh_store(held)
        store.crash_at = number
        if number <= changes[-1]:
            with pytest.raises(Crash):
                night()
        store.calm()
        drive(world, date="2026-11-24", dice=Random(1))
        check(world)


@pytest.mark.parametrize("is_atomic", [True, False])
@pytest.mark.parametrize("name", NIGHTS)
def test_a_lost_acknowledgement_changes_nothing(name: str, is_atomic: bool) -> None:
    before, world, with_prune = NIGHTS[name]
    held = after(before)
    for number in changes_of(held, lambda: drive(world, date="2026-11-23", with_prune=with_prune)):
        store = fresh_store(held)
        store.lose_at, store.is_atomic = number, is_atomic
        drive(world, date="2026-11-23", with_prune=with_prune)
        check(world, is_pruned=with_prune)


def race(store: Store, choose: Callable[[list[int]], int], *drivers: Callable[[], None]) -> None:
    """Several drivers at once; each may stop with one line, none may fail otherwise."""
    turns = Turns(choose)
    store.gate = turns.gate
    errors = turns.run(list(drivers))
    unexpected = [error for error in errors if not isinstance(error, JobError | TransientError)]
    assert not [error for error in unexpected if error is not None], unexpected
    store.calm()


@pytest.mark.parametrize("is_atomic", [True, False])
@pytest.mark.parametrize("seed", range(10))
def test_drivers_that_race_leave_what_the_next_run_makes_exact(seed: int, is_atomic: bool) -> None:
    """Two new drivers and one with an old listing, with other outcomes for some recordings."""
    random = Random(seed)
    store = fresh_store(after(FIRST))
    store.is_atomic, store.lag = is_atomic, random.choice((0, 0, 2, 6))
    race(
        store,
        at_random(random, random.choice((0.2, 0.9, 0.98))),
        lambda: drive(SECOND, date="2026-11-23", dice=Random(1)),
        lambda: drive(SECOND, date=f"2026-11-2{3 + seed % 2}", dice=Random(2)),
        lambda: drive(SECOND, date="2026-11-23", dice=Random(3), listing=FIRST.listing),
    )
    drive(SECOND, date="2026-11-25")
    check(SECOND)


@pytest.mark.parametrize("seed", range(8))
def test_a_driver_that_slept_cannot_take_out_what_came_meanwhile(seed: int) -> None:
    held = after(FIRST)
    store = fresh_store(held)
    num_first = Random(seed).randrange(70)

    def slow_first(waiting: list[int]) -> int:
        return 0 if 0 in waiting and store.num_operations < num_first else waiting[-1]

    def night() -> None:
        drive(SECOND, date="2026-11-24")
        check(SECOND)

    race(store, slow_first, lambda: drive(SECOND, date="2026-11-23", listing=FIRST.listing), night)
    drive(SECOND, date="2026-11-25")
    check(SECOND)


VERSIONS = {
    "v1": ("1", "bad", "long", "2", "flaky"),
    "v2": ("1", "long-2", "2"),
    "v3": ("flaky-long", "3"),
}


class Nights(RuleBasedStateMachine):
    """Any order of nights, failures, changes of the inputs, retries and removals."""

    def __init__(self) -> None:
        super().__init__()
        self._fakes = ExitStack()
        self._fakes.enter_context(fake_stores())
        self.store = fresh_store()
        self.world = World(
            {"a.tar": ("v1", VERSIONS["v1"]), "b.tar": ("v3", VERSIONS["v3"])}, {"1.wav": "v1"}
        )
        self.forgotten: set[str] = set()

    def teardown(self) -> None:
        try:
            self.run(0, False)
        finally:
            self._fakes.close()

    @rule(seed=st.integers(0, 9), with_prune=st.booleans())
    def run(self, seed: int, with_prune: bool) -> None:
        drive(self.world, dice=Random(seed), with_prune=with_prune)
        check(self.world, forgotten=self.forgotten, is_pruned=with_prune)

    @rule(number=st.integers(0, 80), seed=st.integers(0, 9), with_prune=st.booleans())
    def crash(self, number: int, seed: int, with_prune: bool) -> None:
        self.store.calm()
        self.store.crash_at = number
        with suppress(Crash):
            drive(self.world, date="2026-11-23", dice=Random(seed), with_prune=with_prune)
        self.store.calm()

    @rule(number=st.integers(0, 80), lag=st.integers(0, 5))
    def lose_and_lag(self, number: int, lag: int) -> None:
        self.store.calm()
        self.store.lose_at, self.store.lag = number, lag
        with suppress(JobError):
            drive(self.world)
        self.store.calm()

    @rule(seed=st.integers(0, 99), is_atomic=st.booleans())
    def two_drivers(self, seed: int, is_atomic: bool) -> None:
        self.store.calm()
        self.store.is_atomic, random = is_atomic, Random(seed)
        race(
            self.store,
            at_random(random, 0.8),
            lambda: drive(self.world, dice=Random(seed)),
            lambda: drive(self.world, date="2026-11-23", dice=Random(seed + 1)),
        )

    @rule(name=st.sampled_from(["a.tar", "b.tar", "c.tar"]), version=st.sampled_from(["v1", "v2"]))
    def change_tar(self, name: str, version: str) -> None:
        self.world.tars[name] = (version, VERSIONS[version])

    @rule(
        name=st.sampled_from(["1.wav", "2.wav", "bad.wav", "flaky.wav"]),
        version=st.sampled_from(["v1", "v2"]),
    )
    def change_file(self, name: str, version: str) -> None:
        self.world.files[name] = version

    @rule(name=st.sampled_from(["a.tar", "c.tar", "1.wav", "2.wav"]))
    def remove(self, name: str) -> None:
        self.world.tars.pop(name, None)
        self.world.files.pop(name, None)

    @rule()
    def retry(self) -> None:
        plan_retry()

    @rule(number=st.integers(0, 99))
    def forget(self, number: int) -> None:
        known = sorted(self.world.expected())
        name = known[number % len(known)]
        self.forgotten.add(name)
        forget(name)
        # By the next run the store lists the deny list: one that it hid could not be kept.
        self.store.history.clear()


TestNights = Nights.TestCase
TestNights.settings = settings(
    max_examples=15, stateful_step_count=10, deadline=None, derandomize=True
)
