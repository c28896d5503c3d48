"""Frames → token spans → words: the map from a CTC path to Korean text."""

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Vocabulary(Protocol):
    """What a checkpoint says about the rows of its head."""

    @property
    def tokens(self) -> tuple[str, ...]:
        """Token of each row."""

    @property
    def delimiter_id(self) -> int | None:
        """The token that stands for a space."""

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that never reach the text."""


@dataclass(frozen=True, slots=True)
class TokenSpan:
    """A token and the frames [start, end) it covers."""

    token_id: int
    start: int
    end: int


@dataclass(frozen=True)
class BestPath:
    """The best path of one utterance and its raw evidence.

    `token_confidence` is one value a span, in [0, 1]. `seq_logprob` is the log-probability (nats)
    of the collapsed tokens over all their alignments. `blank_doubt` is the mean of 1 - p(blank)
    over blank frames, `margin_min` the least distance (nats) from the best token to the second.
    """

    num_frames: int
    spans: list[TokenSpan]
    token_confidence: list[float]
    seq_logprob: float
    blank_doubt: float
    margin_min: float

    @property
    def raw_confidence(self) -> float:
        """exp(seq_logprob / num_tokens): mean probability of a token; NaN when there is none."""
        return float(np.exp(self.seq_logprob / len(self.spans))) if self.spans else float("nan")


@dataclass(frozen=True, slots=True)
class WordSpan:
    """A word and its tokens. `first` and `last` index the utterance's token spans, inclusive."""

    text: str
    first: int
    last: int


def collapse(token_ids: NDArray[np.int64], blank_id: int) -> list[TokenSpan]:
    """Tokens of one utterance's frames: repeats merged, then blanks dropped.

    A blank between two equal tokens keeps them apart, so the order of the two steps matters.

    Args:
        token_ids: Most probable token of each frame. Shape (num_frames,).
        blank_id: Index of the CTC blank in the vocabulary.

    Returns:
        Spans in time order; empty for silence.

    Example:
        >>> collapse(np.array([7, 7, 0, 7]), blank_id=0)
        [TokenSpan(token_id=7, start=0, end=2), TokenSpan(token_id=7, start=3, end=4)]

    Source:
        Graves et al. 2006, "Connectionist Temporal Classification", the map B of section 3.
    """
    edges = np.flatnonzero(np.diff(token_ids, prepend=-1, append=-1)).tolist()
    runs = itertools.pairwise(edges)
    spans = (TokenSpan(int(token_ids[start]), start, end) for start, end in runs)
    return [span for span in spans if span.token_id != blank_id]


_LEADS = "ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ"
_VOWELS = "ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ"
_TAILS = "ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ"


def compose(text: str) -> str:
    """Jamo as syllables, in NFC; text that is syllables already passes unchanged.

    Conjoining jamo (U+1100 …) are composed by NFC alone. Compatibility jamo (U+3131 …), which
    Korean keyboards and some checkpoints use, say nothing about their place in the syllable: a
    consonant before a vowel starts one, any other consonant after a vowel ends one.

    Example:
        >>> compose("ㅎㅏㄴㄱㅜㄱㅇㅓ"), compose("한국")
        ('한국어', '한국')
    """
    joined = []
    for index, letter in enumerate(text):
        before, after = text[index - 1 : index], text[index + 1 : index + 2]
        if letter in _VOWELS:
            is_medial = before != "" and before in _LEADS
            joined.append(chr(0x1161 + _VOWELS.index(letter)) if is_medial else letter)
        elif letter in _LEADS and after != "" and after in _VOWELS:
            joined.append(chr(0x1100 + _LEADS.index(letter)))
        elif letter in _TAILS and before != "" and before in _VOWELS and _has_lead(text, index):
            joined.append(chr(0x11A8 + _TAILS.index(letter)))
        else:
            joined.append(letter)
    return unicodedata.normalize("NFC", "".join(joined))


def _has_lead(text: str, index: int) -> bool:
    """Whether the vowel before `index` has a consonant before it, so that a tail can follow."""
    return index >= 2 and text[index - 2] in _LEADS


def split_words(spans: Sequence[TokenSpan], vocabulary: Vocabulary) -> list[WordSpan]:
    """Words of an utterance, without special tokens; composed to NFC.

    Returns:
        In time order. A word of nothing but special tokens is left out.
    """
    words = []
    letters: list[int] = []
    for index in range(len(spans) + 1):
        token_id = spans[index].token_id if index < len(spans) else vocabulary.delimiter_id
        if index < len(spans) and token_id != vocabulary.delimiter_id:
            if token_id not in vocabulary.special_ids:
                letters.append(index)
            continue
        text = compose("".join(vocabulary.tokens[spans[i].token_id] for i in letters)).strip()
        if text:
            words.append(WordSpan(text, letters[0], letters[-1]))
        letters = []
    return words
