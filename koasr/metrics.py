"""Reference and hypothesis → summed error counts; CER and WER of a corpus are their ratios."""

import unicodedata
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

from rapidfuzz.distance import Levenshtein


@dataclass(frozen=True, slots=True)
class ErrorCounts:
    """Errors (substitutions + deletions + insertions) and reference lengths, summed over texts.

    Characters are NFC code points, so a Hangul syllable is one. `char_*` leaves spaces out,
    since Korean spacing is often optional; `raw_char_*` counts them. Add counts, never average
    rates: a corpus's CER is all its errors over all its reference characters.

    Example:
        >>> corpus = count_errors("나는 간다", "나는간다") + count_errors("집", "짐")
        >>> (corpus.cer, corpus.raw_cer, corpus.wer)
        (0.2, 0.3333333333333333, 1.0)
    """

    char_errors: int = 0
    ref_chars: int = 0
    raw_char_errors: int = 0
    raw_ref_chars: int = 0
    word_errors: int = 0
    ref_words: int = 0

    def __add__(self, other: "ErrorCounts") -> "ErrorCounts":
        return ErrorCounts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def cer(self) -> float:
        """Character error rate without spaces: the headline. May exceed 1."""
        return _rate(self.char_errors, self.ref_chars)

    @property
    def raw_cer(self) -> float:
        """Character error rate with spaces counted as characters."""
        return _rate(self.raw_char_errors, self.raw_ref_chars)

    @property
    def wer(self) -> float:
        """Word error rate; a word is what stands between spaces."""
        return _rate(self.word_errors, self.ref_words)


def _rate(errors: int, length: int) -> float:
    """Errors per reference unit; 0 for nothing against nothing, inf for errors against nothing."""
    if length == 0:
        return float("inf") if errors else 0.0
    return errors / length


def count_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Error counts of one hypothesis against its reference, both brought to NFC.

    Case, punctuation and notation are compared as they stand. Against an empty reference
    every character and word of the hypothesis is an insertion.

    Example:
        >>> count_errors("안녕", "안녕").char_errors
        0
        >>> import unicodedata
        >>> count_errors("안녕", unicodedata.normalize("NFD", "안녕")).char_errors
        0
        >>> count_errors("", "네 네")
        ErrorCounts(char_errors=2, ref_chars=0, raw_char_errors=3, raw_ref_chars=0, \
word_errors=2, ref_words=0)
    """
    ref_words, hyp_words = _words(reference), _words(hypothesis)
    return ErrorCounts(
        _distance("".join(ref_words), "".join(hyp_words)),
        len("".join(ref_words)),
        _distance(" ".join(ref_words), " ".join(hyp_words)),
        len(" ".join(ref_words)),
        _distance(ref_words, hyp_words),
        len(ref_words),
    )


def count_jamo_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """Errors in letters, of which a Hangul syllable has two or three; and letters of the reference.

    Example:
        >>> count_jamo_errors("겨우 옷", "겨울 옷")
        (1, 7)
    """
    ref_letters, hyp_letters = (
        unicodedata.normalize("NFD", "".join(_words(text))) for text in (reference, hypothesis)
    )
    return _distance(ref_letters, hyp_letters), len(ref_letters)


def count_spaced_word_errors(reference: str, hypothesis: str) -> int:
    """Errors in words once the hypothesis has the reference's spacing: what sWER counts.

    Example:
        >>> count_spaced_word_errors("할 수 있다", "할수있다")
        0
    """
    return _distance(_words(reference), copy_spacing(reference, hypothesis).split())


def copy_spacing(reference: str, hypothesis: str) -> str:
    """The hypothesis with the spaces of the reference, by the alignment of their characters.

    A space comes where the characters around it match two words of the reference, and goes where
    they match one. Inserted characters keep their own spaces, so that words nobody said stay words.

    Example:
        >>> copy_spacing("할 수 있다", "할수 이 따"), copy_spacing("네 그래", "네 음 저 그래")
        ('할 수 이따', '네 음 저 그래')

    Source:
        The measure is that of Bang et al. 2020, "KsponSpeech: Korean Spontaneous Speech Corpus".
    """
    ref_words, hyp_words = _words(reference), _words(hypothesis)
    owners = [number for number, word in enumerate(ref_words) for _ in word]
    own = set(accumulate(map(len, hyp_words), initial=0))
    chars = "".join(hyp_words)
    starts, last, since = set(), -1, 0
    for ref_place, place in _matches("".join(ref_words), chars):
        gap = own & set(range(since, place + 1))
        if last < 0:
            starts |= gap
        elif owners[ref_place] != owners[last]:
            starts |= gap or {place}
        last, since = ref_place, place + 1
    starts |= own & set(range(since, len(chars)))
    return "".join(f" {c}" if i in starts else c for i, c in enumerate(chars)).strip()


def _matches(reference: str, hypothesis: str) -> list[tuple[int, int]]:
    """Places of the characters that stand for each other, equal or not, in both texts."""
    found: list[tuple[int, int]] = []
    for block in Levenshtein.opcodes(reference, hypothesis):
        if block.tag in ("equal", "replace"):
            ref_places = range(block.src_start, block.src_end)
            found += zip(ref_places, range(block.dest_start, block.dest_end), strict=True)
    return found


def _words(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).split()


def _distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> int:
    return Levenshtein.distance(reference, hypothesis)
