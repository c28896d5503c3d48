"""Transcripts → pseudo-labels on order: so good, so many hours, or so large a share."""

from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from koasr.calibration import (
    Calibration,
    calibrate_rows,
    check_fingerprint,
    kept_calibration,
    read_calibration,
)
from koasr.clips import COLUMNS
from koasr.datasets import Format
from koasr.dates import check_date
from koasr.drift import Drift, count_confidence, find_drift
from koasr.errors import JobError
from koasr.evaluation_plots import draw_yield
from koasr.help import AMOUNT, FILTERS, LIMITS_AGAIN
from koasr.limits import DEFAULT_LIMITS, Limits
from koasr.orders import NO_ORDER, Chosen, Order, choose, share_of
from koasr.reading import read_transcripts
from koasr.selection import Candidates, Filters, find_candidates, hours_per, values_of
from koasr.storage import absolute, write_result
from koasr.summary import drift_text
from koasr.training_sets import export_selection
from koasr.transcripts import RAW_CALIBRATION, TRANSCRIPTS
from koasr.writable import check_file, check_folder

_READ = {*COLUMNS, "run_id", "duration_s", "is_empty", "evidence", "metadata"} - {"words"}
_MAX_REASONS = 3
_STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def select(
    output: str,
    /,
    *,
    date: str | None = None,
    order: Annotated[Order, Parameter(name="*", group=AMOUNT)] = NO_ORDER,
    calibration: str | None = None,
    filters: Annotated[Filters | None, Parameter(name="*", group=FILTERS)] = None,
    to: Format | None = None,
    out: str | None = None,
    trim: bool = False,
    rows: str | None = None,
    plot: str | None = None,
    limits: Annotated[Limits, Parameter(name="*", group=LIMITS_AGAIN)] = DEFAULT_LIMITS,
) -> dict[str, Any]:
    """Keep what can be trusted, say how many hours that is, and write it as a training set.

    Args:
        output: Output of koasr transcribe.
        date: Only the rows of this date, YYYY-MM-DD.
        order: How much to keep.
        calibration: File of koasr calibrate; else the output's own.
        filters: What is left out however sure the model was.
        to: Layout of the training set; with --out.
        out: Folder or URI for it: clips, texts, provenance.
        trim: Cut to the words, not to the segments.
        rows: Parquet file for the selected rows alone, no audio.
        plot: SVG file for the yield curve.
        limits: What untrusted input may ask.

    Returns:
        What is kept: segments, hours, expected_cer (null without a calibration).

    Raises:
        JobError: Nothing to select from, no calibration for the order, nothing that fits it, or
            a result that cannot be written where it was named.
    """
    filters, console = filters or Filters(), Console(soft_wrap=True, markup=False)
    if (to is None) != (out is None):
        raise JobError("--to and --out go together: a layout and where it is written", 2)
    share = share_of(order)
    for uri in filter(None, (rows, plot)):
        check_file(uri)
    if out is not None:
        check_folder(out)
    columns = _READ | _extra_columns(filters) | ({"words"} if trim else set())
    table = read_transcripts(output, sorted(columns), date and check_date(date))
    made = (
        read_calibration(calibration)
        if calibration is not None
        else _find_calibration(table, output)
    )
    drift = None
    _check_keys(table, filters)
    if made:
        for fingerprint in pc.unique(table["fingerprint"]).to_pylist():
            check_fingerprint(made, fingerprint)
        table = calibrate_rows(table, made)
        drift = find_drift(made, count_confidence(table["confidence"]))
    found = find_candidates(table, made, filters)
    chosen = choose(found, order, share, made, drift)
    _print(table, found, chosen, drift, console)
    if not chosen.count:
        raise JobError(_why_none(table, found, order, chosen))
    _print_kept(table, found, chosen, console)
    if plot is not None:
        write_result(plot, draw_yield(found.hours.cumsum(), found.forecast(), chosen.count))
    selected = table.take(pa.array(np.sort(found.rows[: chosen.count])))
    if rows is not None:
        write_result(rows, _to_parquet(selected))
    if to is None or out is None:
        return _kept(found, chosen)
    counts = export_selection(
        selected,
        output=output,
        to=to,
        out=out,
        selection=f"{order}{filters} by {made.label if made else RAW_CALIBRATION}",
        trim=trim,
        limits=limits,
        console=console,
    )
    skipped = "".join(f", {n:,} {why}" for why, n in counts.num_skipped.items())
    console.print(
        f"koasr: {out} has {counts.num_clips:,} clips, {counts.hours:.2f} h{skipped}",
        highlight=False,
    )
    return _kept(found, chosen)


