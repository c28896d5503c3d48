"""Rows of transcripts → clips: the very samples of their recordings, or why there are none."""

import dataclasses
import io
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from sound import encode, tone

from koasr.audio import Samples, load_waveform, stream_audio
from koasr.clips import Clip, Skipped, cut_clips, cut_spans
from koasr.decoder import Decoder
from koasr.errors import TransientError
from koasr.limits import Limits
from koasr.readers import read_recordings
from koasr.rows import SAMPLE_RATE, Recording, Reject, Shard
from koasr.segments import cut_segments
from koasr.sources import list_shards
from koasr.transcripts import TRANSCRIPTS

SPEECH = Path(__file__).parent.parent / "examples" / "speech"
KINDS = ["webdataset", "parquet", "folder", "manifest", "kspon", "zeroth", "long", "silence"]


def row(item: Recording | Reject, start_s: float, end_s: float, **columns: Any) -> dict[str, Any]:
    """A transcript of a segment whose only word lasts from 0.5 to 1 s after its start."""
    names = ("recording_id", "source_uri", "source_key", "source_version")
    found = {name: getattr(item, name) for name in names} | {"start_s": start_s, "end_s": end_s}
    found["segment_id"] = f"{item.recording_id}#{round(start_s * 1000)}"
    found["text"] = getattr(item, "reference", None) or "가"
    word = {"text": "가", "start_s": start_s + 0.5, "end_s": start_s + 1.0, "confidence": 0.5}
    found |= {"words": [word], "is_empty": False, "confidence": 0.75, "calibration": "raw"}
    return found | {"model": "m", "model_revision": "r", "fingerprint": "f"} | columns


def transcripts(shard: Shard, **columns: Any) -> pa.Table:
    """Rows of every segment of a shard, last first."""
    rows = []
    for item in read_recordings(shard):
        assert isinstance(item, Recording)
        for segment in cut_segments([load_waveform(item).samples], 320):
            start_s = segment.start / SAMPLE_RATE
            end_s = start_s + len(segment.samples) / SAMPLE_RATE
            rows.append(row(item, start_s, end_s, **columns))
    return table(*reversed(rows))


def table(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=TRANSCRIPTS)


def bundled(kind: str) -> Shard:
    (shard,) = list_shards([str(SPEECH / kind)])
    return shard


def samples_of(clip: Clip) -> Samples:
    samples, rate = soundfile.read(io.BytesIO(clip.audio), dtype="int16")
    assert rate == SAMPLE_RATE
    return np.asarray(samples)


def cut(shard: Shard, rows: pa.Table, **options: Any) -> tuple[list[Clip], Counter[str]]:
    found = list(cut_clips(shard, rows, stream_audio, **options))
    clips = [item for item in found if isinstance(item, Clip)]
    skipped = [item for item in found if isinstance(item, Skipped)]
    ids = [item.segment_id for item in found]
    assert sorted(ids) == sorted(rows["segment_id"].to_pylist())
    return clips, Counter(item.why for item in skipped)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_is_the_samples_of_its_segment(kind: str) -> None:
    shard = bundled(kind)
    rows = transcripts(shard)
    clips, skipped = cut(shard, rows)
    assert not skipped
    heard = {r.recording_id: load_waveform(r).samples for r in recordings(shard)}
    for clip in clips:
        start, end = round(clip.start_s * SAMPLE_RATE), round(clip.end_s * SAMPLE_RATE)
        assert np.array_equal(samples_of(clip), heard[clip.recording_id][start:end])
        assert clip.num_samples == end - start
    assert sum(clip.num_samples for clip in clips) == sum(map(len, heard.values()))
    # In the order of the shard, and of time.
    order = list(heard)
    places = [(order.index(clip.recording_id), clip.start_s) for clip in clips]
    assert places == sorted(places)


def recordings(shard: Shard) -> list[Recording]:
    return [item for item in read_recordings(shard) if isinstance(item, Recording)]


