"""Korean sentences from a small hand-written grammar, split into train, dev and bundled."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "bundled"]


@dataclass(frozen=True)
class Frame:
    """One group of verbs with what fits them, as words separated by spaces ("_" is a space).

    Attributes:
        objects: Nouns, the particle is added.
        verbs: `stem/past stem` pairs, so that every ending can follow.
        places: Nouns that take 에서.
        mods: Adnominal adjectives that fit every object.
        adverbs: Adverbs that fit every verb.
    """

    objects: str
    verbs: str
    places: str
    mods: str
    adverbs: str = "같이 함께 혼자 열심히 벌써"


FRAMES = [
    Frame("밥 빵 라면 국수 김밥 비빔밥 불고기 냉면 만두",
          "먹/먹었 만들/만들었 나누어_먹/나누어_먹었", "집 식당 학교 회사 부엌 할머니_댁",
          "맛있는 따뜻한 매운 뜨거운", "같이 함께 맛있게 천천히 많이 조금"),
    Frame("사과 배 포도 딸기 수박 감자 고구마 오이",
          "사/샀 고르/골랐 팔/팔았 나르/날랐", "시장 가게 마트 농장", "신선한 싼 비싼 좋은",
          "많이 조금 모두 함께 직접"),
    Frame("물 커피 녹차 우유 주스", "마시/마셨 주문하/주문했 끓이/끓였",
          "카페 사무실 거실", "시원한 따뜻한 뜨거운 달콤한", "같이 천천히 조용히 혼자"),
    Frame("책 소설 신문 잡지 시집 동화책 만화책 역사책 보고서",
          "읽/읽었 빌리/빌렸 찾/찾았", "도서관 집 교실 서점 방",
          "재미있는 두꺼운 새로운", "조용히 열심히 혼자 빨리 겨우"),
    Frame("영화 드라마 뉴스 공연 축구_경기 야구_경기", "보/보았 즐기/즐겼",
          "극장 집 거실 광주 공연장", "재미있는 유명한 새로운", "같이 함께 즐겁게 끝까지"),
    Frame("음악 노래 강의 라디오 설명 이야기 소식 연주", "듣/들었",
          "교실 방 버스 차_안", "좋은 긴 새로운 놀라운", "조용히 열심히 자세히 계속 다시"),
    Frame("편지 일기 글 답장 기사 소설", "쓰/썼 고치/고쳤 보여_주/보여_주었",
          "책상_앞 방 도서관 사무실", "긴", "천천히 빨리 다시 조금씩"),
    Frame("옷 치마 바지 모자 구두 운동화 양말 장갑 안경 우산 가방",
          "사/샀 고르/골랐 바꾸/바꾸었 찾/찾았", "백화점 가게 시장",
          "빨간 파란 하얀 검은 예쁜 비싼 편한", "겨우 드디어 결국 빨리"),
    Frame("방 교실 부엌 거실 사무실 마당 창고 옷장", "청소하/청소했 정리하/정리했 고치/고쳤",
          "집 학교 회사 시골", "더러운 작은", "깨끗하게 함께 열심히 빨리 모두"),
    Frame("한국어 영어 수학 과학 역사 요리 수영 피아노 태권도 컴퓨터 중국어 일본어 바이올린",
          "배우/배웠 가르치/가르쳤 연습하/연습했", "학교 학원 대학교 동네",
          "어려운 쉬운", "열심히 꾸준히 처음 재미있게 다시"),
    Frame("회의 발표 계획 자료 계약 예산 면접 행사 출장",
          "준비하/준비했 검토하/검토했 확인하/확인했 미루/미루었",
          "회사 사무실 회의실", "중요한 새로운 복잡한 갑작스러운", "미리 다시 급히"),
    Frame("축구 농구 야구 배구 탁구 달리기", "하/했 연습하/연습했 즐기/즐겼",
          "운동장 공원 체육관 학교", "신나는 재미있는", "같이 열심히 즐겁게 매일 오래"),
    Frame("친구 선생님 손님 의사 사촌 이웃 선배 후배 동료 교수님",
          "만나/만났 기다리/기다렸 도와주/도와주었",
          "공항 역_앞 카페 학교 병원 정류장", "친절한 반가운", "우연히 다시 오래 잠깐 급히"),
    Frame("사진 영상 꽃 새 호수 나무", "찍/찍었 보/보았", "공원 바닷가 산 제주도 호수",
          "아름다운 신기한", "많이 여러_번 천천히 함께"),
    Frame("자동차 자전거 오토바이 세탁기 전화기 시계", "고치/고쳤 팔/팔았 옮기/옮겼",
          "공장 마당 가게 집_앞 창고", "새 작은 값비싼", "겨우 직접 빨리 함께"),
    Frame("나무 꽃 호박 고추 배추 오이", "심/심었 가꾸/가꾸었 키우/키웠",
          "마당 농장 시골 정원", "작은 새로운", "많이 같이 꾸준히 잘"),
    Frame("문제 숙제 시험지 수수께끼", "풀/풀었 끝내/끝냈 살펴보/살펴보았",
          "교실 학원 도서관 집", "어려운 쉬운 복잡한 긴 재미있는", "혼자 빨리 겨우 다_같이"),
    Frame("강아지 고양이 토끼 병아리 오리 금붕어", "돌보/돌보았 키우/키웠 찾/찾았",
          "마당 시골 농장 동물원 집", "귀여운 작은 하얀 어린 아픈", "함께 오래 열심히"),
    Frame("약 주사 치료 검사 진료", "받/받았 기다리/기다렸",
          "병원", "정확한 간단한 필요한", "급히 다시 처음 오래"),
    Frame("돈 카드 여권 영수증 열쇠 지갑 서류", "찾/찾았 챙기/챙겼 보여_주/보여_주었 꺼내/꺼냈",
          "은행 우체국 공항 경찰서 지하철역", "새로운 중요한 필요한", "겨우 급히 미리 다시 빨리"),
]  # fmt: skip

SUBJECTS = (
    "저 우리 친구 동생 형 누나 언니 오빠 민수 지영이 철수 영희 수진이 준호 학생들 아이들 "
    "사촌 직원들 막내 조카 옆집_아이 신입_사원 유학생 태호 현우"
)
COMPANIONS = "친구 가족 동료들 이웃_사람 반_친구들 사촌_동생 남편 아내 선배 딸 아들"
PAST = (
    "어제 그저께 지난주에 지난_토요일에 오늘_아침에 조금_전에 며칠_전에 주말에 일요일에 어제저녁에 "
    "지난_방학에 설날에 봄에 여름에 가을에 겨울에 새벽에"
)
NOW = "지금 요즘 오늘 아까부터 한_시간째 월요일부터 점심때부터"
FUTURE = "내일 모레 다음_주에 이번_주말에 오늘_저녁에 수요일에 오후에 다음_달에 금요일에 내년_봄에"
OBSTACLES = (
    "시간이_없어서 길이_막혀서 비가_와서 머리가_아파서 늦게_일어나서 "
    "감기에_걸려서 너무_바빠서 눈이_많이_와서"
)
OCCASIONS = "기분이_좋아서 날씨가_좋아서 친구가_부탁해서 동생이_좋아해서 시간이_많아서 방학이라서"
REGIONS = (
    "서울 부산 대구 인천 광주 대전 울산 제주도 강원도 경기도 전라도 경상도 충청도 남해안 동해안"
)
DIGITS = "공일이삼사오육칠팔구"
HOURS = "한 두 세 네 다섯 여섯 일곱 여덟 아홉 열 열한 열두"
MONTHS = "일 이 삼 사 오 유 칠 팔 구 시 십일 십이"


def hold_out(text: str) -> Split:
    """Name the split that owns a sentence: 1/20 bundled, 1/20 dev, the rest train.

    A hash of the text decides, so no two splits ever share a sentence.
    """
    match hashlib.sha256(text.encode()).digest()[0] % 20:
        case 0:
            return "bundled"
        case 1:
            return "dev"
        case _:
            return "train"


def sentences(num: int, seed: int, split: Split = "train") -> list[str]:
    """Draw distinct sentences of 3 to 8 words: Hangul syllables and single spaces, NFC.

    Args:
        num: Number of sentences.
        seed: Same seed, same sentences.
        split: The split that they belong to by `hold_out`.

    Example:
        >>> texts = sentences(50, seed=0, split="bundled")
        >>> len(set(texts)), {hold_out(text) for text in texts}
        (50, {'bundled'})
    """
    rng = random.Random(seed)
    kinds = list(KINDS)
    weights = list(KINDS.values())
    found: dict[str, None] = {}
    while len(found) < num:
        text = rng.choices(kinds, weights)[0](rng).replace("_", " ")
        if 3 <= len(text.split()) <= 8 and hold_out(text) == split:
            found[text] = None
    return list(found)


def number(value: int) -> str:
    """Spell a number from 1 to 9999 in Sino-Korean: 2026 gives 이천이십육."""
    parts = []
    for power, unit in ((1000, "천"), (100, "백"), (10, "십"), (1, "")):
        digit = value // power % 10
        if digit:
            parts.append(("" if digit == 1 and unit else DIGITS[digit]) + unit)
    return "".join(parts)


def josa(word: str, pair: str) -> str:
    """Add the particle that fits the last syllable; `pair` is (after consonant)/(after vowel)."""
    closed, opened = pair.split("/")
    final = (ord(word[-1]) - 0xAC00) % 28
    liquid = final == 8 and closed == "으로"
    return word + (closed if final and not liquid else opened)


def _pick(rng: random.Random, words: str) -> str:
    return rng.choice(words.split())


def _maybe(rng: random.Random, share: float, *words: str) -> list[str]:
    return list(words) if rng.random() < share else []


def _object_and_place(rng: random.Random, frame: Frame) -> list[str]:
    return [
        *_maybe(rng, 0.5, _pick(rng, frame.places) + "에서"),
        *_maybe(rng, 0.35, _pick(rng, frame.adverbs)),
        *_maybe(rng, 0.35, _pick(rng, frame.mods)),
        josa(_pick(rng, frame.objects), "을/를"),
    ]


def _action(rng: random.Random) -> str:
    frame = rng.choice(FRAMES)
    stem, past = _pick(rng, frame.verbs).split("/")
    subject = _pick(rng, SUBJECTS)
    tense = rng.choices(["past", "now", "plan", "wish", "not"], [50, 20, 12, 8, 10])[0]
    if tense in ("plan", "wish"):
        subject = _pick(rng, "저 우리")
    time, verb = {
        "past": (PAST, past + _pick(rng, "습니다 습니다 어요 다")),
        "now": (NOW, stem + "고_있습니다"),
        "plan": (FUTURE, stem + "겠습니다"),
        "wish": (FUTURE, stem + "고_싶습니다"),
        "not": (PAST, stem + _pick(rng, "지_않았습니다 지_못했습니다")),
    }[tense]
    opening = [_pick(rng, time), josa(subject, "은/는")]
    words = rng.choice([opening, opening[::-1], opening[1:]])
    middle = _object_and_place(rng, frame)
    companion = _pick(rng, COMPANIONS)
    if subject not in companion and "혼자" not in middle and "친구를" not in middle:
        words = words + _maybe(rng, 0.12, josa(companion, "과/와"))
    return " ".join([*words, *middle, verb])


def _because(rng: random.Random) -> str:
    frame = rng.choice(FRAMES)
    stem, past = _pick(rng, frame.verbs).split("/")
    place = _maybe(rng, 0.4, _pick(rng, frame.places) + "에서")
    what = josa(_pick(rng, frame.objects), "을/를")
    if rng.random() < 0.5:
        return " ".join([_pick(rng, OBSTACLES), *place, what, stem + "지_못했습니다"])
    verb = rng.choice([past + "습니다", stem + "기로_했습니다", past + "어요"])
    return " ".join([_pick(rng, OCCASIONS), *place, what, verb])


def _travel(rng: random.Random) -> str:
    near = "학교 병원 시장 은행 우체국 도서관 시청 박물관 바닷가 미술관 수영장 약국 교회"
    place, how = rng.choice(
        [
            (near, "버스로 지하철로 택시로 자전거로 걸어서"),
            (REGIONS, "기차로 버스로 비행기로 승용차로 고속버스로"),
        ]
    )
    time, verbs = rng.choice(
        [
            (PAST, "갔습니다 다녀왔습니다 도착했습니다 왔어요 돌아왔습니다"),
            (FUTURE, "갈_것입니다 갈_예정입니다 가려고_합니다 도착할_것입니다"),
        ]
    )
    who = _maybe(rng, 0.8, josa(_pick(rng, SUBJECTS), "은/는"))
    return " ".join([_pick(rng, time), *who, _pick(rng, how), _pick(rng, place) + "에",
                     _pick(rng, verbs)])  # fmt: skip


def _give(rng: random.Random) -> str:
    gifts = "선물 편지 책 반지 사진 과자 인형 화분 공책 연필"
    receivers = "친구에게 동생에게 부모님께 선생님께 아이에게 손님에게 할아버지께 이웃에게 후배에게"
    return " ".join([_pick(rng, PAST), josa(_pick(rng, SUBJECTS), "은/는"), _pick(rng, receivers),
                     *_maybe(rng, 0.4, _pick(rng, "예쁜 작은 귀한")),
                     josa(_pick(rng, gifts), "을/를"),
                     _pick(rng, "주었습니다 보냈습니다 전했습니다 드렸습니다 건넸습니다"),
                     ])  # fmt: skip


def _scene(rng: random.Random) -> str:
    who = josa(_pick(rng, "강아지 고양이 토끼 아이 아기 막내 청년 노인"), "이/가")
    where = _pick(rng, "나무_아래 마당 지붕_위 공원 계단 놀이터")
    doing = _pick(rng, "자고_있습니다 놀고_있습니다 쉬고_있습니다 걷고_있습니다 울고_있습니다 "
                       "뛰어다닙니다 기다리고_있습니다 웃고_있었습니다")  # fmt: skip
    how = _maybe(rng, 0.5, _pick(rng, "조용히 혼자 신나게 가만히 편안하게 계속 잠깐"))
    kind = _maybe(rng, 0.5, _pick(rng, "작은 귀여운 어린 착한"))
    return " ".join([*kind, who, where + "에서", *how, doing])


def _describe(rng: random.Random) -> str:
    subject, predicates = rng.choice(
        [
            ("이_식당의 학교_앞의 시장의 그_집의|비빔밥 냉면 김치",
             "맛있습니다 유명합니다 비쌉니다"),
            ("제주도의 가을의 한국의 우리_고향의|바다 산 하늘 강",
             "아름답습니다 깨끗합니다 멋있습니다 조용합니다"),
            ("형의 새로_산 동생의 친구의 이|가방 옷 방 의자 책상 이불 신발 침대",
             "큽니다 작습니다 편합니다 비쌉니다 좋습니다"),
            ("이번 지난_학기 오늘 수학 어제|시험 숙제 수업 문제 강의 과제",
             "어렵습니다 쉽습니다 재미있습니다 복잡합니다 지루합니다 길었습니다"),
        ]
    )  # fmt: skip
    owner, noun = (_pick(rng, words) for words in subject.split("|"))
    degree = _pick(rng, "정말 매우 아주 너무 조금 꽤 참")
    return " ".join([owner, josa(noun, "은/는"), degree, _pick(rng, predicates)])


def _weather(rng: random.Random) -> str:
    day = _pick(rng, "오늘은 내일은 모레는 이번_주에는 주말에는 밤부터 새벽부터 오후부터")
    where = _pick(rng, REGIONS) + _pick(rng, "에 에는 _지역에")
    degrees = number(rng.randint(1, 35))
    return " ".join(
        rng.choice(
            [
                [day, where, *_maybe(rng, 0.4, _pick(rng, "많은 약한 거센")),
                 _pick(rng, "비가 눈이 소나기가 장맛비가"), "내리겠습니다"],
                [day, where, _pick(rng, "강한 시원한 따뜻한"), "바람이", "불겠습니다"],
                [day, where, _pick(rng, "구름이_많겠습니다 안개가_끼겠습니다 "
                                        "날씨가_맑겠습니다 무더위가_이어지겠습니다 "
                                        "미세먼지가_많겠습니다")],
                [_pick(rng, REGIONS) + "의", _pick(rng, "낮_최고 아침_최저 현재"), "기온은",
                 *_maybe(rng, 0.2, "영하"), degrees,
                 _pick(rng, "도입니다 도로_예상됩니다 도까지_오르겠습니다")],
            ]
        )
    )  # fmt: skip


def _news(rng: random.Random) -> str:
    when = _pick(rng, "오늘 어제 이번_주 지난달 올해 오늘_오전 지난밤")
    amount = number(rng.randint(2, 99))
    body = rng.choice(
        [
            [_pick(rng, "정부는 국회는 시청은 교육부는 환경부는 위원회는"),
             _pick(rng, "새로운 내년도 최종"),
             _pick(rng, "주택 경제 교육 환경 복지 의료 농업"),
             _pick(rng, "정책을 대책을 계획을 법안을 예산안을"),
             _pick(rng, "발표했습니다 확정했습니다 검토하고_있습니다")],
            [_pick(rng, "경찰은 소방서는 검찰은 당국은"),
             _pick(rng, "사고의 화재의 사건의 정전의 피해의"),
             _pick(rng, "원인을"),
             _pick(rng, "조사하고_있습니다 밝혔습니다 공개했습니다 확인했습니다")],
            [_pick(rng, "수출이 수입이 물가가 주가가 매출이 인구가"),
             _pick(rng, "작년보다 지난달보다 예상보다"), amount, "퍼센트",
             _pick(rng, "늘었습니다 줄었습니다 올랐습니다 떨어졌습니다")],
            [_pick(rng, "대표팀은 감독은 선수들은 우리_팀은"),
             _pick(rng, "결승전에서 국제_대회에서"),
             _pick(rng, "일본을 상대를 강팀을"),
             _pick(rng, "이겼습니다 만났습니다")],
            [_pick(rng, "연구팀은 과학자들은 대학은 회사는 기업들은"),
             _pick(rng, "새로운 값싼 안전한 놀라운"),
             _pick(rng, "기술을 반도체를 배터리를"),
             _pick(rng, "개발했습니다 공개했습니다 선보였습니다 시험했습니다")],
        ]
    )  # fmt: skip
    return " ".join([when, *body])


def _question(rng: random.Random) -> str:
    frame = rng.choice(FRAMES)
    stem, past = _pick(rng, frame.verbs).split("/")
    what = josa(_pick(rng, frame.objects), "을/를")
    station = _pick(rng, "시청 서울역 공항 경찰서 동물원 우체국 박물관 법원")
    goods = _pick(rng, "사과 우유 수박 연필 양말 우산 생선 꽃")
    return " ".join(
        rng.choice(
            [
                [_pick(rng, "언제 어디에서 누구와 어떻게"), what,
                 rng.choice([past + "습니까", past + "어요", stem + "고_싶습니까"])],
                ["이", _pick(rng, "버스는 기차는 길은 지하철은"),
                 station + _pick(rng, "까지 앞으로 쪽으로"), _pick(rng, "갑니까 가나요 갈까요")],
                [*_maybe(rng, 0.6, _pick(rng, "여기에서 가장_가까운")),
                 josa(station, "은/는"), _pick(rng, "어디에"), _pick(rng, "있습니까 있나요")],
                [_pick(rng, "이 저 그"), josa(goods, "은/는"),
                 _pick(rng, "모두 한_개에 전부_합해서"),
                 _pick(rng, "얼마입니까 얼마예요 얼마인가요")],
                [station + "까지", _pick(rng, "버스로 걸어서 택시로 기차로"),
                 _pick(rng, "몇_분 몇_시간 얼마나"), _pick(rng, "걸립니까 걸릴까요")],
            ]
        )
    )  # fmt: skip


def _request(rng: random.Random) -> str:
    task = _pick(rng, "창문을_열어 불을_꺼 소리를_줄여 이름을_적어 길을_알려 "
                      "가방을_들어 천천히_말씀해 내용을_설명해 사진을_찍어 표를_예매해 "
                      "서류를_복사해 여기에_서명해")  # fmt: skip
    start = _maybe(rng, 0.7, _pick(rng, "죄송하지만 미안하지만 여기서 이따가 나중에 먼저"))
    how = _maybe(rng, 0.7, _pick(rng, "조금 다시 잠깐 한_번 빨리 더"))
    end = _pick(rng, "주세요 주시겠습니까 주십시오 주실_수_있나요 주시면_고맙겠습니다")
    return " ".join([*start, *how, task, end])


def _phone(rng: random.Random) -> str:
    digits = [rng.choice(DIGITS) for _ in range(8)]
    middle, last = "".join(digits[:4]), "".join(digits[4:])
    area = _pick(rng, "공일공 공일공 공이 공삼일 공오일 공육사")
    owner = _pick(rng, "제 우리_회사 병원 식당 예약 사무실")
    return " ".join(
        rng.choice(
            [
                [owner, "전화번호는", area, middle, last + "입니다"],
                [area, middle, josa(last, "으로/로"), "전화해", "주세요"],
                ["번호는", area + "에", middle + "에", last + "입니다"],
                ["계좌", "번호는", middle, last, area + "입니다"],
            ]
        )
    )  # fmt: skip


def _date(rng: random.Random) -> str:
    year = number(rng.randint(1945, 2035)) + "년"
    day = [_pick(rng, MONTHS) + "월", number(rng.randint(1, 31)) + "일에"]
    hour = [_pick(rng, "오전 오후 내일_아침 오늘_밤"), _pick(rng, HOURS), "시"]
    minute = _maybe(rng, 0.6, number(rng.randint(1, 59)), "분")
    event = _pick(rng, "회의가 시험이 결혼식이 행사가 면접이 공연이 축제가 선거가 경기가 수술이")
    return " ".join(
        rng.choice(
            [
                [*_maybe(rng, 0.5, year), *day, event, _pick(rng, "있습니다 열립니다 시작됩니다")],
                [*hour[:-1], "시" if minute else "시에", *minute[:-1],
                 *(["분에"] if minute else []),
                 _pick(rng, "출발합니다 만납시다 끝납니다 도착합니다 시작하겠습니다")],
                [_pick(rng, "이_학교는 이_건물은 그_회사는 이_다리는 이_공원은"), year,
                 *day, _pick(rng, "생겼습니다 문을_열었습니다 세워졌습니다")],
                ["지금은", hour[0].split("_")[-1], *hour[1:-1], "시" if minute else "시입니다",
                 *minute[:-1], *(["분입니다"] if minute else [])],
            ]
        )
    )  # fmt: skip


def _count(rng: random.Random) -> str:
    counted = [
        _pick(rng, "사과_ 배_ 공_ 의자_ 빵_") + _pick(rng, "한 두 세 네 다섯 열") + "_개",
        _pick(rng, "책_ 공책_ 잡지_") + _pick(rng, "한 두 세 네 여섯") + "_권",
        _pick(rng, "종이_ 사진_ 표_") + _pick(rng, "한 두 일곱") + "_장",
        _pick(rng, "물고기_ 소_") + _pick(rng, "한 두 세 여덟 아홉") + "_마리",
        _pick(rng, "물_ 간장_") + _pick(rng, "한 두 세") + "_병",
        _pick(rng, "자동차_ 컴퓨터_ 자전거_") + _pick(rng, "한 두 세") + "_대",
        number(rng.randint(1, 9) * 1000) + _pick(rng, "_원"),
    ]
    first, second = rng.sample(counted, 2)
    verb = _pick(rng, "있습니다 남았습니다 필요합니다 사라졌습니다 보입니다")
    where = _pick(rng, "여기에 저기에 마당에 가게에 집에 방_안에 학교에 창고에")
    return " ".join([where, *_maybe(rng, 0.6, josa(first, "과/와")), josa(second, "이/가"), verb])


def _opinion(rng: random.Random) -> str:
    aim = _pick(rng, "건강을 미래를 가족을 환경을 꿈을 행복을 자유를 안전을")
    deed = _pick(rng, "매일_운동하는 책을_많이_읽는 일찍_일어나는 "
                      "쓰레기를_줄이는 충분히_쉬는 골고루_먹는 "
                      "법을_지키는")  # fmt: skip
    return " ".join(
        rng.choice(
            [
                [aim, "위해", deed,
                 _pick(rng, "것이_중요합니다 것이_필요합니다 것이_좋습니다 사람이_많습니다")],
                [deed, _pick(rng, "습관은 일은 태도는 것은"), _pick(rng, "매우 정말 언제나"),
                 _pick(rng, "중요합니다 어렵습니다")],
            ]
        )
    )  # fmt: skip


KINDS: dict[Callable[[random.Random], str], float] = {
    _action: 42, _because: 8, _travel: 7, _give: 5, _scene: 5, _describe: 6, _weather: 6,
    _news: 8, _question: 7, _request: 4, _phone: 4, _date: 4, _count: 4, _opinion: 4,
}  # fmt: skip
