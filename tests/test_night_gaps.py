"""Nights that were cut where it hurts: what they did is found again, told once and counted right.

Only the transcribing is a stand-in, which leaves what a run leaves; the rest is the command's own.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outputs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sound import encode, tone
from test_cli import call

from koasr import night_steps, nightly
from koasr.ending import Ending
from koasr.estimate import read_pace
from koasr.night import Night
from koasr.runs import Run, write_plan
from koasr.stopping import Stopped
from koasr.storage import join, write_bytes
from koasr.summary import Summary, summarize
from koasr.verify import verify

Transcribe = Callable[[str, str, list[Summary]], None]
FIRST, SECOND, THIRD = "2026-11-21", "2026-11-22", "2026-11-23"


def leave_run(output: str, date: str, told: list[Summary], num_rejects: int = 0) -> None:
    """What a run of one tar of six recordings leaves."""
    tar = outputs.tar(int(date[-2:]))
    run = outputs.begin(output, f"{date.replace('-', '')}T000000Z-aaaaaa", tar, date=date)
    record = outputs.commit(run, tar, dict.fromkeys(range(num_rejects), "truncated"))
    names = {"run_id": run.run_id, "date": date, "output": output, "model": "m"}
    names["fingerprint"] = run.fingerprint
    ending = Ending("done", 3, "too many rejects") if num_rejects else Ending()
    summary = summarize([record], names=names, session_audio_s=1.0, wall_s=1.0, ending=ending)
    write_bytes(join(run.folder, "summary.json"), summary.to_bytes())
    told.append(summary)


def nothing(output: str, date: str, told: list[Summary]) -> None:
    """Nothing is new."""


class World:
    """An output, and nights into it."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capsys: Any) -> None:
        (folder / "in").mkdir()
        (folder / "in" / "a.wav").write_bytes(encode(tone(1.0), kind="WAV"))
        self.folder, self._patch, self._capsys = folder, patch, capsys
        patch.setattr(night_steps, "check_stores", lambda _: None)
        patch.setattr(nightly, "open_model", lambda *_: None)

    def night(self, date: str, work: Transcribe, *flags: str) -> tuple[int, dict[str, Any]]:
        """Exit code and KOASR_SUMMARY of a night."""
        self._patch.setattr(
            night_steps,
            "transcribe",
            lambda inputs, output, model, options, limits, console, told: work(output, date, told),
        )
        place = [str(self.folder / "in"), "--output", str(self.folder / "out"), "--model", "m"]
        told = ["--notify.file", str(self.folder / "news.json")]
        code = call("nightly", *place, "--date", date, *told, *flags)
        lines = self._capsys.readouterr().out.splitlines()
        (line,) = (line for line in lines if line.startswith("KOASR_SUMMARY"))
        return code, json.loads(line.removeprefix("KOASR_SUMMARY"))

    def record(self, date: str) -> dict[str, Any]:
        place = self.folder / "out" / "_koasr" / "nights" / f"{date}.json"
        document: dict[str, Any] = json.loads(place.read_text())
        return document

    def news(self) -> str:
        return str(json.loads((self.folder / "news.json").read_text())["text"])


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> World:
    return World(tmp_path, monkeypatch, capsys)


def test_a_night_killed_behind_its_run_has_its_page_and_news_the_next_time(world: World) -> None:
    def killed(output: str, date: str, told: list[Summary]) -> None:
        leave_run(output, date, [])
        raise KeyboardInterrupt

    world.night(SECOND, killed)
    code, line = world.night(SECOND, nothing)
    assert (code, line["steps"]["report"]) == (0, "done")
    assert "6 recordings" in world.news()
    assert world.record(SECOND)["run_ids"] == ["20261122T000000Z-aaaaaa"]


def test_an_earlier_night_is_wrapped_up_though_the_one_that_ended_it_was_stopped(
    world: World,
) -> None:
    def stopped(output: str, date: str, told: list[Summary]) -> None:
        raise Stopped("SIGTERM")

    def ends_the_first(output: str, date: str, told: list[Summary]) -> None:
        leave_run(output, FIRST, told)
        raise Stopped("SIGTERM")

    assert world.night(FIRST, stopped)[0] == 4
    assert world.night(SECOND, ends_the_first)[0] == 4
    assert world.record(FIRST)["report"] is None
    code, line = world.night(THIRD, nothing)
    assert code == 0
    assert [told["date"] for told in line["nights"]] == [FIRST, THIRD]
    found = world.record(FIRST)
    assert (found["state"], len(found["run_ids"])) == ("done", 1)
    assert os.path.exists(found["report"])


