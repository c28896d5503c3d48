"""Errors by segment and word, checked on paper; pooled, they are jiwer's."""

import unicodedata
from typing import Any

import jiwer
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koasr.errors import JobError
from koasr.metrics import count_errors
from koasr.normalize import Normalizer
from koasr.scoring import ScoredSegments, pair_up, score_segments
from koasr.transcripts import TRANSCRIPTS

Rows = list[dict[str, Any]]


def row(name: str, text: str, reference: str | None = None, **others: Any) -> dict[str, Any]:
    """A transcript; its words have confidences 0.1, 0.2, …"""
    words = [{"text": w, "confidence": (i + 1) / 10} for i, w in enumerate(text.split())]
    start_s = others.pop("start_s", 0.0)
    place = {"recording_id": name, "segment_id": f"{name}#{start_s * 1000:.0f}", "start_s": start_s}
    return place | {"text": text, "reference": reference, "words": words} | others


def table(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TRANSCRIPTS)


def score(rows: Rows, references: dict[str, str] | None = None) -> ScoredSegments:
    return score_segments(table(rows), references, Normalizer())


def counts(scored: ScoredSegments) -> list[tuple[int, int, int]]:
    columns = (scored.errors, scored.ref_chars, scored.hyp_chars)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def wrong(scored: ScoredSegments) -> list[int]:
    return [int(is_wrong) for is_wrong in scored.word_is_wrong]


@pytest.mark.parametrize(
    ("reference", "text", "expected", "is_wrong"),
    [
        ("한국어 음성", "한국어 음성", (0, 5, 5), [0, 0]),
        ("한국어 음성", "한국어 음석", (1, 5, 5), [0, 1]),
        ("할 수 있다", "할수있다", (0, 4, 4), [0]),
        ("네 그래", "네 음 그래", (1, 3, 4), [0, 1, 0]),
        ("한국어 음성", "한어 음성", (1, 5, 4), [1, 0]),
        # At the edge of a word nothing says whose it was.
        ("한국어 음성", "한국 음성", (1, 5, 4), [0, 0]),
        ("네", "", (1, 1, 0), []),
        ("", "네 음", (2, 0, 2), [1, 1]),
        ("", "", (0, 0, 0), []),
        ("네", "네 !", (0, 1, 1), [0]),
        ("3.5점", "3.5점", (0, 3, 3), [0]),
    ],
)
def test_errors_of_one_segment(
    reference: str, text: str, expected: tuple[int, int, int], is_wrong: list[int]
) -> None:
    scored = score([row("a", text, reference)])
    assert counts(scored) == [expected]
    assert wrong(scored) == is_wrong


def test_a_recording_has_one_reference_and_its_errors_fall_to_its_segments() -> None:
    rows = [
        row("long", "내일 봐", "오늘 갔다가 내일 또 봐요", start_s=5.0),
        row("other", "네", "네"),
        row("long", "오늘 갓다가", "오늘 갔다가 내일 또 봐요", start_s=0.0),
        row("long", "", "오늘 갔다가 내일 또 봐요", start_s=9.0),
    ]
    scored = score(rows)
    # 갓 for 갔 in the segment at 0 s; 또 and 요 are missing in that at 5 s.
    assert counts(scored) == [(2, 5, 3), (0, 1, 1), (1, 5, 5), (0, 0, 0)]
    assert scored.word_segment.tolist() == [0, 0, 1, 2, 2]
    assert wrong(scored) == [0, 0, 0, 0, 1]
    assert scored.word_confidence.tolist() == pytest.approx([0.1, 0.2, 0.1, 0.1, 0.2])


def test_deletions_of_an_empty_recording_fall_to_its_first_segment() -> None:
    rows = [row("a", "", "네 그래", start_s=start_s) for start_s in (3.0, 0.0)]
    assert counts(score(rows)) == [(0, 0, 0), (3, 3, 0)]


def test_only_what_has_a_reference_is_scored() -> None:
    scored = score([row("a", "네"), row("b", "응", ""), row("c", "네", "네")])
    assert scored.table["recording_id"].to_pylist() == ["b", "c"]
    given = score([row("a", "네", "아니"), row("b", "응")], {"a": "네", "z": "없음"})
    assert counts(given) == [(0, 1, 1)]


def test_a_segment_may_have_a_reference_of_its_own() -> None:
    rows = [row("a", text, start_s=start_s) for text, start_s in (("네", 0.0), ("그래", 4.0))]
    assert counts(score(rows, {"a#4000": "그러"})) == [(1, 2, 2)]


def test_a_masked_reference_is_left_out_and_counted() -> None:
    rows = [row("a", "네", "u/ 네"), row("b", "네", "@이름1 네"), row("c", "네", "네")]
    pairs = pair_up(table(rows), None, Normalizer())
    assert (len(pairs.pairs), pairs.num_masked) == (1, 2)


def test_speakers_are_drawn_together_else_recordings() -> None:
    rows = [
        row("a", "네", "네", metadata=[("speaker", "s1")]),
        row("b", "네", "네", metadata=[("client_id", "c1"), ("speaker", "")]),
        row("c", "네", "네", metadata=[("age", "30")]),
        row("d", "네", "네", metadata=None),
    ]
    assert score(rows).clusters.tolist() == ["s1", "c1", "c", "d"]


def test_words_without_confidence_are_not_counted_but_their_characters_are() -> None:
    rows = [row("a", "네 그래", "네 그레") | {"words": None}, row("b", "네", "네")]
    scored = score(rows)
    assert counts(scored) == [(1, 3, 3), (0, 1, 1)]
    assert scored.word_segment.tolist() == [1]


def test_words_of_another_text_are_one_line() -> None:
    rows = [row("a", "네 그래", "네") | {"words": [{"text": "네", "confidence": 0.5}]}]
    with pytest.raises(JobError, match="1 rows have other `words`"):
        score(rows)


def test_decomposed_hangul_is_the_same_on_both_sides() -> None:
    text = unicodedata.normalize("NFD", "한국어 음성")
    assert counts(score([row("a", text, "한국어 음성")])) == [(0, 5, 5)]


texts = st.text("가나다 ", min_size=0, max_size=12)


@settings(deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_pooled_counts_are_those_of_jiwer(recordings: list[tuple[str, list[str]]]) -> None:
    rows = [
        row(f"r{number}", text, reference, start_s=float(start_s))
        for number, (reference, segments) in enumerate(recordings)
        for start_s, text in enumerate(segments)
    ]
    scored = score(rows)
    pairs = [
        ("".join(reference.split()), "".join("".join(segments).split()))
        for reference, segments in recordings
    ]
    assert scored.ref_chars.sum() == sum(len(reference) for reference, _ in pairs)
    assert scored.hyp_chars.sum() == sum(len(hypothesis) for _, hypothesis in pairs)
    assert scored.ref_chars.min() >= 0
    # jiwer has no rate where there is no reference.
    expected = sum(
        found.substitutions + found.deletions + found.insertions
        for found in (jiwer.process_characters(*pair) for pair in pairs if pair[0])
    )
    expected += sum(len(hypothesis) for reference, hypothesis in pairs if not reference)
    assert scored.errors.sum() == expected
    assert scored.errors.sum() == sum(count_errors(*pair).char_errors for pair in pairs)
