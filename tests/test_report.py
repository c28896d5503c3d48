"""The morning page: what it says, how it is used in a browser, and that no text in it is run."""

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import outputs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import open_page, run_browser
from sound import encode, tone, write_tar
from test_cli import call

from koasr.audio import load_waveform
from koasr.commit import commit_shard
from koasr.errors import JobError
from koasr.feeding import Feeding, Times
from koasr.forget import forget
from koasr.packs import Header
from koasr.readers import read_recordings
from koasr.report import write_report
from koasr.report_page import render
from koasr.report_run import open_run
from koasr.report_samples import MAX_SHARDS, choose_samples
from koasr.report_segments import Segments, scan_segments
from koasr.rows import SAMPLE_RATE, Recording, Shard
from koasr.runs import Run, is_forgotten_key, shard_name
from koasr.sources import list_shards
from koasr.staging import encode_tables
from koasr.storage import join, read_bytes, write_bytes
from koasr.summary import summarize
from koasr.transcripts import REJECTS, TRANSCRIPTS

SPEECH = Path(__file__).parent.parent / "examples" / "speech"
RUN_ID = "20261122T210000Z-bbbbbb"
EVIL = "<script>window.hacked=1</script>"
EVIL_TEXTS = [
    f"</script>{EVIL}",
    '"onerror="window.hacked=1" <img src=x onerror=window.hacked=1>',
    "{{ 7*7 }} \u202egnp.exe\u0007",
]


def rows_of(shard: Shard, run: Run, seed: int = 0) -> list[dict[str, Any]]:
    """A segment for each recording, said as its reference says; sure of some words, not of all."""
    chance, rows = np.random.default_rng(seed), []
    for item in read_recordings(shard):
        assert isinstance(item, Recording)
        duration_s = len(load_waveform(item).samples) / SAMPLE_RATE
        texts = (item.reference or "네").split()
        each_s, sure = duration_s / len(texts), chance.uniform(0.3, 1, len(texts))
        words = [
            {"text": text, "start_s": n * each_s, "end_s": (n + 1) * each_s, "confidence": sure[n]}
            for n, text in enumerate(texts)
        ]
        names = ("recording_id", "source_uri", "source_key", "source_version", "reference")
        rows.append(
            {name: getattr(item, name) for name in names}
            | {"segment_id": f"{item.recording_id}#0", "start_s": 0.0, "end_s": duration_s}
            | {"duration_s": duration_s, "text": " ".join(texts), "is_empty": False}
            | {"words": words, "confidence": float(sure.mean()), "calibration": "raw"}
            | {"metadata": list(item.metadata.items()), "run_id": run.run_id}
            | {"model": "m", "model_revision": "r", "fingerprint": run.fingerprint}
        )
    return rows


def commit(
    run: Run, shard: Shard, rows: list[dict[str, Any]], rejects: list[dict[str, Any]] | None = None
) -> dict[str, Any]:
    name = shard_name(shard, run.fingerprint)
    tables = (
        pa.Table.from_pylist(rows, schema=TRANSCRIPTS),
        pa.Table.from_pylist(rejects or [], schema=REJECTS),
    )
    num = len({row["recording_id"] for row in [*rows, *(rejects or [])]})
    header = Header(name, shard.uri, shard.version, "all", 0, True, num, 10)
    return commit_shard(run, name, [encode_tables(header, *tables)])


def finish(run: Run, records: list[dict[str, Any]], **changes: Any) -> None:
    names = {"run_id": run.run_id, "date": run.date, "output": run.output, "model": "m"}
    summary = summarize(
        records,
        names=names | {"fingerprint": run.fingerprint},
        session_audio_s=sum(record["audio_s"] for record in records),
        wall_s=20.0,
        num_planned=len(records),
        feeding=Feeding(Times(1.0, 2.0, 0.5, 3.0, 30.0), 4.0, 2, "cuda"),
    )
    document = dataclasses.replace(summary, **changes).to_json()
    write_bytes(join(run.folder, "summary.json"), json.dumps(document).encode())


