"""Which segments are worth training on: what each filter takes, and in which order they stand."""

import dataclasses
import random
from collections import defaultdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scoring import table

from koasr.calibration import Calibration, log_odds
from koasr.rows import short_hash
from koasr.selection import (
    Candidates,
    Filters,
    find_candidates,
    has_repeats,
    hours_per,
    values_of,
)

ANY = Filters(min_segment_s=0, max_segment_s=1e9, min_chars_per_s=0, max_chars_per_s=1e9)
"""Filters that leave in whatever says something and has a confidence."""

Row = dict[str, Any]


def segment(name: str, score: float | None = 0.5, **columns: Any) -> Row:
    """Ten seconds that no filter takes, unless a column or a kind of evidence is given."""
    found: Row = {"segment_id": name, "text": "오늘 날씨가 좋다", "is_empty": False}
    found |= {"duration_s": 10.0, "metadata": [("speaker", "s0")]}
    evidence = {"raw_confidence": score, "chars_per_s": 5.0, "num_unk": 0.0}
    evidence |= {key: columns.pop(key) for key in evidence.keys() & columns.keys()}
    return found | columns | {"evidence": evidence}


def named(rows: list[Row], found: Candidates) -> list[str]:
    return [rows[place]["segment_id"] for place in found.rows]


def taken(found: Candidates) -> dict[str, Any]:
    """Segments and seconds by why."""
    return {one.why: (one.num_segments, one.hours * 3600) for one in found.removed}


def sort_out(rows: list[Row], filters: Filters = ANY, by: Calibration | None = None) -> Candidates:
    return find_candidates(table(rows), by, filters)


@pytest.mark.parametrize(
    ("filters", "left_out", "left_in", "why"),
    [
        ({}, {"is_empty": True}, {}, "nothing said"),
        ({"min_segment_s": 2}, {"duration_s": 1.99}, {"duration_s": 2.0}, "shorter than 2 s"),
        ({"max_segment_s": 20}, {"duration_s": 20.01}, {"duration_s": 20.0}, "longer than 20 s"),
        ({"max_unk": 1}, {"num_unk": 2.0}, {"num_unk": 1.0}, "more than 1 unknown tokens"),
        (
            {"min_chars_per_s": 1.5},
            {"chars_per_s": 1.25},
            {"chars_per_s": 1.5},
            "below 1.5 characters a second",
        ),
        (
            {"max_chars_per_s": 12},
            {"chars_per_s": 12.5},
            {"chars_per_s": 12.0},
            "above 12 characters a second",
        ),
        (
            {"max_repeats": 2},
            {"text": "네 네 네 좋다"},
            {"text": "네 네 좋다"},
            "words repeated more than 2 times",
        ),
        ({}, {"raw_confidence": None}, {"raw_confidence": 0.0}, "no confidence"),
        ({}, {"raw_confidence": float("nan")}, {}, "no confidence"),
        ({"max_same_text": 1}, {"score": 0.4}, {"text": "같다", "score": 0.3}, "text seen 1 times"),
        (
            {"max_hours_per": ("speaker=0.005",)},
            {"score": 0.4},
            {"metadata": [("speaker", "s1")], "score": 0.3},
            "more than 0.005 h of one speaker",
        ),
        (
            {"max_hours_per": ("source_uri=0.003",)},
            {"score": 0.4, "source_uri": "a"},
            {"score": 0.3, "source_uri": "b"},
            "more than 0.003 h of one source_uri",
        ),
    ],
)
def test_a_filter_takes_what_it_says_and_nothing_else(
    filters: dict[str, Any], left_out: Row, left_in: Row, why: str
) -> None:
    rows = [segment("out", **left_out), segment("best", 0.9, source_uri="a")]
    rows.append(segment("in", **left_in))
    found = sort_out(rows, dataclasses.replace(ANY, **filters))
    assert sorted(named(rows, found)) == ["best", "in"]
    assert taken(found) == {why: (1, pytest.approx(rows[0]["duration_s"]))}


def test_each_default_filter_is_on() -> None:
    bad: list[Row] = [
        {"duration_s": 0.9},
        {"duration_s": 31.0},
        {"num_unk": 1.0},
        {"chars_per_s": 0.9},
        {"chars_per_s": 12.1},
        {"text": "네 네 네 네 네"},
    ]
    rows = [segment(f"b{number}", **columns) for number, columns in enumerate(bad)]
    rows += [segment(f"g{number}") for number in range(9)]
    found = sort_out(rows, Filters())
    assert {name[0] for name in named(rows, found)} == {"g"}
    assert [count for count, _ in taken(found).values()] == [1] * len(bad)
    assert len(found.rows) == 9


