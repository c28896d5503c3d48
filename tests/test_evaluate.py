"""koasr evaluate from end to end, on transcripts that were built for it."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from checkpoints import tiny
from outputs import ids, night, tar
from test_cli import call
from test_scoring import row, table

from koasr.storage import list_names, read_bytes, write_bytes

ROOT = Path(__file__).parent.parent
SECRET = "비밀"


def transcript(
    name: str, reference: str | None, text: str, confidence: float | None, **others: Any
) -> dict[str, Any]:
    evidence = {"raw_confidence": confidence, "blank_doubt": 0.1, "num_unk": 0.0}
    place = {"source_uri": f"/data/{name}.wav", "source_key": "", "duration_s": 2.0}
    found = row(name, text, reference, confidence=confidence, evidence=evidence, **others)
    return found | place | {"is_empty": not text, "fingerprint": "f"}


def corpus() -> list[dict[str, Any]]:
    """Forty recordings of four speakers: trusted ones are right, the others mostly wrong."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        is_right = number % 4 > 0
        text = "오늘 날씨가 좋다" if is_right else "오늘 날시가 존다"
        confidence = float(rng.uniform(0.85, 0.99) if is_right else rng.uniform(0.3, 0.9))
        speaker = [("speaker", f"s{number % 5}"), ("snr", str(5 * (number % 2)))]
        name = f"r{number:02d}"
        rows.append(transcript(name, "오늘 날씨가 좋다", text, confidence, metadata=speaker))
    rows.append(transcript("empty", "네", "", None, metadata=[("speaker", "s0")]))
    rows.append(transcript("silent", "", "", None, metadata=[("speaker", "s1")]))
    rows.append(transcript("masked", f"@이름1 {SECRET}", "네", 0.9))
    rows.append(transcript("unknown", None, "네", 0.9))
    return rows


@pytest.fixture
def transcripts(tmp_path: Path) -> str:
    path = tmp_path / "transcripts.parquet"
    pq.write_table(table(corpus()), path)
    return str(path)


def evaluate(*arguments: str) -> dict[str, Any]:
    """The JSON of the command."""
    place = Path(arguments[0]).parent / "out.json"
    assert call("evaluate", *arguments, "--json", str(place)) == 0
    document: dict[str, Any] = json.loads(place.read_text())
    return document


def test_figures_of_a_corpus(transcripts: str) -> None:
    found = evaluate(transcripts, "--by", "snr", "--by", "source_sample_rate_hz")
    assert found["counts"] == {
        "recordings": 42,
        "segments": 42,
        "clusters": 5,
        "audio_s": 84.0,
        "empty_references": 1,
        "empty_hypotheses": 2,
        "rejected": 0,
        "without_reference": 1,
        "unused_references": None,
        "masked": 1,
    }
    cer = found["rates"]["cer"]
    # 10 of 40 have two errors of 7 characters, and the empty one lacks its only one.
    assert (cer["errors"], cer["length"]) == (21, 281)
    assert cer["low"] < cer["value"] < cer["high"]
    assert found["rates"]["wer"]["errors"] == 21
    errors = {snr: one["rates"]["cer"]["errors"] for snr, one in found["subsets"]["snr"].items()}
    assert errors == {"0": 20, "5": 0, "": 1}
    assert list(found["subsets"]["source_sample_rate_hz"]) == [""]
    assert found["confusions"][:2] == [
        {"reference": "씨", "hypothesis": "시", "count": 10},
        {"reference": "좋", "hypothesis": "존", "count": 10},
    ]
    assert found["normalizer"]["style"] == "koasr"
    assert found["fingerprints"] == ["f"]


def test_what_confidence_is_worth(transcripts: str) -> None:
    found = evaluate(transcripts)["confidence"]
    scores = found["segments"]
    assert set(scores) == {"confidence", "raw_confidence", "blank_doubt", "num_unk", "(CER itself)"}
    good, none = scores["confidence"], scores["num_unk"]
    # The two without text have no confidence.
    assert (good["num_segments"], good["num_without"]) == (40, 2)
    assert good["wrong"]["share"] == pytest.approx(0.25)
    assert none["wrong"]["auroc"] == 0.5
    assert 0.9 < good["wrong"]["auroc"] <= 1.0
    assert good["aurc"] < none["aurc"]
    assert good["cer_kept"]["0.5"] < good["cer_kept"]["0.9"] < 20 / 280
    assert none["cer_kept"]["0.5"] == pytest.approx(21 / 281)
    assert 0 < good["char_error"]["ece"] < 0.3
    assert sum(good["char_error"]["bins"]["counts"]) == 40
    assert "char_error" not in none
    assert found["words"]["word confidence"]["num_words"] == 120
    assert found["words"]["word confidence"]["wrong"]["share"] == pytest.approx(20 / 120)


