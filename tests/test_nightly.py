"""Night after night on one output: what changed, vanished, is tried again or forgotten."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from checkpoints import tiny
from rich.console import Console
from sound import encode, tone, write_tar

from koasr.checkpoint import open_checkpoint
from koasr.errors import JobError
from koasr.forget import forget
from koasr.lease import Lease
from koasr.limits import Limits
from koasr.options import Options
from koasr.transcribe import retry, transcribe
from koasr.verify import verify

pytestmark = pytest.mark.usefixtures("ray_cluster")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny(tmp_path_factory.mktemp("model")))


class Night:
    """An input folder and an output, and the commands on them."""

    def __init__(self, folder: Path, model: str) -> None:
        self.input, self.output = folder / "in", folder / "out"
        self.input.mkdir(exist_ok=True)
        self._checkpoint = open_checkpoint(model)

    def run(self, command: Callable[..., int], source: Any, **options: Any) -> str:
        """What the command printed; it must succeed."""
        limits = Limits(**options.pop("limits", {}))
        console = Console(record=True, width=300)
        place = (source, str(self.output)) if command is transcribe else (str(self.output), source)
        asked = Options(max_reject_rate=1.0, **options)
        assert command(*place, self._checkpoint, asked, limits, console) == 0
        return console.export_text()

    def transcribe(self, **options: Any) -> str:
        return self.run(transcribe, [str(self.input)], **options)

    def rows(self, table: str = "transcripts") -> list[dict[str, Any]]:
        found = ds.dataset(f"{self.output}/{table}", format="parquet").to_table().to_pylist()
        return sorted(found, key=lambda row: str(row["recording_id"]))

    def names(self, table: str = "transcripts") -> Counter[str]:
        """Loose files by name, members of shards by key."""
        rows = self.rows(table)
        return Counter(row["source_key"] or Path(row["source_uri"]).name for row in rows)

    def is_sound(self) -> bool:
        return verify(str(self.output)) == 0


def fill(folder: Path) -> None:
    """Two tars of two recordings, two loose files."""
    for name in ("a", "b"):
        members = [(f"{name}{i}.wav", encode(tone(1.0 + i), kind="WAV")) for i in range(2)]
        write_tar(folder / f"{name}.tar", members)
    for i in range(2):
        (folder / f"loose{i}.wav").write_bytes(encode(tone(1.5), kind="WAV"))


@pytest.fixture
def night(tmp_path: Path, model: str) -> Night:
    """Nothing is done yet."""
    night = Night(tmp_path, model)
    fill(night.input)
    return night


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, model: str, ray_cluster: None) -> Path:
    """A folder in which a first night is done, and a copy of all that it left."""
    folder = tmp_path_factory.mktemp("done")
    night = Night(folder, model)
    fill(night.input)
    night.transcribe(date="2026-11-22")
    for name in ("in", "out"):
        shutil.copytree(folder / name, folder / "kept" / name)
    return folder


@pytest.fixture
def morning(done: Path, model: str) -> Night:
    """After the first night, at the place where it was done: a copy elsewhere would be new."""
    for name in ("in", "out"):
        shutil.rmtree(done / name)
        shutil.copytree(done / "kept" / name, done / name)
    return Night(done, model)


def test_what_changed_takes_the_place_of_its_old_version_and_nothing_else_is_done(
    morning: Night,
) -> None:
    before = morning.rows()
    write_tar(morning.input / "a.tar", [("a9.wav", encode(tone(1.2), kind="WAV"))])
    (morning.input / "loose0.wav").write_bytes(encode(tone(0.7), kind="WAV"))
    printed = morning.transcribe(date="2026-11-23")
    assert "to do: 1 and 1" in printed
    assert morning.names() == Counter(["a9.wav", "b0.wav", "b1.wav", "loose0.wav", "loose1.wav"])
    kept = {"b0.wav", "b1.wav", "loose1.wav"}
    after = {row["segment_id"]: row for row in morning.rows()}
    for row in before:
        if (row["source_key"] or Path(row["source_uri"]).name) in kept:
            assert after[row["segment_id"]] == row
    assert morning.is_sound()
    assert "nothing to do" in morning.transcribe()


def test_what_vanished_is_told_and_taken_out_only_when_asked(morning: Night) -> None:
    (morning.input / "a.tar").unlink()
    (morning.input / "loose1.wav").unlink()
    printed = morning.transcribe()
    assert "2 shards or files vanished" in printed
    assert len(morning.rows()) == 6
    assert "took 2 vanished" in morning.transcribe(prune=True)
    assert morning.names() == Counter(["b0.wav", "b1.wav", "loose0.wav"])
    assert morning.is_sound()


def test_a_retry_moves_what_it_recovers_and_touches_nothing_else(night: Night) -> None:
    (night.input / "bad.wav").write_bytes(b"no audio at all")
    night.transcribe(limits={"max_duration_s": 1.4})
    assert night.names("rejects") == Counter(
        ["a1.wav", "b1.wav", "loose0.wav", "loose1.wav", "bad.wav"]
    )
    done = {row["segment_id"]: row for row in night.rows()}
    printed = night.run(retry, ["too_long"], limits={"max_duration_s": 1.9})
    assert "retrying what was rejected as too_long on 2" in printed
    assert night.names("rejects") == Counter(["a1.wav", "b1.wav", "bad.wav"])
    assert night.names() == Counter(["a0.wav", "b0.wav", "loose0.wav", "loose1.wav"])
    after = {row["segment_id"]: row for row in night.rows()}
    assert all(after[name] == row for name, row in done.items())
    assert night.is_sound()
    assert "it has 2 too_long, 1 unsupported_format: name them" in night.run(retry, ["timeout"])
    assert "nothing to do" in night.transcribe()


def test_what_is_forgotten_stays_out_of_later_nights(morning: Night, tmp_path: Path) -> None:
    ids = [r["recording_id"] for r in morning.rows() if r["source_key"] == "a0.wav"]
    ids += [r["recording_id"] for r in morning.rows() if r["source_uri"].endswith("loose0.wav")]
    (tmp_path / "ids.txt").write_text("\n".join(ids))
    forget(str(morning.output), ids=tmp_path / "ids.txt")
    left = Counter(["a1.wav", "b0.wav", "b1.wav", "loose1.wav"])
    assert morning.names() == left
    assert "nothing to do" in morning.transcribe()
    members = [(f"a{i}.wav", encode(tone(1.1), kind="WAV")) for i in range(2)]
    write_tar(morning.input / "a.tar", members)
    (morning.input / "loose0.wav").write_bytes(encode(tone(0.9), kind="WAV"))
    morning.transcribe()
    assert morning.names() == left
    assert morning.is_sound()


def test_without_a_gpu_nothing_is_planned_that_only_a_gpu_could_do(night: Night) -> None:
    with pytest.raises(JobError, match="GPU"):
        night.transcribe(device="cuda", wait_for_gpu=1.0)
    night.transcribe()
    assert len(night.rows()) == 6


def test_a_second_driver_says_who_is_at_it(night: Night) -> None:
    with (
        Lease(str(night.output), beat_s=0.3),
        pytest.raises(JobError, match=r"is being done by .* pid"),
    ):
        night.transcribe()
    night.transcribe()
    assert len(night.rows()) == 6


def test_a_finished_output_asks_for_no_cluster_and_no_model(
    morning: Night, monkeypatch: pytest.MonkeyPatch
) -> None:

    def refuse(*_: object) -> None:
        raise AssertionError("connected")

    monkeypatch.setattr("koasr.transcribe._connect", refuse)
    assert "nothing to do" in morning.transcribe()