def test_the_first_filter_that_holds_counts_a_segment() -> None:
    everything: Row = {"text": "네 네 네 네 네", "num_unk": 5.0, "chars_per_s": 0.1}
    rows = [
        segment("a", None, is_empty=True, duration_s=0.5, **everything),
        segment("b", None, duration_s=0.5, **everything),
        segment("c", None, **everything),
        segment("d", None, **everything | {"num_unk": 0.0}),
        segment("e", None, text="네 네 네 네 네"),
        segment("f", None),
    ]
    found = sort_out(rows, Filters())
    assert list(taken(found)) == [
        "nothing said",
        "shorter than 1 s",
        "more than 0 unknown tokens",
        "below 1 characters a second",
        "words repeated more than 3 times",
        "no confidence",
    ]
    assert all(one.num_segments == 1 for one in found.removed)
    assert found.removed[1].hours == pytest.approx(0.5 / 3600)
    assert found.rows.tolist() == []
    assert found.forecast().tolist() == []


def test_unknown_evidence_says_nothing_against_a_segment() -> None:
    rows = [segment("a", num_unk=None, chars_per_s=None), segment("b", is_empty=None)]
    assert len(sort_out(rows, Filters()).rows) == 2


def test_what_a_filter_took_counts_against_no_cap() -> None:
    rows = [segment("bad", 0.9, num_unk=1.0), segment("a", 0.8), segment("b", 0.7)]
    for caps in ({"max_same_text": 1}, {"max_hours_per": ("speaker=0.003",)}):
        found = sort_out(rows, dataclasses.replace(ANY, **caps))
        assert named(rows, found) == ["a"]
    both = dataclasses.replace(ANY, max_same_text=1, max_hours_per=("speaker=0.006",))
    rows = [*rows, segment("c", 0.1, text="다른 말")]
    assert named(rows, sort_out(rows, both)) == ["a", "c"]


def test_a_cap_that_is_just_filled_is_kept() -> None:
    rows = [segment(f"{n:02}", duration_s=360.0, metadata=[("k", str(n % 7))]) for n in range(70)]
    found = sort_out(rows, dataclasses.replace(ANY, max_hours_per=("k=1",)))
    assert (len(found.rows), found.removed) == (70, [])
    found = sort_out(rows, dataclasses.replace(ANY, max_hours_per=("k=0.9",)))
    assert len(found.rows) == 63


def test_a_value_of_the_metadata_or_of_a_column() -> None:
    rows = [segment("a"), segment("b", metadata=[("x", None)]), segment("c", metadata=None)]
    assert values_of(table(rows), "speaker") == ["s0", "", ""]
    assert values_of(table(rows), "x") == ["", "", ""]
    assert values_of(table(rows), "segment_id") == ["a", "b", "c"]


@pytest.mark.parametrize(
    "pair", ["speaker", "speaker=", "speaker=one", "=1", "a=0", "a=-1", "a=nan", ""]
)
def test_what_is_no_cap_is_refused(pair: str) -> None:
    with pytest.raises(ValueError, match=r"hours|convert"):
        hours_per(Filters(max_hours_per=(pair,)))


def test_the_last_equals_sign_parts_key_from_hours() -> None:
    assert hours_per(Filters(max_hours_per=("a=b=1.5", "c=2"))) == {"a=b": 1.5, "c": 2.0}


def test_filters_are_known_by_what_differs_from_the_default() -> None:
    assert str(Filters()) == ""
    assert str(Filters(max_unk=2, max_same_text=1)) == " --max-unk 2 --max-same-text 1"
    assert "--max-hours-per" in str(Filters(max_hours_per=("a=1",)))


@pytest.mark.parametrize(
    ("text", "max_repeats", "expected"),
    [
        ("", 1, False),
        ("네", 1, False),
        ("네네네네네네", 1, False),
        ("네 네", 1, True),
        ("네 네 네 네", 3, True),
        ("네 네 네", 3, False),
        ("네 네 아 네 네", 2, False),
        ("감사합니다 여러분 감사합니다 여러분 감사합니다", 1, True),
        ("감사합니다 여러분 감사합니다 여러분 감사합니다", 2, False),
        ("가 나 다 라 가 나 다 라", 1, True),
        ("가 나 다 라 마 가 나 다 라 마", 1, False),
        ("처음 네 네 네 네 끝", 3, True),
        # Not words, only their ends and beginnings, are the same.
        ("안녕 녕 녕하", 1, False),
        ("학교 학교에 학교에서", 1, False),
        ("네  네\n네\t네", 3, True),
    ],
)
def test_repeats_of_words(text: str, max_repeats: int, expected: bool) -> None:
    assert has_repeats(text, max_repeats) is expected


