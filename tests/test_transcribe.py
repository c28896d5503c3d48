"""The whole job on a real Ray cluster, over the bundled speech."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import soundfile
from checkpoints import seed_2022, tiny, tiny_group_norm
from rich.console import Console
from sound import encode, tone, write_tar

from koasr import job
from koasr.audio import load_waveform
from koasr.checkpoint import open_checkpoint
from koasr.cli import main
from koasr.convert import convert
from koasr.errors import JobError
from koasr.ledger import open_ledger
from koasr.limits import DEFAULT_LIMITS
from koasr.metrics import ErrorCounts, count_errors
from koasr.options import Options
from koasr.readers import read_recordings
from koasr.rows import Recording
from koasr.runs import Run, list_committed, read_plan, read_record, write_plan
from koasr.sources import list_shards
from koasr.stages import Work
from koasr.transcribe import settle_compute, transcribe
from koasr.transcripts import REJECTS, TRANSCRIPTS

ROOT = Path(__file__).parent.parent
MODEL = str(ROOT / "examples" / "model")
SPEECH = ROOT / "examples" / "speech"
BAD = {
    "empty.wav": "empty",
    "lying_header.wav": "truncated",
    "nan.wav": "non_finite",
    "text.wav": "unsupported_format",
    "truncated.flac": "truncated",
}

MARGIN = 2_400
"""Samples."""

pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(
    inputs: list[str], output: Path | str, *, model: str = MODEL, **options: Any
) -> tuple[int, str]:
    """The job in this process: its exit code, and what it printed."""
    console = Console(record=True, width=120, force_terminal=False)
    checkpoint = open_checkpoint(model)
    code = transcribe(inputs, str(output), checkpoint, Options(**options), DEFAULT_LIMITS, console)
    return code, console.export_text()


def rows(output: Path | str, table: str = "transcripts") -> list[dict[str, Any]]:
    """Every row, by a plain reader."""
    found: list[dict[str, Any]] = (
        ds.dataset(f"{output}/{table}", format="parquet").to_table().to_pylist()
    )
    return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one run over all bundled speech."""
    output = tmp_path_factory.mktemp("bundle") / "out"
    code, _ = run([str(SPEECH)], output, date="2026-11-22", max_reject_rate=0.1)
    assert code == 0
    return output


def test_every_recording_is_accounted_for(bundle: Path) -> None:
    listed = [item for s in list_shards([str(SPEECH)]) for item in read_recordings(s)]
    ids = {item.recording_id for item in listed}
    transcribed = {row["recording_id"] for row in rows(bundle)}
    rejected = [row["recording_id"] for row in rows(bundle, "rejects")]
    assert len(ids) == len(listed) == 124
    assert transcribed | set(rejected) == ids
    assert not transcribed & set(rejected)
    assert len(set(rejected)) == len(rejected)
    segments = [row["segment_id"] for row in rows(bundle)]
    assert len(set(segments)) == len(segments)


def test_each_bad_file_has_the_right_reason(bundle: Path) -> None:
    found = {Path(row["source_uri"]).name: row["reason"] for row in rows(bundle, "rejects")}
    assert found == BAD
    assert all(row["message"] for row in rows(bundle, "rejects"))


def test_every_file_has_the_declared_schema(bundle: Path) -> None:
    for name, schema in (("transcripts", TRANSCRIPTS), ("rejects", REJECTS)):
        files = sorted((bundle / name / "date=2026-11-22").glob("*.parquet"))
        assert len(files) == 5
        assert all(pq.read_schema(f).remove_metadata().equals(schema) for f in files)


def test_the_record_in_the_footer_counts_what_is_there(bundle: Path) -> None:
    for uri in list_committed(str(bundle)).values():
        record, table = read_record(uri), pq.read_table(uri)
        assert record["rows"] == table.num_rows
        assert record["recordings"] == record["transcribed"] + record["rejected"]
        assert record["fingerprint"] == table["fingerprint"][0].as_py()


