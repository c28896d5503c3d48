"""Reference and hypothesis → summed error counts; CER and WER of a corpus are their ratios."""

import unicodedata
from dataclasses import dataclass, fields

import jiwer


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
        _word_distance(ref_words, hyp_words),
        len(ref_words),
    )


def _words(text: str) -> list[str]:
    return unicodedata.normalize("NFC", text).split()


def _distance(reference: str, hypothesis: str) -> int:
    if not reference or not hypothesis:
        return max(len(reference), len(hypothesis))
    found = jiwer.process_characters(reference, hypothesis)
    return int(found.substitutions + found.deletions + found.insertions)


def _word_distance(reference: list[str], hypothesis: list[str]) -> int:
    if not reference or not hypothesis:
        return max(len(reference), len(hypothesis))
    found = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    return int(found.substitutions + found.deletions + found.insertions)
