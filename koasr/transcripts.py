"""Best paths of a pack → rows of transcripts and rejects: the output's schema, declared once."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from koasr.checkpoint import Checkpoint
from koasr.ctc import BestPath, WordSpan, split_words
from koasr.errors import Reason
from koasr.packs import LoadedPack
from koasr.rows import SAMPLE_RATE, Recording, reject
from koasr.segments import Segment

RAW_CALIBRATION = "raw"
_NO_PATH: dict[Reason, str] = {
    "non_finite": "the model's output is not finite, in float32 too",
    "crashed": "the model's process died on it each time, alone too",
    "timeout": "the model's process gave no answer to it, alone too",
}

_label = pa.dictionary(pa.int32(), pa.string())
_WORD = pa.struct(
    [
        ("text", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("confidence", pa.float32()),
    ]
)
_EVIDENCE = pa.struct(
    [
        ("seq_logprob", pa.float32()),
        ("num_tokens", pa.float32()),
        ("raw_confidence", pa.float32()),
        ("min_word_confidence", pa.float32()),
        ("blank_doubt", pa.float32()),
        ("margin_min", pa.float32()),
        ("chars_per_s", pa.float32()),
        ("rms_dbfs", pa.float32()),
        ("num_unk", pa.float32()),
    ]
)
TRANSCRIPTS = pa.schema(
    [
        ("segment_id", pa.string()),
        ("recording_id", pa.string()),
        ("source_uri", pa.string()),
        ("source_key", pa.string()),
        ("source_version", pa.string()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
        ("is_empty", pa.bool_()),
        ("confidence", pa.float32()),
        ("calibration", _label),
        ("expected_cer", pa.float32()),
        ("words", pa.list_(_WORD)),
        ("evidence", _EVIDENCE),
        ("reference", pa.string()),
        ("duration_s", pa.float64()),
        ("source_sample_rate_hz", pa.int32()),
        ("source_channels", pa.int32()),
        ("rms_dbfs", pa.float32()),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("model", _label),
        ("model_revision", _label),
        ("fingerprint", _label),
        ("run_id", _label),
        ("pack_id", _label),
    ]
)
REJECTS = pa.schema(
    [
        ("recording_id", pa.string()),
        ("source_uri", pa.string()),
        ("source_key", pa.string()),
        ("source_version", pa.string()),
        ("stage", _label),
        ("reason", _label),
        ("message", pa.string()),
        ("size_bytes", pa.int64()),
        ("sha256", pa.string()),
        ("run_id", _label),
        ("pack_id", _label),
    ]
)


@dataclass(frozen=True)
class Provenance:
    """Where rows came from: the model, the run, and the options that shape a transcript."""

    model: str
    model_revision: str
    fingerprint: str
    run_id: str


def rms_dbfs(samples: NDArray[np.int16]) -> float:
    """Level of a segment in dB of full scale; -inf for digital silence."""
    power = float(np.mean(np.square(samples, dtype=np.float64))) / 32_768.0**2
    return 10.0 * math.log10(power) if power else -math.inf


def _word_rows(
    words: Sequence[WordSpan], path: BestPath, start_s: float, seconds_per_frame: float
) -> list[dict[str, Any]]:
    return [
        {
            "text": word.text,
            "start_s": start_s + path.spans[word.first].start * seconds_per_frame,
            "end_s": start_s + path.spans[word.last].end * seconds_per_frame,
            "confidence": min(path.token_confidence[word.first : word.last + 1]),
        }
        for word in words
    ]


def _transcript(
    recording: Recording, segment: Segment, path: BestPath, checkpoint: Checkpoint
) -> dict[str, Any]:
    """The columns that a segment's best path decides."""
    start_s = segment.start / SAMPLE_RATE
    duration_s = len(segment.samples) / SAMPLE_RATE
    words = split_words(path.spans, checkpoint)
    seconds_per_frame = checkpoint.samples_per_frame / SAMPLE_RATE
    word_rows = _word_rows(words, path, start_s, seconds_per_frame)
    text = " ".join(word.text for word in words)
    confidence = path.raw_confidence if words else None
    num_unk = sum(span.token_id == checkpoint.unk_id for span in path.spans)
    level = rms_dbfs(segment.samples)
    return {
        "segment_id": f"{recording.recording_id}#{round(start_s * 1000):d}",
        "start_s": start_s,
        "end_s": start_s + duration_s,
        "text": text,
        "is_empty": not words,
        "confidence": confidence,
        "calibration": RAW_CALIBRATION,
        "expected_cer": None,
        "words": word_rows,
        "evidence": {
            "seq_logprob": path.seq_logprob,
            "num_tokens": float(len(path.spans)),
            "raw_confidence": confidence,
            "min_word_confidence": min((w["confidence"] for w in word_rows), default=None),
            "blank_doubt": path.blank_doubt,
            "margin_min": path.margin_min,
            "chars_per_s": sum(len(word.text) for word in words) / duration_s,
            "rms_dbfs": level,
            "num_unk": float(num_unk),
        },
        "duration_s": duration_s,
        "rms_dbfs": level,
    }


def to_tables(
    pack: LoadedPack,
    paths: Sequence[BestPath | Reason],
    checkpoint: Checkpoint,
    provenance: Provenance,
) -> tuple[pa.Table, pa.Table]:
    """Transcripts and rejects of one pack, in the output's schema.

    Args:
        pack: Its segments in order.
        paths: One a segment, or why there is none. The recording is then a reject, all of it.
        checkpoint: Names the tokens.
        provenance: Goes into every row.
    """
    broken: dict[int, Reason] = {}
    for owner, path in zip(pack.owners, paths, strict=True):
        if not isinstance(path, BestPath):
            broken.setdefault(owner, path)
    rejects = [*pack.rejects]
    for owner, reason in broken.items():
        message = _NO_PATH[reason]
        rejects.append(reject(pack.recordings[owner], "transcribe", reason, message))
    rows = []
    for owner, segment, path in zip(pack.owners, pack.segments, paths, strict=True):
        if owner in broken or not isinstance(path, BestPath):
            continue
        recording, info = pack.recordings[owner], pack.infos[owner]
        columns = {name: getattr(recording, name) for name in ("recording_id", "source_uri")}
        columns |= {name: getattr(recording, name) for name in ("source_key", "source_version")}
        columns |= {"reference": recording.reference, "metadata": list(recording.metadata.items())}
        columns["source_sample_rate_hz"] = info.sample_rate_hz
        columns["source_channels"] = info.channels
        rows.append(columns | _transcript(recording, segment, path, checkpoint))
    common = dataclasses.asdict(provenance) | {"pack_id": pack.header.pack_id}
    return (
        pa.Table.from_pylist([row | common for row in rows], schema=TRANSCRIPTS),
        pa.Table.from_pylist([dataclasses.asdict(r) | common for r in rejects], schema=REJECTS),
    )
