"""Collapse and words, on paths short enough to check on paper."""

import unicodedata
from dataclasses import dataclass

import numpy as np
import pytest

from koasr.ctc import collapse, compose, split_words


@dataclass(frozen=True)
class Alphabet:
    tokens: tuple[str, ...] = ("[PAD]", "|", "[UNK]", "가", "나", "ㄱ", "ㅏ", "ㄴ")
    delimiter_id: int | None = 1
    special_ids: frozenset[int] = frozenset({0, 2})


def words(path: list[int], alphabet: Alphabet | None = None) -> list[str]:
    spans = collapse(np.array(path), blank_id=0)
    return [word.text for word in split_words(spans, alphabet or Alphabet())]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ([], []),
        ([0, 0, 0], []),
        ([3], ["가"]),
        ([3, 3, 3], ["가"]),
        ([3, 0, 3], ["가가"]),
        ([3, 1, 4], ["가", "나"]),
        ([1, 3, 1, 1, 0, 1, 4, 1], ["가", "나"]),
        ([3, 2, 4], ["가나"]),
        ([3, 1, 2, 1, 4], ["가", "나"]),
        ([5, 6, 7, 5, 6], ["간가"]),
    ],
)
def test_words_of_a_path(path: list[int], expected: list[str]) -> None:
    assert words(path) == expected


def test_a_jamo_vocabulary_comes_out_as_nfc_syllables() -> None:
    letters = unicodedata.normalize("NFD", "한국어 말")
    alphabet = Alphabet(tokens=("[PAD]", "|", "[UNK]", *sorted(set(letters) - {" "})))
    path = [alphabet.tokens.index("|" if letter == " " else letter) for letter in letters]
    found = words([token for token in path for _ in range(2)], alphabet)
    assert found == ["한국어", "말"]
    assert all(unicodedata.is_normalized("NFC", word) for word in found)


def test_a_vocabulary_without_delimiter_gives_one_word() -> None:
    assert words([3, 1, 4], Alphabet(delimiter_id=None)) == ["가|나"]


def test_word_spans_point_at_their_first_and_last_token() -> None:
    spans = collapse(np.array([0, 3, 3, 0, 1, 4, 3]), blank_id=0)
    first, second = split_words(spans, Alphabet())
    assert (spans[first.first].start, spans[first.last].end) == (1, 3)
    assert (spans[second.first].start, spans[second.last].end) == (5, 7)


@pytest.mark.parametrize("text", ["한국어", "값이 싸다", "닭과 읽기", "의자", "까치", "ㅋㅋ"])
def test_compatibility_jamo_become_the_syllables_they_came_from(text: str) -> None:
    letters = "".join(_compatibility(character) for character in text.replace(" ", ""))
    assert compose(letters) == text.replace(" ", "")


def _compatibility(syllable: str) -> str:
    index = ord(syllable) - 0xAC00
    if not 0 <= index < 11_172:
        return syllable
    lead = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"[index // 588]
    vowel = chr(0x314F + index // 28 % 21)
    tails = " ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"
    return (lead + vowel + tails[index % 28]).strip()
