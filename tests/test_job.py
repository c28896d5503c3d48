"""What the job asks of Ray, seen on a real cluster."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext

from koasr import job
from koasr.errors import JobError, TransientError
from koasr.job import task_errors


def attempts(tmp_path: Path, error: Exception, num_failures: int) -> int:
    """How often a task ran that fails so many times with this error."""
    log = tmp_path / "attempts"

    def work(table: pa.Table) -> Any:
        with log.open("a") as file:
            file.write("x")
        if len(log.read_text()) <= num_failures:
            raise error
        return table

    try:
        ray.data.range(1).map_batches(work, batch_format="pyarrow").take_all()
    finally:
        found = len(log.read_text())
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_whose_store_failed_is_tried_again(tmp_path: Path) -> None:
    assert attempts(tmp_path, TransientError("503"), num_failures=1) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_a_store_that_always_fails_is_a_failed_job_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray's pauses double: all five would take half a minute.
    monkeypatch.setattr(DataContext.get_current(), "max_map_retries", 1)
    with pytest.raises(JobError, match="the store failed again and again: 503"), task_errors():
        attempts(tmp_path, TransientError("503"), num_failures=99)
    assert len((tmp_path / "attempts").read_text()) == 2


@pytest.mark.usefixtures("ray_cluster")
def test_a_task_whose_user_is_mistaken_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such model"), task_errors():
        attempts(tmp_path, JobError("no such model"), num_failures=99)
    assert (tmp_path / "attempts").read_text() == "x"


@pytest.mark.parametrize("num_failures", [2, 99])
def test_a_machine_too_busy_to_start_ray_in_time_is_given_more(
    monkeypatch: pytest.MonkeyPatch, num_failures: int
) -> None:
    starts: list[dict[str, Any]] = []

    def start(**arguments: Any) -> None:
        starts.append(arguments)
        if len(starts) <= num_failures:
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", start)
    if num_failures == 2:
        job.connect()
    else:
        with pytest.raises(JobError, match="tried 3 times: The current node timed out"):
            job.connect()
    assert len(starts) == 3
