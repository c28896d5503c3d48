"""`koasr status`, `gc` and `forget` on outputs as runs leave them, on disk and on a real store."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import outputs
import pyarrow.compute as pc
import pytest
from outputs import group, ids, night, place, tar

from koasr import shard_objects, threads
from koasr.cli import main
from koasr.gc import gc
from koasr.inventory import open_output
from koasr.lease import Lease
from koasr.runs import Run, shard_name, write_plan
from koasr.shard_objects import mark_removed, rejects_uri, remove_object, rewrite
from koasr.staging import list_staged
from koasr.status import OutputStatus, read_status, status
from koasr.storage import join, list_files, read_bytes, remove, write_bytes
from koasr.verify import verify

GROUP = group(1, 2, 3)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Where an output is to be."""
    return str(tmp_path / "out")


def stopped(output: str, run_id: str = "20261123T000000Z-bbbbbb") -> Run:
    """A run that was killed: one shard committed, one staged, one not begun, one group staged."""
    run = outputs.begin(output, run_id, tar(3), tar(4), tar(5), group(7, 8), date="2026-11-23")
    outputs.commit(run, tar(3))
    outputs.stage(run, tar(3))
    outputs.stage(run, tar(4))
    outputs.stage(run, group(7, 8))
    return run


def state(output: str) -> OutputStatus:
    return read_status(open_output(output))


def files(output: str) -> set[str]:
    return {file.uri.removeprefix(output) for file in list_files(output)}


def test_status_counts_runs_and_what_they_have_left(output: str) -> None:
    night(output)
    run = stopped(output)
    found = state(output)
    first, second = found.runs
    assert (first.state, first.planned, first.committed, first.staged_packs) == (
        "finished",
        3,
        3,
        0,
    )
    assert asdict(second) == {
        "run_id": run.run_id,
        "date": "2026-11-23",
        "state": "unfinished",
        "retry": (),
        "planned": 4,
        "committed": 1,
        "removed": 0,
        "staged_packs": 3,
    }
    assert (found.shards, found.recordings, found.transcribed, found.rejected) == (4, 21, 18, 3)
    assert found.reasons == {"timeout": 1, "truncated": 1, "crashed": 1}
    assert (found.segments, found.audio_s, found.lease) == (36, 108.0, "free")


def test_status_counts_what_was_taken_out(output: str) -> None:
    run = night(output)
    gone = ids(tar(1))[:2]
    rewrite(place(run, tar(1)), lambda t: pc.equal(t["recording_id"], gone[0]), "forgotten")
    rewrite(place(run, tar(1)), lambda t: pc.equal(t["recording_id"], gone[1]), "superseded")
    mark_removed(place(run, GROUP), "pruned", run.run_id)
    remove_object(place(run, GROUP))
    found = state(output)
    assert found.removed_recordings == {"forgotten": 1, "superseded": 1}
    assert found.removed_shards == {"pruned": 1}
    assert (found.runs[0].committed, found.runs[0].removed) == (3, 1)
    assert found.recordings == 10


