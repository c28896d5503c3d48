"""A night by Dagster for real: its own command line and environment, and a Ray head."""

import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil
import pyarrow.dataset as ds
import pytest
from environments import make_venv
from ray_head import Head, running_head
from sound import encode, tone, write_tar

from koasr.stopping import Stopped, stoppable
from koasr.telling import LINE_MARK

ROOT = Path(__file__).parent.parent
DEFINITIONS = ROOT / "pipelines" / "dagster_defs.py"
REQUIREMENTS = ROOT / "tests" / "servers" / "dagster-requirements.txt"
EVENTS = ROOT / "tests" / "servers" / "dagster_events.py"
RULES = ROOT / "tests" / "servers" / "dagster_rules.py"
MODEL = ROOT / "examples" / "model"
NUM_RECORDINGS = 16
FIRST, SECOND, THIRD = "2026-11-20", "2026-11-21", "2026-11-22"

pytestmark = pytest.mark.timeout(280)


@dataclass(frozen=True)
class Dagster:
    """Dagster's command line with an instance of its own.

    Attributes:
        commands: Folder with its commands.
        environment: Of whatever is run.
        head: That jobs are submitted to.
        folder: With the input `in`, and the output `out` of the jobs.
    """

    commands: Path
    environment: dict[str, str]
    head: Head
    folder: Path

    def start(
        self, *words: str, log: IO[str] | int = subprocess.PIPE, **settings: Any
    ) -> subprocess.Popen[str]:
        """`dagster WORDS … -f pipelines/dagster_defs.py`, or `dagster-daemon`."""
        tool, *rest = words
        return subprocess.Popen(
            [str(self.commands / tool), *rest, "-f", str(DEFINITIONS)],
            env=self.environment | settings,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )

    def run(self, *words: str, **settings: Any) -> tuple[int, str]:
        """Exit code and output of a command that ends."""
        process = self.start(*words, **settings)
        output, _ = process.communicate(timeout=150)
        return process.returncode, output

    def runs(self) -> list[dict[str, Any]]:
        """What the instance remembers of each run, in their order."""
        command = [str(self.commands / "python"), str(EVENTS)]
        done = subprocess.run(
            command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def statuses(self) -> dict[str, tuple[str, int | None]]:
        """Submission id → status and exit code of every job that the head has seen."""
        jobs = self.head.client().list_jobs()
        return {job.submission_id: (str(job.status), job.driver_exit_code) for job in jobs}


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    commands = make_venv(ROOT / ".dagster", REQUIREMENTS).parent
    folder = tmp_path_factory.mktemp("night")
    (folder / "in").mkdir()
    names = [f"{i:02d}.wav" for i in range(NUM_RECORDINGS)]
    write_tar(folder / "in/a.tar", [(name, encode(tone(2.0), kind="WAV")) for name in names])
    home = folder / "home"
    home.mkdir()
    shutil.copy(ROOT / "deploy" / "dagster.yaml", home)
    command = f"python pipelines/transcribe.py {folder}/in --output {folder}/out --date {{date}}"
    settings = {
        "DAGSTER_HOME": str(home),
        "KOASR_COMMAND": f"{command} --model {MODEL} --pack-seconds 1",
        "KOASR_WORKING_DIR": str(ROOT),
        "KOASR_START_DATE": FIRST,
        "KOASR_RETRY_DELAY_S": "1",
        "KOASR_POLL_S": "0.3",
    }
    place = Path(tempfile.mkdtemp(prefix="koasr-", dir="/tmp"))
    with running_head(place) as head:
        address = {"RAY_API_SERVER_ADDRESS": head.address}
        yield Dagster(commands, head.environment | settings | address, head, folder)
    shutil.rmtree(place, ignore_errors=True)


def driver(dagster: Dagster) -> psutil.Process:
    """The Python of the job that runs, not the shell around it."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "pipelines/transcribe.py" in words and str(dagster.folder / "out") in words:
            return process
    raise AssertionError("no driver")


def wait(found: Any) -> None:
    deadline_s = time.monotonic() + 100
    while not found():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def test_a_setting_that_is_wrong_is_one_line(dagster: Dagster) -> None:
    code, output = dagster.run("dagster", "definitions", "validate", KOASR_HOUR="25")
    assert code == 1
    assert output.splitlines()[-1] == "koasr: KOASR_HOUR: found '25', wanted 0 to 23"
    assert "Traceback" not in output


def test_a_first_attempt_that_is_stopped_and_a_retry_that_goes_on(dagster: Dagster) -> None:
    words = ("asset", "materialize", "--select", "koasr/transcripts", "--partition", FIRST)
    with (dagster.folder / "log").open("w") as log:
        process = dagster.start("dagster", *words, log=log)
        staged = "out/_koasr/runs/*/staged/*/*.arrows"
        wait(lambda: list(dagster.folder.glob(staged)) or process.poll() is not None)
        driver(dagster).terminate()  # As a spot notice does.
        code = process.wait(120)
    said = (dagster.folder / "log").read_text()
    assert code == 0, said
    assert dagster.statuses() == {
        f"koasr-{FIRST}": ("FAILED", 4),
        f"koasr-{FIRST}-2": ("SUCCEEDED", 0),
    }
    assert f"koasr-{FIRST} ended with exit code 4: SIGTERM" in said
    assert "koasr: going on with the unfinished run" in said
    rows = ds.dataset(str(dagster.folder / "out/transcripts"), format="parquet").to_table()
    assert len(set(rows["source_key"].to_pylist())) == rows.num_rows == NUM_RECORDINGS

    (run,) = dagster.runs()
    assert (run["partition"], run["status"]) == (FIRST, "SUCCESS")
    (made,) = run["made"]
    assert made["submission_id"] == f"koasr-{FIRST}-2"
    assert (made["attempts"], made["exit_code"], made["recordings"]) == (2, 0, NUM_RECORDINGS)
    assert made["hours"] == pytest.approx(NUM_RECORDINGS * 2 / 3600)
    assert 0 < made["session_hours"] < made["hours"]
    assert made["output"] == str(dagster.folder / "out")
    assert {name: check[0] for name, check in run["checks"].items()} == {
        "reject_rate": True,
        "empty_rate": made["empty_rate"] <= 0.5,
        "drift": True,
    }
    assert not [message for message in run["messages"] if "KOASR_SUMMARY" in message]


_HALF = "1 of 2 recordings rejected; allowed are 5.0%"


def test_a_backfill_of_two_dates_takes_turns_and_fails_a_check_not_the_night(
    dagster: Dagster,
) -> None:
    broken = [("0.wav", b"no sound"), ("1.wav", encode(tone(1.0), kind="WAV"))]
    write_tar(dagster.folder / "in/b.tar", broken)
    words = ("-j", "koasr_night", "--from", FIRST, "--to", SECOND, "--noprompt")
    last = [f"koasr-{FIRST}-3", f"koasr-{SECOND}"]
    with (dagster.folder / "log").open("w") as log:
        daemon = dagster.start("dagster-daemon", "run", log=log)
        try:
            code, said = dagster.run("dagster", "job", "backfill", *words)
            assert code == 0, said
            wait(lambda: (dagster.folder / "log").read_text().count(" - RUN_SUCCESS - ") == 2)
        finally:
            daemon.terminate()
            daemon.wait(60)
    runs = sorted(dagster.runs()[1:], key=lambda run: run["made"][0]["recordings"])
    assert [run["status"] for run in runs] == ["SUCCESS", "SUCCESS"], runs
    nothing, some = runs
    assert sorted(run["made"][0]["submission_id"] for run in runs) == last
    assert set(map(tuple, nothing["checks"].values())) == {
        (True, "ERROR", "nothing was to do"),
        (True, "WARN", "nothing was to do"),
    }
    assert (some["made"][0]["exit_code"], some["made"][0]["attempts"]) in ((3, 3), (3, 1))
    assert some["checks"]["reject_rate"] == [False, "ERROR", _HALF]
    jobs = {job.submission_id: job for job in dagster.head.client().list_jobs()}
    first, second = sorted((jobs[id_] for id_ in last), key=lambda job: job.start_time)
    assert first.end_time <= second.start_time


def test_a_job_that_is_there_is_followed_and_stopped_with_its_run(dagster: Dagster) -> None:
    dagster.head.client().submit_job(entrypoint="sleep 100", submission_id=f"koasr-{THIRD}")
    words = ("asset", "materialize", "--select", "koasr/transcripts", "--partition", THIRD)
    with (dagster.folder / "log").open("w") as log:
        process = dagster.start("dagster", *words, log=log)
        said = dagster.folder / "log"
        wait(lambda: "following it" in said.read_text() or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) != 0
    assert f"koasr-{THIRD} is STOPPED" in said.read_text()
    assert dagster.statuses()[f"koasr-{THIRD}"][0] == "STOPPED"
    assert f"koasr-{THIRD}-2" not in dagster.statuses()


def test_what_becomes_of_jobs(dagster: Dagster) -> None:
    line = {"version": 1, "reason": "", "runs": []}
    deadline = LINE_MARK + " " + json.dumps(line | {"reason": "the deadline"})
    commands = {
        "koasr-2026-12-01": f"echo '{LINE_MARK} {json.dumps(line)}'",
        "without-a-line": "true",
        "failed": "exit 1",
        "usage": "exit 2",
        "killed": "kill -9 $$",
        "deadline": f"echo '{deadline}'; exit 4",
    }
    for submission_id, command in commands.items():
        dagster.head.client().submit_job(entrypoint=command, submission_id=submission_id)
    settings = {"KOASR_COMMAND": "true {date}", "KOASR_WORKING_DIR": ""}
    done = subprocess.run(
        [str(dagster.commands / "python"), str(RULES), *commands],
        env=dagster.environment | settings,
        stdout=subprocess.PIPE,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["verdicts"] == {
        "koasr-2026-12-01": "done",
        "without-a-line": "failed",
        "failed": "again",
        "usage": "failed",
        "killed": "again",
        "deadline": "failed",
    }
    assert found["ended unseen"] == "koasr-2026-12-01"
    assert found["ended and noted"] == "koasr-2026-12-01-2"
    assert found["drifted"] == {"reject_rate": True, "empty_rate": False, "drift": False}
    assert found["still"] == {"reject_rate": True, "empty_rate": False, "drift": True}


def test_a_deadline_is_called_one() -> None:
    """By what Dagster goes when it does not try again."""
    with pytest.raises(Stopped, match="deadline"), stoppable(0.01):
        time.sleep(5)
    assert '"deadline" not in reason' in DEFINITIONS.read_text()
