"""Error counts that can be checked on paper."""

import math
import unicodedata

import pytest

from koasr.metrics import ErrorCounts, count_errors


def test_a_substituted_syllable_is_one_error_of_as_many_characters() -> None:
    counts = count_errors("한국어 음성", "한국어 음석")
    assert (counts.char_errors, counts.ref_chars) == (1, 5)
    assert (counts.raw_char_errors, counts.raw_ref_chars) == (1, 6)
    assert (counts.word_errors, counts.ref_words) == (1, 2)


def test_spacing_costs_words_and_raw_characters_but_not_the_headline() -> None:
    counts = count_errors("할 수 있다", "할수있다")
    assert counts.cer == 0.0
    assert counts.raw_char_errors == 2
    assert counts.word_errors == 3


def test_nfd_against_nfc_is_no_error() -> None:
    text = "한국어 음성 인식"
    counts = count_errors(text, unicodedata.normalize("NFD", text))
    assert (counts.cer, counts.raw_cer, counts.wer) == (0.0, 0.0, 0.0)


def test_everything_said_over_silence_is_inserted() -> None:
    counts = count_errors("", "네 그래")
    assert (counts.char_errors, counts.ref_chars) == (3, 0)
    assert (counts.word_errors, counts.ref_words) == (2, 0)
    assert math.isinf(counts.cer)


def test_silence_heard_as_silence_is_no_error() -> None:
    assert count_errors(" ", "") == ErrorCounts()
    assert count_errors("", "").cer == 0.0


def test_nothing_heard_deletes_all() -> None:
    counts = count_errors("네 그래", "")
    assert (counts.cer, counts.raw_cer, counts.wer) == (1.0, 1.0, 1.0)


def test_a_corpus_sums_counts_instead_of_averaging_rates() -> None:
    corpus = count_errors("가", "나") + count_errors("가나다라마바사아자", "가나다라마바사아자")
    assert corpus.cer == pytest.approx(0.1)
    silent = corpus + count_errors("", "가")
    assert silent.cer == pytest.approx(0.2)


def test_surrounding_and_repeated_spaces_do_not_count() -> None:
    assert count_errors("가 나", "  가   나 ").raw_cer == 0.0