@dataclasses.dataclass(frozen=True)
class Made:
    """An output with speech, and the page of its run."""

    output: str
    page: Path

    @property
    def text(self) -> str:
        return self.page.read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A night of bundled speech and of a tar that means harm, with a night before."""
    folder = tmp_path_factory.mktemp("report")
    output = str(folder / "out")
    members = [(f"{n}{text}/a.flac", encode(tone(1.5))) for n, text in enumerate(EVIL_TEXTS)]
    write_tar(folder / "evil.tar", [(name.replace("/", "_"), data) for name, data in members])
    before = outputs.begin(output, "20261121T210000Z-aaaaaa", outputs.tar(1), date="2026-11-21")
    finish(before, [outputs.commit(before, outputs.tar(1))], confidence_counts=[*[4] * 100, 0])
    (speech,) = list_shards([str(SPEECH / "webdataset")])
    (evil,) = list_shards([str(folder / "evil.tar")])
    run = outputs.begin(output, RUN_ID, speech, evil)
    rows = rows_of(speech, run)
    rows[0] |= {"text": "전혀 다른 말", "words": rows[0]["words"][:1] * 3}
    for number, word in enumerate(rows[0]["words"]):
        rows[0]["words"][number] = word | {"text": rows[0]["text"].split()[number]}
    harm = rows_of(evil, run)
    for number, (row, text) in enumerate(zip(harm, EVIL_TEXTS, strict=True)):
        words = [row["words"][0] | {"text": word} for word in text.split()]
        row |= {"text": text, "words": words, "confidence": 0.01 * number, "reference": EVIL}
        row["metadata"] = [("speaker", EVIL), (EVIL, EVIL)]
    reject = {name: harm[0][name] for name in ("source_uri", "source_version", "run_id")}
    reject |= {"recording_id": "x", "source_key": EVIL, "message": EVIL, "reason": "truncated"}
    records = [commit(run, speech, rows), commit(run, evil, harm, [reject | {"stage": "load"}])]
    finish(run, records, confidence_counts=[*[0] * 50, *[8] * 50, 0], reason=EVIL)
    page = write_report(output, gpu_hour_price=2.5, currency="€", samples=6)
    assert page == join(output, "_koasr", "runs", RUN_ID, "report.html")
    return Made(output, Path(page))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all tests of this file."""
    with run_browser() as found:
        yield found


def visible(page: Any) -> int:
    return int(page.locator("#rows tr:visible").count())


def test_it_opens_without_a_word_or_a_request_and_runs_nobodys_script(
    made: Made, browser: Any
) -> None:
    with open_page(browser, str(made.page)) as opened:
        page = opened.page
        page.wait_for_timeout(200)
        assert opened.complaints == []
        assert not [url for url in opened.requests if not url.startswith(("file:", "data:audio"))]
        assert page.evaluate("window.hacked") is None
        assert page.title() == "2026-11-22 · transcribed by koasr"
        said = page.locator("#listen").inner_text()
        for text in EVIL_TEXTS[:2]:
            assert text.split()[0] in said
        assert "{{ 7*7 }} \\u202egnp.exe\\x07" in " ".join(said.split())
        assert EVIL in page.locator("#rejects").inner_text()
        assert EVIL in page.locator("#parts").inner_text()
        assert page.locator("script").count() == 1
        assert page.locator("[onerror]").count() == 0


def test_it_says_what_happened_in_words(made: Made) -> None:
    said = re.sub(r"\s+", " ", re.sub(r"<svg.*?</svg>|<[^>]*>", " ", made.text, flags=re.DOTALL))
    assert "1 of 68 recordings was rejected (1.5%): truncated." in said
    assert "Bound by GPU: more GPUs would shorten it; audio arrives fast enough." in said
    assert "The speech has changed: confidence is higher than in the run before" in said
    assert "Cost €0.03" in said
    assert "0.01 GPU-hours: 2 GPUs for 20 s" in said
    assert "against the references that came along" in said
    assert re.search(r"By speaker .* 105 .* CER", said)
    assert "This page holds speech and texts of people." in said


SEEKED = "audio => { audio.addEventListener('seeked', () => window.at ??= audio.currentTime); }"


