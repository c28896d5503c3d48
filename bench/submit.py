"""From `ray job submit` to the first transcript, on a head that is up: where the seconds go."""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import cyclopts
from corpora import MODEL, ROOT, cut, write_tars
from figures import Figure, figure, show
from job import read_summary
from ray_head import Head, running_head

from koasr.rows import SAMPLE_RATE

EXCLUDES = ["/tests", "/bench", "/examples", "/docs", "/runs"]
_DRIVER = """
import sys
print('at the driver', flush=True)
import koasr.transcribe, koasr.job as job
print('imported', flush=True)
connect = job.connect
def tell(*arguments):
    connect(*arguments)
    print('joined', flush=True)
job.connect = tell
from koasr.cli import main
main()
"""
"""`pipelines/transcribe.py`, which says where it is; a module is imported once either way."""

STEPS = {
    "packing and sending the repository": "accepted",
    "Ray's supervisor of the job": "at the driver",
    "the driver's imports": "imported",
    "joining the cluster": "joined",
    "listing and planning": " actor(s) on ",
    "workers, the actor and its model": "ready",
    "reading, decoding and recognizing": "recognized",
    "committing": "committed",
    "accounting and Ray's end": "over",
}
"""Each ends when its mark is seen in the job's log or by this program, or by the run's summary."""


def main(rounds: int = 3, out: Path = ROOT / "runs" / "bench" / "submit.json") -> None:
    """Submit one recording to a head again and again.

    Args:
        rounds: Counted; one more comes before them, in which Ray unpacks the repository.
        out: Where the JSON goes.
    """
    # Sockets lie in it, so that its path must be short.
    folder = Path(tempfile.mkdtemp(prefix="koasr-", dir="/tmp"))
    write_tars(folder / "in", cut([5.0]), kind="FLAC", rate=SAMPLE_RATE)
    try:
        with running_head(folder) as head:
            seen = [measure(head, folder, index) for index in range(rounds + 1)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = [*figures_of("first job of a head", seen[:1])]
    figures += figures_of("later jobs", seen[1:])
    show(figures, "from ray job submit to the first transcript", out)


def figures_of(section: str, seen: list[dict[str, float]]) -> list[Figure]:
    """The steps of some jobs, and what they add up to."""
    found = []
    before = "submitted"
    for what, mark in STEPS.items():
        found.append(figure(section, what, [at[mark] - at[before] for at in seen], "s"))
        before = mark
    spent = [at["committed"] - at["submitted"] for at in seen]
    return [*found, figure(section, "submit to first transcript", spent, "s")]


def measure(head: Head, folder: Path, index: int) -> dict[str, float]:
    """When each mark of a job was seen, on this machine's monotonic clock."""
    name, output = f"koasr-{index}", folder / f"out-{index}"
    (folder / "driver.py").write_text(_DRIVER)
    places = f"transcribe {folder}/in --output {output} --model {MODEL}"
    client: Any = head.client()
    seen = {"submitted": time.monotonic()}
    client.submit_job(
        entrypoint=f"python {folder}/driver.py {places} --device cpu",
        submission_id=name,
        runtime_env={"working_dir": str(ROOT), "excludes": EXCLUDES},
    )
    seen["accepted"] = time.monotonic()
    log = folder / "session_latest" / "logs" / f"job-driver-{name}.log"
    asked_s = 0.0
    while "over" not in seen:
        text = log.read_text() if log.exists() else ""
        now_s = time.monotonic()
        found = [mark for mark in STEPS.values() if mark in text]
        found += ["committed"] * any(output.glob("transcripts/*/*.parquet"))
        # Asking costs the head more than reading its log.
        if now_s - asked_s > 0.5:
            asked_s = now_s
            found += ["over"] * client.get_job_status(name).is_terminal()
        for mark in found:
            seen.setdefault(mark, now_s)
        time.sleep(0.02)
    if "committed" not in seen:
        raise SystemExit(f"no transcript came:\n{log.read_text()[-3000:]}")
    feeding = read_summary(output)["feeding"]
    # The session begins where the imports end, and there is one pack.
    seen["ready"] = seen["imported"] + feeding["start_s"]
    times = feeding["times"]
    seen["recognized"] = seen["ready"] + times["read_s"] + times["load_s"] + times["model_s"]
    return seen


if __name__ == "__main__":
    cyclopts.run(main)
