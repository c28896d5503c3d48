"""Transcripts of one recording → one text for people or tools: SRT, WebVTT, CTM, lines, JSON."""

import html
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

Row = dict[str, Any]
"""A row of the transcripts."""

Form = Literal["srt", "vtt", "ctm", "txt", "json"]

MAX_LINE_CHARS = 20
"""Of Hangul, which is twice as wide as Latin letters: as wide as the usual 40 of those."""
_MAX_CUE_S = 7.0
_MIN_CUE_S = 1.0
_PAUSE_S = 1.0
"""Between words; a cue ends at it, however short it is."""
_LINGER_S = 0.5
"""The model puts the end of a word early; and people read on."""


class _Word(NamedTuple):
    """A word, or as much of one as a line holds. Times in seconds of the recording."""

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Cue:
    """One subtitle: one or two lines, and the milliseconds of the recording they are shown in."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def write_text(
    rows: Sequence[Row], name: str, to: Form, max_line_chars: int = MAX_LINE_CHARS
) -> str:
    """The text of one recording. Segments without speech are left out.

    Args:
        rows: Its transcripts, in time order.
        name: What CTM calls it: without spaces.
        to: What kind of text.
        max_line_chars: Characters of a line of subtitles.
    """
    spoken = [row for row in rows if not row["is_empty"]]
    match to:
        case "srt":
            return _srt(cut_cues(spoken, max_line_chars))
        case "vtt":
            return _vtt(cut_cues(spoken, max_line_chars))
        case "ctm":
            return _ctm(spoken, name)
        case "txt":
            return "".join(f"{' '.join(row['text'].split())}\n" for row in spoken)
        case "json":
            return _json(rows[0], spoken)


def cut_cues(rows: Sequence[Row], max_line_chars: int = MAX_LINE_CHARS) -> list[Cue]:
    """Subtitles of at most two lines and 7 s, in order, none begun before the last has ended.

    A cue ends at a pause of a second; one that is full ends at the longest pause of its second
    half. A word longer than a line is broken.

    Args:
        rows: Transcripts of one recording, in time order.
        max_line_chars: Characters of a line.

    Example:
        >>> words = [{"text": t, "start_s": s, "end_s": s + 0.3} for t, s in
        ...          [("오늘", 1.0), ("날씨가", 1.5), ("좋다", 5.0)]]
        >>> [(cue.start_ms, cue.end_ms, cue.lines) for cue in cut_cues([{"words": words}], 4)]
        [(1000, 2300, ('오늘', '날씨가')), (5000, 6000, ('좋다',))]
    """
    words = [part for row in rows for word in row["words"] for part in _parts(word, max_line_chars)]
    cues: list[Cue] = []
    first = 0
    while first < len(words):
        end = _end_of_cue(words, first, max_line_chars)
        spoken_s = max(word.end_s for word in words[first:end])
        start_ms = max(round(words[first].start_s * 1000), cues[-1].end_ms if cues else 0)
        end_ms = max(round((spoken_s + _LINGER_S) * 1000), start_ms + round(_MIN_CUE_S * 1000))
        end_ms = min(end_ms, start_ms + round(_MAX_CUE_S * 1000))
        if end < len(words):
            # A cue of no time would not be shown at all.
            end_ms = max(min(end_ms, round(words[end].start_s * 1000)), start_ms + 1)
        cues.append(Cue(start_ms, end_ms, _lines(words[first:end], max_line_chars)))
        first = end
    return cues


def _parts(word: Row, max_chars: int) -> Iterator[_Word]:
    """A word as parts that fit a line, each with its share of the word's time."""
    texts = [
        text[first : first + max_chars]
        for text in word["text"].split()
        for first in range(0, len(text), max_chars)
    ]
    start_s, span_s = word["start_s"], max(word["end_s"] - word["start_s"], 0.0)
    total, done = sum(map(len, texts)), 0
    for text in texts:
        begin_s, done = start_s + span_s * done / total, done + len(text)
        yield _Word(text, begin_s, start_s + span_s * done / total)


def _end_of_cue(words: Sequence[_Word], first: int, max_line_chars: int) -> int:
    """Index of the word behind the cue that begins with word `first`."""

    def pause_s(index: int) -> float:
        return words[index].start_s - words[index - 1].end_s

    end = first + 1
    while end < len(words) and pause_s(end) < _PAUSE_S:
        if not _fits(words[first : end + 1], max_line_chars):
            break
        end += 1
    if end == len(words) or pause_s(end) >= _PAUSE_S:
        return end
    middle = first + max((end - first) // 2, 1)
    return max(range(middle, end + 1), key=lambda index: (pause_s(index), index))


def _fits(words: Sequence[_Word], max_line_chars: int) -> bool:
    is_short = words[-1].end_s - words[0].start_s <= _MAX_CUE_S
    return is_short and max(map(len, _lines(words, max_line_chars))) <= max_line_chars


def _lines(words: Sequence[_Word], max_line_chars: int) -> tuple[str, ...]:
    """One line where that is short enough, else two that are as even as can be."""
    texts = [word.text for word in words]
    whole = " ".join(texts)
    if len(whole) <= max_line_chars:
        return (whole,)
    pairs = [(" ".join(texts[:cut]), " ".join(texts[cut:])) for cut in range(1, len(texts))]
    return min(pairs, key=lambda pair: max(map(len, pair)))


def _clock(ms: int, point: str) -> str:
    seconds, ms = divmod(ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{point}{ms:03d}"


def _srt(cues: Sequence[Cue]) -> str:
    blocks = []
    for number, cue in enumerate(cues, start=1):
        times = f"{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}"
        blocks.append("\n".join([f"{number}", times, *cue.lines, ""]))
    return "\n".join(blocks)


def _vtt(cues: Sequence[Cue]) -> str:
    blocks = ["WEBVTT\n"]
    for cue in cues:
        times = f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}"
        lines = [html.escape(line, quote=False) for line in cue.lines]
        blocks.append("\n".join([times, *lines, ""]))
    return "\n".join(blocks)


def _ctm(rows: Sequence[Row], name: str) -> str:
    """NIST's: recording, channel, start, duration, word, confidence."""
    lines = []
    for word in (word for row in rows for word in row["words"]):
        confidence = "" if word["confidence"] is None else f" {word['confidence']:.3f}"
        for part in _parts(word, max_chars=1 << 20):
            duration_s = part.end_s - part.start_s
            lines.append(f"{name} 1 {part.start_s:.3f} {duration_s:.3f} {part.text}{confidence}\n")
    return "".join(lines)


def _json(first: Row, rows: Sequence[Row]) -> str:
    whole = ("recording_id", "source_uri", "source_key", "model", "fingerprint", "calibration")
    part = ("segment_id", "start_s", "end_s", "text", "confidence", "expected_cer", "words")
    document = {name: first[name] for name in whole}
    document["segments"] = [{name: row[name] for name in part} for row in rows]
    return json.dumps(_plain(document), ensure_ascii=False, indent=1) + "\n"


def _plain(value: Any) -> Any:
    """Numbers as short as they are exact: float32 of Parquet has 16 digits in JSON, NaN none."""
    if isinstance(value, float):
        return round(value, 5) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value