def test_a_segment_plays_and_a_word_plays_from_there(made: Made, browser: Any) -> None:
    with open_page(browser, str(made.page)) as opened:
        page = opened.page
        page.select_option("#kind", "typical")
        row = page.locator("#rows tr:visible").first
        audio = row.locator("audio").element_handle()
        # So that it still plays when a slow machine looks.
        page.evaluate("for (const audio of document.querySelectorAll('audio')) audio.loop = true")
        row.get_by_role("button", name=re.compile("^Play segment")).click()
        page.wait_for_function("audio => audio.currentTime > 0.2", arg=audio)
        row.get_by_role("button", name=re.compile("^Pause segment")).click()
        assert page.evaluate("audio => audio.paused", audio)
        page.evaluate(SEEKED, audio)
        word = row.locator(".words button").nth(2)
        word.click()
        page.wait_for_function("() => window.at !== undefined")
        at = page.evaluate("window.at")
        assert at == pytest.approx(float(word.get_attribute("data-at")), abs=0.2)
        page.wait_for_function("([audio, at]) => audio.currentTime > at + 0.1", arg=[audio, at])


def test_it_is_played_with_the_keyboard_alone(made: Made, browser: Any) -> None:
    with open_page(browser, str(made.page)) as opened:
        page = opened.page
        page.evaluate("for (const audio of document.querySelectorAll('audio')) audio.loop = true")
        first, second = (page.locator("#rows tr").nth(number) for number in (3, 4))
        audio, other = (row.locator("audio").element_handle() for row in (first, second))
        first.locator(".play").focus()
        page.keyboard.press("Enter")
        page.wait_for_function("audio => audio.currentTime > 0.1", arg=audio)
        # Another row's takes over.
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Space")
        page.wait_for_function("audio => audio.currentTime > 0.1", arg=other)
        assert page.evaluate("audio => audio.paused", audio)
        page.keyboard.press("Space")
        page.wait_for_function("audio => audio.paused", arg=other)
        page.evaluate("audio => { audio.currentTime = 0.2; }", other)
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("audio => Math.abs(audio.currentTime - 0.7) < 0.05", arg=other)
        page.keyboard.press("Tab")
        for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
            page.keyboard.press(key)
        wanted = second.locator(".words button").nth(1).get_attribute("data-at")
        assert page.evaluate("document.activeElement.dataset.at") == wanted
        page.keyboard.press("Enter")
        page.wait_for_function("audio => !audio.paused", arg=other)
        assert opened.complaints == []


def test_rows_are_filtered_and_sorted(made: Made, browser: Any) -> None:
    with open_page(browser, str(made.page)) as opened:
        page = opened.page
        count = visible(page)
        assert count > 12
        page.select_option("#kind", "least")
        assert visible(page) == 6
        assert page.locator("#shown").inner_text() == f"6 of {count} segments"
        page.fill("#find", "GNP.exe")
        assert visible(page) == 1
        page.fill("#find", "nowhere")
        assert page.locator("#none").is_visible()
        page.fill("#find", "")
        page.select_option("#kind", "")

        def column() -> list[float]:
            values = page.locator("#rows tr").evaluate_all(
                "rows => rows.map(row => row.dataset.confidence)"
            )
            return [float(value) for value in values]

        head = page.locator(".listen").get_by_role("columnheader", name="Confidence")
        head.get_by_role("button").click()
        assert column() == sorted(column())
        assert head.get_attribute("aria-sort") == "ascending"
        head.get_by_role("button").click()
        assert column() == sorted(column(), reverse=True)
        page.select_option("#order", "-cer")
        errors = page.locator("#rows tr").evaluate_all("rows => rows.map(row => row.dataset.cer)")
        held = [float(value) for value in errors if value]
        assert held == sorted(held, reverse=True)
        assert page.locator("#rows tr:visible del").count() > 0


