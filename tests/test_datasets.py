"""Training sets, loaded by the libraries they are for."""

import csv
import dataclasses
import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile
from sound import encode, tone
from test_clips import bundled, cut, samples_of, transcripts

from koasr.audio import Samples
from koasr.clips import Clip
from koasr.datasets import Format, key_of, split_parts, write_index, write_part
from koasr.readers import read_recordings
from koasr.rows import Recording
from koasr.sources import list_shards
from koasr.storage import list_files, read_bytes

SELECTION = "--max-expected-cer 0.05"
PROVENANCE = ["segment_id", "source_uri", "source_key", "source_version", "start_s", "end_s"]
PROVENANCE += ["confidence", "calibration", "expected_cer", "model", "model_revision"]
PROVENANCE += ["fingerprint"]
FORMATS = get_args(Format)


def made() -> list[Clip]:
    """Clips of the bundled manifest, and of a recording with an awkward name and text."""
    shard = bundled("manifest")
    clips, _ = cut(shard, transcripts(shard, expected_cer=0.25))
    awkward = dataclasses.replace(
        clips[0],
        segment_id="../a.b/c d{0}\n한국#0",
        source_key='k,"1"',
        audio=encode(tone(0.5)),
        num_samples=8000,
        text='가, "나"\n다 <unk>',
        expected_cer=None,
    )
    return [*clips, awkward]


CLIPS = made()


def write(to: Format, out: str) -> None:
    """A set of two parts."""
    lines = [
        write_part(part, f"a.b-{number:05d}", to, out, SELECTION)
        for number, part in enumerate((CLIPS[:5], CLIPS[5:]))
    ]
    write_index(lines, to, out, SELECTION)


def heard(audio: bytes | str) -> Samples:
    source = io.BytesIO(audio) if isinstance(audio, bytes) else audio
    samples, rate = soundfile.read(source, dtype="int16")
    assert rate == 16_000
    return np.asarray(samples)


def check(found: list[dict[str, Any]]) -> None:
    """Rows with samples, text, duration and provenance, as they are in the clips."""
    by_id = {row["segment_id"]: row for row in found}
    assert len(by_id) == len(found) == len(CLIPS)
    for clip in CLIPS:
        row = by_id[clip.segment_id]
        assert np.array_equal(row["samples"], samples_of(clip))
        assert row["text"] == clip.text
        assert row["duration"] == clip.num_samples / 16_000
        assert {name: row[name] for name in PROVENANCE} == {
            name: getattr(clip, name) for name in PROVENANCE
        }
        assert row["selection"] == SELECTION


def nemo(out: str) -> Iterator[dict[str, Any]]:
    with open(f"{out}/manifest.jsonl", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            # As NeMo does: a path that is not in full starts from the manifest.
            yield row | {"samples": heard(f"{out}/{row['audio_filepath']}")}


def hf(out: str) -> Iterator[dict[str, Any]]:
    import datasets

    found = datasets.load_dataset(out, cache_dir=f"{out}/../cache")
    assert list(found) == ["train"]
    assert found["train"].features["audio"] == datasets.Audio(sampling_rate=16_000)
    # Decoded by `datasets` itself they would need torchcodec.
    for row in found["train"].cast_column("audio", datasets.Audio(decode=False)):
        yield row | {"samples": heard(row["audio"]["bytes"])}


def webdataset(out: str) -> Iterator[dict[str, Any]]:
    import webdataset as wds

    tars = [file.uri for file in list_files(f"{out}/shards")]
    for row in wds.WebDataset(tars, shardshuffle=False).decode():
        yield row["json"] | {"text": row["txt"], "samples": heard(row["flac"])}


def lhotse(out: str) -> Iterator[dict[str, Any]]:
    from lhotse import CutSet, validate

    cuts = CutSet.from_file(f"{out}/cuts.jsonl.gz")
    validate(cuts.to_eager(), read_data=True)
    for found in cuts:
        (supervision,) = found.supervisions
        samples = np.round(found.load_audio()[0] * 32_768).astype(np.int16)
        row = {"samples": samples, "text": supervision.text, "duration": found.duration}
        yield row | supervision.custom


def as_csv(out: str) -> Iterator[dict[str, Any]]:
    with open(f"{out}/clips.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            numbers = ("duration", "confidence", "start_s", "end_s", "expected_cer")
            parsed = {name: float(row[name]) if row[name] else None for name in numbers}
            yield row | parsed | {"samples": heard(f"{out}/{row['path']}")}


READERS = {"nemo": nemo, "hf": hf, "webdataset": webdataset, "lhotse": lhotse, "csv": as_csv}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))


