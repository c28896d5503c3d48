"""Records of committed shards → what a run did: for people, and as JSON."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from koasr.calibration import Calibration
from koasr.drift import DRIFT_PSI, MIN_DRIFT_SEGMENTS, Drift, find_drift
from koasr.ending import Ending, State
from koasr.feeding import Feeding
from koasr.metrics import ErrorCounts

SUMMARY_VERSION = 2


@dataclass(frozen=True)
class Summary:
    """One run, counted. Holds no text. Of one that is not done, what is committed until now.

    `planned` are the shards of its plan. `audio_s` is what is in the output of the run;
    `session_audio_s` and `wall_s` are of this session alone, so RTFx (seconds of audio per second)
    stays true when a run was resumed. `gone` are shards of the plan that need no object any more:
    superseded or taken out since. `confidence_counts` is as of `count_confidence`.
    """

    run_id: str
    date: str
    output: str
    model: str
    fingerprint: str
    shards: int
    recordings: int
    transcribed: int
    rejected: int
    reasons: dict[str, int]
    segments: int
    empty_segments: int
    audio_s: float
    session_audio_s: float
    wall_s: float
    mean_confidence: float | None
    state: State = "done"
    exit_code: int = 0
    reason: str = ""
    planned: int = 0
    gone: int = 0
    float32_retries: int = 0
    errors: ErrorCounts = field(default_factory=ErrorCounts)
    feeding: Feeding | None = None
    confidence_counts: list[int] = field(default_factory=list)
    drift: Drift | None = None

    @property
    def rtfx(self) -> float:
        """Seconds of audio transcribed per second of this session."""
        return self.session_audio_s / self.wall_s if self.wall_s else 0.0

    @property
    def reject_rate(self) -> float:
        """Rejected share of the recordings."""
        return self.rejected / self.recordings if self.recordings else 0.0

    @property
    def empty_rate(self) -> float:
        """Share of the segments in which nothing was said."""
        return self.empty_segments / self.segments if self.segments else 0.0

    def to_json(self) -> dict[str, Any]:
        """As `summary.json` has it."""
        document = {"version": SUMMARY_VERSION, **dataclasses.asdict(self)}
        names = ["rtfx", "reject_rate", "empty_rate"]
        rates: dict[str, Any] = {name: getattr(self, name) for name in names}
        rates |= {"hours": self.audio_s / 3600, "session_hours": self.session_audio_s / 3600}
        if self.errors.ref_chars:
            rates |= {"cer": self.errors.cer, "wer": self.errors.wer}
        if self.feeding:
            names = ["busy_share", "queue_depth", "bound_by", "advice"]
            rates |= {name: getattr(self.feeding, name) for name in names}
        return document | rates

    def to_bytes(self) -> bytes:
        """`summary.json`."""
        return json.dumps(self.to_json(), indent=2, ensure_ascii=False).encode()


def summarize(
    records: Iterable[dict[str, Any]],
    *,
    names: dict[str, Any],
    session_audio_s: float,
    wall_s: float,
    ending: Ending | None = None,
    num_planned: int = 0,
    num_gone: int = 0,
    float32_retries: int = 0,
    feeding: Feeding | None = None,
    calibration: Calibration | None = None,
) -> Summary:
    """Sum the records of a run's shards.

    Args:
        records: One a shard, as in its footer.
        names: run_id, date, output, model and fingerprint.
        session_audio_s: Seconds of audio done in this session.
        wall_s: Seconds that this session took.
        ending: How the run ended; None for well.
        num_planned: Shards of the plan.
        num_gone: Shards of the plan without an object.
        float32_retries: Micro-batches that were not finite in half precision.
        feeding: How well the actors were fed in this session.
        calibration: By which confidence was made.
    """
    held = list(records)
    histograms = [record["confidence_counts"] for record in held if "confidence_counts" in record]
    confidence_counts = [sum(counts) for counts in zip(*histograms, strict=True)]
    count = sum(record["confidence_count"] for record in held)
    confidence = sum(record["confidence_sum"] for record in held)
    return Summary(
        **names,
        **add_up(held),
        shards=len(held),
        session_audio_s=session_audio_s,
        wall_s=wall_s,
        mean_confidence=confidence / count if count else None,
        **dataclasses.asdict(ending or Ending()),
        planned=num_planned,
        gone=num_gone,
        float32_retries=float32_retries,
        feeding=feeding,
        confidence_counts=confidence_counts,
        drift=find_drift(calibration, confidence_counts) if calibration else None,
        errors=sum((ErrorCounts(**record["errors"]) for record in held), ErrorCounts()),
    )


def add_up(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What shards hold together, by the names of a summary's fields.

    Args:
        records: One a shard, as in its footer.
    """

    def total(key: str) -> Any:
        return sum(record[key] for record in records)

    return {
        "recordings": total("recordings"),
        "transcribed": total("transcribed"),
        "rejected": total("rejected"),
        "reasons": add_counts(record["reasons"] for record in records),
        "segments": total("rows"),
        "empty_segments": total("empty"),
        "audio_s": total("audio_s"),
    }


