"""The faults: each starts sessions of the job in a round, does its harm, and lets the job finish.

Each returns whether it truly happened, and whether the job came to a good end after it.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_proxy import Fault, FaultKind
from torture_kills import drain_node, kill_actor, kill_decoder, kill_model, kill_node
from torture_world import BUCKET, Driver, Outcome, Round

_WRITES = "PUT|POST|DELETE"
_ANY = "GET|PUT|HEAD|POST|DELETE"
_EXIT_STOPPED = 4
_STALE_S = 12.0
_EXTRA_NODE_CPUS = 4
_PAGE = 4_096
_PATIENCE_S = 20.0


class NotHere(Exception):
    """This machine cannot do that harm. The message says why."""


def _at_operation(round_: Round, low: float = 0.0, high: float = 0.95) -> tuple[Driver, bool]:
    """A session that is held at a write, before or after the store has done it."""
    return _held_at(round_, round_.key, round_.operation(low, high))


def _held_at(round_: Round, path: str, skip: int) -> tuple[Driver, bool]:
    kind: FaultKind = round_.rng.choice(("hold_request", "hold_answer"))
    held = Fault(kind, _WRITES, path, skip=skip)
    round_.world.proxy.faults = [held]
    driver = round_.start()
    reached = round_.wait_for(driver, lambda: held.hits)
    return driver, reached


def kill_driver(round_: Round) -> Outcome:
    """SIGKILL the driver at one of its writes, or of its tasks'."""
    driver, reached = _at_operation(round_)
    fired = driver.kill() and reached
    round_.world.proxy.release()
    return Outcome(fired, round_.finish())


def sigterm(round_: Round) -> Outcome:
    """SIGTERM to the driver, as a spot notice or `ray job stop` sends it."""
    driver, reached = _at_operation(round_)
    fired = reached and driver.is_alive
    driver.process.terminate()
    round_.world.proxy.release()
    code = driver.end(90)
    round_.hung += code is None
    round_.notes.append(f"exit {code} after SIGTERM")
    problem = "" if code in (0, _EXIT_STOPPED) else f"exit {code}, not {_EXIT_STOPPED}"
    return Outcome(fired and code != 0, round_.finish(), problem)


def stale_listing(round_: Round) -> Outcome:
    """SIGKILL the driver; the next one is shown the listings of before, for some seconds."""
    driver, reached = _at_operation(round_, 0.3)
    was_alive = driver.kill()
    proxy = round_.world.proxy
    proxy.release()
    stale = Fault("stale", "GET", "list-type=2.*" + round_.name, count=1_000_000)
    proxy.faults = [stale]
    driver = round_.start()
    timer = threading.Timer(_STALE_S, proxy.release)
    timer.start()
    finished = round_.finish(driver)
    timer.cancel()
    proxy.release()
    return Outcome(was_alive and reached and stale.hits > 0, finished)


def skewed_lease(round_: Round) -> Outcome:
    """SIGKILL the driver; its lease is then from ten years ahead or ago, or from nowhere."""
    driver, reached = _at_operation(round_, 0.3)
    was_alive = driver.kill()
    round_.world.proxy.release()
    store, place = round_.world.store, f"{round_.output}/_koasr/lease.json"
    if not (was_alive and reached and store.exists(place)):
        return Outcome(False, round_.finish())
    years = round_.rng.choice((-10, 0, 10))
    lease = _shifted(json.loads(store.cat_file(place)), years)
    store.pipe_file(place, json.dumps(lease).encode() if years else b"{")
    round_.notes.append(f"lease {years:+d} years" if years else "half a lease")
    return Outcome(True, round_.finish())


def _shifted(lease: dict[str, Any], years: int) -> dict[str, Any]:
    """A lease with everything that counts or tells time moved by so many years.

    All but the process id and its start, by which a new driver sees that the old one is dead.
    """
    moved = dict(lease)
    for name, value in lease.items():
        if isinstance(value, float | int) and name != "pid":
            moved[name] = value + years * 365 * 86_400
        elif isinstance(value, str) and value[:2] == "20" and value[4:5] == "-":
            moved[name] = f"{int(value[:4]) + years}{value[4:]}"
    return moved


def _s3(kind: FaultKind, method: str = _ANY, *, seconds: float = 0.0) -> Callable[[Round], Outcome]:
    """A fault that does this to a seeded share of the requests, at most to some."""

    def disturb(round_: Round) -> Outcome:
        share = round_.rng.choice((0.05, 0.2, 0.5))
        skip = round_.operation(0.0, 0.5)
        count = round_.rng.randrange(4, 16)
        fault = Fault(kind, method, f"/{BUCKET}/", share, count, skip, seconds)
        round_.notes.append(f"a share of {share:.0%}")
        return _disturbed(round_, fault)

    return disturb


