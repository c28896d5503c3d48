"""`ray job submit` for real: a head with its job server, and the pipeline as its jobs."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from ray_head import Head, running_head
from sound import encode, tone, write_tar
from test_telling import told

from koasr.telling import LINE_MARK

ROOT = Path(__file__).parent.parent
MODEL = str(ROOT / "examples" / "model")
NUM_RECORDINGS = 60
ENVIRONMENT = {
    "excludes": ["/tests", "/bench", "/examples", "/docs", "/runs"],
    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
}
"""As docs/jobs.md has it. What git ignores is left out by Ray itself."""
OFTEN = "import sys, koasr.progress as p; p.LOG_INTERVAL_S = 0; from koasr.cli import main; main()"
"""The same job, which says at every pack how far it is: half a minute is too long for a test."""

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="koasr-", dir="/tmp"))
    with running_head(folder) as head:
        yield head
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of 2 s recordings."""
    folder = tmp_path_factory.mktemp("in")
    names = [f"{i:02d}.wav" for i in range(NUM_RECORDINGS)]
    write_tar(folder / "a.tar", [(name, encode(tone(2.0), kind="WAV")) for name in names])
    return folder


def submit(head: Head, submission_id: str, entrypoint: str) -> None:
    """The job, of the repository as it is here."""
    environment = ENVIRONMENT | {"working_dir": str(ROOT)}
    head.client().submit_job(
        entrypoint=entrypoint, submission_id=submission_id, runtime_env=environment
    )


def wait(found: Callable[[], Any], explain: Callable[[], str]) -> None:
    deadline_s = time.monotonic() + 120
    while not found():
        assert time.monotonic() < deadline_s, explain()
        time.sleep(0.1)


def finish(head: Head, submission_id: str) -> tuple[str, int | None, str]:
    """Status, exit code of the driver and logs of a job, when it is over."""
    client = head.client()

    def logs() -> str:
        found: str = client.get_job_logs(submission_id)
        return found

    wait(lambda: client.get_job_status(submission_id).is_terminal(), logs)
    job = client.get_job_info(submission_id)
    return str(job.status), job.driver_exit_code, logs()


def line_of(logs: str) -> dict[str, Any]:
    """What KOASR_SUMMARY tells, in logs that hold stderr too."""
    (line,) = (line for line in logs.splitlines() if line.startswith(LINE_MARK))
    return told(line)


def test_the_command_exits_1_whatever_the_driver_says(head: Head, tmp_path: Path) -> None:
    arguments = ["/no/such", "--output", str(tmp_path), "--model", MODEL, "--device", "tpu"]
    done = head.job(
        *("submit", "--submission-id", "koasr-usage", "--working-dir", str(ROOT)),
        *("--runtime-env-json", json.dumps(ENVIRONMENT)),
        *("--", "python", "pipelines/transcribe.py", *arguments),
    )
    assert done.returncode == 1
    assert "tpu" in done.stdout
    assert finish(head, "koasr-usage")[:2] == ("FAILED", 2)
    with pytest.raises(RuntimeError, match="koasr-usage already exists"):
        submit(head, "koasr-usage", "true")


def test_a_bad_job_fails_at_once_with_one_line(head: Head, corpus: Path, tmp_path: Path) -> None:
    command = f"python pipelines/transcribe.py {corpus} --output {tmp_path}/out"
    submit(head, "koasr-bad", f"{command} --model /no/such/model")
    status, code, logs = finish(head, "koasr-bad")
    assert (status, code) == ("FAILED", 1)
    assert len(re.findall("^koasr: /no/such/model does not exist", logs, re.MULTILINE)) == 1
    assert "Traceback" not in logs
    found = line_of(logs)
    assert (found["state"], found["exit_code"], found["runs"]) == ("failed", 1, [])
    assert found["wall_s"] < 10


def test_a_job_that_is_stopped_half_way_is_gone_on_with_by_the_next(
    head: Head, corpus: Path, tmp_path: Path
) -> None:
    arguments = f"{corpus} --output {tmp_path}/out --model {MODEL} --pack-seconds 1"
    staged = "out/_koasr/runs/*/staged/*/*.arrows"
    submit(head, "koasr-night", f'python -c "{OFTEN}" transcribe {arguments}')
    client = head.client()
    wait(
        lambda: list(tmp_path.glob(staged)) or client.get_job_status("koasr-night").is_terminal(),
        lambda: str(client.get_job_logs("koasr-night")),
    )
    client.stop_job("koasr-night")
    status, _, logs = finish(head, "koasr-night")
    assert status == "STOPPED", logs
    assert "koasr: stopped (SIGTERM); the same command goes on from here" in logs
    assert re.search(r"^koasr: .* s .*real time", logs, re.MULTILINE), logs
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", logs)
    assert "Traceback" not in logs
    kept = set(tmp_path.glob(staged))
    assert kept
    found = line_of(logs)
    (run,) = found["runs"]
    assert (found["exit_code"], found["reason"], run["state"]) == (4, "SIGTERM", "stopped")
    (place,) = tmp_path.glob("out/_koasr/runs/*/summary.json")
    assert json.loads(place.read_text())["state"] == "stopped"

    submit(head, "koasr-night-2", f"python pipelines/transcribe.py {arguments}")
    status, code, logs = finish(head, "koasr-night-2")
    assert (status, code) == ("SUCCEEDED", 0), logs
    assert f"koasr: going on with the unfinished run {run['run_id']}" in logs
    found = line_of(logs)
    assert (found["state"], found["runs"][0]["run_id"]) == ("done", run["run_id"])
    assert json.loads(place.read_text())["state"] == "done"
    rows = ds.dataset(str(tmp_path / "out" / "transcripts"), format="parquet").to_table()
    assert len(set(rows["source_key"].to_pylist())) == rows.num_rows == NUM_RECORDINGS


def test_doctor_says_that_the_cluster_can_be_joined(head: Head) -> None:
    environment = head.environment | {"RAY_ADDRESS": head.cluster}
    code = "from koasr.reach_checks import check_ray as c; f = c(); print(f.state, f.found)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    wanted = "1 nodes, 2 CPUs, 0 GPUs, Ray and Python as here; it asks for a token"
    assert done.stdout == f"ok joined {head.cluster}: {wanted}\n", done.stderr