def test_status_is_a_table_or_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    night(str(tmp_path))
    main_exit(["status", str(tmp_path)])
    shown = capsys.readouterr().out
    for part in ("15 = 12 transcribed + 3 rejected", "1 timeout", "finished", "free"):
        assert part in shown
    main_exit(["status", str(tmp_path), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["recordings"], found["runs"][0]["state"]) == (15, "finished")


def main_exit(arguments: list[str], code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


def test_status_of_a_damaged_output_says_how_many_are_damaged(tmp_path: Path) -> None:
    run = night(str(tmp_path))
    write_bytes(place(run, tar(1)), b"x" * 100)
    assert state(str(tmp_path)).damaged == [place(run, tar(1))]


def hold(output: str, **changes: object) -> None:
    with Lease(output):
        held = json.loads(read_bytes(join(output, "_koasr/lease.json")))
    write_bytes(join(output, "_koasr/lease.json"), json.dumps(held | changes).encode())


def test_status_says_who_holds_the_lease(tmp_path: Path) -> None:
    output = str(tmp_path)
    stopped(output)
    with Lease(output):
        assert (
            state(output).lease
            == f"held by {socket.gethostname()} pid {os.getpid()}, which is running"
        )
        assert state(output).runs[0].state == "being done"
    hold(output, started="1")
    assert "which is gone" in state(output).lease
    assert state(output).runs[0].state == "unfinished"
    hold(output, host="node-7", machine="another")
    assert "node-7" in state(output).lease
    assert state(output).runs[0].state == "being done"
    two_minutes_ago_s = time.time() - 120
    os.utime(join(output, "_koasr/lease.json"), (two_minutes_ago_s, two_minutes_ago_s))
    assert "last heard of 120 s ago" in state(output).lease
    assert state(output).runs[0].state == "unfinished"


def test_status_speaks_on_stderr_when_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    night(str(tmp_path))
    monkeypatch.setattr(threads, "_SPEAK_EVERY_S", 0.0)
    status(str(tmp_path), json=True)
    found = capsys.readouterr()
    assert "records read: 3 of 3" in found.err
    json.loads(found.out)


def test_gc_removes_what_dead_runs_left_and_nothing_that_is_needed(
    output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    finished = night(output)
    outputs.stage(finished, tar(1))
    run = stopped(output)
    no_plan = Run(output, "20261120T000000Z-cccccc", "2026-11-20", outputs.FINGERPRINT)
    outputs.stage(no_plan, tar(9))
    write_bytes(run.rejects("lost.y.z"), b"x")
    write_bytes(join(output, "_koasr/probe"), b"")
    # Written by a commit that died before the object itself: its run will write it again.
    waiting = run.rejects(shard_name(tar(4), run.fingerprint))
    write_bytes(waiting, b"x")
    before = files(output)
    gc(output, dry_run=True)
    assert "koasr: 5 objects" in capsys.readouterr().out
    assert files(output) == before
    gc(output)
    shown = capsys.readouterr().out
    assert "koasr: 5 objects" in shown
    assert set(list_staged(run)) == {shard_name(s, run.fingerprint) for s in (tar(4), group(7, 8))}
    left = before - files(output)
    assert len(left) == 5
    assert not any("transcripts" in name or "plan" in name for name in left)
    assert waiting.removeprefix(output) in files(output)
    gc(output)
    assert "nothing to remove" in capsys.readouterr().out
    assert verify(output) == 0


def test_gc_takes_no_unfinished_retry_for_done(tmp_path: Path) -> None:
    output = str(tmp_path)
    night(output)
    again = Run(output, "20261124T000000Z-dddddd", outputs.DATE, outputs.FINGERPRINT, ("timeout",))
    write_plan(again, [tar(2)])
    outputs.stage(again, tar(2))
    gc(output)
    # Its object was there before the retry began: that it exists says nothing.
    assert list_staged(again)
    assert state(output).runs[1].committed == 0


def test_gc_sweeps_temporary_files_but_not_one_in_use(tmp_path: Path) -> None:
    run = night(str(tmp_path))
    folder = Path(place(run, tar(1))).parent
    old, new = folder / f".x.parquet.{'0' * 32}", folder / f".y.parquet.{'0' * 32}"
    kept = folder / ".gitkeep"
    for path in (old, new, kept):
        path.write_bytes(b"x")
        os.utime(path, (0, 0))
    new.touch()
    gc(str(tmp_path))
    assert [path.exists() for path in (old, new, kept)] == [False, True, True]


def test_gc_finishes_a_rewrite_that_died(tmp_path: Path) -> None:
    run = night(str(tmp_path))
    uri = place(run, tar(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_objects, "ensure_rejects", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rewrite(uri, lambda t: pc.equal(t["recording_id"], ids(tar(2))[0]), "pruned")
    assert verify(str(tmp_path)) == 1
    gc(str(tmp_path))
    assert verify(str(tmp_path)) == 0


@pytest.mark.parametrize("command", ["gc", "forget"])
def test_what_writes_waits_for_no_run_and_says_who_is_at_work(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out")
    stopped(output)
    names = tmp_path / "ids.txt"
    names.write_text(ids(tar(3))[0])
    more = ["--ids", str(names)] if command == "forget" else []
    before = files(output)
    with Lease(output, beat_s=0.05):
        main_exit([command, output, *more], 1)
    assert "is being done by" in capsys.readouterr().err
    assert files(output) == before


@pytest.mark.parametrize("command", ["status", "verify", "gc", "forget"])
def test_what_is_no_output_is_refused_in_one_line(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = tmp_path / "ids.txt"
    names.write_text("a.flac-0123456789ab")
    more = ["--ids", str(names)] if command == "forget" else []
    main_exit([command, str(tmp_path), *more], 1)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("koasr: ")
    assert "is not an output of koasr" in line
    assert os.listdir(tmp_path) == ["ids.txt"]


def test_upkeep_takes_neither_torch_nor_ray(tmp_path: Path) -> None:
    night(str(tmp_path))
    code = (
        "import sys; from koasr.cli import main\n"
        "for name in ('status', 'verify', 'gc'):\n"
        f"    try: main([name, {str(tmp_path)!r}])\n"
        "    except SystemExit as end: assert end.code == 0\n"
        "print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


def test_upkeep_of_an_output_in_a_bucket(
    s3: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = f"{s3}/out"
    finished = night(output)
    outputs.stage(finished, tar(1))
    run = stopped(output)
    main_exit(["status", output])
    shown = capsys.readouterr().out
    assert "21 = 18 transcribed + 3 rejected" in shown
    assert "unfinished" in shown
    names = tmp_path / "ids.txt"
    names.write_text("\n".join([ids(tar(1))[0], ids(tar(2))[0], ids(tar(4))[1]]))
    for found in (2, 0):
        main_exit(["forget", output, "--ids", str(names)])
        assert f"{found} recordings found" in capsys.readouterr().out
    assert set(list_staged(run)) == {shard_name(s, run.fingerprint) for s in (tar(3), group(7, 8))}
    remove(rejects_uri(place(finished, tar(2))))
    main_exit(["verify", output], 1)
    assert "copy of the rejects" in capsys.readouterr().out
    main_exit(["verify", output, "--repair"])
    main_exit(["gc", output])
    assert set(list_staged(run)) == {shard_name(group(7, 8), run.fingerprint)}
    main_exit(["gc", output])
    assert "nothing to remove" in capsys.readouterr().out
    main_exit(["verify", output])
    assert "4 shards, 19 recordings = 17 transcribed + 2 rejected" in capsys.readouterr().out