def _disturbed(round_: Round, fault: Fault) -> Outcome:
    round_.world.proxy.faults = [fault]
    finished = round_.finish()
    round_.world.proxy.release()
    round_.notes.append(f"{fault.hits} requests")
    return Outcome(fault.hits > 0, finished)


def flipped_byte(round_: Round) -> Outcome:
    """One byte of a staged pack is another when it is read: nobody but a checksum would see it."""
    # Few packs are read again, so no share: the first of them, or the second or third.
    path = f"/{round_.name}/.*/staged/"
    return _disturbed(round_, Fault("flip", "GET", path, skip=round_.rng.randrange(3)))


def two_drivers(round_: Round) -> Outcome:
    """Two drivers at work on one output, with the lease taken away under them."""
    world = round_.world
    first = round_.start()
    fired = False
    if round_.wait_for(first, world.cluster.actors):
        node = world.cluster.add_node(_EXTRA_NODE_CPUS)
        second = round_.start()
        lease = f"{round_.output}/_koasr/lease.json"
        # The second one looks for a lease in its first seconds.
        while second.is_alive and first.is_alive and "actor(s)" not in second.text():
            if world.store.exists(lease):
                world.store.rm_file(lease)
            time.sleep(0.1)
        fired = second.is_alive and first.is_alive
        codes = first.end(), second.end()
        round_.hung += codes.count(None)
        round_.notes.append(f"exits {codes[0]} and {codes[1]}")
        world.cluster.remove_node(node)
    return Outcome(fired, round_.finish())


def second_driver(round_: Round) -> Outcome:
    """A second driver while the first holds the lease: it must leave, with exit code 1."""
    # Its heartbeat goes on while its work is held; the second one waits to see it.
    first, reached = _held_at(round_, f"/{round_.name}/(transcripts|rejects|_koasr/runs)", 2)
    if not (reached and round_.world.store.exists(f"{round_.output}/_koasr/lease.json")):
        round_.world.proxy.release()
        return Outcome(False, round_.finish(first))
    second = round_.start()
    code = second.end()
    fired = first.is_alive
    round_.world.proxy.release()
    round_.notes.append(f"the second: exit {code}")
    problem = f"the second driver: exit {code}, not 1" if fired and code != 1 else ""
    return Outcome(fired, round_.finish(first), problem)


def full_disk(round_: Round) -> Outcome:
    """An output on a disk too small for it, which grows when the job has given up."""
    place = Path(tempfile.mkdtemp(prefix="koasr-torture-disk-"))
    size = int(round_.world.num_bytes * round_.rng.uniform(0.2, 0.8))
    if not _mount(place, size):
        place.rmdir()
        raise NotHere("no small disk: only root may mount a tmpfs")
    round_.output = str(place)
    driver = round_.start()
    fired = round_.wait_for(driver, lambda: _free_bytes(place) < 4 * _PAGE)
    # It may go on trying; then it is killed, as an operator would.
    code = driver.end(_PATIENCE_S)
    fired = fired or (code != 0 and "space" in driver.text())
    round_.notes.append(f"{size} bytes: exit {code}")
    _mount(place, 64 << 20, again=True)
    return Outcome(fired, round_.finish())


def _mount(place: Path, size: int, *, again: bool = False) -> bool:
    size = max(2, -(-size // _PAGE)) * _PAGE
    options = f"size={size}" + (",remount" if again else "")
    command = ["mount", "-t", "tmpfs", "-o", options, "koasr-torture", str(place)]
    return subprocess.run(command, capture_output=True).returncode == 0


def _free_bytes(place: Path) -> int:
    return os.statvfs(place).f_bavail * os.statvfs(place).f_bsize


def unmount(round_: Round) -> None:
    """Take the round's disk away, if it has one."""
    if not round_.is_remote:
        subprocess.run(["umount", round_.output], capture_output=True)
        os.rmdir(round_.output)


FAULTS: dict[str, Callable[[Round], Outcome]] = {
    "kill driver": kill_driver,
    "kill actor": kill_actor,
    "kill model": kill_model,
    "kill decoder": kill_decoder,
    "kill node": kill_node,
    "drain node": drain_node,
    "sigterm": sigterm,
    "two drivers": two_drivers,
    "second driver": second_driver,
    "stale listing": stale_listing,
    "skewed lease": skewed_lease,
    "full disk": full_disk,
    "s3 500": _s3("500"),
    "s3 503": _s3("503"),
    "s3 slow": _s3("slow", seconds=1.5),
    "s3 reset": _s3("reset"),
    "s3 truncated": _s3("truncate", "GET"),
    "s3 lost ack": _s3("lost_ack", _WRITES),
    "s3 flipped byte": flipped_byte,
}
"""Every kind of fault by its name in the report."""
