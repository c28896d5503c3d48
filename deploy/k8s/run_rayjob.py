"""Create the RayJob of a night, or find it there, and wait for its end: what the CronJob runs.

Needs nothing but the standard library, so that any Python image does.
"""

import json
import os
import re
import ssl
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from zoneinfo import ZoneInfo

API = "https://kubernetes.default.svc/apis/ray.io/v1/namespaces"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
POLL_S = 30.0
EXIT_FAILED = 10
"""The night failed, retries and all. Any other trouble is worth another try of this."""


def due_date(job: str, zone: str) -> str:
    """The day a Job of the CronJob was due, which a retry after midnight keeps; else today.

    Args:
        job: Its name, which Kubernetes ends with the minutes since 1970.
        zone: The CronJob's time zone.
    """
    minutes = re.search(r"-(\d{8})$", job)
    due_s = int(minutes[1]) * 60 if minutes else time.time()
    return datetime.fromtimestamp(due_s, ZoneInfo(zone)).strftime("%Y-%m-%d")


def ask(path: str, manifest: str | None = None) -> dict[str, Any]:
    """What Kubernetes answers to a GET, or to a POST of a manifest."""
    headers = {
        # Read each time: Kubernetes replaces it every hour.
        "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
        "Content-Type": "application/yaml",
    }
    body = manifest.encode() if manifest else None
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    with urlopen(Request(API + path, body, headers), context=context, timeout=60) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def create(path: str, manifest: str) -> None:
    """Create a RayJob, unless it is there."""
    try:
        ask(path, manifest)
        print("created", flush=True)
    except HTTPError as error:
        if error.code != 409:
            raise SystemExit(f"not created: {error}: {error.read().decode()}") from None
        print("already there", flush=True)


def wait(path: str) -> int:
    """Follow a RayJob to its end, and give the exit code."""
    before = ""
    while True:
        try:
            status = ask(path).get("status", {})
        except HTTPError as error:
            if error.code == 404:
                print("deleted by someone", flush=True)
                return EXIT_FAILED
            status = {"message": str(error)}
        except OSError as error:
            status = {"message": str(error)}
        fields = ("jobDeploymentStatus", "jobStatus", "reason", "message")
        now = " ".join(status[field] for field in fields if status.get(field))
        if now != before:
            print(now, flush=True)
        if status.get("jobDeploymentStatus") in {"Complete", "Failed"}:
            return 0 if status.get("jobStatus") == "SUCCEEDED" else EXIT_FAILED
        before = now
        time.sleep(POLL_S)


def main(rayjob: str) -> int:
    """Run the night of the file `rayjob`; the Job's name and time zone come as JOB_NAME and TZ."""
    date = due_date(os.environ["JOB_NAME"], os.environ["TZ"])
    print(f"RayJob koasr-{date}", flush=True)
    path = f"/{(ACCOUNT / 'namespace').read_text()}/rayjobs"
    create(path, Path(rayjob).read_text().replace("YYYY-MM-DD", date))
    return wait(f"{path}/koasr-{date}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
