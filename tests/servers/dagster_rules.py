"""What pipelines/dagster_defs.py makes of jobs on a cluster, as JSON on stdout.

Run with the Python of Dagster's own virtual environment. Arguments: submission ids of jobs that
ended; the first is of the date 2026-12-01 and ended well.
"""

import json
import logging
import sys
from pathlib import Path

import dagster as dg
from ray.job_submission import JobSubmissionClient

sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines"))

import dagster_defs as defs

client, log = JobSubmissionClient(defs.ADDRESS), logging.getLogger()


def verdict(submission_id: str) -> str:
    """What becomes of a job that ended."""
    job, logs = defs.follow(client, submission_id, log)
    try:
        defs.check_end(job, defs.line_of(logs))
    except dg.Failure as failure:
        return "again" if failure.allow_retries else "failed"
    return "done"


first = sys.argv[1]
found = {
    "verdicts": {name: verdict(name) for name in sys.argv[1:]},
    "ended unseen": defs.open_job(client, "2026-12-01", None, log),
    "ended and noted": defs.open_job(client, "2026-12-01", first, log),
}
run = {"run_id": "r", "recordings": 100, "rejected": 2, "segments": 200, "empty_segments": 150}
run |= {"hours": 2.0, "session_hours": 1.0, "wall_s": 10.0, "mean_confidence": 0.9}
drift = {"calibration": "calls", "psi": 0.31, "has_drifted": True}
for name, one in {"drifted": drift, "still": drift | {"has_drifted": False}}.items():
    results = defs.check_results(defs.add_up([run | {"drift": one}]), 0)
    found[name] = {result.check_name: result.passed for result in results}
print(json.dumps(found))