CONTRAST = """() => {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parts(getComputedStyle(e).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !e.getClientRects().length || e.matches("option, script")) continue;
    const style = getComputedStyle(e);
    const [a, b] = [parts(e.matches("text") ? style.fill : style.color), behind(e)].map(light);
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const name = `${e.tagName}.${e.getAttribute("class")}`;
    found[name] = Math.min(ratio, found[name] ?? 99);
  }
  return found;
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_stands_out(dark: bool, made: Made, browser: Any) -> None:
    with open_page(browser, str(made.page), dark=dark) as opened:
        found = opened.page.evaluate(CONTRAST)
        assert len(found) > 30
        assert {name: ratio for name, ratio in found.items() if ratio < 4.5} == {}
        dark_page = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", dark_page))) < 150) is dark


def test_on_a_phone_nothing_is_cut_off(made: Made, browser: Any) -> None:
    with open_page(browser, str(made.page), width=390) as opened:
        width = opened.page.evaluate("document.documentElement.scrollWidth")
        assert width == 390
        assert opened.page.locator("#rows tr").first.locator(".play").is_visible()
        assert opened.page.get_by_role("table", name="Listen").get_by_role("row").count() > 12


def test_every_control_has_a_name(made: Made, browser: Any) -> None:
    with open_page(browser, str(made.page)) as opened:
        tree = opened.page.locator("body").aria_snapshot()
        controls = re.findall(r"- (button|searchbox|combobox|slider|link|table|img)\b(.*)", tree)
        assert len(controls) > 60
        assert [rest for _, rest in controls if not re.match(r' "[^"]', rest)] == []
        assert opened.page.get_by_role("img", name=re.compile("Half of the segments")).count() == 2


def test_pages_of_runs_that_went_otherwise(tmp_path: Path, browser: Any) -> None:
    """Nothing at all, a stopped one, one of silence alone, one of a single row."""
    output = str(tmp_path / "out")

    def written(run: Run) -> str:
        return write_report(output, run.run_id, out=str(tmp_path / f"{run.run_id}.html"))

    nothing = outputs.begin(output, "1", outputs.tar(1))
    finish(nothing, [], state="failed", exit_code=1, reason="the cluster has no GPU", feeding=None)
    stopped = outputs.begin(output, "2", outputs.tar(2), date="2026-11-23")
    records = [outputs.commit(stopped, outputs.tar(2), dict.fromkeys(range(6), "timeout"))]
    finish(stopped, records, state="stopped", exit_code=4, reason="SIGTERM", planned=3)
    silent = outputs.begin(output, "3", outputs.tar(3), date="2026-11-24")
    row = {"segment_id": "a#0", "recording_id": "a", "source_uri": "s3://in/3.tar", "start_s": 0.0}
    row |= {"end_s": 2.0, "duration_s": 2.0, "text": "", "is_empty": True, "words": []}
    row |= {"source_key": "a", "source_version": "v1", "run_id": "3"}
    finish(silent, [commit(silent, outputs.tar(3), [row])], exit_code=3)
    one = outputs.begin(output, "4", outputs.tar(4), date="2026-11-25")
    said = row | {"run_id": "4", "text": "네", "is_empty": False, "confidence": 0.5}
    finish(one, [commit(one, outputs.tar(4), [said | {"words": None}])])
    texts = {
        nothing: ["This run failed (the cluster has no GPU). 0 of 0 shards", "no segment to"],
        stopped: ["was stopped before its end (SIGTERM). 1 of 3 shards", "Nothing of 6 recordings"],
        silent: ["Too many rejects", "Nothing was said", "No sound:"],
        one: ["0.50 or more", "No sound: its source", "네"],
    }
    for run, wanted in texts.items():
        with open_page(browser, written(run)) as opened:
            said_there = opened.page.locator("body").inner_text()
            assert [text for text in wanted if text not in said_there] == []
            assert opened.complaints == []


def test_what_cannot_be_heard_any_more_stays_and_says_why(tmp_path: Path) -> None:
    shutil.copytree(SPEECH / "folder", tmp_path / "in")
    output = str(tmp_path / "out")
    (shard,) = list_shards([str(tmp_path / "in")])
    run = outputs.begin(output, "1", shard)
    made_rows = rows_of(shard, run)
    finish(run, [commit(run, shard, made_rows)])
    changed, gone, *_ = sorted((tmp_path / "in").glob("*.wav"))
    changed.write_bytes(changed.read_bytes() + b"0")
    gone.unlink()
    page = Path(write_report(output, samples=100)).read_text()
    rows = page.count('<tr role="row" data-kinds')
    assert "No sound: its source has changed since it was transcribed." in page
    assert "No sound: its source is no longer there." in page
    assert page.count("<audio") == rows - 2
    small = Path(write_report(output, samples=100, max_audio_mb=0.05)).read_text()
    assert 0 < small.count("<audio") < rows - 2
    assert "larger than --max-audio-mb" in small
    assert sum(map(len, re.findall('base64,([^"]+)', small))) <= 50_000
    without = Path(write_report(output, max_audio_mb=None)).read_text()
    assert "<audio" not in without
    assert write_report(output, samples=100) == run.page
    assert Path(run.page).read_text() == page
    ids = tmp_path / "ids.txt"
    ids.write_text(made_rows[-1]["recording_id"])
    forget(output, ids=ids)
    assert not Path(run.page).exists()


NO_LENGTH = {"rates": {"cer": {"value": 0.1}}, "subsets": {}, "counts": {"recordings": 3}}
NO_HIGH = {"value": 0.1, "low": 0.1, "high": None, "length": 1}


def test_odd_files_of_runs_break_no_page(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run = outputs.night(str(tmp_path / "out"))
    own = Path(run.folder, "summary.json")
    summary = json.loads(own.read_text())
    odd = [{"rtfx": None}, {"confidence_counts": None}, {"confidence_counts": [1, 2]}]
    odd += [{"drift": "x"}, {"audio_s": "x"}]
    for number, changes in enumerate(odd):
        place = Path(run.folder).parent / f"20200101T00000{number}Z-aaaaaa" / "summary.json"
        place.parent.mkdir()
        place.write_text(json.dumps(summary | changes))
    drift = {"calibration": "a", "psi": 0.1, "has_drifted": False, "new": 1}
    feeding = {"times": {"model_s": 1, "wait_s": 1}, "start_s": 1, "num_models": 2}
    own.write_text(json.dumps(summary | {"drift": drift, "feeding": feeding | {"device": "cuda"}}))
    page = Path(write_report(run.output, max_audio_mb=None)).read_text()
    assert len([text for text in caplog.messages if "is left out" in text]) == len(odd)
    assert "What held it back is not known" in page
    high = NO_LENGTH | {"rates": {"cer": NO_HIGH}}
    endless = json.dumps(NO_LENGTH | {"rates": {}}).replace("3}", "Infinity}")
    for text in (json.dumps(NO_LENGTH), json.dumps(high), endless, "[" * 100_000):
        Path(run.folder, "evaluation.json").write_text(text)
        page = Path(write_report(run.output, max_audio_mb=None)).read_text()
        assert "its evaluation.json is damaged: write it again" in page
    for size in ("inf", "nan", "-1"):
        assert call("report", run.output, "--max-audio-mb", size) == 2
        assert "a number from 0 on" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["victim", "..", ""])
def test_a_plan_names_no_other_place(name: str, tmp_path: Path) -> None:
    run = outputs.night(str(tmp_path / "out"))
    plan = Path(run.folder, "plan.parquet")
    table, victim = pq.read_table(plan), tmp_path / "victim"
    fields = json.loads(table.schema.metadata[b"koasr"])
    fields["run_id"] = str(victim) if name == "victim" else name
    pq.write_table(table.replace_schema_metadata({b"koasr": json.dumps(fields)}), plan)
    with pytest.raises(JobError, match="is damaged or no Parquet file: run_id"):
        write_report(run.output, max_audio_mb=None)
    assert not victim.exists()


def test_no_page_outlives_what_is_forgotten_while_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`koasr forget` between what a page reads and its writing; and before, but cut off."""
    run = outputs.night(str(tmp_path / "out"))
    ids, shown = tmp_path / "ids.txt", list[set[str]]()

    def interrupted(page: dict[str, Any]) -> str:
        shown.append({sample["row"]["recording_id"] for sample in page["samples"]})
        if len(shown) == 1:
            left = Path(run.folder, ".report.html.0123abcd")
            left.write_text("of a killed one")
            ids.write_text(min(shown[0]))
            forget(run.output, ids=ids)
            assert not left.exists()
        return render(page)

    monkeypatch.setattr("koasr.report.render", interrupted)
    page = write_report(run.output, max_audio_mb=None, samples=100)
    assert shown[0] - shown[1] == {min(shown[0])}
    kept = min(shown[1])
    place = join(run.output, "_koasr", "forgotten", "of-one-cut-off.txt")
    write_bytes(place, f"{is_forgotten_key(kept)}\n".encode())
    with pytest.raises(JobError, match="run koasr report again after koasr forget"):
        write_report(run.output, max_audio_mb=None, samples=100)
    assert not Path(page).exists()


