"""What is compared, case by case."""

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koasr.errors import JobError
from koasr.normalize import Normalizer, Style

PRONOUNCED = Normalizer(side="pronunciation")
SPELLED = Normalizer(side="spelling")
FLUENT = Normalizer(side="pronunciation", fluent=True)
EVENT = Normalizer(style="speech-event")
KSPON = "b/ 아/ 모+ 몬 소리야 (70%)/(칠 십 퍼센트) 확률이라니 n/"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("네,  그래요!", "네 그래요"),
        (unicodedata.normalize("NFD", "한국어"), "한국어"),
        ("한\u200b국어\ufeff 음\u00ad성", "한국어 음성"),
        ("ＡＢＣ　１２３", "abc 123"),
        ("KBS 뉴스", "kbs 뉴스"),
        ("0.1%", "0 1"),
        ("①번 ㎏", "1번 kg"),
        ("밑_줄·가운뎃점", "밑 줄 가운뎃점"),
        ("「인용」 “따옴표” 말줄임…", "인용 따옴표 말줄임"),
        ("\n네\t네 ", "네 네"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_letters_and_digits_remain(text: str, expected: str) -> None:
    assert Normalizer().normalize_hypothesis(text) == expected
    assert Normalizer().normalize_reference(text) == expected


@pytest.mark.parametrize("text", ["ㅋㅋㅋ", "ㅏㅏ", "ㄱㄴ"])
def test_compatibility_jamo_are_the_same_as_conjoining_ones(text: str) -> None:
    conjoining = unicodedata.normalize("NFKC", text)
    assert text != conjoining
    found = [Normalizer().normalize_hypothesis(form) for form in (text, conjoining)]
    assert found[0] == found[1] != ""


@pytest.mark.parametrize(
    ("normalizer", "text", "expected"),
    [
        (PRONOUNCED, KSPON, "아 모 몬 소리야 칠 십 퍼센트 확률이라니"),
        (SPELLED, KSPON, "아 모 몬 소리야 70 확률이라니"),
        (FLUENT, KSPON, "몬 소리야 칠 십 퍼센트 확률이라니"),
        (PRONOUNCED, "o/ 그게 (0.1 프로)/(영 점 일 프로) 가정의", "그게 영 점 일 프로 가정의"),
        (PRONOUNCED, "(3시) / (세 시)에 봐", "세 시에 봐"),
        (SPELLED, "(3시)/(세 시)에 (2번)/(두 번) 봐", "3시에 2번 봐"),
        (SPELLED, "l/ video/ 그래", "video 그래"),
        (SPELLED, "b/n/ 네 l/.", "네"),
        (SPELLED, "*애들과 그+ 그거", "애들과 그 그거"),
        (FLUENT, "음/, 그+ 그거 어/.", "그거"),
        (PRONOUNCED, "（70％）／（칠십 퍼센트）", "칠십 퍼센트"),
        (SPELLED, "n/", ""),
        (Normalizer(), "(괄호) 하나", "괄호 하나"),
    ],
)
def test_marks_of_ksponspeech(normalizer: Normalizer, text: str, expected: str) -> None:
    assert normalizer.normalize_reference(text) == expected


def test_a_pair_asks_for_a_side_and_shows_no_text() -> None:
    with pytest.raises(JobError, match="--side spelling or --side pronunciation") as raised:
        Normalizer().normalize_reference("(70%)/(칠 십 퍼센트) 확률")
    assert "확률" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "is_masked"),
    [
        ("u/ 그래", True),
        ("그래 u/", True),
        ("저는 @이름1이고요", True),
        ("&company-name1&에서", True),
        ("네 그래", False),
        ("메뉴u/v", True),
        ("menu/ 주세요", False),
        ("a@b.kr", False),
        ("R&B 음악", False),
    ],
)
def test_what_hides_words_is_flagged(text: str, is_masked: bool) -> None:
    assert Normalizer().is_masked(text) is is_masked
    assert not EVENT.is_masked(text)


def test_the_speech_event_changed_references_alone() -> None:
    text = "Hello, 세계!  (네)~ 3.5점 “그래”"
    assert EVENT.normalize_reference(text) == "hello 세계 (네)~ 35점 그래"
    assert EVENT.normalize_hypothesis(text) == "Hello, 세계! (네)~ 3.5점 “그래”"


def test_style_none_compares_what_stands_there() -> None:
    plain = Normalizer(style="none")
    assert plain.normalize_reference(" Hello,  u/ 세계! ") == "Hello, u/ 세계!"


@pytest.mark.parametrize("style", ["none", "speech-event"])
def test_a_style_that_reads_no_marks_takes_no_side(style: Style) -> None:
    with pytest.raises(JobError, match="--side and --fluent") as raised:
        Normalizer(side="spelling", style=style)
    assert raised.value.exit_code == 2


def test_a_description_is_json_and_differs_with_the_options() -> None:
    described = [json.dumps(n.describe()) for n in (SPELLED, PRONOUNCED, FLUENT, EVENT)]
    assert len(set(described)) == 4
    assert json.loads(described[0])["version"] == 1


@settings(deadline=None)
@given(st.text())
def test_it_is_the_same_word_by_word_and_twice(text: str) -> None:
    for normalizer in (Normalizer(), Normalizer(style="none")):
        once = normalizer.normalize_hypothesis(text)
        assert normalizer.normalize_hypothesis(once) == once
        words = (normalizer.normalize_hypothesis(word) for word in text.split())
        assert " ".join(" ".join(words).split()) == once


def test_a_hostile_reference_takes_no_time() -> None:
    for text in ("(" * 100_000, "가" * 1_000_000, "/" * 100_000, "&a" * 100_000, "u" * 100_000):
        FLUENT.normalize_reference(text)
        FLUENT.is_masked(text)
