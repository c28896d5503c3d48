"""Real child processes that answer, crash, leave and hang."""

import gc
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from koasr.child import Child, ChildError


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child("children", ["one", "two"])
    yield child
    child.kill()


def ask(child: Child, request: bytes) -> bytes:
    child.send(request)
    return child.receive(20)


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether it does within 20 s."""
    for _ in range(200):
        if condition():
            return True
        time.sleep(0.1)
    return False


def is_gone(pid: int) -> bool:
    """Whether nothing of the process is left but, where its parent died, a line in a table."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_one_child_answers_one_request_after_the_other(child: Child) -> None:
    assert child.pid is None
    assert ask(child, b"echo 1") == b"1"
    pid = child.pid
    assert ask(child, b"echo ") == b""
    assert ask(child, b"arguments") == b"one two"
    assert child.pid == pid


@pytest.mark.parametrize("num_bytes", [1, 4_096, 4_097, 1 << 19, (1 << 19) + 1, 9_999_999])
def test_frames_of_any_size_come_whole_and_in_order(child: Child, num_bytes: int) -> None:
    frame = random.Random(num_bytes).randbytes(num_bytes)
    child.send(b"twice " + frame)
    assert [child.receive(20), child.receive(20)] == [frame, frame[::-1]]
    child.send(b"echo " + frame[:7], b"echo " + frame, b"echo " + frame[-7:])
    assert [child.receive(20) for _ in range(3)] == [frame[:7], frame, frame[-7:]]


@pytest.mark.parametrize(
    ("request_", "message"),
    [(b"crash", "ended by signal 11"), (b"leave", "ended with exit code 3")],
)
def test_a_death_says_how_and_the_next_request_starts_another(
    child: Child, request_: bytes, message: str
) -> None:
    ask(child, b"echo 1")
    pid = child.pid
    child.send(request_)
    with pytest.raises(ChildError, match=message):
        child.receive(20)
    assert child.pid is None
    assert ask(child, b"echo 2") == b"2"
    assert child.pid != pid


@pytest.mark.parametrize("request_", [b"hang", b"half"])
def test_a_child_that_hangs_is_killed_also_within_a_frame(child: Child, request_: bytes) -> None:
    ask(child, b"echo 1")
    pid = child.pid
    assert pid
    child.send(request_)
    start_s = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 1 s"):
        child.receive(1)
    assert time.monotonic() - start_s < 10
    assert is_gone(pid)
    assert ask(child, b"echo 2") == b"2"


def test_a_child_that_does_not_listen_is_killed(child: Child) -> None:
    assert ask(child, b"deaf") == b""
    with pytest.raises(TimeoutError, match="did not take a request within 1 s"):
        child.send(bytes(50 << 20), timeout_s=1)
    assert child.pid is None


def test_more_than_was_asked_for_is_not_read(child: Child) -> None:
    child.send(b"echo 12345")
    with pytest.raises(ChildError, match="a frame of 5 bytes, wanted at most 4"):
        child.receive(20, max_bytes=4)
    assert child.pid is None


def test_a_module_that_does_not_run_is_a_death() -> None:
    child = Child("no_such_module")
    with pytest.raises(ChildError, match="exit code 1"):
        ask(child, b"echo 1")


def test_a_killed_child_leaves_no_zombie(child: Child) -> None:
    ask(child, b"echo 1")
    killed = child.pid
    child.kill()
    assert killed
    # Reaped, not only dead.
    assert not Path(f"/proc/{killed}").exists()


def test_a_hanging_child_ends_with_the_object() -> None:
    child = Child("children")
    ask(child, b"echo 1")
    child.send(b"hang")
    pid = child.pid
    assert pid
    del child
    gc.collect()
    assert comes_true(lambda: is_gone(pid))


@pytest.mark.parametrize("request_", ["echo 1", "hang"])
def test_a_child_ends_when_its_parent_is_killed(request_: str) -> None:
    code = (
        "import time; from koasr.child import Child; child = Child('children')\n"
        "child.send(b'echo 1'); child.receive(20)\n"
        f"child.send({request_.encode()!r}); print(child.pid, flush=True); time.sleep(600)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert not is_gone(pid)
        parent.send_signal(signal.SIGKILL)
    assert comes_true(lambda: is_gone(pid))


def test_it_works_without_shared_memory(child: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    frame = random.Random(0).randbytes(3_000_000)
    assert ask(child, b"echo " + frame) == frame
