"""`koasr status --watch`: a run seen from another machine, through the output alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import outputs
import pytest
from outputs import begin, night, tar
from test_progress import large

from koasr import beacon
from koasr.beacon import Beacon, find_beacon, read_beacon, shining
from koasr.cli import main
from koasr.gc import gc
from koasr.lease import Lease
from koasr.runs import Run
from koasr.storage import join, list_files, read_bytes, write_bytes
from koasr.watch import look

NEW = "20261123T000000Z-bbbbbb"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that has just begun, after one that is finished."""
    output = str(tmp_path / "out")
    night(output)
    return begin(output, NEW, tar(3), tar(4), date="2026-11-23")


def write(run: Run, number: int, age_s: float = 0.0, changes: Any = None) -> None:
    document = json.loads(Beacon(number, time.time() - age_s, large()).to_bytes())
    document["figures"].update({"run_id": run.run_id} | (changes or {}))
    write_bytes(join(run.folder, beacon.NAME), json.dumps(document).encode())


def test_figures_are_written_while_a_run_goes_on_and_are_gone_after_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("koasr.beacon.INTERVAL_S", 0.1)
    before = list_files(run.output)
    with shining(run, large):
        time.sleep(0.5)
        found = find_beacon(run.output)
        assert found is not None
        assert found.number > 2
        assert found.figures.left_s == large().left_s
    assert find_beacon(run.output) is None
    assert list_files(run.output) == before


def test_a_store_that_fails_disturbs_no_run(run: Run, tmp_path: Path) -> None:
    (Path(run.folder) / beacon.NAME).mkdir()
    with shining(run, large):
        time.sleep(0.1)


def test_what_another_machine_wrote_is_not_trusted(run: Run) -> None:
    write(run, 1, changes={"bound_by": "\x1b[31mload\x07", "more": "of a later version"})
    found = read_beacon(run)
    assert found is not None
    assert found.figures.bound_by == "[31mload"
    wrong: list[tuple[str, Any]] = [("packs", "many"), ("packs", None), ("times", {}), ("rtfx", [])]
    for name, value in [*wrong, ("rtfx", float("nan")), ("size_bytes", 10**400)]:
        write(run, 1, changes={name: value})
        assert read_beacon(run) is None
    write(run, 1)
    whole = json.loads(read_bytes(join(run.folder, beacon.NAME)))
    endless = [{"number": float("inf")}, {"written_s": float("nan")}]
    texts = [json.dumps(whole | changes) for changes in endless]
    for text in (*texts, "[" * 100_000, "[]"):
        write_bytes(join(run.folder, beacon.NAME), text.encode())
        assert read_beacon(run) is None


def test_age_is_by_the_clock_of_who_watches_once_figures_have_changed(run: Run) -> None:
    with Lease(run.output):
        write(run, 1, age_s=300)
        sight = look(run.output, None)
        assert sight.headline.startswith(f"run {NEW}, silent for 5.0 min: held by ")
        # The driver's clock is five minutes slow.
        write(run, 2, age_s=300)
        sight = look(run.output, sight)
        assert sight.headline.startswith(f"run {NEW}, 0 s ago: held by ")
        assert look(run.output, sight).changed_s == sight.changed_s
        # Figures that a killed driver left do not hide those of another run.
        old = replace(run, run_id="20261122T000000Z-aaaaaa")
        write(old, 1, age_s=3000)
        sight = look(run.output, replace(sight, beacon=read_beacon(old), changed_s=0.0))
        assert sight.beacon
        assert sight.beacon.figures.run_id == NEW
    assert look(run.output, sight).is_over


def test_a_log_of_watching_ends_with_what_became_of_the_run(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with Lease(run.output):
            is_held.set()
            for number in range(4):
                write(run, number)
                time.sleep(0.3)
            outputs.finish(run, [outputs.commit(run, shard) for shard in (tar(3), tar(4))])

    is_held, worker = threading.Event(), threading.Thread(target=work)
    worker.start()
    is_held.wait()
    with pytest.raises(SystemExit) as ended:
        main(["status", run.output, "--watch", "--interval", "0.2"])
    worker.join()
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    lines = [line for line in shown.splitlines() if line.startswith("koasr: ")]
    assert all(line.isprintable() for line in lines)
    assert len(lines) >= 4
    assert "which is running; 38%, 3,812.0 h of" in lines[-2]
    assert lines[-1] == (
        f"koasr: run {NEW} is done: 72 s of audio, 2 shards, 0 of 12 recordings rejected"
    )
    # The driver was cut off before it could take its figures away.
    assert read_beacon(run)
    gc(run.output)
    assert read_beacon(run) is None


def test_nobody_at_work_is_said_at_once_and_a_dead_driver_too(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def last_line() -> str:
        with pytest.raises(SystemExit):
            main(["status", run.output, "--watch"])
        return capsys.readouterr().out.splitlines()[-1]

    assert last_line().endswith("the lease is free")
    code = "import os, sys; from koasr.lease import Lease; Lease(sys.argv[1]).__enter__();"
    subprocess.run([sys.executable, "-c", f"{code} os._exit(0)", run.output], check=True)
    write(run, 1)
    found = last_line()
    assert found.startswith(f"koasr: run {NEW} is unfinished (left by ")
    assert found.endswith("the same command goes on from here")
    # What a driver that died before left of its figures stays until the run is done.
    gc(run.output)
    assert read_beacon(run)


def test_control_c_ends_the_watching(run: Run) -> None:
    with Lease(run.output):
        command = [sys.executable, "-c", "from koasr.cli import main; main()"]
        arguments = ["status", run.output, "--watch", "--interval", "0.2"]
        with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as shown:
            assert shown.stdout
            while not shown.stdout.readline().startswith("koasr: held by"):
                assert shown.poll() is None
            os.kill(shown.pid, signal.SIGINT)
            assert shown.wait(20) == 130


@pytest.mark.parametrize("arguments", [["--watch", "--json"], ["--watch", "--interval", "0"]])
def test_wrong_usage(arguments: list[str], run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["status", run.output, *arguments])
    assert ended.value.code == 2
    assert "wanted" in capsys.readouterr().err