def _kept(found: Candidates, chosen: Chosen) -> dict[str, Any]:
    last = chosen.count - 1
    hours, expected = float(found.hours.cumsum()[last]), float(found.forecast()[last])
    cer = None if np.isnan(expected) else expected
    return {"segments": chosen.count, "hours": hours, "expected_cer": cer}


def _extra_columns(filters: Filters) -> set[str]:
    """Columns that `--max-hours-per` names; other keys are the metadata's."""
    try:
        return {key for key in hours_per(filters) if key in TRANSCRIPTS.names}
    except ValueError as error:
        found = ", ".join(filters.max_hours_per)
        raise JobError(f"--max-hours-per: found {found}, wanted KEY=HOURS", 2) from error


def _check_keys(table: pa.Table, filters: Filters) -> None:
    """Refuse a `--max-hours-per` of a key that no row has: it would cap all of them together."""
    for key in hours_per(filters):
        if len(table) and not any(values_of(table, key)):
            rows = table["metadata"].to_pylist()
            known = ", ".join(sorted({str(name) for row in rows for name, _ in row or ()}))[:200]
            raise JobError(f"--max-hours-per: no row has a {key!r}, found the keys {known}")


def _find_calibration(table: pa.Table, output: str) -> Calibration | None:
    """The calibration that all of an output's rows were made with, None of raw ones."""
    labels = [label for label in pc.unique(table["calibration"]).to_pylist() if label]
    if not len(table) or labels == [RAW_CALIBRATION]:
        return None
    if len(labels) != 1:
        found = ", ".join(sorted(labels)) or "none"
        raise JobError(f"{output} has rows of the calibrations {found}: choose with --calibration")
    return kept_calibration(absolute(output), labels[0])


def _print(
    table: pa.Table,
    found: Candidates,
    chosen: Chosen,
    drift: Drift | None,
    console: Console,
) -> None:
    hours, forecast = found.hours.cumsum(), found.forecast()
    all_hours = _all_hours(table)
    filtered = Table("left out", "segments", "hours", title_justify="left")
    for removed in found.removed:
        filtered.add_row(Text(removed.why), f"{removed.num_segments:,}", f"{removed.hours:.2f}")
    if found.removed:
        console.print(filtered)
    curve = Table("hours", "of all", "expected CER", "score from", title="yield: the surest …")
    counts = [max(1, round(step * len(found.rows))) for step in _STEPS] if len(hours) else []
    for count in counts:
        at = count - 1
        cer = "-" if np.isnan(forecast[at]) else f"{forecast[at]:.2%}"
        cells = f"{hours[at]:.2f}", f"{hours[at] / all_hours:.0%}", cer, f"{found.scores[at]:.3f}"
        curve.add_row(*cells, style="bold" if count == chosen.count else "")
    if counts:
        console.print(curve)
    if drift:
        console.print(f"koasr: drift: {drift_text(drift)}", highlight=False)


def _print_kept(table: pa.Table, found: Candidates, chosen: Chosen, console: Console) -> None:
    last = chosen.count - 1
    hours, expected = found.hours.cumsum()[last], found.forecast()[last]
    hope = "no expected CER" if np.isnan(expected) else f"expected CER {expected:.2%}"
    console.print(
        f"koasr: keeps {chosen.count:,} of {len(table):,} segments, {hours:.2f} of"
        f" {_all_hours(table):.2f} h; {hope}; {chosen.why}",
        highlight=False,
    )


def _all_hours(table: pa.Table) -> float:
    return float(pc.sum(table["duration_s"]).as_py() or 0.0) / 3600


def _why_none(table: pa.Table, found: Candidates, order: Order, chosen: Chosen) -> str:
    """What took all segments: the filters, or the order."""
    if not len(table):
        return "there are no segments to select from"
    if not len(found.rows):
        most = sorted(found.removed, key=lambda removed: -removed.num_segments)[:_MAX_REASONS]
        took = ", ".join(f"{removed.num_segments:,} {removed.why}" for removed in most)
        return f"no segment of {len(table):,} passes the filters ({took}): loosen the first named"
    expected = found.forecast()[0]
    hope = "" if np.isnan(expected) else f" and an expected CER of {expected:.2%}"
    return (
        f"{order} keeps none of the {len(found.rows):,} segments that pass the filters"
        f" ({chosen.why}): the surest has {found.hours[0] * 3600:.1f} s{hope}, order more than that"
    )


def _to_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())
