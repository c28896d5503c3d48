"""Rows of one recording → cues and texts, read back by the library that others edit them with."""

import html
import itertools
import json
import random
from typing import Any

import pysubs2
import pytest

from koasr.subtitles import Cue, Row, cut_cues, write_text


def word(text: str, start_s: float, end_s: float, confidence: float | None = 0.5) -> Row:
    return {"text": text, "start_s": start_s, "end_s": end_s, "confidence": confidence}


def segment(*words: Row, start_s: float = 0.0, **columns: Any) -> Row:
    names = {"recording_id": "a.wav-34a8971cf9fb", "source_uri": "s3://in/a.wav", "source_key": ""}
    made = {"model": "m", "fingerprint": "f", "calibration": "raw", "confidence": 0.5}
    text = " ".join(w["text"] for w in words)
    place = {"segment_id": f"a#{start_s * 1000:.0f}", "start_s": start_s, "end_s": start_s + 20}
    row = names | made | place | {"text": text, "words": list(words), "expected_cer": None}
    return row | {"is_empty": not words} | columns


def speech(seed: int, num_words: int = 300) -> list[Row]:
    """Segments of words of any length, with pauses of any length, some words without any time."""
    chance = random.Random(seed)
    words, now_s = [], 0.0
    for _ in range(num_words):
        now_s += chance.choice([0.0, 0.02, 0.2, 0.4, 3.0])
        length_s = chance.choice([0.0, 0.02, 0.3, 1.5, 9.0])
        letters = chance.choice([1, 2, 3, 5, 8, 70])
        words.append(
            word("".join(chance.choices("가나다한글<&>", k=letters)), now_s, now_s + length_s)
        )
        now_s += length_s
    return [segment(*words[first : first + 10]) for first in range(0, num_words, 10)]


def letters(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("width", [8, 20, 42])
def test_cues_are_short_in_order_and_hold_every_letter(seed: int, width: int) -> None:
    rows = speech(seed)
    cues = cut_cues(rows, width)
    assert letters("".join("".join(cue.lines) for cue in cues)) == letters(
        "".join(row["text"] for row in rows)
    )
    for cue in cues:
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= width for line in cue.lines)
        assert 0 < cue.end_ms - cue.start_ms <= 7000
    assert all(a.end_ms <= b.start_ms for a, b in itertools.pairwise(cues))


@pytest.mark.parametrize("seed", range(8))
def test_a_cue_begins_when_its_first_word_does(seed: int) -> None:
    words = [w for row in speech(seed) for w in row["words"]]
    whole = [w for w in words if w["end_s"] > w["start_s"] and len(w["text"]) <= 20]
    cues = cut_cues([segment(*whole)], 20)
    firsts = iter(whole)
    for cue in cues:
        heads = " ".join(cue.lines).split()
        first = next(firsts)
        assert (heads[0], cue.start_ms) == (first["text"], round(first["start_s"] * 1000))
        assert [next(firsts)["text"] for _ in heads[1:]] == heads[1:]


@pytest.mark.parametrize(
    ("words", "cues"),
    [
        ([], []),
        # A pause of a second ends a cue; the next one ends what lingers.
        (
            [word("가", 0.0, 0.2), word("나", 1.3, 1.5)],
            [Cue(0, 1000, ("가",)), Cue(1300, 2300, ("나",))],
        ),
        (
            [word("가", 0.0, 0.9), word("나", 2.0, 2.1)],
            [Cue(0, 1400, ("가",)), Cue(2000, 3000, ("나",))],
        ),
        # Two lines, as even as can be.
        ([word("가나다라", 0, 1), word("마바", 1, 2), word("사아", 2, 3)],
         [Cue(0, 3500, ("가나다라", "마바 사아"))]),
        # Full: it ends at the longest pause of its second half.
        (
            [word("가나다", 0, 1), word("라마", 1, 2), word("사아", 2.5, 3), word("자" * 6, 3, 4)],
            [Cue(0, 2500, ("가나다 라마",)), Cue(2500, 4500, ("사아", "자" * 6))],
        ),
        # Longer than a line, and than a cue.
        ([word("가나다라마바사아자차", 0, 1)], [Cue(0, 1500, ("가나다라마바사아", "자차"))]),
        ([word("가", 0, 30)], [Cue(0, 7000, ("가",))]),
        # No time at all, at one place.
        ([word("가" * 8, 1, 1), word("나" * 8, 1, 1), word("다", 1, 1)],
         [Cue(1000, 1001, ("가" * 8, "나" * 8)), Cue(1001, 2001, ("다",))]),
        # No letters, or the end of a line among them.
        ([word(" ", 0, 1), word("가\n\n나", 1, 2)], [Cue(1000, 2500, ("가 나",))]),
    ],
)  # fmt: skip
def test_cues(words: list[Row], cues: list[Cue]) -> None:
    assert cut_cues([segment(*words)], 8) == cues


@pytest.mark.parametrize("to", ["srt", "vtt"])
@pytest.mark.parametrize("seed", range(4))
def test_subtitles_are_read_back(to: Any, seed: int) -> None:
    rows = [segment(), *speech(seed), segment(start_s=1e4)]
    cues = cut_cues(rows[1:-1])
    read = pysubs2.SSAFile.from_string(
        write_text(rows, "a", to), format_=to, keep_unknown_html_tags=True
    )
    assert [(event.start, event.end) for event in read] == [(c.start_ms, c.end_ms) for c in cues]
    texts = [html.unescape(e.text) if to == "vtt" else e.text for e in read]
    assert texts == [r"\N".join(cue.lines) for cue in cues]


def test_a_vtt_holds_no_markup() -> None:
    text = write_text([segment(word("<b>-->&", 0, 1))], "a", "vtt")
    assert text == "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\n&lt;b&gt;--&gt;&amp;\n"


def test_hours_are_counted() -> None:
    text = write_text([segment(word("가", 3 * 3600 + 62.5, 3 * 3600 + 63))], "a", "srt")
    assert text == "1\n03:01:02,500 --> 03:01:03,500\n가\n"


def test_ctm_is_a_word_a_line() -> None:
    rows = [segment(word("가", 0.5, 1), word("나", 1.25, 1.25, None)), segment()]
    assert write_text(rows, "a~1", "ctm") == "a~1 1 0.500 0.500 가 0.500\na~1 1 1.250 0.000 나\n"


def test_txt_is_a_segment_a_line() -> None:
    rows = [segment(word("가", 0, 1), word("나", 1, 2)), segment(), segment(word("다", 20, 21))]
    assert write_text(rows, "a", "txt") == "가 나\n다\n"


def test_json_is_a_document_with_segments_and_words() -> None:
    rows = [segment(word("가", 0, 1, 0.8999999761581421)), segment(start_s=20.0)]
    found = json.loads(write_text(rows, "a", "json"))
    (only,) = found["segments"]
    assert found["recording_id"] == "a.wav-34a8971cf9fb"
    assert only["words"] == [word("가", 0, 1, 0.9)]
    assert (only["text"], only["start_s"], only["expected_cer"]) == ("가", 0.0, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_number_that_is_none(value: float) -> None:
    text = write_text([segment(word("가", 0, 1), confidence=value)], "a", "json")
    assert json.loads(text, parse_constant=pytest.fail)["segments"][0]["confidence"] is None


@pytest.mark.parametrize(
    ("to", "text"), [("srt", ""), ("vtt", "WEBVTT\n"), ("ctm", ""), ("txt", "")]
)
def test_a_recording_without_speech_has_an_empty_text(to: Any, text: str) -> None:
    assert write_text([segment()], "a", to) == text
