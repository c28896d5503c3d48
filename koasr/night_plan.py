"""A dry run: what a night would do, printed. Nothing is written."""

from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.text import Text

from koasr.estimate import cost_text, estimate, pace_text, work_text
from koasr.night_job import Job
from koasr.night_record import STEPS, open_night
from koasr.storage import absolute


def print_plan(job: Job, date: str, console: Console) -> None:
    """What a night would do."""
    found = estimate(job.inputs, job.output, date, job.limits, job.transcribe.num_actors)
    record = open_night(job.output, date)
    rows = {"to do": work_text(found)}
    if found.unfinished:
        rows["goes on with"] = ", ".join(found.unfinished)
    if found.shards + found.files:
        rows |= {"takes": cost_text(found), "estimated": pace_text(found)}
    if found.wall_s and found.shards + found.files:
        end = datetime.now(UTC) + timedelta(seconds=found.wall_s)
        rows["done at"] = f"{end:%Y-%m-%d %H:%M} UTC, if it begins now"
    asked = {"evaluate": "if there are references"}
    if job.select is None:
        asked["select"] = "not asked for"
    if not job.notify.webhook and not job.notify.file:
        asked["notify"] = "nobody to tell"
    steps = [f"{name} ({asked[name]})" if name in asked else name for name in STEPS]
    rows["steps"] = ", ".join(steps)
    done = [name for name, state in record.states().items() if state == "done"]
    rows["done before"] = ", ".join(done) or "nothing"
    console.print(f"koasr: night {date} would be, into {absolute(job.output)}:", highlight=False)
    for name, value in rows.items():
        console.print(Text(f"  {name:<14}{value}"))