def add_counts(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by name, the most frequent first."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total.most_common())


def duration_text(seconds: float) -> str:
    """Seconds as people say them.

    Example:
        >>> duration_text(42.4), duration_text(1250), duration_text(36_000_000)
        ('42 s', '20.8 min', '10,000.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def rate_text(rtfx: float) -> str:
    """Seconds of audio per second, with a digit behind the point where it matters.

    Example:
        >>> rate_text(0.27), rate_text(4312.4)
        ('0.3x', '4,312x')
    """
    return f"{rtfx:,.0f}x" if rtfx >= 10 else f"{rtfx:.1f}x"


def drift_text(drift: Drift) -> str:
    """What a drift means for whoever relies on the calibration."""
    if drift.psi is None:
        return f"fewer than {MIN_DRIFT_SEGMENTS} segments: too few to tell"
    if not drift.has_drifted:
        return f"none (PSI {drift.psi:.2f}): what the calibration promises holds here"
    return (
        f"PSI {drift.psi:.2f} > {DRIFT_PSI}: not the speech the calibration was made from, so its"
        " promises do not hold here: label some of this and run koasr calibrate"
    )


def print_summary(summary: Summary, console: Console) -> None:
    """The table at the end of a run."""
    table = Table(title=f"run {summary.run_id}", title_justify="left", show_header=False)
    rejected = ", ".join(f"{n} {reason}" for reason, n in summary.reasons.items())
    rows = {
        "recordings": f"{summary.recordings:,} = {summary.transcribed:,} transcribed"
        f" + {summary.rejected:,} rejected",
        "rejected": rejected or "none",
        "shards": f"{summary.shards:,} committed",
        "audio": f"{duration_text(summary.audio_s)} in {summary.segments:,} segments"
        f" ({summary.empty_segments:,} without speech)",
        "speed": f"{rate_text(summary.rtfx)} real time"
        f" ({duration_text(summary.session_audio_s)} in {duration_text(summary.wall_s)})",
    }
    if feeding := summary.feeding:
        worked_s = feeding.times.model_s / feeding.num_models
        rows["GPU" if feeding.device == "cuda" else "model"] = (
            f"worked {worked_s:.0f} of {summary.wall_s:.0f} s; {feeding.busy_share:.0%} since its"
            f" first pack, with {feeding.queue_depth:.1f} more ready on average"
        )
        rows["bound by"] = f"{feeding.bound_by}: {feeding.advice}"
    if summary.float32_retries:
        rows["precision"] = f"{summary.float32_retries:,} micro-batches again in float32"
    if summary.mean_confidence is not None:
        kind = summary.drift.calibration if summary.drift else "raw, not calibrated"
        rows["confidence"] = f"{summary.mean_confidence:.3f} on average ({kind})"
    if summary.drift:
        rows["drift"] = drift_text(summary.drift)
    if summary.errors.ref_chars:
        rows["errors"] = (
            f"CER {summary.errors.cer:.2%} without spaces, WER {summary.errors.wer:.2%}"
            f" over {summary.errors.ref_chars:,} reference characters"
        )
    rows["transcripts"] = f"{summary.output}/transcripts/date={summary.date}/"
    if summary.rejected:
        rows["rejects"] = f"{summary.output}/rejects/date={summary.date}/"
    for name, value in rows.items():
        table.add_row(name, value)
    console.print(table)
