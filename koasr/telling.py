"""What a scheduler is told of a call: one line at its end, `KOASR_SUMMARY {…}`."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from koasr.ending import Ending, ending_of
from koasr.summary import Summary

LINE_VERSION = 1
LINE_MARK = "KOASR_SUMMARY"
_STATES = ("failed", "stopped", "running", "done", "skipped")
"""Of a step, the worst first."""
_OF_A_RUN = (
    *("run_id", "date", "state", "planned", "shards", "recordings", "transcribed", "rejected"),
    *("reasons", "segments", "empty_segments", "hours", "session_hours", "wall_s", "rtfx"),
    *("reject_rate", "empty_rate", "mean_confidence", "drift"),
)


@dataclass
class Call:
    """One call of the job, as it is told: its runs in their order, and how it ended.

    `nights` are those of koasr nightly, oldest first, as the schema has them.
    """

    output: str
    runs: list[Summary] = field(default_factory=list)
    failure: Ending | None = None
    nights: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ending(self) -> Ending:
        """Its failure; else that of the worst of its runs; well, where there was nothing to do."""
        worst = max(self.runs, key=lambda run: run.exit_code, default=None)
        if self.failure or not worst:
            return self.failure or Ending()
        return Ending(worst.state, worst.exit_code, worst.reason)

    def to_json(self, wall_s: float) -> dict[str, Any]:
        """As the line has it: of each run what `koasr/summary.schema.json` calls `told`."""
        documents = [summary.to_json() for summary in self.runs]
        runs = [{name: document[name] for name in _OF_A_RUN} for document in documents]
        place = {"version": LINE_VERSION, "output": self.output}
        told = {**place, **asdict(self.ending), "wall_s": round(wall_s, 3), "runs": runs}
        if self.nights:
            told |= {"steps": _worst_steps(self.nights), "report": self.nights[-1]["report"]}
            told["nights"] = self.nights
        return told


def _worst_steps(nights: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Step → its worst state of all nights."""
    found: dict[str, str] = {}
    for name, state in (entry for night in nights for entry in night["steps"].items()):
        found[name] = min(found.get(name, state), state, key=_STATES.index)
    return found


@contextmanager
def telling(output: str) -> Iterator[Call]:
    """Tell how the call in here ends, however it does.

    Not in a terminal: a person reads the table.

    Args:
        output: URI of the output that it works on.

    Yields:
        The call, to be filled in.
    """
    call, started_s = Call(output), time.monotonic()
    try:
        yield call
    except BaseException as error:
        call.failure = ending_of(error)
        raise
    finally:
        if not sys.stdout.isatty():
            document = json.dumps(call.to_json(time.monotonic() - started_s), ensure_ascii=False)
            print(LINE_MARK, document, flush=True)