def test_an_expected_cer_is_a_score_too(tmp_path: Path) -> None:
    rows = [one | {"expected_cer": 1 - (one["confidence"] or 0)} for one in corpus()]
    pq.write_table(table(rows), tmp_path / "t.parquet")
    scores = evaluate(str(tmp_path / "t.parquet"))["confidence"]["segments"]
    good, same = scores["confidence"], scores["expected_cer"]
    assert same["char_error"]["ece"] == pytest.approx(
        # The empty ones have an expected CER, and no characters to weigh it by.
        good["char_error"]["ece"],
        abs=1e-6,
    )
    assert same["num_without"] == 0
    assert same["wrong"]["auroc"] > 0.9


def test_wrong_above_moves_what_is_wrong(transcripts: str) -> None:
    for bound, share in {"0": 0.25, "0.5": 0.0}.items():
        found = evaluate(transcripts, "--wrong-above", bound)["confidence"]
        assert found["segments"]["confidence"]["wrong"]["share"] == share


def test_references_from_a_file(transcripts: str, tmp_path: Path) -> None:
    lines = [f"K/r{number:02d}.pcm :: (3시)/(세 시) 봐" for number in range(3)]
    script = tmp_path / "dev.trn"
    script.write_bytes("\n".join([*lines, "K/zz.pcm :: 네"]).encode("cp949"))
    found = evaluate(transcripts, str(script), "--side", "pronunciation")
    assert found["counts"]["recordings"] == 3
    assert found["counts"]["unused_references"] == 1
    assert found["counts"]["without_reference"] == 41
    assert found["rates"]["cer"]["length"] == 3 * 3
    assert found["normalizer"]["side"] == "pronunciation"