def left_by(world: World, *, num_rejects: int = 0) -> None:
    """A night that was killed behind its run."""

    def killed(output: str, date: str, told: list[Summary]) -> None:
        raise Stopped("SIGTERM")

    world.night(FIRST, killed)
    leave_run(str(world.folder / "out"), FIRST, [], num_rejects)


def test_an_earlier_night_that_is_found_keeps_its_too_many_rejects(world: World) -> None:
    left_by(world, num_rejects=3)
    code, line = world.night(SECOND, nothing)
    assert code == 3
    assert [(told["date"], told["exit_code"]) for told in line["nights"]] == [
        (FIRST, 3),
        (SECOND, 0),
    ]


def test_a_retry_is_no_night_that_was_left(world: World) -> None:
    world.night(FIRST, leave_run)
    output = str(world.folder / "out")
    run = Run(output, "20261121T090000Z-bbbbbb", FIRST, outputs.FINGERPRINT, ("truncated",))
    write_plan(run, [outputs.tar(99)])
    outputs.finish(run, [])
    _, line = world.night(SECOND, nothing)
    assert [told["date"] for told in line["nights"]] == [SECOND]


@pytest.mark.parametrize("run_id", [{}, 5, "../../evil", "20261121T000000Z-other"])
def test_a_summary_whose_run_is_none_is_no_night_that_was_left(world: World, run_id: Any) -> None:
    world.night(FIRST, leave_run)
    place = world.folder / "out/_koasr/runs/20261121T000000Z-aaaaaa/summary.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"run_id": run_id}))
    code, line = world.night(SECOND, nothing)
    assert code == 0
    assert [told["date"] for told in line["nights"]] == [SECOND]


def test_a_night_told_to_stop_between_two_steps_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(_: Night) -> str:
        raise Stopped("SIGTERM")

    with monkeypatch.context() as patch:
        patch.setattr(Night, "committed", stopped)
        code, line = world.night(SECOND, leave_run)
    assert (code, line["state"], line["steps"]["verify"]) == (4, "stopped", "skipped")
    assert [told["state"] for told in line["nights"]] == ["stopped"]
    assert world.record(SECOND)["state"] == "stopped"
    assert "stopped" in world.news()
    assert world.night(SECOND, nothing)[0] == 0


def test_a_night_is_left_for_the_next_start_if_it_is_told_to_stop_with_an_earlier_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(output: str, date: str) -> int:
        if date == FIRST:
            raise Stopped("SIGTERM")
        return 0

    left_by(world)
    with monkeypatch.context() as patch:
        patch.setattr(night_steps, "verify", stopped)
        code, line = world.night(SECOND, leave_run)
    assert code == 4
    assert [told["state"] for told in line["nights"]] == ["stopped", "stopped"]
    assert world.night(SECOND, nothing)[0] == 0
    assert world.record(SECOND)["state"] == "done"


def _without_sizes(plan: Path) -> None:
    table = pq.read_table(plan)
    place = table.schema.get_field_index("size_bytes")
    nulls = pa.nulls(len(table), pa.int64())
    pq.write_table(table.set_column(place, "size_bytes", nulls), plan)


def _without_metadata(plan: Path) -> None:
    pq.write_table(pq.read_table(plan).replace_schema_metadata(None), plan)


@pytest.mark.parametrize("spoil", [_without_sizes, _without_metadata])
def test_a_run_with_a_spoiled_plan_is_left_out_of_the_pace(
    spoil: Callable[[Path], None], tmp_path: Path
) -> None:
    output, told = str(tmp_path), list[Summary]()
    leave_run(output, FIRST, told)
    run = tmp_path / "_koasr/runs" / told[0].run_id
    summary = told[0].to_json() | {"wall_s": 9.0}
    summary["feeding"] = {"num_actors": 1, "start_s": 1.0, "device": "cpu"}
    (run / "summary.json").write_text(json.dumps(summary))
    assert read_pace(output).bytes_per_s > 0
    spoil(run / "plan.parquet")
    assert read_pace(output).bytes_per_s == 0
    deep = run.with_name("20261123T000000Z-aaaaaa")
    deep.mkdir()
    (deep / "summary.json").write_text("[" * 100_000)
    assert read_pace(output).runs == (told[0].run_id,)


