"""What a whole night is asked to do, as sections of a job file; and that of one date."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from typing import Annotated

from cyclopts import Group, Parameter, validators

from koasr.calibration import read_calibration
from koasr.datasets import Format
from koasr.dates import MARK
from koasr.errors import JobError
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.normalize import Normalizer
from koasr.notify import check_webhook
from koasr.options import Options
from koasr.orders import NO_ORDER, Order, share_of
from koasr.selection import Filters
from koasr.stopping import seconds_left
from koasr.writable import check_file, check_folder

EVALUATING = Group("Evaluate, as of koasr evaluate", sort_key=11)
SELECTING = Group("Select, as of koasr select", sort_key=12)
TELLING = Group("Report and notify", sort_key=13)
_positive = Parameter(validator=validators.Number(gt=0))
_flat = Parameter(name="*")
_NORMALIZER, _FILTERS = Normalizer(), Filters()
DEFAULT_OPTIONS = Options()


@dataclass(frozen=True)
class Evaluate:
    """References to compare with; without, those that came along with the speech.

    Args:
        references: As of koasr evaluate.
        by: Column, or key of the metadata.
        normalizer: How texts are made comparable.
    """

    references: str | None = None
    by: tuple[str, ...] = ()
    normalizer: Annotated[Normalizer, _flat] = _NORMALIZER


@dataclass(frozen=True)
class Select:
    """Pseudo-labels of the night; `out` has a {date} in it.

    Args:
        order: How much to keep.
        to: Layout of the training set.
        out: Folder or URI for it.
        trim: Cut to the words.
        calibration: File of koasr calibrate; else the output's own.
        filters: What is left out.
    """

    order: Annotated[Order, _flat] = NO_ORDER
    to: Format | None = None
    out: str | None = None
    trim: bool = False
    calibration: str | None = None
    filters: Annotated[Filters, _flat] = _FILTERS


@dataclass(frozen=True)
class Report:
    """The morning page.

    Args:
        gpu_hour_price: Of one GPU for one hour.
        currency: Stands before the price.
    """

    gpu_hour_price: Annotated[float | None, _positive] = None
    currency: str = "$"


@dataclass(frozen=True)
class Notify:
    """Who is told how the night ended.

    Args:
        file: Gets the JSON.
        webhook: Gets it as a POST. A secret: better in KOASR_WEBHOOK.
    """

    file: str | None = None
    webhook: Annotated[str | None, Parameter(show=False, env_var="KOASR_WEBHOOK")] = field(
        default=None, repr=False
    )


DEFAULT_EVALUATE, DEFAULT_REPORT, DEFAULT_NOTIFY = Evaluate(), Report(), Notify()


@dataclass(frozen=True)
class Job:
    """What a night is asked to do; `{date}` may be in paths."""

    inputs: tuple[str, ...]
    output: str
    model: str
    revision: str | None = None
    prune: bool = False
    transcribe: Options = DEFAULT_OPTIONS
    limits: Limits = DEFAULT_LIMITS
    evaluate: Evaluate = DEFAULT_EVALUATE
    select: Select | None = None
    report: Report = DEFAULT_REPORT
    notify: Notify = DEFAULT_NOTIFY

    def on(self, date: str) -> "Job":
        """The same with the date in its paths."""

        def fill(path: str | None) -> str | None:
            return path and path.replace(MARK, date)

        return replace(
            self,
            inputs=tuple(uri.replace(MARK, date) for uri in self.inputs),
            transcribe=replace(self.transcribe, date=date, prune=self.prune),
            evaluate=replace(self.evaluate, references=fill(self.evaluate.references)),
            select=self.select and replace(self.select, out=fill(self.select.out)),
            notify=replace(self.notify, file=fill(self.notify.file)),
        )


def check_job(job: Job, dates: list[str]) -> None:
    """Refuse before the night what would be refused at its end.

    References may come while it runs, so they are not looked for.

    Args:
        job: With its `{date}`.
        dates: Its nights.

    Raises:
        JobError: What is wrong.
    """
    if not job.inputs:
        raise JobError("inputs: found none, wanted a file, a folder or a URI", 2)
    if len(dates) > 1 and not any(MARK in uri for uri in job.inputs):
        message = f"--dates: no input has {MARK} in it, so the first night would take everything"
        raise JobError(f"{message}: use --date", 2)
    for place in (job.output, job.model):
        if MARK in place:
            raise JobError(f"{place}: one output and one model serve every night, no {MARK}", 2)
    seconds_left(job.transcribe.stop_at, None, datetime.now())
    if job.notify.webhook:
        check_webhook(job.notify.webhook)
    first = job.on(dates[0])
    if first.notify.file:
        check_file(first.notify.file)
    if job.select:
        _as_flags("select", share_of, job.select.order)
        if (job.select.to is None) != (job.select.out is None):
            message = "--select.to and --select.out go together: a layout and where it is written"
            raise JobError(message, 2)
        if job.select.out and MARK not in job.select.out:
            message = f"--select.out: found no {MARK} in {job.select.out}, but each night's set"
            raise JobError(f"{message} needs a place of its own", 2)
        if job.select.calibration:
            read_calibration(job.select.calibration)
        if first.select and first.select.out:
            check_folder(first.select.out)


def _as_flags(section: str, check: Callable[[Order], object], order: Order) -> None:
    """What is wrong with an order, in the words of this command's flags."""
    try:
        check(order)
    except JobError as error:
        message = str(error)
        for flag in fields(order):
            name = flag.name.replace("_", "-")
            message = message.replace(f"--{name}", f"--{section}.{name}")
        raise JobError(message, error.exit_code) from error
