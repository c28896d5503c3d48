"""Stopping on purpose: by a signal, at a deadline, for want of a GPU."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from checkpoints import tiny
from rich.console import Console
from sound import encode, tone, write_tar

from koasr import job
from koasr.cli import main
from koasr.errors import JobError
from koasr.stopping import (
    Stopped,
    check_stop,
    seconds_left,
    stop,
    stoppable,
    taking_sigterm_back,
)

ROOT = Path(__file__).parent.parent
NIGHT = datetime(2026, 11, 22, 22, 0)


@pytest.mark.parametrize(
    ("stop_at", "max_hours", "expected_s"),
    [
        (None, None, None),
        ("06:00", None, 8 * 3600.0),
        ("22:30", None, 1800.0),
        ("22:00", None, 24 * 3600.0),
        (None, 0.5, 1800.0),
        ("06:00", 9.0, 8 * 3600.0),
    ],
)
def test_the_earlier_deadline_counts(
    stop_at: str | None, max_hours: float | None, expected_s: float | None
) -> None:
    assert seconds_left(stop_at, max_hours, NIGHT) == expected_s


@pytest.mark.parametrize("stop_at", ["6 pm", "25:00", ""])
def test_a_deadline_that_is_no_time_is_wrong_usage(stop_at: str) -> None:
    with pytest.raises(JobError, match="--stop-at") as failure:
        seconds_left(stop_at, None, NIGHT)
    assert failure.value.exit_code == 2


def test_a_deadline_stops_what_runs() -> None:
    with pytest.raises(Stopped, match="the deadline"), stoppable(0.2):
        time.sleep(30)


def test_another_thread_can_stop_the_main_one_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable(None):
        threading.Timer(0.1, stop, ["a reason"]).start()
        with pytest.raises(Stopped, match="a reason"):
            time.sleep(30)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stop_that_code_in_c_turned_into_another_error_is_a_stop() -> None:
    def call() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        except Stopped as stopped:
            raise SystemError("returned a result with an exception set") from stopped

    with pytest.raises(Stopped, match="SIGTERM"), stoppable(None):
        call()


def test_a_stop_that_was_swallowed_is_raised_again() -> None:
    def call() -> None:
        with suppress(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)
        check_stop()

    with pytest.raises(Stopped, match="SIGTERM"), stoppable(None):
        call()


def test_what_comes_after_a_stop_in_the_same_process_is_not_stopped() -> None:
    with pytest.raises(Stopped, match="the deadline"), stoppable(0.2):
        time.sleep(30)
    check_stop()


def test_an_error_without_a_stop_stays_what_it_is() -> None:
    def call() -> None:
        check_stop()
        raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"), stoppable(None):
        call()


def test_a_library_that_takes_sigterm_while_it_starts_does_not_hide_the_stop() -> None:
    def take(number: int, _frame: object) -> None:
        sys.exit(number)

    def start() -> None:
        with taking_sigterm_back():
            signal.signal(signal.SIGTERM, take)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(30)

    with stoppable(None):
        ours = signal.getsignal(signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            start()
        assert signal.getsignal(signal.SIGTERM) == ours


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A tar of 24 recordings of 2 s."""
    folder = tmp_path / "in"
    folder.mkdir()
    members = [(f"{i:02d}.wav", encode(tone(2.0), kind="WAV")) for i in range(24)]
    write_tar(folder / "a.tar", members)
    return folder


@pytest.fixture
def command(corpus: Path, tmp_path: Path) -> list[str]:
    """A run of 24 packs on a cluster of its own."""
    model = tiny(tmp_path / "model")
    command = [sys.executable, str(ROOT / "pipelines" / "transcribe.py"), str(corpus)]
    command += ["--output", str(tmp_path / "out"), "--model", str(model)]
    return [*command, "--pack-seconds", "1"]


def finished(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"RAY_ADDRESS": ""}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=200
    )


@pytest.mark.timeout(400)
def test_sigterm_stops_cleanly_and_the_next_start_goes_on(
    command: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
) -> None:
    environment = os.environ | {"RAY_ADDRESS": ""}
    running = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline_s = time.monotonic() + 150
    while not list(tmp_path.glob("out/_koasr/runs/*/staged/*/*.arrows")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    running.terminate()
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 4
    assert errors.strip().splitlines()[-1].startswith("koasr: stopped (SIGTERM)")
    assert "Traceback" not in errors
    assert list(tmp_path.glob("out/_koasr/runs/*/staged/*/*.arrows"))
    # Not before: the two would take the cores from each other.
    request.getfixturevalue("ray_cluster")
    with pytest.raises(SystemExit) as again:
        main(["transcribe", *command[2:]])
    assert again.value.code == 0
    assert "going on with the unfinished run" in capsys.readouterr().out
    rows = ds.dataset(str(tmp_path / "out" / "transcripts"), format="parquet").to_table()
    assert sorted(rows["source_key"].to_pylist()) == [f"{i:02d}.wav" for i in range(24)]


@pytest.mark.timeout(200)
def test_a_run_stops_at_its_deadline(command: list[str]) -> None:
    done = finished(command, "--max-hours", "0.001")
    assert done.returncode == 4, done.stderr
    assert "stopped (the deadline)" in done.stderr


@pytest.mark.usefixtures("ray_cluster")
def test_a_machine_without_a_gpu_does_not_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "is_elsewhere", lambda: False)
    with pytest.raises(JobError, match="no GPU: add one"):
        job.wait_for_gpu(60, 1, Console(quiet=True))


@pytest.mark.usefixtures("ray_cluster")
def test_gpus_that_never_come_to_a_cluster_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "is_elsewhere", lambda: True)
    console = Console(record=True, width=120)
    with pytest.raises(JobError, match="no GPU came to the cluster in 2 s"):
        job.wait_for_gpu(2, 1, console)
    assert "waiting for a GPU" in console.export_text()


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_that_loses_its_gpus_stops_the_job() -> None:
    with (
        pytest.raises(Stopped, match="has had no GPU for 1 s"),
        stoppable(None),
        job.watch_gpus(1),
    ):
        time.sleep(30)
