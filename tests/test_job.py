"""What the job asks of Ray, seen on a real cluster."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext

from koasr.errors import JobError, TransientError
from koasr.job import task_errors

pytestmark = pytest.mark.usefixtures("ray_cluster")


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


def test_a_task_whose_store_failed_is_tried_again(tmp_path: Path) -> None:
    assert attempts(tmp_path, TransientError("503"), num_failures=1) == 2


def test_a_store_that_always_fails_is_a_failed_job_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ray's pauses double: all five would take half a minute.
    monkeypatch.setattr(DataContext.get_current(), "max_map_retries", 1)
    with pytest.raises(JobError, match="the store failed again and again: 503"), task_errors():
        attempts(tmp_path, TransientError("503"), num_failures=99)
    assert len((tmp_path / "attempts").read_text()) == 2


def test_a_task_whose_user_is_mistaken_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such model"), task_errors():
        attempts(tmp_path, JobError("no such model"), num_failures=99)
    assert (tmp_path / "attempts").read_text() == "x"