def test_the_worst_night_of_a_call_is_its_exit_code(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def both(output: str, date: str, told: list[Summary]) -> None:
        leave_run(output, FIRST, told)
        leave_run(output, date, told)

    monkeypatch.setattr(
        night_steps,
        "verify",
        lambda output, date: 1 if date == FIRST else verify(output, date=date),
    )
    code, line = world.night(SECOND, both)
    assert (code, line["exit_code"], line["state"]) == (1, 1, "failed")
    assert [told["exit_code"] for told in line["nights"]] == [1, 0]


def test_too_many_rejects_stay_too_many_and_are_told_once(world: World) -> None:
    def rejects(output: str, date: str, told: list[Summary]) -> None:
        leave_run(output, date, told, num_rejects=3)

    code, line = world.night(SECOND, rejects)
    assert (code, line["state"]) == (3, "done")
    news = world.news()
    (world.folder / "news.json").unlink()
    code, line = world.night(SECOND, nothing, "--transcribe.max-reject-rate", "0.6")
    assert code == 0
    (world.folder / "news.json").unlink()
    code, line = world.night(SECOND, nothing)
    assert (code, line["reason"]) == (3, "50.0% rejected, more than --max-reject-rate 0.05")
    assert "rejected" in news


def test_a_step_that_failed_counts_over_too_many_rejects(world: World) -> None:
    def rejects(output: str, date: str, told: list[Summary]) -> None:
        leave_run(output, date, told, num_rejects=3)

    code, line = world.night(SECOND, rejects, "--evaluate.references", "/no/such.tsv")
    assert (code, line["state"]) == (1, "failed")
    assert "50.0% rejected" in line["reason"]
    assert "evaluate: " in line["reason"]


def test_a_page_that_is_gone_is_made_again(world: World) -> None:
    _, line = world.night(SECOND, leave_run)
    os.remove(line["report"])
    code, line = world.night(SECOND, nothing)
    assert code == 0
    assert os.path.exists(line["report"])


def test_a_first_night_with_nothing_to_do_is_done(world: World) -> None:
    code, line = world.night(SECOND, nothing)
    assert (code, line["state"], line["steps"]["verify"]) == (0, "done", "skipped")


def test_news_that_did_not_arrive_are_told_once(world: World) -> None:
    world.night(SECOND, leave_run, "--notify.webhook", "http://127.0.0.1:9/secret")
    assert world.record(SECOND)["steps"]["notify"]["state"] == "failed"
    assert world.night(SECOND, nothing)[0] == 0
    assert "notify" not in world.news()
    (world.folder / "news.json").unlink()
    assert world.night(SECOND, nothing)[0] == 0
    assert not (world.folder / "news.json").exists()


@pytest.mark.parametrize(
    "spoiled",
    [
        {"run_ids": ["../../evil"]},
        {"run_ids": [5]},
        {"run_ids": "abc"},
        {"report": 5},
        {"report": "nosuch://page"},
        {"steps": {"verify": {"state": "done", "attempts": "x"}}},
        {"steps": {"verify": []}},
    ],
)
def test_a_record_that_no_night_wrote_is_begun_anew(world: World, spoiled: dict[str, Any]) -> None:
    world.night(SECOND, leave_run)
    place = world.folder / "out" / "_koasr" / "nights" / f"{SECOND}.json"
    place.write_text(json.dumps(world.record(SECOND) | spoiled))
    assert world.night(SECOND, nothing)[0] == 0
    assert world.record(SECOND)["run_ids"] == ["20261122T000000Z-aaaaaa"]
    assert not (world.folder / "evil").exists()


@pytest.mark.parametrize(
    "text",
    [
        '[notify]\nwebhook = ["https://host/SECRET"]',
        'notify = "https://host/SECRET"',
        'notify = ["https://host/SECRET"]',
        '[notify.webhook]\nurl = "https://host/SECRET"',
    ],
)
def test_a_webhook_in_the_wrong_place_is_not_shown(text: str, tmp_path: Path, capsys: Any) -> None:
    head = f'inputs = ["{tmp_path}"]\noutput = "{tmp_path}/out"\nmodel = "m"\n'
    sections = text if text.startswith("[") else ""
    (tmp_path / "job.toml").write_text((text + "\n" + head) if not sections else head + text)
    assert call("nightly", "--job", str(tmp_path / "job.toml")) == 2
    printed = capsys.readouterr()
    assert "SECRET" not in printed.out + printed.err
    assert "notify" in printed.err
