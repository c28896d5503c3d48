"""A run's references → its error rates and those of its parts; else what is known of its parts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from koasr.errors import JobError
from koasr.evaluation import EVALUATED_COLUMNS, evaluate_transcripts
from koasr.normalize import Normalizer
from koasr.report_run import ReportedRun, check_number
from koasr.report_segments import Segments, take_rows
from koasr.storage import join, read_bytes
from koasr.threads import concurrently
from koasr.transcripts import REJECTS

MAX_SCORED = 20_000
"""Segments with a reference that are compared here; of more koasr evaluate is to be asked."""
_NUM_KEYS = 3
_NUM_SHARDS = 20
SHARD = "source shard"


@dataclass(frozen=True)
class Rates:
    """Error rates. `by` is key → value → CER. `said` tells where they are from, or lack.

    `scope` is what `rates` are over where that may be more than the run, `by_scope` the same.
    """

    rates: dict[str, dict[str, Any]]
    by: dict[str, dict[str, float]]
    num_recordings: int = 0
    said: str = ""
    scope: str = ""
    by_scope: str = ""


@dataclass(frozen=True)
class Part:
    """A value of a key, or a source shard: what it has. `None` where there is nothing to say."""

    name: str
    segments: int
    hours: float
    confidence: float | None
    empty_share: float
    cer: float | None


@dataclass(frozen=True)
class Parts:
    """A run by one key: its parts, the largest first, and how many more there are."""

    key: str
    parts: list[Part]
    num_more: int = 0


def subset_keys(segments: Segments) -> list[str]:
    """Keys of the metadata that tell subsets: 2 to 20 values; those that say most, first."""
    told = {
        key: sum(float(counts[1]) for value, counts in values.items() if value)
        for key, values in segments.tallies.items()
        if len(values) >= 2
    }
    return sorted(told, key=lambda key: -told[key])[:_NUM_KEYS]


def read_rates(reported: ReportedRun, segments: Segments, keys: Sequence[str]) -> Rates:
    """Error rates of a run: from its `evaluation.json`, else from references that came along.

    Args:
        reported: The run.
        segments: Of the run.
        keys: Of the metadata, for whose values rates are wanted too; source shards if empty.
    """
    try:
        document = json.loads(read_bytes(join(reported.run.folder, "evaluation.json")))
        scope = _say_scope(document)
        found = _of_document(document, f"as koasr evaluate found them over {scope}")
        found = replace(found, scope=scope, by_scope=scope)
        is_plain = document.get("normalizer") == Normalizer().describe()
    except FileNotFoundError:
        return _score(reported, segments, keys)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Rates({}, {}, said="its evaluation.json is damaged: write it again")
    if found.by or not is_plain:
        return found
    # Nobody named the subsets there; texts are compared here as they were there.
    return replace(found, by=_score(reported, segments, keys).by, by_scope="")


def _say_scope(document: dict[str, Any]) -> str:
    """What koasr evaluate compared: never one run, of which a date may have several."""
    if "date" not in document:
        return "all that it was given"
    return f"all of {document['date']}" if document["date"] else "all dates"


def _score(reported: ReportedRun, segments: Segments, keys: Sequence[str]) -> Rates:
    """Error rates by the references that came along with some segments."""
    num_references = int(segments.has_reference.sum())
    if not num_references:
        return Rates({}, {})
    if num_references > MAX_SCORED:
        count = f"{num_references:,} segments have references"
        return Rates({}, {}, said=f"{count}, more than are compared here: koasr evaluate does")
    read = partial(_referenced, reported, segments)
    numbers = np.unique(segments.shard[segments.has_reference]).tolist()
    tables = concurrently(read, numbers, "objects with references read")
    table = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    by = [key for key in keys if key not in table.column_names] or [SHARD]
    none = REJECTS.empty_table().select(["recording_id", "source_uri", "source_key"])
    try:
        found = evaluate_transcripts(table, None, none, Normalizer(), by=by)
    except JobError as error:
        return Rates({}, {}, said=str(error))
    return _of_document(found.document, "against the references that came along")


def _referenced(reported: ReportedRun, segments: Segments, number: int) -> pa.Table:
    name, uri = list(reported.objects.items())[number]
    rows = segments.row[(segments.shard == number) & segments.has_reference]
    table = take_rows(uri, EVALUATED_COLUMNS, rows)
    return table.append_column(SHARD, pa.array([name] * len(table), pa.string()))


def _of_document(document: dict[str, Any], said: str) -> Rates:
    rates = {
        name: _checked_rate(rate)
        for name, rate in document["rates"].items()
        if rate["value"] is not None
    }
    by = {
        key: {
            value: check_number(held["rates"]["cer"]["value"])
            for value, held in values.items()
            if held["rates"]["cer"]["value"] is not None
        }
        for key, values in document["subsets"].items()
    }
    return Rates(rates, by, int(check_number(document["counts"]["recordings"])), said)


def _checked_rate(rate: dict[str, Any]) -> dict[str, Any]:
    """What is shown of a rate.

    Raises:
        ValueError: A number is none, or an interval has one end.
    """
    found: dict[str, Any] = {key: check_number(rate[key]) for key in ("value", "length")}
    ends = {key: rate.get(key) for key in ("low", "high")}
    if all(end is None for end in ends.values()):
        return found
    return found | {key: check_number(end) for key, end in ends.items()}


def find_parts(
    reported: ReportedRun, segments: Segments, keys: Sequence[str], rates: Rates
) -> list[Parts]:
    """A run by the keys of its metadata that tell something; by its source shards without any."""
    found = [_parts(key, segments.tallies[key], rates.by.get(key, {})) for key in keys]
    if found or not len(segments):
        return found
    size = len(reported.objects)
    is_spoken = ~np.isnan(segments.confidence)
    columns = [
        np.bincount(segments.shard, weights, size)
        for weights in (
            np.ones(len(segments)),
            segments.duration_s.astype(float),
            is_spoken.astype(float),
            np.nan_to_num(segments.confidence).astype(float),
            (~is_spoken).astype(float),
        )
    ]
    tally = dict(zip(reported.objects, np.stack(columns, axis=1), strict=True))
    held = {name: counts for name, counts in tally.items() if counts[0]}
    return [_parts(SHARD, held, rates.by.get(SHARD, {}))]


def _parts(key: str, values: dict[str, Any], cer: dict[str, float]) -> Parts:
    parts = []
    for value, (count, seconds, num_spoken, confidence, num_empty) in values.items():
        name = value.split(".")[0] if key == SHARD else value
        mean = float(confidence / num_spoken) if num_spoken else None
        share = float(num_empty / count) if count else 0.0
        part = Part(name, int(count), float(seconds) / 3600, mean, share, cer.get(value))
        parts.append(part)
    parts.sort(key=lambda part: -part.hours)
    return Parts(key, parts[:_NUM_SHARDS], max(len(parts) - _NUM_SHARDS, 0))
