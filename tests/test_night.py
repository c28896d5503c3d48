"""Whole nights on a local cluster: what the same command does again, and what it leaves."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
from checkpoints import tiny
from sound import encode, tone
from test_cli import call
from test_telling import told

from koasr import night_steps
from koasr.checkpoint import open_checkpoint
from koasr.runs import Run, fingerprint_of, write_format, write_plan
from koasr.sources import list_shards
from koasr.transcribe import fingerprint_parts

pytestmark = pytest.mark.usefixtures("ray_cluster")
FIRST, SECOND, THIRD = "2026-11-20", "2026-11-21", "2026-11-22"


class World:
    """A folder of speech a day, a model, and the command of a night."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"
        self.model = str(tiny(folder / "model"))
        self.flags = ["--output", str(self.output), "--model", self.model]
        self.flags += ["--notify.file", str(folder / "told" / "{date}.json")]
        self.flags += ["--transcribe.device", "cpu"]

    def speak(self, date: str, *names: str) -> None:
        (self.folder / "in" / date).mkdir(parents=True, exist_ok=True)
        for name in names:
            (self.folder / "in" / date / name).write_bytes(encode(tone(1.5), kind="WAV"))

    def night(self, capsys: pytest.CaptureFixture[str], code: int, *flags: str) -> dict[str, Any]:
        """The line of a night that ends with this code."""
        capsys.readouterr()
        assert call("nightly", f"{self.folder}/in/{{date}}", *self.flags, *flags) == code
        return told(capsys.readouterr().out)

    def told(self, date: str) -> dict[str, Any]:
        """What the file was told, once: it is taken away."""
        place = self.folder / "told" / f"{date}.json"
        document: dict[str, Any] = json.loads(place.read_text())
        place.unlink()
        return document

    def record(self, date: str) -> dict[str, Any]:
        place = self.output / "_koasr" / "nights" / f"{date}.json"
        document: dict[str, Any] = json.loads(place.read_text())
        return document

    def names(self) -> list[tuple[str, str]]:
        """(date, file) of every row."""
        partitioning = ds.partitioning(flavor="hive")
        table = ds.dataset(self.output / "transcripts", partitioning=partitioning).to_table()
        rows = table.select(["date", "source_uri"]).to_pylist()
        return sorted((row["date"], Path(row["source_uri"]).name) for row in rows)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_same_command_does_again_what_failed_and_nothing_else(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.speak(FIRST, "a.wav", "b.wav")
    references = ["--evaluate.references", f"{world.folder}/{{date}}.tsv"]
    line = world.night(capsys, 1, "--date", FIRST, *references)
    assert (line["steps"]["transcribe"], line["steps"]["evaluate"]) == ("done", "failed")
    assert line["steps"]["report"] == line["steps"]["notify"] == "done"
    assert Path(line["report"]).is_file()
    assert "failed; evaluate: " in world.told(FIRST)["text"]

    (world.folder / f"{FIRST}.tsv").write_text("path\ttext\na.wav\t가\nb.wav\t나\n")
    line = world.night(capsys, 0, "--date", FIRST, *references)
    assert (line["state"], line["runs"]) == ("done", [])
    steps = world.record(FIRST)["steps"]
    attempts = {name: step["attempts"] for name, step in steps.items()}
    assert attempts == {
        **dict.fromkeys(("list", "transcribe", "evaluate", "select", "report", "notify"), 2),
        "verify": 1,
    }
    assert steps["transcribe"]["found"]["recordings"] == 2
    assert steps["evaluate"]["found"]["cer"] > 0
    assert Path(line["report"]).with_name("evaluation.json").is_file()
    assert world.told(FIRST)["state"] == "done"

    world.night(capsys, 0, "--date", FIRST, *references)
    after = world.record(FIRST)["steps"]
    assert [after[name] for name in ("verify", "evaluate", "report", "notify")] == [
        steps[name] for name in ("verify", "evaluate", "report", "notify")
    ]
    assert not (world.folder / "told" / f"{FIRST}.json").exists()


def test_a_range_goes_on_after_a_night_without_speech_and_finishes_an_older_run(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.speak(FIRST, "a.wav")
    parts = fingerprint_parts(open_checkpoint(world.model), "float32")
    cut_off = Run(str(world.output), f"{FIRST}-aaaaaa", FIRST, fingerprint_of(parts))
    write_format(cut_off.output, parts)
    write_plan(cut_off, list_shards([f"{world.folder}/in/{FIRST}"]))
    world.speak(THIRD, "b.wav")
    line = world.night(capsys, 1, "--dates", f"{SECOND}..{THIRD}")
    assert [(night["date"], night["state"]) for night in line["nights"]] == [
        (SECOND, "failed"),
        (FIRST, "done"),
        (THIRD, "done"),
    ]
    assert world.names() == [(FIRST, "a.wav"), (THIRD, "b.wav")]
    pages = {world.record(date)["report"] for date in (FIRST, THIRD)}
    assert len(pages) == 2
    assert all(Path(page).is_file() for page in pages)
    assert [world.told(date)["exit_code"] for date in (FIRST, SECOND, THIRD)] == [0, 1, 0]


def test_a_night_that_is_told_to_end_ends_and_goes_on_later(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.speak(FIRST, "a.wav")

    def verify(*_: Any, **__: Any) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    with monkeypatch.context() as patch:
        patch.setattr(night_steps, "verify", verify)
        line = world.night(capsys, 4, "--date", FIRST)
    assert (line["state"], line["reason"]) == ("stopped", "SIGTERM")
    assert line["steps"] == {
        **{"list": "done", "transcribe": "done", "verify": "stopped", "notify": "done"},
        **dict.fromkeys(("evaluate", "select", "report"), "skipped"),
    }
    assert world.record(FIRST)["steps"]["report"]["reason"] == "the night was told to end"
    line = world.night(capsys, 0, "--date", FIRST)
    assert line["steps"]["verify"] == line["steps"]["report"] == "done"
