"""What a night is made of, without a cluster: its job file, its estimate, its record, its news."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import outputs
import pytest
import tenacity
from sound import encode, tone
from test_cli import call
from test_telling import told

from koasr import notify
from koasr.cli import app
from koasr.dates import dates_between
from koasr.ending import Ending
from koasr.errors import JobError
from koasr.estimate import estimate, read_pace
from koasr.limits import DEFAULT_LIMITS
from koasr.night_record import open_night

ROOT = Path(__file__).parent.parent
EXAMPLE = (ROOT / "examples" / "koasr.toml").read_text()
DATE = outputs.DATE


def parsed(text: str, folder: Path, *flags: str) -> Any:
    """What the command gets of a job file."""
    (folder / "job.toml").write_text(text)
    command = ["nightly", "--job", str(folder / "job.toml"), *flags]
    _, bound, _ = app.parse_args(command, exit_on_error=False, print_error=False)
    return bound.arguments


def test_the_example_shows_every_key_and_only_keys_that_there_are(tmp_path: Path) -> None:
    on = re.sub(r"(?m)^#(?=\w+ = )", "", EXAMPLE)
    found = parsed(on, tmp_path)
    assert found["select"].filters.max_hours_per == ("speaker=2",)
    assert found["evaluate"].normalizer.side == "spelling"
    flags = app["nightly"].assemble_argument_collection(parse_docstring=False)
    wanted = {flag.name.lstrip("-").replace("-", "_").lower() for flag in flags if flag.parse}
    sections = [name for name in wanted if "." in name]
    wanted -= {"job", "date", "dates", "dry_run"} | {name.partition(".")[0] for name in sections}
    section, shown = "", set()
    for line in on.splitlines():
        if header := re.match(r"\[(\w+)\]", line):
            section = f"{header[1]}."
        elif key := re.match(r"(\w+) = ", line):
            shown.add(f"{section}{key[1]}")
    assert shown == wanted


def test_a_flag_counts_over_the_file_and_the_environment_over_its_webhook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = EXAMPLE.replace('#webhook = "', 'webhook = "')
    assert parsed(text, tmp_path)["notify"].webhook.startswith("https://hooks.example.com/")
    monkeypatch.setenv("KOASR_WEBHOOK", "https://other.example.com/x")
    found = parsed(text, tmp_path, "--transcribe.max-reject-rate", "0.5", "--output", "mine")
    assert (found["transcribe"].max_reject_rate, found["output"]) == (0.5, "mine")
    assert found["transcribe"].stop_at == "06:00"
    assert found["notify"].webhook == "https://other.example.com/x"
    assert "other.example.com" not in repr(found["notify"])


@pytest.mark.parametrize(
    ("text", "flags", "found"),
    [
        (
            "[select]\nhuors = 5",
            [],
            "job.toml: unknown key select.huors: did you mean select.hours?",
        ),
        ("[selct]\nhours = 5", [], "job.toml: unknown key selct.hours: did you mean select.hours?"),
        ('[transcribe]\nnum_actors = "x"', [], 'unable to convert "x" into int'),
        ("[select", [], "is no TOML"),
        ("", ["--dates", "2026-11-02..2026-11-01"], "--dates: found 0 nights"),
        ("", ["--dates", "2026-11-01..2026-11-02"], "no input has {date} in it"),
        ("", ["--date", DATE, "--dates", f"{DATE}..{DATE}"], "wanted one of them"),
        ("", ["--date", "tomorrow"], "--date: found 'tomorrow'"),
        ("[select]\nto = 'hf'\nout = 's'", [], "wanted one of --select.max-expected-cer"),
        ("[select]\nhours = 1\nto = 'hf'\nout = 's'", [], "--select.out: found no {date}"),
        ("[select]\nhours = 1\nto = 'hf'", [], "--select.to and --select.out go together"),
        ("[notify]\nwebhook = 'http://a.example/x'", [], "the webhook at a.example is not https"),
        ("[notify]\nwebhook = 'secret'", [], "the webhook is no URL"),
    ],
)
def test_what_is_wrong_with_a_job_is_a_line_before_the_night(
    text: str, flags: list[str], found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head = f'inputs = ["{tmp_path}"]\noutput = "{tmp_path}/out"\nmodel = "m"\n'
    (tmp_path / "job.toml").write_text(head + text)
    assert call("nightly", "--job", str(tmp_path / "job.toml"), *flags) in (1, 2)
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert found in line
    assert "secret" not in printed.out + printed.err
    assert not (tmp_path / "out").exists()


def test_a_job_file_that_is_named_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("nightly", "--job", "none.toml") == 1
    assert "none.toml does not exist" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert call("nightly") == 2
    assert "--inputs" in capsys.readouterr().err
    (tmp_path / "koasr.toml").write_text('inputs = ["none"]\noutput = "o"\nmodel = "m"')
    assert call("nightly", "--dry-run") == 1
    assert capsys.readouterr().err == "koasr: none holds no files: check the path or the prefix\n"


def test_a_range_has_both_ends_and_no_more_than_a_year() -> None:
    assert len(dates_between("2026-01-01..2026-12-31")) == 365
    with pytest.raises(JobError, match=r"wanted a range as 2026-11-01\.\.2026-11-07"):
        dates_between("2026-01-01")
    with pytest.raises(JobError, match="found 19724 nights"):
        dates_between("2026-01-01..2080-01-01")


def test_a_dry_run_counts_what_is_new_by_the_last_runs_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.wav", "b.wav"):
        (tmp_path / "in" / name).write_bytes(encode(tone(3.0), kind="WAV"))
    (tmp_path / "in" / "c.tar").write_bytes(bytes(240_000))
    output = str(tmp_path / "out")
    place = ["nightly", str(tmp_path / "in"), "--output", output, "--model", "none"]
    assert call(*place, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "1 shards and 2 loose files (0.4 MB, about 14 s of speech)" in shown
    assert "nothing is known yet" in shown
    assert "KOASR_SUMMARY" not in shown
    assert not (tmp_path / "out").exists()

    run = outputs.night(output)
    summary = Path(run.folder, "summary.json")
    document = json.loads(summary.read_text())
    times = {"read_s": 1.0, "load_s": 1.0, "queue_s": 0.0, "wait_s": 0.0, "model_s": 9.0}
    feeding = {"times": times, "start_s": 1.0, "num_actors": 2, "device": "cuda"}
    document |= {"feeding": feeding, "session_audio_s": 400.0, "wall_s": 11.0}
    document |= {"planned": 3, "audio_s": 203.0}
    summary.write_text(json.dumps(document))
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    pace = read_pace(output)
    assert (pace.runs, pace.rtfx, pace.num_actors) == ((run.run_id,), 20.0, 2)
    assert pace.bytes_per_s == 2030 / 203.0
    found = estimate([str(tmp_path / "in")], output, DATE, DEFAULT_LIMITS, None)
    assert found.audio_s == found.size_bytes / 10
    assert found.wall_s == 1.0 + found.audio_s / 40
    assert call(*place, "--dry-run", "--transcribe.num-actors", "4") == 0
    shown = capsys.readouterr().out
    assert f"1 s to start, then 20x real time a GPU, 0.0 kB a second, by run {run.run_id}" in shown
    assert "on 4 GPU(s)" in shown
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == before


def test_what_an_unfinished_run_has_left_is_counted_once(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(encode(tone(3.0), kind="WAV"))
    run = outputs.begin(str(tmp_path / "out"), "20261122T000000Z-aaaaaa", outputs.tar(1))
    found = estimate([str(tmp_path / "in")], run.output, DATE, DEFAULT_LIMITS, None)
    assert (found.shards, found.files) == (1, 1)
    assert found.unfinished == (f"{run.run_id} of {DATE}",)


def test_a_record_is_read_back_and_a_damaged_one_begun_anew(tmp_path: Path) -> None:
    record = open_night(str(tmp_path), DATE)
    record.begin("verify", "abc")
    assert not record.is_done("verify", "abc")
    record.end("verify", "done", found={"differences": 0})
    record.close(Ending())
    again = open_night(str(tmp_path), DATE)
    assert again.steps == record.steps
    assert (again.is_done("verify", "abc"), again.is_done("verify", "abd")) == (True, False)
    again.begin("verify", "abd")
    assert again.steps["verify"].attempts == 2
    Path(record.place).write_text('{"steps": {"verify": 1}')
    assert open_night(str(tmp_path), DATE).steps == {}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[Any], list[int]]]:
    """The URL of a webhook, what it was told, and the codes it answers with, the last for ever."""
    told: list[Any] = []
    codes = [200]

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(codes.pop(0) if len(codes) > 1 else codes[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Nothing: pytest shows enough."""

    monkeypatch.setattr(notify, "_WAIT", tenacity.wait_none())
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/secret", told, codes
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("answers", "num_posts", "problem"),
    [
        ([200], 1, ""),
        ([503, 429, 204], 3, ""),
        ([500], 4, "answered 500, asked 4 times"),
        ([404], 1, "answered 404: check its URL"),
        ([302], 1, "answered 302: check its URL"),
    ],
)
def test_a_webhook_is_asked_again_where_that_helps(
    answers: list[int], num_posts: int, problem: str, hook: tuple[str, list[Any], list[int]]
) -> None:
    url, posted, codes = hook
    codes[:] = answers
    if problem:
        with pytest.raises(JobError, match=f"the webhook at 127.0.0.1 {problem}") as raised:
            notify.post(url, {"state": "done"}, "well")
        assert "secret" not in str(raised.value)
    else:
        notify.post(url, {"state": "done"}, "<!here> well")
    assert len(posted) == num_posts
    assert posted[0]["state"] == "done"
    assert posted[0]["text"] in ("well", "!here well")