def test_a_clip_carries_its_transcript() -> None:
    shard = bundled("manifest")
    rows = transcripts(shard, expected_cer=0.25)
    clips, _ = cut(shard, rows)
    by_id = {found["segment_id"]: found for found in rows.to_pylist()}
    for clip in clips:
        names = dataclasses.asdict(clip).keys() - {"audio", "num_samples"}
        assert {name: getattr(clip, name) for name in names} == {
            name: by_id[clip.segment_id][name] for name in names
        }


@pytest.mark.parametrize(
    ("words", "start_s", "end_s"),
    [
        ([(1.0, 1.5)], 0.8, 2.0),
        ([(0.1, 0.2), (1.0, 1.5)], 0.0, 2.0),
        ([(1.0, 2.3)], 0.8, 2.4),
        ([], 0.0, 2.4),
    ],
)
def test_trimmed_it_begins_before_the_first_word_and_ends_after_the_last(
    words: list[tuple[float, float]], start_s: float, end_s: float
) -> None:
    shard = bundled("kspon")
    first = recordings(shard)[0]
    held = [{"text": "가", "start_s": a, "end_s": b, "confidence": 0.5} for a, b in words]
    rows = table(row(first, 0.0, 2.4, words=held))
    ((clip,), _) = cut(shard, rows, trim=True)
    assert (clip.start_s, clip.end_s) == (start_s, end_s)
    assert clip.duration_s == pytest.approx(end_s - start_s)
    heard = load_waveform(first).samples[round(start_s * 16_000) : round(end_s * 16_000)]
    assert np.array_equal(samples_of(clip), heard)
    ((whole,), _) = cut(shard, rows)
    assert (whole.start_s, whole.end_s) == (0.0, 2.4)


@pytest.mark.parametrize("seed", range(20))
def test_spans_do_not_depend_on_the_blocks(seed: int) -> None:
    chance = np.random.default_rng(seed)
    samples = chance.integers(-9, 9, 1000).astype(np.int16)
    cuts = np.sort(chance.integers(0, 1000, chance.integers(1, 20)))
    starts = np.sort(chance.integers(0, 1100, 10))
    spans = [(int(start), int(start + chance.integers(0, 300))) for start in starts]
    found = cut_spans(np.split(samples, cuts), spans)
    for (start, end), span in zip(spans, found, strict=True):
        assert np.array_equal(span, samples[start:end])


def test_what_changed_or_vanished_is_skipped_and_counted(tmp_path: Path) -> None:
    shutil.copytree(SPEECH / "folder", tmp_path, dirs_exist_ok=True)
    (shard,) = list_shards([str(tmp_path)])
    rows = transcripts(shard)
    changed, gone, *_ = sorted(tmp_path.glob("*.wav"))
    changed.write_bytes(changed.read_bytes() + b"0")
    gone.unlink()
    (tmp_path / "01_44100hz_stereo.txt").unlink()
    clips, skipped = cut(shard, rows)
    assert skipped == {"changed": 1, "vanished": 1}
    assert len(clips) == rows.num_rows - 2


@pytest.mark.parametrize(("change", "why"), [("touch", "changed"), ("remove", "vanished")])
@pytest.mark.parametrize("kind", ["webdataset", "parquet", "manifest"])
def test_a_shard_that_is_another_by_now_is_skipped(
    kind: str, change: str, why: str, tmp_path: Path
) -> None:
    shutil.copytree(SPEECH / kind, tmp_path / kind)
    (shard,) = list_shards([str(tmp_path / kind)])
    rows = transcripts(shard)
    if change == "touch":
        os.utime(shard.uri, (1, 1))
    else:
        os.unlink(shard.uri)
    assert cut(shard, rows) == ([], {why: rows.num_rows})


