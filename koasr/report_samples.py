"""Segments of a run → the few worth listening to, with their texts and what differs in them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from koasr.clips import COLUMNS
from koasr.errors import JobError
from koasr.normalize import Normalizer
from koasr.report_run import ReportedRun
from koasr.report_segments import Segments, take_rows
from koasr.rows import short_hash
from koasr.scoring import SCORED_COLUMNS, Pair, pair_up, score_pairs

Kind = Literal["least", "typical", "random"]
Piece = tuple[str, str]
"""A stretch as it was said and as it was heard: both alike where nothing differs."""

MAX_SHARDS = 16
"""Source shards that are opened for the audio of one page: a tar is read up to what is wanted."""
_RANDOM_SHARDS = 4
_READ = [*dict.fromkeys((*COLUMNS, *SCORED_COLUMNS, "is_empty", "duration_s"))]


@dataclass
class Sample:
    """A segment on the page.

    Attributes:
        kinds: Why it is there; one segment may be there for several reasons.
        shard: Name of its shard.
        row: Its row of the transcripts, as Python has it.
        diff: Its text against its part of the reference; None without one to compare with.
        errors: Character errors that fall to it.
        ref_chars: Characters of its part of the reference, spaces left out.
    """

    kinds: list[Kind]
    shard: str
    row: dict[str, Any]
    diff: list[Piece] | None = None
    errors: int = 0
    ref_chars: int = 0
    metadata: dict[str, str] = field(default_factory=dict)


def choose_samples(segments: Segments, num: int, run_id: str) -> dict[int, list[Kind]]:
    """Which segments to show, and why: the least confident first, then at random, then typical.

    Where a run has more than `MAX_SHARDS` shards the random ones are of few, each segment as
    likely as any other, and the typical ones of those that are opened anyway.

    Args:
        segments: Of the run.
        num: Of each kind.
        run_id: Seeds what is random, so that the page of a run stays the same.
    """
    chosen: dict[int, list[Kind]] = {}
    if not len(segments) or not num:
        return chosen
    rng = np.random.default_rng(int(short_hash(run_id), 16))
    spoken = np.flatnonzero(~np.isnan(segments.confidence))
    least = spoken[np.argsort(segments.confidence[spoken], kind="stable")[:num]]
    drawn = _draw(segments.shard, num, rng)
    if len(np.unique(segments.shard)) > MAX_SHARDS:
        opened = np.unique(segments.shard[np.concatenate([least, drawn])])
        spoken = spoken[np.isin(segments.shard[spoken], opened)]
    typical = spoken[np.argsort(_distance(segments, spoken), kind="stable")[:num]]
    kinds: list[tuple[Kind, NDArray[np.int64]]] = [("least", least), ("random", drawn)]
    for kind, found in [*kinds, ("typical", typical)]:
        for index in found.tolist():
            chosen.setdefault(index, []).append(kind)
    return chosen


def _draw(shard: NDArray[np.int32], num: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows at random. Of many shards only some are drawn, by their size."""
    numbers = np.unique(shard)
    if len(numbers) <= MAX_SHARDS:
        return rng.choice(len(shard), min(num, len(shard)), replace=False)
    drawn = np.unique(shard[rng.integers(len(shard), size=_RANDOM_SHARDS)])
    rows = np.flatnonzero(np.isin(shard, drawn))
    return rng.choice(rows, min(num, len(rows)), replace=False)