@pytest.mark.parametrize("to", FORMATS)
def test_its_library_loads_a_set(to: Format, tmp_path: Path) -> None:
    write(to, str(tmp_path / "set"))
    check(list(READERS[to](str(tmp_path / "set"))))


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_clips_are_the_same_bytes(to: Format, tmp_path: Path) -> None:
    out = str(tmp_path / "set")
    found = []
    for _ in range(2):
        write(to, out)
        found.append({file.uri: read_bytes(file.uri) for file in list_files(out)})
    assert found[0] == found[1]


@pytest.mark.parametrize("to", FORMATS)
def test_a_set_in_a_store_is_the_set_on_a_disk(to: Format, s3: str, tmp_path: Path) -> None:
    held = {}
    for out in (f"{s3}/set", str(tmp_path / "set")):
        write(to, out)
        files = {f.uri.removeprefix(out): read_bytes(f.uri) for f in list_files(out)}
        held[out] = {name: data for name, data in files.items() if "cuts" not in name}
    one, other = held.values()
    assert one == other
    assert one


def test_a_cut_of_a_set_in_a_store_names_its_audio_there(s3: str) -> None:
    write("lhotse", f"{s3}/set")
    lines = gzip.decompress(read_bytes(f"{s3}/set/cuts.jsonl.gz")).decode().splitlines()
    sources = [json.loads(line)["recording"]["sources"][0] for line in lines]
    assert {source["type"] for source in sources} == {"url"}
    assert [read_bytes(source["source"]) for source in sources] == [clip.audio for clip in CLIPS]


@pytest.mark.parametrize("to", ["nemo", "hf", "webdataset"])
def test_koasr_reads_a_set_as_speech_with_references(to: Format, tmp_path: Path) -> None:
    write(to, str(tmp_path))
    shards = list_shards([str(tmp_path)])
    items = [item for shard in shards for item in read_recordings(shard)]
    assert all(isinstance(item, Recording) for item in items)
    assert {(r.reference, r.audio) for r in items if isinstance(r, Recording)} == {
        (clip.text, clip.audio) for clip in CLIPS
    }


def test_the_name_of_a_shard_does_not_make_its_clips_another_split(tmp_path: Path) -> None:
    import datasets

    out = str(tmp_path / "set")
    for name in ("test-clean-00000", "validation-00000", "train-00000"):
        write_part(CLIPS[:2], name, "hf", out, SELECTION)
    write_index([], "hf", out, SELECTION)
    found = datasets.load_dataset(out, cache_dir=str(tmp_path / "cache"))
    assert {name: part.num_rows for name, part in found.items()} == {"train": 6}


def test_names_of_files_are_not_those_of_recordings(tmp_path: Path) -> None:
    write("csv", str(tmp_path / "set"))
    paths = sorted(file.uri for file in list_files(str(tmp_path)))
    assert len(paths) == len(CLIPS) + 1
    assert {Path(path).stem for path in paths} == {key_of(clip) for clip in CLIPS} | {"clips"}


def test_parts_hold_an_hour_and_every_clip_in_order() -> None:
    clip = dataclasses.replace(CLIPS[0], audio=b"x" * (10 << 20))
    huge = dataclasses.replace(CLIPS[0], audio=b"x" * (70 << 20))
    parts = list(split_parts([clip] * 8 + [huge] + [clip]))
    assert [len(part) for part in parts] == [6, 2, 1, 1]
    assert list(split_parts([])) == []