def test_words_are_those_of_the_text_with_times_and_confidence(bundle: Path) -> None:
    for row in rows(bundle):
        assert [word["text"] for word in row["words"]] == row["text"].split()
        times = [t for word in row["words"] for t in (word["start_s"], word["end_s"])]
        assert times == sorted(times)
        assert all(row["start_s"] <= t <= row["end_s"] for t in times)
        assert all(0.0 <= word["confidence"] <= 1.0 for word in row["words"])
        assert row["is_empty"] == (row["text"] == "") == (row["confidence"] is None)
        assert row["is_empty"] or 0.0 < row["confidence"] <= 1.0


def test_evaluating_a_run_finds_the_errors_of_its_summary(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(bundle), "--style", "none", "--json", str(tmp_path / "found.json")]
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", *places])
    found = json.loads((tmp_path / "found.json").read_text())
    (summary,) = (json.loads(path.read_text()) for path in bundle.rglob("summary.json"))
    counted = {
        "cer": ("char_errors", "ref_chars"),
        "raw_cer": ("raw_char_errors", "raw_ref_chars"),
        "wer": ("word_errors", "ref_words"),
    }
    for name, (errors, length) in counted.items():
        rate = found["rates"][name]
        expected = summary["errors"][errors], summary["errors"][length]
        assert (rate["errors"], rate["length"]) == expected
    assert f"{len(BAD)} recordings were rejected" in capsys.readouterr().out


def test_the_summary_says_how_the_model_was_fed(bundle: Path) -> None:
    (summary,) = (json.loads(path.read_text()) for path in bundle.rglob("summary.json"))
    times = summary["feeding"]["times"]
    assert all(times[name] > 0 for name in ("read_s", "load_s", "queue_s", "model_s"))
    assert 0 < summary["busy_share"] <= 1
    assert summary["queue_depth"] > 0
    # Twelve minutes of speech take the bundled model less time than Ray takes to start it.
    assert summary["bound_by"] in ("start-up", "CPU", "load", "storage")
    assert 0 < summary["feeding"]["start_s"] < summary["wall_s"]


def test_silence_is_empty(bundle: Path) -> None:
    (row,) = [row for row in rows(bundle) if row["source_uri"].endswith("silence.wav")]
    assert row["is_empty"]


def errors(found: list[dict[str, Any]]) -> ErrorCounts:
    counts = (count_errors(row["reference"], row["text"]) for row in found)
    return sum(counts, ErrorCounts())


def test_clean_speech_has_few_errors_and_noise_has_more(bundle: Path) -> None:
    known = [row for row in rows(bundle) if row["reference"] and "/long/" not in row["source_uri"]]
    by_snr: dict[str, list[dict[str, Any]]] = {}
    for row in known:
        by_snr.setdefault(dict(row["metadata"]).get("snr", "clean"), []).append(row)
    cer = {snr: errors(found).cer for snr, found in by_snr.items()}
    assert cer["clean"] <= 0.03
    assert cer["20"] <= 0.15
    assert cer["clean"] <= cer["20"] <= cer["10"] < cer["0"]
    confidence = {snr: np.mean([row["confidence"] or 0 for row in f]) for snr, f in by_snr.items()}
    assert confidence["clean"] > confidence["10"] > confidence["0"]


def long_rows(bundle: Path, name: str) -> list[dict[str, Any]]:
    found = [row for row in rows(bundle) if row["source_uri"].endswith(f"/long/{name}")]
    return sorted(found, key=lambda row: row["start_s"])


