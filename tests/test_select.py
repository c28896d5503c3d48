"""koasr select, from an output to a training set: what is kept, why, and what is said of it."""

import dataclasses
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outputs import FINGERPRINT, begin, tar
from test_cli import call
from test_clips import transcripts

from koasr.calibration import Calibration, Threshold, keep_calibration, log_odds
from koasr.commit import commit_shard
from koasr.drift import Drift, count_confidence
from koasr.errors import JobError
from koasr.evaluation_plots import draw_yield
from koasr.orders import NO_ORDER, Order, choose
from koasr.packs import Header
from koasr.rows import Shard
from koasr.runs import Run, shard_name
from koasr.selection import Candidates
from koasr.sources import list_shards
from koasr.staging import encode_tables
from koasr.transcripts import REJECTS, TRANSCRIPTS

ROOT = Path(__file__).parent.parent
SPEECH = ROOT / "examples" / "speech"
RUN_ID = "20261122T000000Z-aaaaaa"
SECRET = "비밀"
TARS = (tar(1), tar(2))

Row = dict[str, Any]


def thresholds(*scores: tuple[float, float | None]) -> tuple[Threshold, ...]:
    """By target and lowest score."""
    return tuple(Threshold(target, score, 0.0, 0.0, 0.5) for target, score in scores)


def curve(*held: tuple[float, float | None], name: str = "calls", **others: Any) -> Calibration:
    """Expected CER 1 at a score of 0, 0.5 at 0.5, 0 at 1, straight in the log-odds."""
    ends = log_odds(np.array([0.0, 1.0])).tolist()
    knots = ((ends[0], 1.0), (0.0, 0.5), (ends[1], 0.0))
    made = Calibration(
        name, FINGERPRINT, "raw_confidence", knots, thresholds(*held), (1,) * 101, {}
    )
    return dataclasses.replace(made, **others)


def candidates(*scores: float, hours: float = 1.0, is_calibrated: bool = True) -> Candidates:
    """Of ten characters each; expected CER is what the score lacks to 1."""
    found = np.array(scores)
    ones = np.ones(len(found))
    expected = 1.0 - found if is_calibrated else None
    return Candidates(np.arange(len(found)), found, hours * ones, 10 * ones, expected)


NO_DRIFT, DRIFT = Drift("c", 0.01, False), Drift("c", 0.5, True)


@pytest.mark.parametrize(
    ("target", "held", "count", "why"),
    [
        # The forecast: 0.1, then (0.1 + 0.2) / 2, then (0.1 + 0.2 + 0.6) / 3.
        (0.15, [(0.02, 0.95), (0.15, 0.8)], 2, "by the threshold that holds CER ≤ 15.0%"),
        (0.17, [(0.15, 0.9), (0.3, 0.1)], 1, "≤ 15.0% (the calibration's nearest to 17.0%)"),
        (0.12, [(0.12, 0.8)], 1, "by the forecast, stricter here than the threshold that holds"),
        (1.0, [(0.05, 0.9), (0.1, 0.1)], 3, "≤ 10.0% (the calibration's nearest to 100.0%)"),
        (0.05, [(0.05, 0.99)], 0, "by the threshold that holds CER ≤ 5.0%"),
        (0.15, [(0.15, None)], 2, "forecast only, without guarantee: no threshold can be held"),
        (0.31, [(0.4, 0.0)], 3, "forecast only, without guarantee: no threshold can be held"),
        (0.05, [], 0, "forecast only, without guarantee: no threshold can be held"),
    ],
)
def test_a_target_is_held_by_a_threshold_or_only_forecast(
    target: float, held: list[tuple[float, float | None]], count: int, why: str
) -> None:
    found = candidates(0.9, 0.8, 0.4)
    chosen = choose(found, Order(max_expected_cer=target), None, curve(*held), NO_DRIFT)
    assert chosen.count == count
    assert why in chosen.why


