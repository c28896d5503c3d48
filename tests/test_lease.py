"""One driver at a time; and that no clock, crash or failing store makes it two, or none."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from koasr import lease
from koasr.errors import JobError
from koasr.lease import Holder, Lease, read_holder

HOLD = """
import sys, time
from koasr.lease import Lease
with Lease(sys.argv[1], beat_s=0.1):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def output(tmp_path: Path) -> str:
    return str(tmp_path / "out")


def take(output: str, on_lost: Callable[[], None] = lambda: None) -> Lease:
    return Lease(output, on_lost, say=lambda _: None, ttl_s=0.6, beat_s=0.1)


def place_of(output: str) -> Path:
    return Path(output) / "_koasr" / "lease.json"


def put(output: str, holder: Holder) -> None:
    place_of(output).parent.mkdir(parents=True, exist_ok=True)
    place_of(output).write_text(json.dumps(asdict(holder)))


ELSEWHERE = Holder("someone", "node7", "node7 of another cluster", 4711, "99", counter=3)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_second_driver_is_told_who_holds_the_lease(output: str) -> None:
    with take(output), pytest.raises(JobError, match=f"pid {os.getpid()}: wait") as failure:
        take(output).__enter__()
    assert "\n" not in str(failure.value)


def test_a_lease_that_was_given_back_is_taken_at_once(output: str) -> None:
    with take(output):
        pass
    assert read_holder(output) is None
    with Lease(output, ttl_s=60):
        assert read_holder(output) is not None


def test_a_lease_of_a_killed_process_of_this_machine_is_taken_at_once(output: str) -> None:
    command = [sys.executable, "-c", HOLD, output]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(JobError, match=f"pid {process.pid}"):
            take(output).__enter__()
        process.kill()
    with Lease(output, ttl_s=60):
        pass


def test_a_process_that_took_over_a_dead_ones_id_does_not_hold_its_lease(output: str) -> None:
    with take(output):
        ours = read_holder(output)
    assert ours
    put(output, replace(ours, owner="before", started="1"))
    with Lease(output, ttl_s=60):
        pass


def test_a_lease_elsewhere_that_stands_still_is_taken_after_its_time(output: str) -> None:
    put(output, ELSEWHERE)
    start_s = time.monotonic()
    with take(output):
        assert time.monotonic() - start_s >= 0.6


@pytest.mark.parametrize("shift_s", [-1e9, 0.0, 1e9])
def test_a_clock_that_is_years_off_neither_keeps_nor_breaks_a_lease(
    output: str, shift_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + shift_s)
    put(output, ELSEWHERE)
    os.utime(place_of(output), (now_s + shift_s, now_s + shift_s))
    is_over = threading.Event()

    def beat() -> None:
        counter = ELSEWHERE.counter
        while not is_over.wait(0.1):
            counter += 1
            put(output, replace(ELSEWHERE, counter=counter))

    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(JobError, match="node7 pid 4711"):
            take(output).__enter__()
    finally:
        is_over.set()
        other.join()
    with take(output):
        pass


def test_who_loses_the_lease_is_called_once_and_leaves_it_alone(output: str) -> None:
    calls: list[int] = []
    with take(output, lambda: calls.append(1)):
        put(output, ELSEWHERE)
        wait_until(lambda: bool(calls))
        time.sleep(0.3)
    assert calls == [1]
    assert read_holder(output) == ELSEWHERE


def test_a_store_that_fails_for_a_while_costs_nothing(
    output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []
    calls: list[int] = []

    def fail(uri: str, data: bytes) -> None:
        failures.append(1)
        raise OSError("out of order")

    with take(output, lambda: calls.append(1)):
        with monkeypatch.context() as patch:
            patch.setattr(lease, "write_bytes", fail)
            wait_until(lambda: len(failures) >= 2)
        before = read_holder(output)
        wait_until(lambda: read_holder(output) != before)
    assert not calls


def test_a_damaged_lease_is_no_lease(output: str) -> None:
    place_of(output).parent.mkdir(parents=True)
    place_of(output).write_text("{")
    with Lease(output, ttl_s=60):
        assert read_holder(output)