def placements(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((SPEECH / "placements.json").read_text())[
        f"long/{name}"
    ]
    return found


def test_long_recordings_are_covered_without_gap_or_overlap(bundle: Path) -> None:
    for name, num_seconds in (("pauses.ogg", 366), ("no_pause.flac", 63)):
        segments = long_rows(bundle, name)
        assert segments[0]["start_s"] == 0.0
        for one, other in itertools.pairwise(segments):
            assert one["end_s"] == pytest.approx(other["start_s"])
        assert segments[-1]["end_s"] == pytest.approx(num_seconds, abs=1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rows of the long recording's sentences, each cut out and transcribed alone, in order.

    With 0.15 s of the pause around each; the pauses are 0.4 s at least.
    """
    folder = tmp_path_factory.mktemp("alone")
    (shard,) = list_shards([str(SPEECH / "long" / "pauses.ogg")])
    (long,) = read_recordings(shard)
    assert isinstance(long, Recording)
    samples = load_waveform(long).samples
    members = []
    for index, place in enumerate(placements("pauses.ogg")):
        start, end = (round(place[key] * 16_000) for key in ("start_s", "end_s"))
        cut = samples[start - MARGIN : end + MARGIN]
        members += [(f"{index:03d}.flac", encode(cut))]
        members += [(f"{index:03d}.txt", place["text"].encode())]
    write_tar(folder / "alone.tar", members)
    assert run([str(folder / "alone.tar")], folder / "out")[0] == 0
    return sorted(rows(folder / "out"), key=lambda row: str(row["source_key"]))


def test_a_long_recording_reads_like_its_sentences_alone(
    bundle: Path, alone: list[dict[str, Any]]
) -> None:
    text = " ".join(row["text"] for row in long_rows(bundle, "pauses.ogg"))
    joined = count_errors(" ".join(p["text"] for p in placements("pauses.ogg")), text)
    assert abs(joined.cer - errors(alone).cer) <= 0.005


def test_word_times_are_where_the_sentences_were_placed(
    bundle: Path, alone: list[dict[str, Any]]
) -> None:
    """A word of the long recording lies where it lies in its sentence, from where that was put.

    Only words of sentences that read the same both times can be compared. A CTC model may mark a
    syllable some frames earlier or later in other company, so one word in twenty may be further.
    """
    words = [word for row in long_rows(bundle, "pauses.ogg") for word in row["words"]]
    num_words = 0
    off: list[float] = []
    for row, place in zip(alone, placements("pauses.ogg"), strict=True):
        origin_s = place["start_s"] - MARGIN / 16_000
        inside = [w for w in words if origin_s <= w["start_s"] < place["end_s"] + 0.2]
        num_words += len(row["words"])
        if [w["text"] for w in inside] == [w["text"] for w in row["words"]]:
            for ours, theirs in zip(inside, row["words"], strict=True):
                shifts = [ours[key] - theirs[key] - origin_s for key in ("start_s", "end_s")]
                off.append(max(map(abs, shifts)))
    assert len(off) >= num_words / 2
    assert np.mean(np.array(off) <= 0.0601) >= 0.95
    assert max(off) <= 0.15


def test_sentences_start_where_they_were_placed(bundle: Path) -> None:
    """Within 60 ms in the middle: a CTC model marks a syllable a little before or after it."""
    words = [word for row in long_rows(bundle, "pauses.ogg") for word in row["words"]]
    starts = np.array([word["start_s"] for word in words])
    off = [np.abs(starts - place["start_s"]).min() for place in placements("pauses.ogg")]
    assert np.median(off) <= 0.060
    assert max(off) <= 0.25


def snapshot(output: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in output.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def test_running_a_finished_run_again_does_nothing(bundle: Path) -> None:
    before = snapshot(bundle)
    code, printed = run([str(SPEECH)], bundle, date="2026-11-23")
    assert code == 0
    assert "nothing to do" in printed
    assert snapshot(bundle) == before


def test_the_next_night_does_only_what_is_new(tmp_path: Path) -> None:
    flac = encode(tone(1.0))
    corpus, output = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    write_tar(corpus / "a.tar", [("1.flac", flac)])
    (corpus / "1.flac").write_bytes(flac)
    assert run([str(corpus)], output, date="2026-11-22")[0] == 0
    write_tar(corpus / "b.tar", [("1.flac", flac), ("2.flac", flac)])
    (corpus / "2.flac").write_bytes(flac)
    code, printed = run([str(corpus)], output, date="2026-11-23")
    assert code == 0
    assert "to do: 1 and 1" in printed
    second = ds.dataset(str(output / "transcripts" / "date=2026-11-23"), format="parquet")
    found = Counter(Path(uri).name for uri in second.to_table()["source_uri"].to_pylist())
    assert found == {"b.tar": 2, "2.flac": 1}


def test_more_rejects_than_allowed_is_exit_code_3(tmp_path: Path) -> None:
    code, printed = run([str(SPEECH / "bad")], tmp_path, max_reject_rate=0.5)
    assert code == 3
    assert "100.0% rejected" in printed


def test_an_output_made_another_way_is_refused(bundle: Path) -> None:
    with pytest.raises(JobError, match="precision: float32 there, bfloat16 here") as failure:
        run([str(SPEECH)], bundle, precision="bfloat16")
    assert "\n" not in str(failure.value)


def test_an_output_below_an_input_is_not_an_input(tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes(encode(tone(1.0)))
    assert run([str(tmp_path)], tmp_path / "out")[0] == 0
    assert "nothing to do" in run([str(tmp_path)], tmp_path / "out")[1]


def test_an_empty_shard_is_committed_with_no_rows(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", [("notes.md", b"nothing")])
    assert run([str(tmp_path / "empty.tar")], tmp_path / "out")[0] == 0
    assert rows(tmp_path / "out") == []
    assert "nothing to do" in run([str(tmp_path / "empty.tar")], tmp_path / "out")[1]


def test_pool_size_and_micro_batches_do_not_change_rows(bundle: Path, tmp_path: Path) -> None:
    code, _ = run([str(SPEECH)], tmp_path, num_actors=2, batch_seconds=7, max_reject_rate=0.1)
    assert code == 0
    ours = {row["segment_id"]: row for row in rows(tmp_path)}
    theirs = {row["segment_id"]: row for row in rows(bundle)}
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():
        other = theirs[name]
        assert row["text"] == other["text"]
        keys = ("text", "start_s", "end_s")
        words, others = ([[w[k] for k in keys] for w in r["words"]] for r in (row, other))
        assert words == others
        assert row["is_empty"] or abs(row["confidence"] - other["confidence"]) <= 1e-4


def _many_packs(folder: Path) -> Path:
    """A tar of twelve recordings of half a minute, and one of a single short one."""
    speech, rate_hz = soundfile.read(SPEECH / "long" / "pauses.ogg", dtype="int16")
    parts = np.split(speech[: 360 * rate_hz], 12)
    members = [(f"{i:02d}.flac", encode(part, rate_hz)) for i, part in enumerate(parts)]
    write_tar(folder / "big.tar", [*members, ("bad.wav", b"no audio")])
    write_tar(folder / "small.tar", [("1.flac", encode(tone(2.0)))])
    return folder


@pytest.mark.timeout(400)
def test_a_killed_run_goes_on_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    corpus, output = _many_packs(tmp_path / "in"), tmp_path / "out"
    command = [sys.executable, str(ROOT / "pipelines" / "transcribe.py"), str(corpus)]
    command += ["--output", str(output), "--model", MODEL, "--max-reject-rate", "0.5"]
    command += ["--pack-seconds", "60"]
    job = subprocess.Popen(command, start_new_session=True, env=os.environ | {"RAY_ADDRESS": ""})
    deadline = time.monotonic() + 200
    while len(list(output.rglob("*.arrows"))) < 2:
        assert job.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    staged = list(output.rglob("*.arrows"))
    assert not list(output.glob("transcripts/*/big.*"))
    options: dict[str, Any] = {"max_reject_rate": 0.5, "pack_seconds": 60.0}
    code, printed = run([str(corpus)], output, **options)
    assert code == 0
    assert "going on with the unfinished run" in printed
    (summary,) = (json.loads(p.read_text()) for p in output.rglob("summary.json"))
    assert summary["session_audio_s"] <= summary["audio_s"] - 59 * len(staged)
    assert not list(output.rglob("*.arrows"))
    assert run([str(corpus)], tmp_path / "undisturbed", **options)[0] == 0
    key = ("segment_id", "text", "start_s", "end_s")
    ours, theirs = (
        sorted(tuple(row[k] for k in key) for row in rows(place))
        for place in (output, tmp_path / "undisturbed")
    )
    assert ours == theirs
    assert [row["source_key"] for row in rows(output, "rejects")] == ["bad.wav"]


def test_the_seeds_small_twin_converts_loads_and_transcribes(tmp_path: Path) -> None:
    convert(str(seed_2022(tmp_path / "seed", small=True)), out=str(tmp_path / "model"))
    model, output = str(tmp_path / "model"), tmp_path / "out"
    assert run([str(SPEECH / "kspon")], output, model=model)[0] == 0
    assert len({row["recording_id"] for row in rows(output)}) == 6
    assert not any(token in row["text"] for row in rows(output) for token in ("[", "<", "|"))


def test_a_group_norm_checkpoint_runs(tmp_path: Path) -> None:
    model = str(tiny_group_norm(tmp_path / "model"))
    assert run([str(SPEECH / "kspon")], tmp_path / "out", model=model)[0] == 0
    assert len(rows(tmp_path / "out")) == 6


def test_what_an_actor_refuses_is_one_line(tmp_path: Path) -> None:
    model = tiny(tmp_path / "model")
    checkpoint = open_checkpoint(str(model))
    (model / "vocab.json").write_text("{}")
    with pytest.raises(JobError) as failure:
        transcribe(
            [str(SPEECH / "kspon")],
            str(tmp_path / "out"),
            checkpoint,
            Options(),
            DEFAULT_LIMITS,
            Console(),
        )
    assert "\n" not in str(failure.value)
    assert "vocab.json" in str(failure.value)


@pytest.mark.parametrize("cpus", [1, 2, 4, 16, 96])
@pytest.mark.parametrize(
    ("device", "num_actors"), [("cpu", None), ("cpu", 2), ("cpu", 7), ("cpu", 8), ("cuda", None)]
)
def test_actors_leave_cpus_to_those_who_feed_them(
    cpus: int, device: str, num_actors: int | None
) -> None:
    found = settle_compute(Options(num_actors=num_actors), device, {"CPU": cpus, "GPU": 8})
    feeding = found.read_cpus + found.load_cpus + found.stage_cpus + job.COMMIT_CPUS
    assert found.num_actors * found.actor_cpus + feeding <= cpus
    # Ray fuses stages that ask for the same.
    assert len({found.read_cpus, found.load_cpus, found.stage_cpus}) == 3
    assert found.load_cpus != found.actor_cpus


def test_loading_never_runs_in_the_models_process(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("1.flac", encode(tone(1.0)))])
    checkpoint = open_checkpoint(MODEL)
    run_ = Run(str(tmp_path / "out"), "r", "2026-11-22", "f")
    write_plan(run_, list_shards([str(tmp_path / "a.tar")]))
    compute = settle_compute(Options(), "cpu", {"CPU": 2})
    work = Work(checkpoint.samples_per_frame, 1200.0, DEFAULT_LIMITS)
    ledger = open_ledger(run_, read_plan(run_), {})
    dataset = job.transcribe_shards(ledger, work, checkpoint, compute)
    table = pa.concat_tables(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    assert table.num_rows == 1
    operators = [line for line in dataset.stats().splitlines() if line.startswith("Operator")]
    for name in ("read_packs", "load_audio", "Transcribe", "stage"):
        (line,) = [line for line in operators if name in line]
        assert (
            sum(other in line for other in ("read_packs", "load_audio", "Transcribe", "stage")) == 1
        )
