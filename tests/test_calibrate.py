"""koasr calibrate from transcripts to a file, and that file in a job on a real Ray cluster."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from outputs import night
from rich.console import Console
from test_cli import call
from test_scoring import row, score, table

from koasr.calibrate import make_calibration
from koasr.calibration import Calibration, read_calibration
from koasr.checkpoint import open_checkpoint
from koasr.drift import Drift, count_confidence
from koasr.errors import JobError
from koasr.limits import DEFAULT_LIMITS
from koasr.options import Options
from koasr.runs import fingerprint_of, list_committed, read_record
from koasr.summary import drift_text, summarize
from koasr.transcribe import fingerprint_parts, transcribe
from koasr.verify import verify

ROOT = Path(__file__).parent.parent
MODEL = str(ROOT / "examples" / "model")
SPEECH = str(ROOT / "examples" / "speech" / "zeroth")
TEXT = "오늘 날씨가 참 좋다"
NUM_CHARS = 8


def corpus(num_segments: int = 400, num_speakers: int = 20) -> list[dict[str, Any]]:
    """A score of s has 8 (1 - s) / 2 errors on average; every 21st segment is empty."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(num_segments):
        raw = float(np.float32(rng.uniform()))
        wrong = rng.uniform(size=NUM_CHARS) < (1 - raw) / 2
        letters = iter(np.where(wrong, "쉙", list(TEXT.replace(" ", ""))))
        text = "".join(" " if letter == " " else next(letters) for letter in TEXT)
        is_empty = number % 21 == 0
        others = {
            "is_empty": is_empty,
            "confidence": None if is_empty else raw,
            "evidence": {
                "raw_confidence": None if is_empty else raw,
                "min_word_confidence": None if is_empty else raw / 2,
            },
            "duration_s": 3.0,
            "fingerprint": "f00d",
            "model": "m",
            "source_uri": f"/data/r{number:04d}.wav",
            "source_key": "",
            "metadata": [("speaker", f"s{number % num_speakers}")],
        }
        rows.append(row(f"r{number:04d}", "" if is_empty else text, TEXT, **others))
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(table(rows), folder / "transcripts.parquet")
    return str(folder / "transcripts.parquet")


@pytest.fixture
def transcripts(tmp_path: Path) -> str:
    return write(tmp_path, corpus())


def calibrate(transcripts: str, *arguments: str) -> Calibration:
    """The file that the command writes."""
    out = f"{transcripts}.json"
    assert call("calibrate", transcripts, *arguments, "--out", out) == 0
    return read_calibration(out)


def test_the_file_holds_what_was_seen(transcripts: str) -> None:
    made = calibrate(transcripts, "--name", "calls")
    rows = [one for one in corpus() if one["text"]]
    assert (made.name, made.fingerprint, made.score) == ("calls", "f00d", "raw_confidence")
    details = made.details
    assert (details["segments"], details["empty_segments"]) == (380, 20)
    assert (details["speakers_or_recordings"], details["model"]) == (20, ["m"])
    assert details["hours"] == pytest.approx(380 * 3 / 3600)
    errors = sum(one["text"].count("쉙") for one in rows)
    assert (details["ref_chars"], details["cer"]) == (380 * 8, errors / (380 * 8))
    assert (details["delta"], details["references"]) == (0.1, None)
    assert details["normalizer"]["style"] == "koasr"
    assert sum(made.confidence_counts) == 400
    assert made.confidence_counts[100] == 20
    at = np.array([0.2, 0.5, 0.8])
    assert made.expected_cer(at) == pytest.approx((1 - at) / 2, abs=0.08)


def test_the_drift_histogram_is_that_of_the_calibrated_rows(transcripts: str) -> None:
    made = calibrate(transcripts)
    scores = made.scores_of(table(corpus())["evidence"].combine_chunks())
    column = pa.chunked_array([pa.array(made.confidence_of(scores), from_pandas=True)])
    assert list(made.confidence_counts) == count_confidence(column)


