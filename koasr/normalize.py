"""References and hypotheses → the texts that are compared: one normalization, named in results."""

import dataclasses
import re
import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

from koasr.errors import JobError

Side = Literal["spelling", "pronunciation"]
Style = Literal["koasr", "speech-event", "none"]

NORMALIZER_VERSION = 1
"""Of the rules below: figures under two versions are not comparable."""

# KsponSpeech's transcription rules: `(70%)/(칠 십 퍼센트)` is one word written and as it was said.
_DUAL = re.compile(r"\(([^()]*)\)\s*/\s*\(([^()]*)\)")
# Breath, noise, laughter, overlap, unintelligible. Not the end of a word: `video/`.
_TAG = re.compile(r"(?<![a-z0-9])[bnlou]/")
_UNINTELLIGIBLE = re.compile(r"(?<![A-Za-z0-9])u/")
# Names that AI-Hub's corpora hide: @이름1, &company-name&.
_MASK = re.compile(r"(?<![\w.])@\w|&[\w-]{2,}&")
# No mark on paper: zero-width and bidirectional controls, soft hyphens, fillers, variations.
_INVISIBLE = re.compile(
    "[\u00ad\u115f\u1160\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0]"
)
_NO_WORD = re.compile(r"[\W_]+")
# What the Robust Speech Event took out of its references; `~ ( ) · 「」` and digits stayed in.
_OF_THE_EVENT = str.maketrans("", "", ',?.!-;:"“%‘”\ufffd—’…–')


@dataclass(frozen=True)
class Normalizer:
    """How texts are made comparable before errors are counted.

    Args:
        side: Which half of KsponSpeech's (A)/(B) counts: as it is spelled, (70%), or as it was
            pronounced, (칠 십 퍼센트).
        fluent: Leave out KsponSpeech's fillers (w/) and false starts (w+).
        style: koasr compares letters and digits alone: NFKC, lower case, no punctuation.
            speech-event is what the Robust Speech Event did: references alone lose case and some
            punctuation, and its CER counts spaces. none compares texts as they stand, in NFC.
    """

    side: Side | None = None
    fluent: bool = False
    style: Style = "koasr"

    def __post_init__(self) -> None:
        if self.style != "koasr" and (self.side or self.fluent):
            raise JobError(f"--side and --fluent read marks, --style {self.style} does not", 2)

    def normalize_reference(self, text: str) -> str:
        """A reference as it is scored, words between single spaces.

        Raises:
            JobError: It holds (A)/(B), and no side was chosen.

        Example:
            >>> text = "b/ 아/ 모+ 몬 소리야 (70%)/(칠 십 퍼센트) 확률이라니 n/"
            >>> Normalizer(side="pronunciation").normalize_reference(text)
            '아 모 몬 소리야 칠 십 퍼센트 확률이라니'
            >>> Normalizer(side="spelling", fluent=True).normalize_reference(text)
            '몬 소리야 70 확률이라니'
        """
        if self.style == "koasr":
            return _letters(self._without_marks(_compose(text)))
        if self.style == "speech-event":
            text = text.lower().translate(_OF_THE_EVENT)
        return _plain(text)

    def normalize_hypothesis(self, text: str) -> str:
        """A hypothesis as it is scored. Word by word gives the same as all at once.

        Example:
            >>> Normalizer().normalize_hypothesis("네,  그래요!")
            '네 그래요'
        """
        return _letters(_compose(text)) if self.style == "koasr" else _plain(text)

    def is_masked(self, reference: str) -> bool:
        """Whether a reference hides what was said, so that nothing can be held against it.

        Example:
            >>> Normalizer().is_masked("저는 @이름1이고요"), Normalizer().is_masked("u/ 그래")
            (True, True)
        """
        if self.style != "koasr":
            return False
        return bool(_UNINTELLIGIBLE.search(reference) or _MASK.search(reference))

    def describe(self) -> dict[str, Any]:
        """The options and the version of the rules, to be kept beside what they gave."""
        return {"version": NORMALIZER_VERSION, **dataclasses.asdict(self)}

    def _without_marks(self, text: str) -> str:
        # Pairs first: their slash looks like a filler's, and `/(` like the end of a tag.
        if _DUAL.search(text):
            if self.side is None:
                raise JobError(
                    "a reference holds (A)/(B), one word as spelled and as pronounced: "
                    "choose with --side spelling or --side pronunciation"
                )
            text = _DUAL.sub(r"\1" if self.side == "spelling" else r"\2", text)
        text = _TAG.sub(" ", text)
        if self.fluent:
            words = text.split()
            text = " ".join(w for w in words if not w.rstrip(",.?!").endswith(("/", "+")))
        return text


def _compose(text: str) -> str:
    """NFKC, which also joins decomposed Hangul, in lower case and without the invisible."""
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).lower()


def _letters(text: str) -> str:
    return _NO_WORD.sub(" ", text).strip()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