def test_the_speech_event_counts_spaces_first(
    transcripts: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", transcripts, "--style", "speech-event") == 0
    printed = capsys.readouterr().out
    assert printed.index("CER with spaces") < printed.index("CER without spaces")


def test_a_models_vocabulary(transcripts: str, tmp_path: Path) -> None:
    model = str(tiny(tmp_path / "model"))
    found = evaluate(transcripts, "--model", model)["rates"]["unknown_share"]
    assert found["length"] == 281
    assert 0 < found["value"] <= 1


def test_rejects_are_not_in_the_figures_and_said_to_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    night(str(tmp_path / "out"))
    # Members of both tars; of the second the first and the last were rejected.
    names = [ids(tar(2))[number].rpartition("/")[2] for number in (0, 3, 4, 5)]
    manifest = tmp_path / "m.jsonl"
    lines = [{"audio_filepath": f"2.tar/{name}", "text": "가 나 가 나"} for name in names]
    manifest.write_text("\n".join(json.dumps(line) for line in lines))
    assert call("evaluate", str(tmp_path / "out"), str(manifest)) == 0
    assert "2 recordings with a reference were rejected" in capsys.readouterr().out


def test_no_text_is_printed_unless_asked_for(
    transcripts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    worst = tmp_path / "worst.tsv"
    assert call("evaluate", transcripts, "--worst", str(worst)) == 0
    printed = capsys.readouterr().out
    assert SECRET not in printed
    assert "날시가" not in printed
    assert max(len(line) for line in printed.splitlines()[3:]) <= 100
    header, *rows = [line.split("\t") for line in worst.read_text().splitlines()]
    assert header[0] == "recording_id"
    assert rows[0][:4] == ["empty", "1.000", "1", "1"]
    assert rows[1][-1] == "오늘 날[씨→시]가 [좋→존]다"
    assert len(rows) == 11
    assert call("evaluate", transcripts, "--show", "2") == 0
    assert "오늘 날[씨→시]가 [좋→존]다" in capsys.readouterr().out


def test_what_data_say_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steering = "\x1b[2J[red]\t"
    named = [("place", f"{steering}{'x' * 200}")]
    rows = [transcript(f"r{steering}", f"네{steering}", "내", 0.5, metadata=named)]
    pq.write_table(table(rows), tmp_path / "t.parquet")
    worst = tmp_path / "worst.tsv"
    places = [str(tmp_path / "t.parquet"), "--by", "place", "--worst", str(worst), "--show", "1"]
    assert call("evaluate", *places, "--style", "none") == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "?[2J[red]" in printed
    assert len(worst.read_text().splitlines()[1].split("\t")) == 7


def test_diagrams_are_the_same_each_time(transcripts: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert call("evaluate", transcripts, "--plots", str(tmp_path / folder)) == 0
    for name in ("reliability.svg", "risk_coverage.svg"):
        one, other = ((tmp_path / folder / name).read_text() for folder in ("a", "b"))
        assert one == other
        assert re.search(r"confidence \((ECE|area) 0\.\d{3}\)", one)


def test_without_scikit_learn_the_rates_are_still_given(
    transcripts: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    found = evaluate(transcripts)
    assert found["rates"]["cer"]["errors"] == 21
    assert "pip install koasr[trust]" in found["confidence"]["left_out"]
    assert "confidence not assessed" in capsys.readouterr().out
    assert call("evaluate", transcripts, "--plots", "plots") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "found"),
    [
        (["--confidence-level", "1"], 2, "--confidence-level"),
        (["--style", "whisper"], 2, "whisper"),
        (["--fluent", "--style", "none"], 2, "--side and --fluent"),
        (["--by", "colour"], 1, "--by colour: no column"),
        (["/no/such.tsv"], 1, "does not exist"),
    ],
)
def test_a_mistake_is_one_line(
    transcripts: str,
    arguments: list[str],
    code: int,
    found: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("evaluate", transcripts, *arguments) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("koasr: ")
    assert found in line


@pytest.mark.parametrize("flag", ["--json", "--worst", "--plots"])
def test_a_result_that_cannot_be_written_is_told_before_the_work(
    flag: str, transcripts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["/proc/none/x", f"{transcripts}/x", *([] if flag == "--plots" else [str(tmp_path)])]
    before = sorted(tmp_path.iterdir())
    for place in places:
        # Nothing is read: what is to be compared does not exist.
        assert call("evaluate", "/no/such", flag, place) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"koasr: {place} ")
    assert sorted(tmp_path.iterdir()) == before


def test_of_few_speakers_an_interval_is_not_to_be_relied_on(
    transcripts: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caution = "caution: of fewer than 10 an interval is too narrow"
    assert call("evaluate", transcripts) == 0
    assert caution in capsys.readouterr().out
    rows = [transcript(f"r{n}", "네", "내", 0.5) for n in range(10)]
    pq.write_table(table(rows), tmp_path / "ten.parquet")
    assert call("evaluate", str(tmp_path / "ten.parquet")) == 0
    assert caution not in capsys.readouterr().out


def test_what_was_heard_in_silence_comes_last_and_has_no_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [transcript("silence", "", "네네", 0.9), transcript("speech", "네", "내", 0.9)]
    pq.write_table(table(rows), tmp_path / "t.parquet")
    worst = tmp_path / "worst.tsv"
    places = [str(tmp_path / "t.parquet"), "--worst", str(worst), "--show", "2"]
    assert call("evaluate", *places) == 0
    assert [line.split("\t")[:2] for line in worst.read_text().splitlines()[1:]] == [
        ["speech", "1.000"],
        ["silence", "inf"],
    ]
    assert "silence  2 characters, the reference is empty" in capsys.readouterr().out


def test_everything_may_lie_in_a_store(s3: str, transcripts: str) -> None:
    write_bytes(f"{s3}/t/a.parquet", Path(transcripts).read_bytes())
    write_bytes(f"{s3}/dev.trn", "K/r00.pcm :: 오늘 날씨\n".encode())
    places = [f"{s3}/t/*.parquet", f"{s3}/dev.trn", "--json", f"{s3}/found.json"]
    assert call("evaluate", *places, "--worst", f"{s3}/worst.tsv", "--plots", f"{s3}/plots") == 0
    assert json.loads(read_bytes(f"{s3}/found.json"))["counts"]["recordings"] == 1
    assert sorted(list_names(f"{s3}/plots")) == ["reliability.svg", "risk_coverage.svg"]


@pytest.mark.parametrize(
    ("reference", "problem"),
    [(None, "no transcript has a reference"), ("u/ 네", "all 1 references hide what was said")],
)
def test_nothing_to_compare_is_one_line(
    reference: str | None, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(table([transcript("a", reference, "네", 0.5)]), tmp_path / "a.parquet")
    assert call("evaluate", str(tmp_path / "a.parquet")) == 1
    assert problem in capsys.readouterr().err


def test_the_pipeline_is_the_command(transcripts: str) -> None:
    command = [sys.executable, str(ROOT / "pipelines" / "evaluate.py"), transcripts]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "CER without spaces" in done.stdout