def test_of_drifted_speech_a_target_is_only_forecast() -> None:
    order, made = Order(max_expected_cer=0.15), curve((0.15, 0.85))
    held = choose(candidates(0.9, 0.8, 0.4), order, None, made, NO_DRIFT)
    hoped = choose(candidates(0.9, 0.8, 0.4), order, None, made, DRIFT)
    assert (held.count, hoped.count) == (1, 2)
    assert hoped.why == "forecast only, without guarantee: the speech has drifted"


@pytest.mark.parametrize(
    ("hours", "count"), [(3.0, 3), (2.999, 2), (3.5, 3), (99, 4), (0.5, 0), (1.0, 1)]
)
def test_so_many_hours(hours: float, count: int) -> None:
    found = candidates(0.9, 0.8, 0.4, 0.2, is_calibrated=False)
    assert choose(found, Order(hours=hours), None, None, None).count == count


def test_what_ends_exactly_at_the_limit_is_in() -> None:
    found = candidates(*[0.5] * 1000, hours=0.1)
    assert choose(found, Order(hours=0.3), None, None, None).count == 3
    assert choose(found, Order(hours=70), None, None, None).count == 700
    assert choose(found, Order(keep="70%"), 0.7, None, None).count == 700
    assert choose(found, Order(keep="1"), 1.0, None, None).count == 1000


def test_of_nothing_nothing_is_kept() -> None:
    for order, share in ((Order(hours=1), None), (Order(keep="1"), 1.0)):
        assert choose(candidates(), order, share, None, None).count == 0
    for held in ([(0.1, 0.5)], []):
        order = Order(max_expected_cer=0.1)
        assert choose(candidates(), order, None, curve(*held), NO_DRIFT).count == 0


def test_a_target_needs_a_calibration() -> None:
    with pytest.raises(JobError, match="make one with koasr calibrate"):
        choose(candidates(0.5), Order(max_expected_cer=0.1), None, None, None)


def write_output(output: Path | str, parts: dict[Shard, list[Row]], run_id: str = RUN_ID) -> Run:
    """A run of which the plan and the transcripts are there."""
    run = begin(str(output), run_id, *parts)
    for shard, rows in parts.items():
        name = shard_name(shard, run.fingerprint)
        header = Header(name, shard.uri, shard.version, "all", 0, True, len(rows), 10)
        found = [
            {"fingerprint": FINGERPRINT, "run_id": run_id, "calibration": "raw"} | r for r in rows
        ]
        table = pa.Table.from_pylist(found, schema=TRANSCRIPTS)
        commit_shard(run, name, [encode_tables(header, table, REJECTS.empty_table())])
    return run


def segment(shard: Shard, number: int, **columns: Any) -> Row:
    """0.001 h, surer the higher the number."""
    name = f"{shard.uri}-{number:03}"
    score = number / 1000
    evidence = {"raw_confidence": score, "chars_per_s": 4.0, "num_unk": 0.0}
    row: Row = {"segment_id": f"{name}#0", "recording_id": name, "source_uri": shard.uri}
    row |= {"source_key": f"{number}.flac", "source_version": shard.version}
    row |= {"start_s": 0.0, "end_s": 3.6, "duration_s": 3.6, "text": f"{SECRET} {number}"}
    row |= {"is_empty": False, "evidence": evidence, "confidence": score, "model": "m"}
    return row | {"metadata": [("speaker", f"s{number % 2}")]} | columns


@pytest.fixture
def output(tmp_path: Path) -> str:
    """100 segments, 0.1 h, and three that filters take."""
    rows = {shard: [segment(shard, 2 * n + i) for n in range(50)] for i, shard in enumerate(TARS)}
    bad: list[Row] = [
        {"is_empty": True, "text": ""},
        {"duration_s": 0.36},
        {"text": "네 네 네 네 네"},
    ]
    rows[TARS[0]] += [segment(TARS[0], 900 + n, **columns) for n, columns in enumerate(bad)]
    write_output(tmp_path / "out", rows)
    return str(tmp_path / "out")


