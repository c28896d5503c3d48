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
from koasr.report_run import ReportedRun
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
    """Error rates. `by` is key → value → CER. `said` tells where they are from, or lack."""

    rates: dict[str, dict[str, Any]]
    by: dict[str, dict[str, float]]
    num_recordings: int = 0
    said: str = ""


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
        found = _of_document(document, "as koasr evaluate found them")
        is_plain = document.get("normalizer") == Normalizer().describe()
    except FileNotFoundError:
        return _score(reported, segments, keys)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Rates({}, {}, said="its evaluation.json is damaged: write it again")
    if found.by or not is_plain:
        return found
    # Nobody named the subsets there; texts are compared here as they were there.
    return replace(found, by=_score(reported, segments, keys).by)


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
        name: {key: held and float(held) for key, held in rate.items()}
        for name, rate in document["rates"].items()
        if rate["value"] is not None
    }
    by = {
        key: {
            value: float(held["rates"]["cer"]["value"])
            for value, held in values.items()
            if held["rates"]["cer"]["value"] is not None
        }
        for key, values in document["subsets"].items()
    }
    return Rates(rates, by, int(document["counts"]["recordings"]), said)


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