def test_nobody_there_is_a_line_without_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_WAIT", tenacity.wait_none())
    with pytest.raises(JobError, match=r"did not answer \(ConnectionError\)") as raised:
        notify.post("http://127.0.0.1:9/secret", {}, "x")
    assert "secret" not in str(raised.value)


def test_a_night_without_its_inputs_is_told_and_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hook: tuple[str, list[Any], list[int]]
) -> None:
    inputs, output = f"{tmp_path}/in/{{date}}", str(tmp_path / "out")
    command = ["nightly", inputs, "--output", output, "--model", "none"]
    command += ["--notify.file", str(tmp_path / "{date}.json"), "--notify.webhook", hook[0]]
    assert call(*command, "--dates", "2026-11-01..2026-11-02") == 1
    printed = capsys.readouterr()
    line = told(printed.out)
    assert [night["date"] for night in line["nights"]] == ["2026-11-01", "2026-11-02"]
    assert line["steps"]["list"] == "failed"
    assert "/in/2026-11-01 holds no files" in line["nights"][0]["reason"]
    for date in ("2026-11-01", "2026-11-02"):
        record = open_night(output, date)
        assert record.steps["list"].state == "failed"
        assert record.steps["notify"].state == "done"
        assert "failed; list: " in json.loads((tmp_path / f"{date}.json").read_text())["text"]
    assert len(hook[1]) == 2
    assert "secret" not in printed.out + printed.err


def test_a_model_that_is_not_there_ends_the_range_at_its_first_night(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in ("01", "02", "03"):
        (tmp_path / f"2026-11-{day}").mkdir()
        (tmp_path / f"2026-11-{day}" / "a.wav").write_bytes(encode(tone(1.0), kind="WAV"))
    command = ["nightly", f"{tmp_path}/{{date}}", "--output", f"{tmp_path}/out"]
    assert call(*command, "--model", "/no/such", "--dates", "2026-11-01..2026-11-03") == 1
    printed = capsys.readouterr()
    line = told(printed.out)
    assert [night["date"] for night in line["nights"]] == ["2026-11-01"]
    assert line["steps"]["transcribe"] == "failed"
    assert "not begun: 2026-11-02 to 2026-11-03" in printed.err