def test_errors_are_those_of_the_evaluation_that_is_there(made: Made, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(made.output, output)
    place = output / "_koasr" / "runs" / RUN_ID / "evaluation.json"
    found = tmp_path / "found.json"
    assert call("evaluate", str(output), "--by", "speaker", "--json", str(found)) == 0
    document = json.loads(found.read_text())
    document["rates"]["cer"]["value"] = 0.1234
    place.write_text(json.dumps(document))
    page = Path(write_report(str(output), max_audio_mb=None)).read_text()
    assert "CER 12.34% without spaces" in page
    assert "as koasr evaluate found them over all dates" in page
    assert "67 with references, over all dates</small>" in page
    assert "CER <small>over all dates</small>" in page
    place.write_text(json.dumps(document | {"date": "2026-11-22"}))
    page = Path(write_report(str(output), max_audio_mb=None)).read_text()
    assert "as koasr evaluate found them over all of 2026-11-22" in page
    assert "67 with references, over all of 2026-11-22</small>" in page
    place.write_text("{}")
    page = Path(write_report(str(output), max_audio_mb=None)).read_text()
    assert "its evaluation.json is damaged: write it again" in page


def test_only_rows_of_the_run_are_counted(made: Made) -> None:
    reported = open_run(made.output, "20261121T210000Z-aaaaaa")
    assert len(scan_segments(reported)) == 12
    assert reported.earlier == []
    reported = open_run(made.output, None)
    assert len(scan_segments(reported)) == 67
    other = dataclasses.replace(reported, run=dataclasses.replace(reported.run, run_id="other"))
    assert len(scan_segments(other)) == 0


def test_every_subset_table_adds_up_to_all_segments(tmp_path: Path) -> None:
    """The first shard's rows lack the key, the second's have it."""
    output = str(tmp_path / "out")
    run = outputs.begin(output, "1", outputs.tar(1), outputs.tar(2))
    records = []
    for number in (1, 2):
        shard = outputs.tar(number)
        table, _ = outputs.tables(shard, run, {})
        snr = [("snr", "0" if number == 2 and index % 2 else "10") for index in range(len(table))]
        rows = [
            row | {"metadata": [snr[index]] if number == 2 else []}
            for index, row in enumerate(table.to_pylist())
        ]
        records.append(commit(run, shard, rows))
    finish(run, records)
    segments = scan_segments(open_run(output, None))
    counts = {value: counts.tolist() for value, counts in segments.tallies["snr"].items()}
    assert counts == {
        "": [12, 36, 12, 6, 0],
        "0": [6, 18, 6, 3, 0],
        "10": [6, 18, 6, 3, 0],
    }


def test_of_many_shards_few_are_opened() -> None:
    count, chance = 1_000_000, np.random.default_rng(0)
    segments = Segments(
        shard=np.sort(chance.integers(0, 900, count)).astype(np.int32),
        row=np.arange(count, dtype=np.int32),
        duration_s=chance.uniform(1, 20, count).astype(np.float32),
        confidence=chance.beta(9, 1, count).astype(np.float32),
        expected_cer=np.full(count, np.nan, np.float32),
        num_chars=np.full(count, 10, np.int32),
        has_reference=np.zeros(count, np.bool_),
        tallies={},
    )
    chosen = choose_samples(segments, 12, "run")
    assert chosen == choose_samples(segments, 12, "run")
    assert len(chosen) >= 34
    assert len(set(segments.shard[list(chosen)])) <= MAX_SHARDS
    least = [index for index, kinds in chosen.items() if "least" in kinds]
    assert set(least) == set(np.argsort(segments.confidence)[:12].tolist())
    middle = [index for index, kinds in chosen.items() if "typical" in kinds]
    spread = np.median(segments.confidence[middle]) - np.median(segments.confidence)
    assert abs(spread) < 0.01


def test_a_mistake_is_one_line_and_success_says_where_the_page_is(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert call("report", made.output, "--out", str(page), "--no-audio") == 0
    assert capsys.readouterr().out == f"koasr: the page is at {page}\n"
    assert call("report", made.output, "--run", "../../x") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no run '../../x': the last are 20261121T210000Z-aaaaaa, 2026" in line
    with pytest.raises(JobError, match="has no summary of any run"):
        write_report(str(tmp_path / "nowhere"))
    assert call("report", made.output, "--out", str(tmp_path)) == 1


def test_of_an_output_in_a_store_the_page_is_there_too(s3: str) -> None:
    run = outputs.night(f"{s3}/out")
    assert write_report(f"{s3}/out", max_audio_mb=None) == run.page == f"{run.folder}/report.html"
    assert "3 of 15 recordings were rejected (20.0%)." in read_bytes(run.page).decode()