def test_what_is_printed(transcripts: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = calibrate(transcripts, "--targets", "0.001", "--targets", "0.2", "--delta", "0.2")
    printed = capsys.readouterr().out
    assert f"{made.label}: 380 segments, 0.3 h, 20 speakers or recordings, CER 2" in printed
    assert re.search(r"0\.1% +│ cannot be held │ - +│ - +│ 0%", printed)
    assert re.search(r"20\.0% +│ 0\.\d{4} +│ 1\d\.\d\d% +│ 1\d\.\d\d% +│ \d\d\.\d%", printed)
    assert "(80%)" in printed
    assert f"wrote {transcripts}.json: {made.label}" in printed.replace("\n", "")
    assert TEXT.split()[1] not in printed


def test_targets_are_those_asked_for_in_order(transcripts: str) -> None:
    made = calibrate(transcripts, "--targets", "0.2", "--targets", "0.1")
    assert [one.target for one in made.thresholds] == [0.1, 0.2]
    assert [one.target for one in calibrate(transcripts).thresholds][:2] == [0.01, 0.02]


def test_the_same_transcripts_give_the_same_file(transcripts: str) -> None:
    assert calibrate(transcripts).to_json() == calibrate(transcripts).to_json()


def test_another_score(transcripts: str) -> None:
    made, halved = calibrate(transcripts), calibrate(transcripts, "--score", "min_word_confidence")
    assert halved.label != made.label
    low, full = halved.threshold(0.2), made.threshold(0.2)
    assert low is not None
    assert full is not None
    assert low.min_score == pytest.approx((full.min_score or 0) / 2)


def test_references_from_a_file(transcripts: str, tmp_path: Path) -> None:
    lines = [f"K/r{number:04d}.pcm :: {TEXT}" for number in range(0, 400, 2)]
    (tmp_path / "dev.trn").write_text("\n".join(lines))
    made = calibrate(transcripts, str(tmp_path / "dev.trn"))
    assert made.details["segments"] + made.details["empty_segments"] == 200
    assert made.details["references"].endswith("dev.trn")


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["--name", "../x"], 2, "--name: found '../x'"),
        (["--name", ""], 2, "--name: found ''"),
        (["--name", "통화"], 2, "--name: found '통화'"),
        (["--name", "x" * 65], 2, "wanted up to 64 letters"),
        (["--targets", "0"], 2, "--targets"),
        (["--targets", "1"], 2, "--targets"),
        (["--delta", "1"], 2, "--delta"),
        (["--score", "blank_doubt"], 2, "--score"),
        (["/no/such.tsv"], 1, "does not exist"),
        (["--out", "/proc/none/c.json"], 1, "/proc/none/c.json"),
    ],
)
def test_a_mistake_is_one_line(
    transcripts: str,
    arguments: list[str],
    code: int,
    found: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = [] if "--out" in arguments else ["--out", f"{transcripts}.json"]
    assert call("calibrate", transcripts, *arguments, *out) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("koasr: ")
    assert found in line
    assert not Path(f"{transcripts}.json").exists()


def _of_two_models() -> list[dict[str, Any]]:
    rows = corpus()
    return [one | {"fingerprint": "beef"} for one in rows[:10]] + rows[10:]


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (corpus(100), "found 95 labelled segments of 20 speakers or recordings"),
        (corpus(400, 9), "found 380 labelled segments of 9 speakers or recordings"),
        (_of_two_models(), "found transcripts of beef, f00d"),
        ([one | {"reference": None} for one in corpus(20)], "no labelled segment"),
        ([one | {"text": "", "words": []} for one in corpus(200)], "found 0 labelled segments"),
    ],
)
def test_what_makes_no_calibration_is_one_line(
    rows: list[dict[str, Any]], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "c.json"
    assert call("calibrate", write(tmp_path, rows), "--out", str(out)) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert found in line
    assert not out.exists()


def test_without_scikit_learn_one_line_says_what_to_install(
    transcripts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.isotonic", None)
    assert call("calibrate", transcripts, "--out", f"{transcripts}.json") == 1
    assert "pip install koasr[trust]" in capsys.readouterr().err


def test_too_few_speakers_from_python_too() -> None:
    with pytest.raises(JobError, match="wanted at least 100 of 10"):
        make_calibration(score(corpus(400, 5)), name="c")


def test_the_pipeline_is_the_command(transcripts: str) -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "calibrate.py"), transcripts]
    out = f"{transcripts}.json"
    done = subprocess.run([*command, "--out", out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert read_calibration(out).label in done.stdout


def run(output: Path, calibration: str | None) -> tuple[int, str]:
    """The job in this process, over a few bundled recordings."""
    console = Console(record=True, width=120, force_terminal=False)
    options = Options(calibration=calibration, device="cpu", date="2026-11-22")
    checkpoint = open_checkpoint(MODEL)
    code = transcribe([SPEECH], str(output), checkpoint, options, DEFAULT_LIMITS, console)
    return code, console.export_text()


def of_the_bundled_model(folder: Path, **changes: Any) -> str:
    """A file whose fingerprint is that of the bundled model in float32."""
    fingerprint = fingerprint_of(fingerprint_parts(open_checkpoint(MODEL), "float32"))
    rows = [one | {"fingerprint": fingerprint} | changes for one in corpus()]
    made = make_calibration(score(rows), name="calls")
    (folder / "calls.json").write_bytes(made.to_json())
    return str(folder / "calls.json")


@pytest.mark.usefixtures("ray_cluster")
def test_a_job_fills_in_what_the_file_says(tmp_path: Path) -> None:
    made = read_calibration(of_the_bundled_model(tmp_path))
    output = tmp_path / "out"
    code, printed = run(output, str(tmp_path / "calls.json"))
    assert code == 0
    rows = ds.dataset(output / "transcripts", format="parquet").to_table().to_pylist()
    said = [one for one in rows if not one["is_empty"]]
    assert said
    raw = np.array([one["evidence"]["raw_confidence"] for one in said])
    expected_cer = made.expected_cer(raw)
    assert [one["expected_cer"] for one in said] == pytest.approx(expected_cer.tolist())
    assert [one["confidence"] for one in said] == pytest.approx((1 - expected_cer).tolist())
    assert {one["calibration"] for one in rows} == {made.label}
    kept = output / "_koasr" / "calibrations" / f"{made.label}.json"
    assert read_calibration(str(kept)) == made
    (summary,) = (json.loads(path.read_text()) for path in output.rglob("summary.json"))
    counted = count_confidence(pa.chunked_array([[one["confidence"] for one in rows]]))
    assert summary["confidence_counts"] == counted
    # Fewer than 200 segments say nothing of drift.
    assert summary["drift"] == {"calibration": made.label, "psi": None, "has_drifted": False}
    assert made.label in printed
    assert "too few to tell" in printed
    assert verify(str(output)) == 0


def test_another_fingerprint_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = of_the_bundled_model(tmp_path, fingerprint="f00d")
    places = [SPEECH, "--output", str(tmp_path / "out"), "--model", MODEL, "--device", "cpu"]
    assert call("transcribe", *places, "--calibration", name) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "is of fingerprint f00d, found transcripts of" in line
    assert call("transcribe", *places, "--calibration", str(tmp_path / "none.json")) == 1
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_older_records_are_in_counts_what_it_can(tmp_path: Path) -> None:
    made = night(str(tmp_path))
    old, *others = [read_record(uri) for uri in sorted(list_committed(made.output).values())]
    counts = np.sum([record["confidence_counts"] for record in others], axis=0)
    names = dict.fromkeys(("run_id", "date", "output", "model", "fingerprint"), "x")
    add_up = partial(summarize, names=names, session_audio_s=1.0, wall_s=1.0)
    calibration = read_calibration(of_the_bundled_model(tmp_path))
    del old["confidence_counts"]
    found = add_up([old, *others], calibration=calibration)
    assert found.confidence_counts == counts.tolist()
    assert found.drift == Drift(calibration.label, None, False)
    assert add_up([old], calibration=calibration).confidence_counts == []
    assert add_up([old, *others]).drift is None


@pytest.mark.parametrize(
    ("drift", "found"),
    [
        (Drift("c", None, False), "fewer than 200 segments"),
        (Drift("c", 0.1, False), "none (PSI 0.10)"),
        (Drift("c", 0.3, True), "PSI 0.30 > 0.2: not the speech the calibration was made from"),
    ],
)
def test_what_a_drift_means_is_said(drift: Drift, found: str) -> None:
    assert found in drift_text(drift)
