"""The process that reads Parquet may die, hang or lose the store: the run goes on."""

import os
import signal
from pathlib import Path

import pytest
from hostile.cases import FLAC
from hostile.parquet_cases import parquet, rows

from koasr.errors import TransientError
from koasr.limits import Limits
from koasr.parquets import read_parquet
from koasr.readers import read_recordings
from koasr.rows import Recording, Reject, Shard
from koasr.sources import list_shards

NUM_ROWS = 2_000


@pytest.fixture
def shard(tmp_path: Path) -> Shard:
    """More than the pipe to the child holds."""
    audio = [{"bytes": FLAC * 8, "path": f"{i}.flac"} for i in range(NUM_ROWS)]
    (tmp_path / "a.parquet").write_bytes(
        parquet(rows(*audio), row_group_size=100, use_dictionary=False)
    )
    (found,) = list_shards([str(tmp_path)])
    return found


@pytest.fixture(autouse=True)
def own_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Children are kept by their environment: none that another test left takes these requests."""
    monkeypatch.setenv("KOASR_TEST", str(tmp_path))


def _child() -> int:
    """The process that reads Parquet for this one: the youngest, since others may wait for work."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        # proc_pid_stat(5): fields 4 and 22. Numbers of processes start again from 1 at pid_max.
        parent, started = int(fields[1]), int(fields[19])
        if parent == os.getpid() and b"koasr.parquet_child" in command:
            found.append((started, int(folder.name)))
    return max(found)[1]


def _read_and_signal(shard: Shard, number: signal.Signals) -> list[Recording | Reject]:
    """The items of a shard; the child gets a signal behind the first."""
    items = read_recordings(shard, Limits(decode_timeout_s=1.0))
    first = next(items)
    os.kill(_child(), number)
    return [first, *items]


def test_a_child_that_is_killed_once_costs_nothing(shard: Shard) -> None:
    items = _read_and_signal(shard, signal.SIGKILL)
    assert [item.source_key for item in items] == [str(i) for i in range(NUM_ROWS)]


def test_rows_read_before_the_child_hangs_are_kept(shard: Shard) -> None:
    *others, last = _read_and_signal(shard, signal.SIGSTOP)
    assert isinstance(last, Reject)
    assert (last.reason, last.source_key) == ("timeout", "")
    assert all(isinstance(item, Recording) for item in others)
    assert 0 < len(others) < NUM_ROWS
    assert sum(isinstance(item, Recording) for item in read_recordings(shard)) == NUM_ROWS


def test_a_child_that_dies_twice_ends_the_shard(shard: Shard) -> None:
    items = read_recordings(shard)
    found = [next(items)]
    os.kill(_child(), signal.SIGKILL)
    while len(found) < NUM_ROWS and isinstance(found[-1], Recording):
        found.append(next(items))
        if len(found) == 1_500:
            os.kill(_child(), signal.SIGSEGV)
    last = found[-1]
    assert isinstance(last, Reject)
    assert (last.reason, last.source_key) == ("crashed", "")
    assert "signal 11" in last.message
    assert not list(items)


def test_a_shard_that_is_left_early_does_not_spoil_the_next(shard: Shard) -> None:
    items = read_recordings(shard)
    next(items)
    del items
    assert [item.source_key for item in read_recordings(shard)] == [str(i) for i in range(NUM_ROWS)]


def test_two_shards_read_at_once_do_not_mix(shard: Shard) -> None:
    pairs = zip(read_recordings(shard), read_recordings(shard), strict=True)
    assert all(one == other for one, other in pairs)


def test_a_failing_store_is_no_reject(tmp_path: Path) -> None:
    # Its first byte cannot be read: EIO, as from a disk that fails.
    (tmp_path / "a.parquet").symlink_to("/proc/self/mem")
    (shard,) = list_shards([str(tmp_path)])
    # Not by way of its version: the kernel forgets a file's time in /proc when it wants the memory.
    with pytest.raises(TransientError):
        list(read_parquet(shard, Limits()))


def test_the_child_is_kept_for_the_next_shard(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(parquet(rows({"bytes": FLAC})))
    (shard,) = list_shards([str(tmp_path)])
    list(read_recordings(shard))
    child = _child()
    list(read_recordings(shard))
    assert _child() == child
