"""`ray job submit` for real: a head with its job server, and the pipeline as its jobs."""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from prometheus import NONE, PROGRAM, Prometheus, running_prometheus
from ray_head import Head, free_ports, running_head
from sound import encode, tone, write_tar
from test_telling import told

from koasr.monitoring import COUNTERS, GAUGES, STAGE_SECONDS, STAGES
from koasr.telling import LINE_MARK

ROOT = Path(__file__).parent.parent
MODEL = str(ROOT / "examples" / "model")
NUM_RECORDINGS = 60
ENVIRONMENT = {
    "excludes": ["/tests", "/bench", "/examples", "/docs", "/runs"],
    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
}
"""As docs/jobs.md has it. What git ignores is left out by Ray itself."""
OFTEN = "import koasr.progress as p, koasr.monitoring as m; p.LOG_INTERVAL_S = m.INTERVAL_S = 0.5; from koasr.cli import main; main()"  # noqa: E501
"""The same job, which says twice a second how far it is: half a minute is too long for a test."""

pytestmark = pytest.mark.timeout(280)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="koasr-", dir="/tmp"))
    with running_head(folder) as head:
        yield head
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tar of 2 s recordings, and one that is none."""
    folder = tmp_path_factory.mktemp("in")
    names = [f"{i:02d}.wav" for i in range(NUM_RECORDINGS)]
    members = [(name, encode(tone(2.0), kind="WAV")) for name in names]
    write_tar(folder / "a.tar", [*members, ("broken.wav", b"x" * 100)])
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


@dataclass(frozen=True)
class Night:
    """A run that was stopped half-way, and gone on with by a second job.

    Attributes:
        started_s: Of the first job, in Unix time.
        folder: Holds its output, `out`.
        kept: What the first job had staged when it was stopped.
        middle: State of the summary then.
        endings: Status, exit code and logs of both.
    """

    started_s: float
    folder: Path
    kept: set[Path]
    middle: str
    endings: list[tuple[str, int | None, str]]

    def runs(self) -> list[dict[str, Any]]:
        """The run as each job told of it."""
        return [line_of(logs)["runs"][0] for _, _, logs in self.endings]

    def state(self) -> str:
        """Of the run's summary as it is now."""
        (place,) = self.folder.glob("out/_koasr/runs/*/summary.json")
        return str(json.loads(place.read_text())["state"])


@pytest.fixture(scope="module")
def prometheus(head: Head) -> Iterator[Prometheus]:
    """One that scrapes the head every second, with the configuration that we ship."""
    if PROGRAM is None:
        pytest.skip(NONE)
    text = (ROOT / "deploy" / "prometheus.yml").read_text()
    (port,) = free_ports(1)
    for old, new in (("/tmp/ray/", f"{head.folder}/"), (": 10s", ": 1s")):
        assert old in text
        text = text.replace(old, new)
    (head.folder / "prometheus.yml").write_text(text)
    with running_prometheus(head.folder, head.folder / "prometheus.yml", port) as running:
        yield running


@pytest.fixture(scope="module")
def night(
    head: Head, corpus: Path, tmp_path_factory: pytest.TempPathFactory, request: Any
) -> Night:
    if PROGRAM:
        request.getfixturevalue("prometheus")
    folder, started_s = tmp_path_factory.mktemp("night"), time.time()
    arguments = f"{corpus} --output {folder}/out --model {MODEL} --pack-seconds 1"
    arguments += " --max-reject-rate 1"
    staged = "out/_koasr/runs/*/staged/*/*.arrows"
    submit(head, "koasr-night", f'python -c "{OFTEN}" transcribe {arguments}')
    client = head.client()
    wait(
        lambda: list(folder.glob(staged)) or client.get_job_status("koasr-night").is_terminal(),
        lambda: str(client.get_job_logs("koasr-night")),
    )
    client.stop_job("koasr-night")
    first = finish(head, "koasr-night")
    kept, night = set(folder.glob(staged)), Night(started_s, folder, set(), "", [])
    middle = night.state()
    submit(head, "koasr-night-2", f'python -c "{OFTEN}" transcribe {arguments}')
    return Night(started_s, folder, kept, middle, [first, finish(head, "koasr-night-2")])


