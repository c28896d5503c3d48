"""koasr every night by Airflow 3: a task submits the Ray job, or follows the one that is there.

Needs apache-airflow and ray[default]; docs/schedulers.md says how it is run.
"""

import os
import time
from datetime import UTC, datetime, timedelta

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

COMMAND = os.environ.get("KOASR_COMMAND", "python pipelines/nightly.py --date {date}")
RUNTIME_ENV = {
    "working_dir": os.environ.get("KOASR_WORKING_DIR", "."),  # a checkout of koasr
    "excludes": ["/tests", "/bench", "/examples", "/docs", "/runs"],
    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "60"},
}


@dag(
    schedule="0 1 * * *",
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,  # one driver works on an output at a time
    default_args={"retries": 3, "retry_delay": timedelta(minutes=5)},
)
def koasr_night() -> None:
    @task
    def transcribe() -> None:
        from ray.job_submission import JobSubmissionClient  # not whenever this file is looked at

        context = get_current_context()
        fired = context.get("logical_date") or context["dag_run"].run_after
        name = night = f"koasr-{(fired - timedelta(days=1)).date()}"  # the day that is over
        client, number = JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"]), 1
        jobs = {job.submission_id: job for job in client.list_jobs()}
        while name in jobs and jobs[name].status.is_terminal():
            name, number = f"{night}-{number + 1}", number + 1
        if name not in jobs:
            command = COMMAND.replace("{date}", night.removeprefix("koasr-"))
            client.submit_job(entrypoint=command, submission_id=name, runtime_env=RUNTIME_ENV)
        while not client.get_job_status(name).is_terminal():
            time.sleep(5)
        print(client.get_job_logs(name))
        job = client.get_job_info(name)  # `ray job submit` would say 1 whatever the driver's code
        ending = f"{name} is {job.status} with exit code {job.driver_exit_code}"
        if job.status == "STOPPED" or job.driver_exit_code in (2, 3):  # another is of no use
            raise AirflowFailException(ending)
        if job.status != "SUCCEEDED":
            raise RuntimeError(ending)

    transcribe()


koasr_night()