@given(st.lists(st.sampled_from("가나다"), max_size=14), st.integers(1, 3))
def test_repeats_are_those_that_a_slow_search_finds(words: list[str], max_repeats: int) -> None:
    expected = any(
        words[start : start + length * (max_repeats + 1)]
        == words[start : start + length] * (max_repeats + 1)
        for length in range(1, 5)
        for start in range(len(words) - length * (max_repeats + 1) + 1)
    )
    assert has_repeats(" ".join(words), max_repeats) is expected


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("가" * 100_000, False),
        (" ".join(f"낱말{number}" for number in range(25_000)), False),
        ("네 네 네 아 " * 25_000, True),
        ("가 나 다 라 마 " * 20_000, False),
        (" ".join("가" * number for number in range(450)), False),
        (" " * 100_000, False),
    ],
)
def test_a_long_text_takes_no_time(text: str, expected: bool) -> None:
    assert has_repeats(text, 3) is expected
    assert has_repeats(text, 10**12) is False


def test_the_surest_come_first_and_a_hash_decides_among_equals() -> None:
    rows = [segment(f"r{number}", 0.25 * (number % 3)) for number in range(30)]
    rows.append(segment("none", None))
    found = sort_out(rows)
    expected = sorted(
        (row for row in rows if row["segment_id"] != "none"),
        key=lambda row: (-row["evidence"]["raw_confidence"], short_hash(row["segment_id"])),
    )
    assert named(rows, found) == [row["segment_id"] for row in expected]
    assert named(rows, found)[:10] != sorted(named(rows, found)[:10])
    assert found.scores.tolist() == [row["evidence"]["raw_confidence"] for row in expected]


def curve(*, score: Any = "raw_confidence") -> Calibration:
    """Expected CER 1 at a score of 0, 0.5 at 0.5, 0 at 1, straight in the log-odds."""
    ends = log_odds(np.array([0.0, 1.0])).tolist()
    knots = ((ends[0], 1.0), (0.0, 0.5), (ends[1], 0.0))
    return Calibration("c", "f", score, knots, (), (0,) * 101, {})


def test_the_calibration_says_which_evidence_ranks() -> None:
    rows = [segment("a", 0.9), segment("b", 0.5), segment("c", 0.1)]
    for row, other in zip(rows, (0.1, 0.5, None), strict=True):
        row["evidence"]["min_word_confidence"] = other
    assert named(rows, sort_out(rows, by=curve())) == ["a", "b", "c"]
    found = sort_out(rows, by=curve(score="min_word_confidence"))
    assert named(rows, found) == ["b", "a"]
    assert taken(found) == {"no confidence": (1, 10.0)}
    assert found.expected_cer is not None
    assert found.expected_cer[0] == pytest.approx(0.5)
    assert 0.5 < found.expected_cer[1] < 1


def test_the_forecast_is_weighed_by_characters() -> None:
    texts = ["가 나 다", "라", "마바사아"]
    rows = [segment(str(n), 0.9 - 0.3 * n, text=text) for n, text in enumerate(texts)]
    found = sort_out(rows, by=curve())
    expected, chars = found.expected_cer, [3, 1, 4]
    assert expected is not None
    assert found.hyp_chars.tolist() == chars
    for count in (1, 2, 3):
        errors = sum(cer * n for cer, n in zip(expected[:count], chars[:count], strict=True))
        assert found.forecast()[count - 1] == pytest.approx(errors / sum(chars[:count]))
    assert np.isnan(sort_out(rows).forecast()).tolist() == [True] * 3


def test_an_empty_table() -> None:
    caps = dataclasses.replace(Filters(), max_same_text=1, max_hours_per=("speaker=1",))
    for calibration in (None, curve()):
        found = sort_out([], caps, calibration)
        assert (len(found.rows), len(found.forecast()), found.removed) == (0, 0, [])