def run_select(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert call("select", *arguments) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """The one line that a user's mistake gives."""
    capsys.readouterr()
    assert call("select", *arguments) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("koasr: ")
    return line


def kept_ids(place: Path) -> list[str]:
    found: list[str] = pq.read_table(place)["segment_id"].to_pylist()
    return found


def test_it_says_what_it_left_out_what_more_hours_cost_and_what_it_keeps(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_bytes(curve().to_json())
    said = run_select(capsys, output, "--keep", "60%", "--calibration", str(tmp_path / "c.json"))
    lines = [line.split("│")[1:-1] for line in said.splitlines()]
    cells = [tuple(cell.strip() for cell in line) for line in lines if line]
    assert cells[:3] == [
        ("nothing said", "1", "0.00"),
        ("shorter than 1 s", "1", "0.00"),
        ("words repeated more than 3 times", "1", "0.00"),
    ]
    assert len(cells) == 3 + 10
    assert [cell[0] for cell in cells[3:]] == [f"{n / 100:.2f}" for n in range(1, 11)]
    rates = [float(cell[2].rstrip("%")) for cell in cells[3:]]
    assert rates == sorted(rates)
    assert cells[8][3] == "0.040"
    assert "koasr: drift: fewer than 200 segments" in said
    assert f"keeps 60 of 103 segments, 0.06 of 0.10 h; expected CER {cells[8][2]}" in said
    assert said.rstrip().endswith("; the surest, as ordered")
    assert SECRET not in said


@pytest.mark.parametrize(
    ("order", "count"),
    [
        (["--hours", "0.03"], 30),
        (["--hours", "0.0299"], 29),
        (["--hours", "5"], 100),
        (["--keep", "60%"], 60),
        (["--keep", "0.6"], 60),
        (["--keep", "100%"], 100),
        (["--keep", "1"], 100),
    ],
)
def test_rows_are_the_segments_chosen_and_nothing_else(
    order: list[str], count: int, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "deep" / "rows.parquet"
    said = run_select(capsys, output, *order, "--rows", str(place), "--max-unk", "0")
    assert f"keeps {count} of 103 segments" in said
    assert "no expected CER" in said
    numbers = sorted(int(name[-5:-2]) for name in kept_ids(place))
    assert numbers == list(range(100 - count, 100))
    table = pq.read_table(place)
    assert "words" not in table.column_names
    for field in table.schema:
        assert field.type == TRANSCRIPTS.field(field.name).type, field.name
    again = tmp_path / "again.parquet"
    run_select(capsys, output, *order, "--rows", str(again))
    assert again.read_bytes() == place.read_bytes()


@pytest.mark.parametrize(
    "keep", ["0", "0%", "101%", "1.5", "-1", "sixty", "60 %", "", "nan", "1e-3"]
)
def test_what_is_no_share_is_refused(
    keep: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "wanted a share such as 60% or 0.6" in refused(capsys, output, f"--keep={keep}", code=2)


@pytest.mark.parametrize(
    "order",
    [
        [],
        ["--hours", "1", "--keep", "60%"],
        ["--hours", "1", "--max-expected-cer", "0.1"],
        ["--hours", "0"],
        ["--hours", "-1"],
        ["--hours", "nan"],
        ["--max-expected-cer", "5"],
        ["--max-expected-cer", "0"],
        ["--hours", "1", "--to", "hf"],
        ["--hours", "1", "--out", "set"],
        ["--hours", "1", "--to", "mp3", "--out", "set"],
        ["--hours", "1", "--max-hours-per", "speaker"],
        ["--hours", "1", "--max-hours-per", "speaker=nan"],
        ["--hours", "1", "--max-repeats", "0"],
        ["--hours", "1", "--min-segment-s", "-1"],
    ],
)
def test_wrong_usage_is_one_line(
    order: list[str], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, output, *order, code=2)


def test_an_order_is_known_by_its_flags() -> None:
    assert str(Order(max_expected_cer=0.05)) == "--max-expected-cer 0.05"
    assert str(Order(keep="60%")) == "--keep 60%"
    assert str(NO_ORDER) == ""


def test_caps_by_metadata_and_by_column(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "rows.parquet"
    caps = ["--max-hours-per", "speaker=0.01", "--max-hours-per", "source_key=1"]
    said = run_select(capsys, output, "--hours", "1", *caps, "--rows", str(place))
    assert re.search(r"more than 0\.01 h of one speaker +│ 80 +│ 0\.08", said)
    assert sorted(int(name[-5:-2]) for name in kept_ids(place)) == list(range(80, 100))
    said = run_select(capsys, output, "--hours", "1", "--max-hours-per", "speaker=1")
    assert "keeps 100 of 103" in said


def calibrated(output: Path, *labels: str) -> str:
    """Rows of these calibrations in turn."""
    rows = [segment(TARS[0], n, calibration=labels[n % len(labels)]) for n in range(100)]
    write_output(output, {TARS[0]: rows})
    return str(output)


def test_the_calibration_that_an_output_was_made_with_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = curve((0.6, 0.0895), name="kept")
    output = calibrated(tmp_path / "out", made.label)
    keep_calibration(output, made)
    place = tmp_path / "rows.parquet"
    said = run_select(capsys, output, "--max-expected-cer", "0.6", "--rows", str(place))
    assert "keeps 10 of 100 segments" in said
    assert "by the threshold that holds CER ≤ 60.0%" in said
    rows = pq.read_table(place)
    assert set(rows["calibration"].to_pylist()) == {made.label}
    expected = made.expected_cer(np.arange(90, 100) / 1000)
    assert sorted(rows["expected_cer"].to_pylist()) == pytest.approx(sorted(expected))
    other = tmp_path / "other.json"
    other.write_bytes(curve(name="other").to_json())
    arguments = ("--hours", "1", "--calibration", str(other), "--rows", str(place))
    run_select(capsys, output, *arguments)
    assert set(pq.read_table(place)["calibration"].to_pylist()) == {curve(name="other").label}


def test_drift_is_told_and_takes_the_promise_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [segment(TARS[0], n) for n in range(400)]
    write_output(tmp_path / "out", {TARS[0]: rows})
    made = curve((0.8, 0.0))
    confidence = pa.chunked_array([made.confidence_of(np.arange(400) / 1000)])
    same = dataclasses.replace(made, confidence_counts=tuple(count_confidence(confidence)))
    for one, promise in ((made, "the speech has drifted"), (same, "by the threshold")):
        (tmp_path / "c.json").write_bytes(one.to_json())
        order = ("--max-expected-cer", "0.8", "--calibration", str(tmp_path / "c.json"))
        said = run_select(capsys, str(tmp_path / "out"), *order)
        assert promise in said
        assert ("do not hold here" in said) == (one is made)


def test_what_has_no_calibration_of_its_own_is_refused(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = ("--max-expected-cer", "0.1")
    assert "make one with koasr calibrate" in refused(capsys, output, *target)
    mixed = calibrated(tmp_path / "mixed", "raw", "calls-12345678")
    assert "calls-12345678, raw: choose with --calibration" in refused(capsys, mixed, *target)
    (tmp_path / "c.json").write_bytes(curve((0.6, 0.0945)).to_json())
    target = ("--max-expected-cer", "0.6")
    said = run_select(capsys, mixed, *target, "--calibration", str(tmp_path / "c.json"))
    assert "keeps 5 of 100" in said
    gone = calibrated(tmp_path / "gone", "calls-12345678")
    assert "calls-12345678.json does not exist" in refused(capsys, gone, *target)


@pytest.mark.parametrize("label", ["../../../secret", "/etc/secret", "a b", "calls\n-12345678"])
def test_a_label_is_never_a_path(
    label: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret.json").write_bytes(curve((0.1, 0.0)).to_json())
    output = calibrated(tmp_path / "out", label)
    assert "is no label of a calibration" in refused(capsys, output, "--hours", "1")


def test_a_kept_calibration_must_be_the_one_of_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = calibrated(tmp_path / "out", "calls-12345678")
    keep_calibration(output, curve())
    folder = tmp_path / "out" / "_koasr" / "calibrations"
    (folder / f"{curve().label}.json").rename(folder / "calls-12345678.json")
    assert f"is {curve().label}" in refused(capsys, output, "--hours", "1")


def test_a_calibration_of_another_model_is_refused(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_bytes(curve(fingerprint="0" * 16).to_json())
    arguments = (output, "--hours", "1", "--calibration", str(tmp_path / "c.json"))
    assert "is of fingerprint 0000000000000000" in refused(capsys, *arguments)
    for wrong in (b"", b"{}", b"[1", b"\xff\xfe", b"[]"):
        (tmp_path / "c.json").write_bytes(wrong)
        assert "is no file of koasr calibrate" in refused(capsys, *arguments)


def test_an_output_without_rows_and_one_without_good_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none").mkdir()
    assert "holds no transcripts" in refused(capsys, str(tmp_path / "none"), "--hours", "1")
    write_output(tmp_path / "empty", {TARS[0]: []})
    said = refused(capsys, str(tmp_path / "empty"), "--hours", "1", *results(tmp_path))
    assert "there are no segments to select from" in said
    silent = [segment(TARS[0], n, is_empty=True, text="") for n in range(3)]
    write_output(tmp_path / "silent", {TARS[0]: silent})
    said = refused(capsys, str(tmp_path / "silent"), "--keep", "1", *results(tmp_path))
    assert "no segment of 3 passes the filters (3 nothing said)" in said
    assert not (tmp_path / "results").exists()


def results(folder: Path) -> list[str]:
    """Every result that can be asked for."""
    place = folder / "results"
    named = ["--rows", str(place / "rows.parquet"), "--plot", str(place / "plot.svg")]
    return [*named, "--to", "csv", "--out", str(place / "set")]


@pytest.mark.parametrize(
    ("order", "found"),
    [
        (
            ["--hours", "1", "--min-segment-s", "9", "--max-segment-s", "2"],
            "passes the filters (102 shorter than 9 s, 1 nothing said): loosen the first",
        ),
        (
            ["--hours", "1", "--min-chars-per-s", "5", "--max-unk", "3"],
            "no segment of 103 passes the filters (101 below 5 characters a second, 1 ",
        ),
        (["--keep", "0.5%"], "--keep 0.5% keeps none of the 100 segments that pass the filters"),
        (["--hours", "0.0009"], "the surest has 3.6 s, order more than that"),
        (["--max-expected-cer", "0.1"], "has 3.6 s and an expected CER of 57.99%, order more"),
    ],
)
def test_an_order_that_keeps_nothing_says_what_took_it_and_writes_nothing(
    order: list[str], found: str, output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--max-expected-cer" in order:
        (tmp_path / "c.json").write_bytes(curve((0.1, 0.99)).to_json())
        order = [*order, "--calibration", str(tmp_path / "c.json")]
    assert found in refused(capsys, output, *order, *results(tmp_path))
    assert not (tmp_path / "results").exists()


def test_the_plot_shows_where_the_selection_stands(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "yield.svg"
    run_select(capsys, output, "--keep", "60%", "--plot", str(plot))
    root = ElementTree.fromstring(plot.read_bytes())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"kept: 0.06 h" in plot.read_bytes()
    assert b"expected CER of them" in plot.read_bytes()


def test_a_drawing_is_the_same_each_time_and_needs_nothing_to_show() -> None:
    hours, cer = np.arange(1.0, 9.0), np.linspace(0.01, 0.2, 8)
    drawn = draw_yield(hours, cer, 4)
    assert drawn == draw_yield(hours, cer, 4)
    assert drawn != draw_yield(hours, cer, 5)
    assert b"kept: 4.00 h" in drawn
    assert b"kept" not in draw_yield(hours, cer, 0).replace(b"hours kept", b"")
    ElementTree.fromstring(draw_yield(np.array([]), np.array([]), 0))


@pytest.mark.usefixtures("ray_cluster")
def test_from_an_output_to_a_training_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts: dict[Shard, list[Row]] = {}
    for kind in ("webdataset", "folder"):
        for shard in list_shards([str(SPEECH / kind)]):
            parts[shard] = [
                row
                | {"duration_s": row["end_s"] - row["start_s"], "metadata": []}
                | {"evidence": {"raw_confidence": n / 100, "chars_per_s": 4.0, "num_unk": 0.0}}
                for n, row in enumerate(transcripts(shard).to_pylist())
            ]
    made = curve((0.9, 0.02))
    for rows in parts.values():
        for row in rows:
            row |= {"calibration": made.label, "fingerprint": FINGERPRINT, "run_id": RUN_ID}
    write_output(tmp_path / "out", parts)
    keep_calibration(str(tmp_path / "out"), made)
    place, where = tmp_path / "rows.parquet", tmp_path / "set"
    order = (str(tmp_path / "out"), "--max-expected-cer", "0.9", "--min-chars-per-s", "2")
    set_options = ("--to", "webdataset", "--out", str(where), "--trim")
    said = run_select(capsys, *order, *set_options, "--rows", str(place))
    chosen = pq.read_table(place)
    assert 0 < len(chosen) < sum(map(len, parts.values()))
    assert "words" in chosen.column_names
    assert re.search(rf"koasr: {where} has {len(chosen)} clips, [\d.]+ h\n$", said)
    texts = []
    for path in sorted(where.rglob("*.tar")):
        with tarfile.open(path) as archive:
            members = [m for m in archive.getmembers() if m.name.endswith(".txt")]
            texts += [archive.extractfile(m).read().decode() for m in members]  # type: ignore[union-attr]
    assert sorted(texts) == sorted(chosen["text"].to_pylist())
    noted = json.loads((where / "koasr_selection.json").read_bytes())
    expected = f"--max-expected-cer 0.9 --min-chars-per-s 2.0 by {made.label}"
    assert (noted["selection"], noted["trim"]) == (expected, True)
    again = run_select(capsys, *order, *set_options)
    assert "holds this selection already" in again


# Dagster loads its definitions, in an environment of its own: tests/test_dagster.py.
SCRIPTS = {path.name for path in (ROOT / "pipelines").glob("*.py")} - {"dagster_defs.py"}


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_pipeline_starts_and_shadows_no_module_of_python(script: str) -> None:
    assert Path(script).stem not in sys.stdlib_module_names
    command = [sys.executable, str(ROOT / "pipelines" / script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: python {ROOT / 'pipelines' / script} ")


@pytest.mark.parametrize("command", ["select", "evaluate", "calibrate"])
@pytest.mark.parametrize(
    ("name", "column"), [("evidence", "sure"), ("metadata", "s0"), ("evidence", {"x": 1.0})]
)
def test_a_parquet_file_of_another_writer_is_no_traceback(
    command: str, name: str, column: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [segment(TARS[0], n, calibration="raw", reference="가") for n in range(3)]
    table = pa.Table.from_pylist(rows, schema=TRANSCRIPTS)
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.array([column] * 3)), tmp_path / "t.parquet")
    order = {"select": ["--hours", "1"], "calibrate": ["--out", str(tmp_path / "c.json")]}
    code = call(command, str(tmp_path / "t.parquet"), *order.get(command, []))
    found = capsys.readouterr()
    if isinstance(column, str):
        assert code == 1
        assert "has columns of other types than transcripts" in found.err
    elif command == "select":
        assert "no segment of 3 passes the filters (3 no confidence)" in found.err
        assert re.search("no confidence +│ 3 ", found.out)


def test_brackets_in_names_are_names_and_a_huge_count_is_a_count(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--hours", "0.01", "--max-unk", str(10**20))
    run_select(capsys, output, *options, "--rows", str(tmp_path / "[/y]"))
    assert len(kept_ids(tmp_path / "[/y]")) == 10
    said = refused(capsys, output, *options, "--max-hours-per", "[/x]=0.01")
    assert "no row has a '[/x]', found the keys speaker" in said


@pytest.mark.parametrize("option", ["--rows", "--plot"])
def test_a_store_that_does_not_answer_is_told_before_anything_is_read(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:9", "ACCESS_KEY_ID": "x"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    line = refused(capsys, str(tmp_path / "none"), "--hours", "1", option, "s3://none/x")
    assert "cannot use s3://none/x: no answer from the store" in line