def test_a_recording_that_is_not_there_and_a_segment_past_the_end_are_skipped() -> None:
    shard = bundled("parquet")
    first, second = recordings(shard)[:2]
    stranger = dataclasses.replace(second, recording_id="x")
    rows = table(row(first, 0.0, 1.0), row(first, 1.0, 1e4), row(stranger, 0.0, 1.0))
    clips, skipped = cut(shard, rows)
    assert [clip.duration_s for clip in clips] == [1.0]
    assert skipped == {"truncated": 1, "vanished": 1}


def test_bad_recordings_are_skipped_with_the_reason_of_their_reject() -> None:
    shard = bundled("bad")
    rows = table(*(row(item, 0.0, 1.0) for item in recordings(shard)))
    clips, skipped = cut(shard, rows)
    assert not clips
    assert skipped == {"empty": 1, "truncated": 2, "non_finite": 1, "unsupported_format": 1}


def test_what_a_limit_refuses_is_skipped_with_its_reason() -> None:
    shard = bundled("zeroth")
    rows = transcripts(shard)
    stranger = rows.slice(0, 1).to_pylist()[0] | {"segment_id": "x#0", "recording_id": "x"}
    clips, skipped = cut(
        shard, pa.concat_tables([rows, table(stranger)]), limits=Limits(max_bytes=10)
    )
    assert (clips, skipped) == ([], {"too_large": rows.num_rows, "vanished": 1})


def test_of_a_shard_that_breaks_off_the_rest_is_skipped_with_the_reason_of_its_reject(
    tmp_path: Path,
) -> None:
    (tar,) = (SPEECH / "webdataset").glob("*.tar")
    copy = tmp_path / "a.tar"
    shutil.copy(tar, copy)
    rows = transcripts(list_shards([str(copy)])[0])
    copy.write_bytes(copy.read_bytes()[: copy.stat().st_size // 2])
    (shard,) = list_shards([str(copy)])
    *_, last = read_recordings(shard)
    assert isinstance(last, Reject)
    clips, skipped = cut(shard, rows)
    assert 20 < len(clips) < 40
    assert skipped == {last.reason: rows.num_rows - len(clips)}


def test_clips_before_a_fault_are_kept(tmp_path: Path) -> None:
    audio = encode(tone(6.0))
    (tmp_path / "a.flac").write_bytes(audio)
    (shard,) = list_shards([str(tmp_path)])
    (item,) = recordings(shard)

    def decode(recording: Recording) -> Any:
        info, _ = stream_audio(recording)
        return info, (np.full(16_000 // (4 - second), 1, np.int16) for second in range(9))

    rows = table(*(row(item, float(start_s), start_s + 1.0) for start_s in range(3)))
    found = list(cut_clips(shard, rows, decode))
    assert [getattr(part, "why", "clip") for part in found] == ["clip", "clip", "unreadable"]

    def fail(recording: Recording) -> Any:
        raise TransientError("no process starts")

    with pytest.raises(TransientError):
        list(cut_clips(shard, rows, fail))


def test_a_link_may_lead_to_where_it_might_when_all_files_were_read(tmp_path: Path) -> None:
    for name in ("in/a", "in/b", "out"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "real.flac").write_bytes(encode(tone(1.0)))
    (tmp_path / "in/b/near.flac").symlink_to("../a/real.flac")
    (tmp_path / "in/b/far.flac").symlink_to("../../out/real.flac")
    (shard,) = list_shards([str(tmp_path / "in")])
    links = [item for item in read_recordings(shard) if "real" not in item.recording_id]
    clips, skipped = cut(shard, table(*(row(item, 0.0, 1.0) for item in links)))
    assert ["near" in clip.recording_id for clip in clips] == [True]
    assert skipped == {"unreadable": 1}


def test_the_isolated_decoder_gives_the_same_bytes() -> None:
    shard = bundled("folder")
    rows = transcripts(shard)
    decoder = Decoder()
    try:
        assert list(cut_clips(shard, rows, decoder.stream)) == cut(shard, rows)[0]
    finally:
        decoder.close()
