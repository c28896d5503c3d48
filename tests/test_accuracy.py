"""Rates of a corpus and its parts, confusions and alignments; jiwer gives the same."""

import unicodedata

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scoring import row, table

from koasr.accuracy import (
    Rate,
    count_confusions,
    count_pairs,
    rates_of,
    show_alignment,
    values_of,
    worst_pairs,
)
from koasr.errors import JobError
from koasr.metrics import copy_spacing, count_jamo_errors, count_spaced_word_errors
from koasr.normalize import Normalizer
from koasr.scoring import Pair, pair_up


def pair(reference: str, hypothesis: str) -> Pair:
    return Pair("a", reference, [0], [hypothesis.split()])


def rates(rows: list[dict[str, object]], vocabulary: str | None = None) -> dict[str, Rate]:
    transcripts = table([{"duration_s": 1.0} | one for one in rows])
    pairs = pair_up(transcripts, None, Normalizer(style="none")).pairs
    known = None if vocabulary is None else frozenset(vocabulary)
    return rates_of(count_pairs(pairs, transcripts, known), 0.95)


texts = st.lists(st.text("가나다", min_size=1, max_size=3), max_size=6).map(" ".join)


@settings(deadline=None)
@given(st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=6))
def test_pooled_rates_are_those_of_jiwer(corpus: list[tuple[str, str]]) -> None:
    found = rates([row(f"r{i}", text, reference) for i, (reference, text) in enumerate(corpus)])
    references, hypotheses = (list(side) for side in zip(*corpus, strict=True))
    assert found["wer"].value == pytest.approx(jiwer.wer(references, hypotheses))
    assert found["raw_cer"].value == pytest.approx(jiwer.cer(references, hypotheses))
    joined = [["".join(text.split()) for text in side] for side in (references, hypotheses)]
    assert found["cer"].value == pytest.approx(jiwer.cer(*joined))


@settings(deadline=None)
@given(texts, texts)
def test_the_reference_spacing_costs_no_character(reference: str, hypothesis: str) -> None:
    spaced = copy_spacing(reference, hypothesis)
    assert spaced.replace(" ", "") == hypothesis.replace(" ", "")
    assert copy_spacing(reference, reference) == reference


@pytest.mark.parametrize(
    ("reference", "hypothesis", "spaced", "errors"),
    [
        ("할 수 있다", "할수있다", "할 수 있다", 0),
        ("할수있다", "할 수 있다", "할수있다", 0),
        ("오늘 날씨", "오늘날 시", "오늘 날시", 1),
        ("네 그래", "네 음 그래", "네 음 그래", 1),
        ("가다", "가 아 다", "가아다", 1),
        ("가 나", "가아나", "가아 나", 1),
        ("가 나 다", "가다", "가 다", 1),
        ("네", "", "", 1),
        ("", "네 그래", "네 그래", 2),
        (unicodedata.normalize("NFD", "할 수"), "할수", "할 수", 0),
    ],
)
def test_spacing_is_copied(reference: str, hypothesis: str, spaced: str, errors: int) -> None:
    assert copy_spacing(reference, hypothesis) == spaced
    assert count_spaced_word_errors(reference, hypothesis) == errors


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("각", "가", (1, 3)),
        ("각 각", "각각", (0, 6)),
        ("", "가", (2, 0)),
        ("가나", unicodedata.normalize("NFD", "가너"), (1, 4)),
    ],
)
def test_letters_are_counted(reference: str, hypothesis: str, expected: tuple[int, int]) -> None:
    assert count_jamo_errors(reference, hypothesis) == expected


def test_rates_are_of_sums_not_means_of_rates() -> None:
    found = rates([row("a", "나", "가"), row("b", "가나다라마바사아자", "가나다라마바사아자")])
    assert found["cer"].value == pytest.approx(0.1)
    assert (found["cer"].errors, found["cer"].length) == (1, 10)
    assert "unknown_share" not in found


def test_an_interval_lies_around_its_rate_and_needs_two_clusters() -> None:
    rows = [row(f"r{i}", "가나" if i % 3 else "가다", "가나") for i in range(30)]
    found = rates(rows)["cer"]
    assert found.value is not None
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high
    alone = rates([one | {"metadata": [("speaker", "s")]} for one in rows])["cer"]
    assert (alone.value, alone.low, alone.high) == (found.value, None, None)


def test_without_any_reference_characters_there_is_no_rate() -> None:
    found = rates([row("a", "네", ""), row("b", "", "")])["cer"]
    assert (found.value, found.low, found.errors, found.length) == (None, None, 1, 0)


@pytest.mark.parametrize(
    ("vocabulary", "unknown"),
    [("가나다", 1), ("가나다뷁", 0), (unicodedata.normalize("NFD", "가나다뷁"), 0), ("", 4)],
)
def test_syllables_the_model_cannot_write(vocabulary: str, unknown: int) -> None:
    found = rates([row("a", "가나", "가나 다뷁")], vocabulary)["unknown_share"]
    assert (found.errors, found.length) == (unknown, 4)


def test_parts_by_metadata_or_column() -> None:
    transcripts = table(
        [
            row("a", "네", "네", metadata=[("snr", "5")], source_sample_rate_hz=8000),
            row("b", "네", "네", metadata=None, source_sample_rate_hz=None),
        ]
    )
    pairs = pair_up(transcripts, None, Normalizer()).pairs
    assert values_of(pairs, transcripts, "snr") == ["5", ""]
    assert values_of(pairs, transcripts, "source_sample_rate_hz") == ["8000", ""]
    with pytest.raises(JobError, match=r"--by noise: no column, and none of the metadata; .* snr"):
        values_of(pairs, transcripts, "noise")


def test_confusions_are_counted_without_spaces() -> None:
    found = count_confusions([pair("네 그래", "내그래"), pair("네", "내"), pair("응", "응 그")])
    assert found == {("네", "내"): 2, ("", "그"): 1}


@pytest.mark.parametrize(
    ("reference", "hypothesis", "shown"),
    [
        ("네 그래", "네 그래", "네 그래"),
        ("네 그래", "내 그래", "[네→내] 그래"),
        ("네 그래", "", "[네 그래→]"),
        ("", "네", "[→네]"),
    ],
)
def test_an_alignment_brackets_what_differs(reference: str, hypothesis: str, shown: str) -> None:
    assert show_alignment(pair(reference, hypothesis)) == shown


def test_the_worst_come_first_and_what_is_right_never() -> None:
    rows = [
        row("right", "네", "네"),
        row("half", "가나", "가다"),
        row("short", "나", "가"),
        row("long", "다라", "가나"),
        row("invented", "네 네 네", ""),
    ]
    transcripts = table([one | {"duration_s": 1.0} for one in rows])
    pairs = pair_up(transcripts, None, Normalizer()).pairs
    counted = count_pairs(pairs, transcripts)
    names = [pairs[index].name for index in worst_pairs(counted, 50)]
    assert names == ["long", "short", "half", "invented"]
    assert worst_pairs(counted, 1) == [3]


def test_no_pairs_have_no_counts() -> None:
    counted = count_pairs([], table([]))
    assert (len(counted.counts), len(counted.clusters), len(counted.seconds)) == (0, 0, 0)
