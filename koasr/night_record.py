"""What became of each step of a night: read by the next start, and by whoever asks."""

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, TypeGuard, get_args

from koasr.ending import Ending
from koasr.storage import absolute, impatient, join, read_bytes, write_bytes

StepName = Literal["list", "transcribe", "verify", "evaluate", "select", "report", "notify"]
StepState = Literal["running", "done", "skipped", "failed", "stopped"]
STEPS: tuple[StepName, ...] = get_args(StepName)
RECORD_VERSION = 1


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Step:
    """One step. Holds counts and names, no text of a transcript.

    Attributes:
        state: A step whose driver was killed stays `running`, and is done again.
        attempts: How often it was begun.
        started: UTC.
        ended: UTC.
        of: A hash of what it was done for: while that is the same, done stays done.
        found: What came out.
        reason: Why it was skipped, failed or stopped.
    """

    state: StepState
    attempts: int = 0
    started: str = ""
    ended: str = ""
    of: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass
class NightRecord:
    """One night, at `_koasr/nights/<date>.json`.

    Attributes:
        output: Where it is.
        date: Of the night.
        run_ids: Of the runs that made its rows, oldest first.
        report: URI of its morning page.
        steps: By name, in their order.
        ending: How its last attempt ended.
    """

    output: str
    date: str
    run_ids: list[str] = field(default_factory=list)
    report: str | None = None
    steps: dict[StepName, Step] = field(default_factory=dict)
    ending: Ending | None = None

    @property
    def place(self) -> str:
        """URI of the record."""
        return join(self.output, "_koasr", "nights", f"{self.date}.json")

    def states(self) -> dict[str, str]:
        """Name → state."""
        return {name: self.steps[name].state for name in STEPS if name in self.steps}

    def is_done(self, name: StepName, of: str) -> bool:
        """Whether a step has nothing new to do."""
        held = self.steps.get(name)
        return held is not None and held.state == "done" and bool(of) and held.of == of

    def begin(self, name: StepName, of: str = "") -> None:
        """Note that a step begins."""
        held = self.steps.get(name)
        attempts = held.attempts + 1 if held else 1
        self.steps[name] = Step("running", attempts, started=_now(), of=of)
        self.write()

    def end(
        self,
        name: StepName,
        state: StepState,
        reason: str = "",
        found: dict[str, Any] | None = None,
    ) -> None:
        """Note how a step ended, begun or not."""
        held = self.steps.get(name, Step("skipped"))
        changed = replace(held, state=state, ended=_now(), reason=reason, found=found or {})
        self.steps[name] = changed if state != "skipped" else replace(changed, of="")
        self.write()

    def close(self, ending: Ending) -> None:
        """Note how this attempt ended."""
        self.ending = ending
        self.write()

    def write(self) -> None:
        """Write it anew. Where that fails the night goes on: what was done is in the output."""
        document = {"version": RECORD_VERSION, "date": self.date}
        document |= asdict(self.ending) if self.ending else {"state": "running"}
        document |= {"run_ids": self.run_ids, "report": self.report}
        document |= {
            "steps": {name: asdict(self.steps[name]) for name in STEPS if name in self.steps}
        }
        with suppress(Exception), impatient():
            write_bytes(self.place, json.dumps(document, indent=2, ensure_ascii=False).encode())


def open_night(output: str, date: str) -> NightRecord:
    """The record of a night, with what its earlier attempts left in it.

    A damaged one is begun anew: every step can be done again.
    """
    record = NightRecord(absolute(output), date)
    try:
        with impatient():
            held = json.loads(read_bytes(record.place))
        steps = {name: Step(**held["steps"][name]) for name in STEPS if name in held["steps"]}
        is_sound = (
            all(isinstance(step.attempts, int) for step in steps.values())
            and all(isinstance(step.found, dict) for step in steps.values())
            and isinstance(held["run_ids"], list)
            and all(map(is_run_id, held["run_ids"]))
            and isinstance(held["report"], str | None)
        )
        if not is_sound:
            return record
        is_ours = (held["report"] or "").startswith(join(record.output, "_koasr", "runs") + "/")
        report = held["report"] if is_ours else None
        return replace(record, run_ids=held["run_ids"], report=report, steps=steps)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return record


def is_run_id(found: object) -> TypeGuard[str]:
    """Whether something read is the name of a run: paths are made of it."""
    return isinstance(found, str) and re.fullmatch(r"[\w-]+", found) is not None
