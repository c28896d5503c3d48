"""What a scheduler is told, held against the published schema."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import outputs
import pytest

from koasr.cli import main
from koasr.ending import Ending, ending_of
from koasr.errors import JobError
from koasr.inventory import open_output, read_runs
from koasr.runs import Run, shard_name, unfinished_runs
from koasr.stopping import Stopped
from koasr.storage import join, write_bytes
from koasr.summary import Summary, summarize
from koasr.telling import LINE_MARK, telling
from koasr.verify import verify

ROOT = Path(__file__).parent.parent
SCHEMA = json.loads((ROOT / "koasr" / "summary.schema.json").read_text())


def check(document: dict[str, Any], *, of: str = "") -> dict[str, Any]:
    """The document, which fits the schema of a line, or that of `of`."""
    schema = SCHEMA | ({"$ref": f"#/$defs/{of}"} if of else {})
    if of:
        schema = {"$ref": f"#/$defs/{of}", "$defs": SCHEMA["$defs"]}
    jsonschema.Draft202012Validator(schema).validate(document)
    return document


def told(printed: str) -> dict[str, Any]:
    """The one line of an output on stdout, which is its last."""
    *before, last = printed.splitlines()
    assert not [line for line in before if LINE_MARK in line]
    mark, _, document = last.partition(" ")
    assert mark == LINE_MARK
    return check(json.loads(document))


@pytest.fixture
def half(tmp_path: Path) -> tuple[Run, Summary]:
    """A run of which one of two tars is committed, and its summary as stopped."""
    run = outputs.begin(str(tmp_path), "20261122T000000Z-aaaaaa", outputs.tar(1), outputs.tar(2))
    records = [outputs.commit(run, outputs.tar(1), {0: "timeout"})]
    names = {"run_id": run.run_id, "date": run.date, "output": run.output}
    summary = summarize(
        records,
        names=names | {"model": "m", "fingerprint": run.fingerprint},
        session_audio_s=7200.0,
        wall_s=60.0,
        ending=Ending("stopped", 4, "SIGTERM"),
        num_planned=2,
    )
    return run, summary


def test_the_schema_is_a_schema_that_refuses_what_is_none() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        check({"version": 1})
    with pytest.raises(jsonschema.ValidationError):
        check({"version": 2}, of="summary")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (JobError("no\nsuch model"), Ending("failed", 1, "no such model")),
        (JobError("--date: found 1", 2), Ending("failed", 2, "--date: found 1")),
        (Stopped("the deadline"), Ending("stopped", 4, "the deadline")),
        (KeyboardInterrupt(), Ending("stopped", 130, "interrupted")),
        (ValueError("안녕하세요"), Ending("failed", 1, "ValueError: see the log")),
    ],
)
def test_every_way_to_end_is_one_line(
    error: BaseException, expected: Ending, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending_of(error) == expected
    with pytest.raises(type(error)), telling("s3://out"):
        raise error
    found = told(capsys.readouterr().out)
    assert (found["state"], found["exit_code"]) == (expected.state, expected.exit_code)
    assert (found["reason"], found["runs"]) == (expected.reason, [])


def test_nothing_to_do_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with telling("s3://out"):
        print("koasr: nothing to do")
    found = told(capsys.readouterr().out)
    assert (found["state"], found["exit_code"], found["runs"]) == ("done", 0, [])


def test_the_worst_of_several_runs_is_how_the_call_ended(
    half: tuple[Run, Summary], capsys: pytest.CaptureFixture[str]
) -> None:
    done = replace(half[1], state="done", exit_code=0, reason="")
    with telling("s3://out") as call:
        call.runs += [done, replace(done, exit_code=3, reason="50.0% rejected"), done]
    found = told(capsys.readouterr().out)
    assert (found["state"], found["exit_code"]) == ("done", 3)
    assert found["reason"] == "50.0% rejected"
    (hours, speed) = (found["runs"][0][name] for name in ("session_hours", "rtfx"))
    assert (hours, speed) == (2.0, 120.0)


def test_what_is_told_of_a_run_is_in_its_summary(
    half: tuple[Run, Summary], capsys: pytest.CaptureFixture[str]
) -> None:
    document = check(json.loads(half[1].to_bytes()), of="summary")
    with telling("s3://out") as call:
        call.runs.append(half[1])
    (found,) = told(capsys.readouterr().out)["runs"]
    assert found.items() <= document.items()
    assert (found["shards"], found["planned"], found["reject_rate"]) == (1, 2, 1 / 6)


@pytest.mark.parametrize(
    ("spoil", "is_finished"),
    [
        (lambda summary: summary.to_bytes(), False),
        (lambda summary: replace(summary, state="failed").to_bytes(), False),
        (lambda summary: replace(summary, state="done").to_bytes(), True),
        (lambda _: b"{}", True),
        (lambda _: b"{", True),
        (lambda _: b"[]", True),
    ],
    ids=["stopped", "failed", "done", "without a state", "damaged", "no object"],
)
def test_a_run_is_finished_when_its_summary_says_so(
    half: tuple[Run, Summary], spoil: Callable[[Summary], bytes], is_finished: bool
) -> None:
    run, summary = half
    write_bytes(join(run.folder, "summary.json"), spoil(summary))
    assert unfinished_runs(run.output) == ([] if is_finished else [run])
    (known,) = read_runs(open_output(run.output))
    assert known.is_finished == is_finished
    missing = shard_name(outputs.tar(2), run.fingerprint)
    assert known.names[1] == missing


def test_verify_takes_a_stopped_run_for_what_it_is(
    half: tuple[Run, Summary], capsys: pytest.CaptureFixture[str]
) -> None:
    run, summary = half
    write_bytes(join(run.folder, "summary.json"), summary.to_bytes())
    assert verify(run.output) == 0
    assert f"run {run.run_id} is unfinished" in capsys.readouterr().out


def test_a_model_that_is_not_there_is_told_before_the_output_exists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    speech, output = str(ROOT / "examples" / "speech" / "zeroth"), str(tmp_path / "out")
    with pytest.raises(SystemExit, match="1"):
        main(["transcribe", speech, "--output", output, "--model", "/no/such/model"])
    printed = capsys.readouterr()
    found = told(printed.out)
    assert (found["state"], found["exit_code"], found["output"]) == ("failed", 1, output)
    assert printed.err == f"koasr: {found['reason']}\n"