def _distance(segments: Segments, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """How far each segment is from the middle one, in confidence and in length."""
    distance = np.zeros(len(rows))
    for column in (segments.confidence, segments.duration_s):
        values = column[rows].astype(float)
        if len(values):
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
            distance += np.abs(values - middle) / max(high - low, 1e-6)
    return distance


def read_samples(
    reported: ReportedRun, segments: Segments, chosen: Mapping[int, list[Kind]]
) -> list[Sample]:
    """The chosen segments with all that is shown of them, in the order they were chosen in."""
    names = list(reported.objects)
    by_shard: dict[int, list[int]] = {}
    for index in chosen:
        by_shard.setdefault(int(segments.shard[index]), []).append(index)
    found: dict[int, Sample] = {}
    for number, indices in by_shard.items():
        uri, rows = reported.objects[names[number]], segments.row[indices]
        ids = take_rows(uri, ["recording_id"])["recording_id"]
        # With the others of the same recordings: one reference is for all of them.
        is_near = pc.is_in(ids, value_set=ids.take(pa.array(rows)).combine_chunks())
        near = np.flatnonzero(is_near.to_numpy())
        table = take_rows(uri, _READ, near)
        places = np.searchsorted(near, rows).tolist()
        scored = _score(table)
        for index, place in zip(indices, places, strict=True):
            row = table.slice(place, 1).to_pylist()[0]
            if row["end_s"] is None:
                row["end_s"] = row["start_s"] + row["duration_s"]
            sample = Sample(list(chosen[index]), names[number], row)
            if place in scored:
                sample.diff, sample.errors, sample.ref_chars = scored[place]
            sample.metadata = {key: value or "" for key, value in row["metadata"] or ()}
            found[index] = sample
    return [found[index] for index in chosen]


def _score(table: pa.Table) -> dict[int, tuple[list[Piece], int, int]]:
    """Difference, errors and reference length of each row whose recording has a reference.

    Args:
        table: All segments of its recordings.
    """
    try:
        pairs = pair_up(table, None, Normalizer()).pairs
        scored = score_pairs(table, pairs)
    except JobError:
        # A side must be chosen, or words are not those of the text: koasr evaluate says so.
        return {}
    rows = sorted(row for pair in pairs for row in pair.rows)
    counts = zip(scored.errors.tolist(), scored.ref_chars.tolist(), strict=True)
    counted = dict(zip(rows, counts, strict=True))
    return {
        row: (diff, *counted[row])
        for pair in pairs
        for row, diff in zip(pair.rows, diff_segments(pair), strict=True)
    }


def diff_segments(pair: Pair) -> list[list[Piece]]:
    """What was said and what was heard, for each segment of a pair.

    What is missing between two segments falls to the one before.

    Example:
        >>> diff_segments(Pair("a", "오늘 갔다가 봐요", [0, 1], [["오늘", "갓다가"], ["봐"]]))
        [[('오늘 ', '오늘 '), ('갔', '갓'), ('다가', '다가')], [('봐', '봐'), ('요', '')]]
    """
    texts = [" ".join(" ".join(word for word in words if word).split()) for words in pair.words]
    owners = [number for number, text in enumerate(texts) if text for _ in f"{text} "][:-1]
    pieces: list[list[Piece]] = [[] for _ in texts]
    hypothesis = pair.hypothesis
    for block in Levenshtein.opcodes(pair.reference, hypothesis):
        said = pair.reference[block.src_start : block.src_end]
        heard = hypothesis[block.dest_start : block.dest_end]
        if block.tag in ("delete", "insert"):
            steps = [(s, "") for s in said] or [("", h) for h in heard]
        else:
            steps = list(zip(said, heard, strict=True))
        for offset, step in enumerate(steps):
            place = block.dest_start + (0 if block.tag == "delete" else offset)
            place -= block.tag == "delete"
            owner = owners[min(max(place, 0), len(owners) - 1)] if owners else 0
            _append(pieces[owner], step)
    return [_trim(part) for part in pieces]


def _append(pieces: list[Piece], step: Piece) -> None:
    """Add a character, to the last stretch where it is of the same sort."""
    if pieces:
        said, heard = pieces[-1]
        if (said == heard) == (step[0] == step[1]):
            pieces[-1] = (said + step[0], heard + step[1])
            return
    pieces.append(step)


def _trim(pieces: list[Piece]) -> list[Piece]:
    """Without the space between two segments."""
    if pieces and pieces[-1][0] == pieces[-1][1]:
        last = pieces.pop()[0].rstrip()
        pieces += [(last, last)] if last else []
    return pieces