scores = st.none() | st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
random_rows = st.lists(
    st.builds(
        segment,
        st.none(),
        scores,
        text=st.sampled_from(["", "네", "네 네 네 네", "좋다", "날씨가 좋다"]),
        is_empty=st.booleans(),
        duration_s=st.sampled_from([0.5, 1.0, 4.0, 30.0, 36.0]),
        chars_per_s=st.sampled_from([0.5, 1.0, 12.0, 13.0]),
        num_unk=st.sampled_from([0.0, 1.0]),
        metadata=st.sampled_from(["s0", "s1", None]).map(
            lambda speaker: [("speaker", speaker)] if speaker else []
        ),
    ),
    max_size=40,
).map(lambda rows: [row | {"segment_id": f"r{n}"} for n, row in enumerate(rows)])
random_filters = st.builds(
    Filters,
    min_chars_per_s=st.sampled_from([0, 1]),
    max_unk=st.sampled_from([0, 1]),
    max_same_text=st.none() | st.integers(1, 3),
    max_hours_per=st.sampled_from([(), ("speaker=0.0025",), ("speaker=0.01", "text=0.005")]),
)


def slowly(rows: list[Row], filters: Filters) -> list[Row]:
    """What stays, the surest first, one row after another."""
    evidence = [row["evidence"] for row in rows]
    left = [
        row
        for row, e in zip(rows, evidence, strict=True)
        if not row["is_empty"]
        and filters.min_segment_s <= row["duration_s"] <= filters.max_segment_s
        and e["num_unk"] <= filters.max_unk
        and filters.min_chars_per_s <= e["chars_per_s"] <= filters.max_chars_per_s
        and row["text"] != "네 네 네 네"
        and e["raw_confidence"] is not None
    ]
    left.sort(key=lambda row: (-row["evidence"]["raw_confidence"], short_hash(row["segment_id"])))
    if filters.max_same_text is not None:
        seen: dict[str, int] = defaultdict(int)
        passed = []
        for row in left:
            seen[row["text"]] += 1
            if seen[row["text"]] <= filters.max_same_text:
                passed.append(row)
        left = passed
    for key, limit in hours_per(filters).items():
        used: dict[str, float] = defaultdict(float)
        passed = []
        for row in left:
            value = row["text"] if key == "text" else dict(row["metadata"]).get("speaker", "")
            # Once one is too long for what is left, nothing less sure takes its place.
            used[value] += row["duration_s"] / 3600
            if used[value] <= limit + 1e-9:
                passed.append(row)
        left = passed
    return left


@given(random_rows, random_filters, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_and_the_order_of_rows_decides_nothing(
    rows: list[Row], filters: Filters, chance: random.Random
) -> None:
    found = sort_out(rows, filters)
    assert len(found.rows) + sum(one.num_segments for one in found.removed) == len(rows)
    hours = float(found.hours.sum()) + sum(one.hours for one in found.removed)
    assert hours == pytest.approx(sum(row["duration_s"] for row in rows) / 3600)
    assert all(one.num_segments > 0 for one in found.removed)
    assert named(rows, found) == [row["segment_id"] for row in slowly(rows, filters)]
    mixed = rows[:]
    chance.shuffle(mixed)
    again = sort_out(mixed, filters)
    assert named(mixed, again) == named(rows, found)
    assert taken(again) == {
        why: (count, pytest.approx(s)) for why, (count, s) in taken(found).items()
    }


def test_rows_in_chunks_are_the_rows() -> None:
    rows = [segment(f"r{n}", n / 10, text=f"{n % 3} 번") for n in range(10)]
    parts = pa.concat_tables([table(rows[:3]), table(rows[3:])])
    filters = dataclasses.replace(ANY, max_same_text=2)
    found = find_candidates(parts, None, filters)
    assert found.rows.tolist() == sort_out(rows, filters).rows.tolist()


@pytest.mark.parametrize("name", ["segment_id", "text", "duration_s"])
def test_a_row_without_what_every_transcript_has_is_left_out_and_counted(name: str) -> None:
    rows = [segment("a"), segment("b") | {name: None}]
    filters = dataclasses.replace(ANY, max_same_text=2, max_hours_per=("speaker=1",))
    found = sort_out(rows, filters)
    assert found.rows.tolist() == [0]
    lost_s = 0.0 if name == "duration_s" else 10.0
    assert taken(found) == {"no id, text or duration": (1, pytest.approx(lost_s))}
    assert found.forecast().shape == (1,)
