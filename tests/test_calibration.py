"""A calibration on paper: its file, its columns, and whether speech is still of its kind."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from koasr.calibration import (
    Calibration,
    Threshold,
    calibrate_rows,
    check_fingerprint,
    keep_calibration,
    kept_calibration,
    log_odds,
    read_calibration,
)
from koasr.drift import Drift, count_confidence, find_drift, stability_index
from koasr.errors import JobError
from koasr.transcripts import TRANSCRIPTS

EVEN = [50] * 100 + [0]


def calibration(**changes: Any) -> Calibration:
    """Expected CER 0.6 at even odds, falling to 0.1 at a score of 0.9; more below is 1.2."""
    knots = ((-math.log(9), 1.2), (0.0, 0.6), (math.log(9), 0.1))
    thresholds = (
        Threshold(0.05, None, None, None, 0.0),
        Threshold(0.1, 0.1 + 0.2, 1 / 3, 0.09, 2 / 7),
        Threshold(0.3, 0.25, 0.11, 0.29, 1.0),
    )
    made = Calibration(
        "calls",
        "f00d",
        "raw_confidence",
        knots,
        thresholds,
        tuple(EVEN),
        {"delta": 0.1, "von": "가"},
    )
    return dataclasses.replace(made, **changes)


def evidence(*scores: float | None, name: str = "raw_confidence") -> list[dict[str, Any]]:
    return [{name: score, "blank_doubt": 0.25, "num_unk": 1.0} for score in scores]


@pytest.mark.parametrize(
    ("score", "expected_cer"),
    [
        (0.5, 0.6),
        (0.9, 0.1),
        (0.75, 0.35),
        (0.1, 1.2),
        (0.0, 1.2),
        (1.0, 0.1),
        (math.nan, math.nan),
    ],
)
def test_expected_cer_is_a_straight_line_over_log_odds(score: float, expected_cer: float) -> None:
    made = calibration()
    scores = np.array([score])
    assert made.expected_cer(scores) == pytest.approx([expected_cer], nan_ok=True)
    assert made.confidence_of(scores) == pytest.approx(
        [np.maximum(0.0, 1 - expected_cer)], nan_ok=True
    )


def test_log_odds_are_finite_at_the_ends() -> None:
    found = log_odds(np.array([0.0, 0.5, 1.0]))
    assert found[1] == 0.0
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(-found[2])


def test_rows_get_their_columns_and_nothing_else_changes() -> None:
    rows: list[dict[str, Any]] = [
        {"segment_id": f"s{n}", "text": "가 나", "evidence": found, "confidence": 0.123}
        for n, found in enumerate(evidence(0.9, 0.1, None))
    ]
    rows[0]["words"] = [{"text": "가", "confidence": 0.5}, {"text": "나", "confidence": 0.25}]
    rows += [{"segment_id": "no evidence", "text": "", "calibration": "raw"}]
    table, made = pa.Table.from_pylist(rows, schema=TRANSCRIPTS), calibration()
    found = calibrate_rows(table, made)
    assert found.schema == TRANSCRIPTS
    assert found["expected_cer"].to_pylist() == pytest.approx([0.1, 1.2, None, None])
    # One minus the expected CER, and 0 where that would be less.
    assert found["confidence"].to_pylist() == pytest.approx([0.9, 0.0, None, None])
    assert found["calibration"].to_pylist() == [made.label] * 4
    others = [
        n for n in TRANSCRIPTS.names if n not in ("confidence", "expected_cer", "calibration")
    ]
    assert found.select(others).equals(table.select(others))


def test_rows_of_an_object_without_transcripts() -> None:
    found = calibrate_rows(TRANSCRIPTS.empty_table(), calibration())
    assert (found.schema, len(found)) == (TRANSCRIPTS, 0)


def test_calibrated_twice_is_calibrated_once() -> None:
    rows = [{"evidence": one} for one in evidence(0.9, 0.4, None)]
    once = calibrate_rows(pa.Table.from_pylist(rows, schema=TRANSCRIPTS), calibration())
    assert calibrate_rows(once, calibration()).equals(once)


def test_a_curve_may_stand_on_the_least_sure_word() -> None:
    found = calibration(score="min_word_confidence")
    rows = [{"evidence": one} for one in evidence(0.9, None, name="min_word_confidence")]
    table = calibrate_rows(pa.Table.from_pylist(rows, schema=TRANSCRIPTS), found)
    assert table["expected_cer"].to_pylist() == pytest.approx([0.1, None])


@pytest.mark.parametrize(
    ("target", "held"), [(0.01, None), (0.05, 0.05), (0.1, 0.1), (0.29, 0.1), (0.9, 0.3)]
)
def test_a_target_has_the_threshold_of_the_nearest_stricter_one(
    target: float, held: float | None
) -> None:
    found = calibration().threshold(target)
    assert (found.target if found else None) == held


def write(folder: Path, data: bytes) -> str:
    (folder / "c.json").write_bytes(data)
    return str(folder / "c.json")


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made = calibration()
    found = read_calibration(write(tmp_path, made.to_json()))
    assert found == made
    assert found.label == made.label
    assert found.to_json() == made.to_json()


def test_a_kept_one_is_found_by_its_label(tmp_path: Path) -> None:
    made = calibration()
    keep_calibration(str(tmp_path), made)
    keep_calibration(str(tmp_path), made)
    assert kept_calibration(str(tmp_path), made.label) == made
    with pytest.raises(JobError, match="does not exist"):
        kept_calibration(str(tmp_path), "calls-00000000")


@pytest.mark.parametrize("label", ["../../secret", "/etc/passwd", "", "a/b", "a\nb", "x" * 81])
def test_a_label_from_rows_is_no_path(label: str, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no label of a calibration"):
        kept_calibration(str(tmp_path), label)


@pytest.mark.parametrize(
    "changes",
    [
        {"fingerprint": "beef"},
        {"score": "min_word_confidence"},
        {"knots": ((0.0, 0.5),)},
        {"thresholds": ()},
        {"confidence_counts": (1,) * 101},
    ],
)
def test_the_label_changes_with_what_it_promises(changes: dict[str, Any]) -> None:
    assert calibration(**changes).label != calibration().label
    assert calibration(**changes).label.startswith("calls-")


def test_the_label_does_not_change_with_remarks() -> None:
    assert calibration(details={}).label == calibration().label


def _edited(**changes: Any) -> bytes:
    """The file, changed by hand: its label is still the old one."""
    return json.dumps(json.loads(calibration().to_json()) | changes).encode()


def _without(name: str) -> bytes:
    document = json.loads(calibration().to_json())
    del document[name]
    return json.dumps(document).encode()


RISING = ((0.0, 0.1), (1.0, 0.2))
BACKWARDS = ((1.0, 0.2), (0.0, 0.1))
DAMAGED = {
    "edited": (_edited(knots=[[0.0, 0.01]]), "changed by hand"),
    "other target": (_edited(thresholds=[]), "changed by hand"),
    "other model": (_edited(fingerprint="beef"), "changed by hand"),
    "other histogram": (_edited(confidence_counts=[1] * 101), "changed by hand"),
    "other name": (_edited(name="mine"), "changed by hand"),
    "other version": (_edited(koasr_calibration=2), "found version 2, wanted 1"),
    "no version": (b'{"knots": []}', "found version None"),
    "lines in a version": (_edited(koasr_calibration="1\n\x1b[2J"), "found version"),
    "lines in a label": (_edited(label="1\n\x1b[2J"), "changed by hand"),
    "no label": (_without("label"), "changed by hand: its label None"),
    "no curve at all": (_without("knots"), "it has no 'knots'"),
    "rising": (calibration(knots=RISING).to_json(), "'knots' is [[0.0, 0.1], [1.0, 0.2]], wanted"),
    "backwards": (calibration(knots=BACKWARDS).to_json(), "their CER never rising"),
    "NaN": (calibration(knots=((math.nan, 0.1),)).to_json(), "'knots' is [[nan, 0.1]], wanted"),
    "infinite": (calibration(knots=((0.0, math.inf),)).to_json(), "wanted pairs of finite"),
    "no curve": (calibration(knots=()).to_json(), "'knots' is [], wanted pairs"),
    "three to a knot": (_edited(knots=[[0, 0, 0]]), "'knots' is [[0, 0, 0]], wanted pairs"),
    "unknown score": (
        calibration(score="blank_doubt").to_json(),
        "'score' is 'blank_doubt', wanted raw_confidence or min_word_confidence",
    ),
    "a list for a score": (_edited(score=["raw_confidence"]), "'score' is ['raw_confidence']"),
    "few bins": (calibration(confidence_counts=(1,)).to_json(), "wanted 101 counts from 0 on"),
    "negative bins": (calibration(confidence_counts=(-1,) * 101).to_json(), "counts from 0 on"),
    "infinite bins": (_edited(confidence_counts=[math.inf] * 101), "'confidence_counts' is [inf"),
    "a number too large": (_edited(knots=[[10**4000, 0]]), "'knots' is [[1000"),
    "a threshold of text": (
        calibration(thresholds=(Threshold("0.1", None, None, None, 0),)).to_json(),  # type: ignore[arg-type]
        "'thresholds' is [",
    ),
    "a threshold of NaN": (
        calibration(thresholds=(Threshold(0.1, math.nan, 0.1, 0.1, 1),)).to_json(),
        "wanted objects of finite numbers",
    ),
    "a threshold of other fields": (_edited(thresholds=[{"tau": 1}]), "[{'tau': 1}], wanted"),
    "remarks of text": (_edited(details="x"), "'details' is 'x', wanted an object"),
    "a name that is a path": (calibration(name="../../x").to_json(), "its name is not of"),
    "a name of lines": (calibration(name="a\nb").to_json(), "its name is not of"),
    "a name that is a number": (_edited(name=3), "changed by hand"),
    "empty": (b"", "not JSON from line 1 on"),
    "a list": (b"[]", "found [], wanted a JSON object"),
    "no text": (b"\xff\xfe\x00\x81", "not JSON"),
    "cut off": (calibration().to_json()[:-20], "not JSON from line "),
    "deep": (b"[" * 200_000, "not JSON"),
    "huge": (b'{"a": "' + b"x" * (17 << 20) + b'"}', "not JSON from line 1 on"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_no_calibration_is_one_line(what: str, tmp_path: Path) -> None:
    data, found = DAMAGED[what]
    uri = write(tmp_path, data)
    with pytest.raises(JobError) as raised:
        read_calibration(uri)
    message = str(raised.value)
    assert message.startswith(f"{uri} is no file of koasr calibrate: ")
    assert found in message
    assert "Error" not in message
    assert message.isprintable()
    assert len(message) < len(uri) + 300


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="does not exist"):
        read_calibration(str(tmp_path / "none.json"))
    with pytest.raises(JobError, match="Is a directory"):
        read_calibration(str(tmp_path))


def test_another_fingerprint_is_refused() -> None:
    check_fingerprint(calibration(), "f00d")
    with pytest.raises(JobError, match=r"of fingerprint f00d, found transcripts of beef"):
        check_fingerprint(calibration(), "beef")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], {}),
        ([None, None], {100: 2}),
        ([0.0, 0.0099, 0.01, 1.0, 0.995], {0: 2, 1: 1, 99: 2}),
        ([0.5, None, 0.505], {50: 2, 100: 1}),
    ],
)
def test_confidence_is_counted(values: list[float | None], expected: dict[int, int]) -> None:
    found = count_confidence(pa.chunked_array([pa.array(values, pa.float32())]))
    assert len(found) == 101
    assert {place: count for place, count in enumerate(found) if count} == expected


def test_stability_index_on_paper() -> None:
    """Two groups of bins and the empty ones: 0.6, 0.3, 0.1 expected; 0.2, 0.3, 0.5 found."""
    expected, found = [0] * 101, [0] * 101
    expected[10], expected[90], expected[100] = 6_000_000, 3_000_000, 1_000_000
    found[10], found[90], found[100] = 2_000_000, 3_000_000, 5_000_000
    index = 0.4 * math.log(3) + 0.4 * math.log(5)
    assert stability_index(expected, found) == pytest.approx(index, abs=1e-5)


def test_stability_index_takes_small_neighbours_together() -> None:
    """Within a group of a tenth of what is expected nothing moves the index."""
    found = [100 * (number % 10 == 9) for number in range(100)] + [0]
    assert stability_index([10] * 100 + [0], found) == 0.0
    assert stability_index([10] * 100 + [0], [*found[99::-1], 0]) == 0.0


def test_stability_index_is_finite_where_a_group_is_empty() -> None:
    index = stability_index(EVEN, [0] * 100 + [500])
    assert math.isfinite(index)
    assert index > 5


@pytest.mark.parametrize(
    ("counts", "has_drifted"),
    [
        ([2] * 100 + [0], False),
        ([1] * 100 + [99], None),
        ([1] * 50 + [5] * 50 + [0], True),
        ([0] * 100 + [500], True),
        ([], None),
        ([3] * 50 + [2] * 50 + [0], False),
    ],
)
def test_drift(counts: list[int], has_drifted: bool | None) -> None:
    made = calibration()
    found = find_drift(made, counts)
    assert found.calibration == made.label
    if has_drifted is None:
        assert found == Drift(made.label, None, False)
    else:
        assert found.psi is not None
        assert found.has_drifted is has_drifted
        assert (found.psi > 0.2) is has_drifted


def test_a_sample_of_the_same_speech_has_not_drifted() -> None:
    rng = np.random.default_rng(0)
    labelled, fresh = (
        count_confidence(pa.chunked_array([rng.beta(5, 2, size)])) for size in (1_000, 300)
    )
    assert not find_drift(calibration(confidence_counts=tuple(labelled)), fresh).has_drifted
    harder = count_confidence(pa.chunked_array([rng.beta(3, 3, 300)]))
    assert find_drift(calibration(confidence_counts=tuple(labelled)), harder).has_drifted