def test_a_job_that_is_stopped_half_way_is_gone_on_with_by_the_next(night: Night) -> None:
    (status, _, logs), (second_status, second_code, second_logs) = night.endings
    assert status == "STOPPED", logs
    assert "koasr: stopped (SIGTERM); the same command goes on from here" in logs
    assert re.search(r"^koasr: joining the Ray cluster$", logs, re.MULTILINE), logs
    assert re.search(r"^koasr: 0% of .* MB in .* s; no pack yet", logs, re.MULTILINE), logs
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", logs + second_logs)
    assert "Traceback" not in logs
    assert night.kept
    found = line_of(logs)
    (run,) = found["runs"]
    assert (found["exit_code"], found["reason"], run["state"]) == (4, "SIGTERM", "stopped")
    assert night.middle == "stopped"

    assert (second_status, second_code) == ("SUCCEEDED", 0), second_logs
    assert f"koasr: going on with the unfinished run {run['run_id']}" in second_logs
    assert re.search(r"^koasr: \d+%, .* of audio in .* real time", second_logs, re.MULTILINE)
    found = line_of(second_logs)
    assert (found["state"], found["runs"][0]["run_id"]) == ("done", run["run_id"])
    assert night.state() == "done"
    assert not list(night.folder.glob("out/_koasr/runs/*/progress.json"))
    rows = ds.dataset(str(night.folder / "out" / "transcripts"), format="parquet").to_table()
    assert len(set(rows["source_key"].to_pylist())) == rows.num_rows == NUM_RECORDINGS


def test_prometheus_has_every_metric_that_the_page_lists(
    night: Night, prometheus: Prometheus
) -> None:
    page = (ROOT / "docs" / "watch.md").read_text()
    listed = set(re.findall(r"^\| `(ray_koasr_\w+)` \|", page, re.MULTILINE))
    assert listed == {f"ray_{name}" for name in (*COUNTERS, STAGE_SECONDS[0], *GAUGES)}
    runs = night.runs()
    chosen = f'{{run_id="{runs[0]["run_id"]}", device="cpu"}}'

    def series(name: str) -> list[dict[str, Any]]:
        return prometheus.range(name + chosen, night.started_s)

    def total(name: str) -> float:
        """At the end, of both sessions: each driver is a worker of its own."""
        return sum(float(one["values"][-1][1]) for one in series(f"ray_koasr_{name}_total"))

    audio_s = sum(run["session_hours"] for run in runs) * 3600
    # The driver's last words.
    wait(lambda: total("shards_committed"), lambda: f"{total('audio_seconds')} of {audio_s} s")
    assert total("audio_seconds") == pytest.approx(audio_s)
    # Every recording that was not rejected is 2 s long.
    assert total("recordings") - total("rejects") == pytest.approx(audio_s / 2)
    assert (total("shards_committed"), total("rejects")) == (1, 1)
    assert total("packs") >= total("recordings") / 2
    for name in listed - {"ray_koasr_float32_retries_total"}:
        assert series(name), name
    stages = {one["metric"]["stage"] for one in series("ray_koasr_stage_seconds_total")}
    assert {"load", "model"} <= stages <= set(STAGES)
    assert max(float(v) for one in series("ray_koasr_busy_ratio") for _, v in one["values"]) <= 1


def test_every_panel_of_the_dashboard_shows_something(night: Night, prometheus: Prometheus) -> None:
    board = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    run_id = night.runs()[0]["run_id"]
    for target in (target for panel in panels for target in panel["targets"]):
        expression = target["expr"].replace("$run_id", run_id).replace("$__rate_interval", "10s")
        assert "$" not in expression
        found = prometheus.range(expression, night.started_s)
        assert found or "ray_node_gpus" in expression, expression


def test_doctor_says_that_the_cluster_can_be_joined(head: Head) -> None:
    environment = head.environment | {"RAY_ADDRESS": head.cluster}
    code = "from koasr.reach_checks import check_ray as c; f = c(); print(f.state, f.found)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
    wanted = "1 nodes, 2 CPUs, 0 GPUs, Ray and Python as here; it asks for a token"
    assert done.stdout == f"ok joined {head.cluster}: {wanted}\n", done.stderr
