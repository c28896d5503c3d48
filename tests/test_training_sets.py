"""Selected rows of an output → a training set: on a real cluster, whole and once."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from outputs import FINGERPRINT, PARTS
from rich.console import Console
from test_clips import transcripts

from koasr.datasets import Format
from koasr.errors import JobError
from koasr.readers import read_recordings
from koasr.rows import Shard
from koasr.runs import Run, write_format, write_plan
from koasr.shard_sets import Exported, Target, export_shard
from koasr.sources import list_shards
from koasr.storage import list_files, read_bytes, write_bytes
from koasr.training_sets import _count, export_selection, find_shards

SPEECH = Path(__file__).parent.parent / "examples" / "speech"

pytestmark = pytest.mark.usefixtures("ray_cluster")


def shards(speech: Path) -> list[Shard]:
    """Tars, Parquet files, manifests, scripts and loose files."""
    kinds = ("webdataset", "parquet", "manifest", "kspon", "folder", "long")
    return [shard for kind in kinds for shard in list_shards([str(speech / kind)])]


def planned(output: str, speech: Path, run_id: str = "20261122T000000Z-aaaaaa") -> pa.Table:
    """An output of which only the plan and the rows are made."""
    run = Run(output, run_id, "2026-11-22", FINGERPRINT)
    write_format(output, PARTS)
    write_plan(run, shards(speech))
    return pa.concat_tables(transcripts(shard, run_id=run_id) for shard in shards(speech))


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def rows(output: str) -> pa.Table:
    return planned(output, SPEECH)


def export(rows: pa.Table, output: str, out: Path | str, to: Format = "hf", **options: Any) -> Any:
    console = Console(record=True, width=200, force_terminal=False)
    chosen = {"selection": "--keep 60%"} | options
    counts = export_selection(rows, output=output, to=to, out=str(out), console=console, **chosen)
    return counts, console.export_text()


def held(out: Path | str) -> dict[str, bytes]:
    return {f.uri.removeprefix(str(out)): read_bytes(f.uri) for f in list_files(str(out))}


def test_every_selected_row_is_a_clip(output: str, rows: pa.Table, tmp_path: Path) -> None:
    counts, _ = export(rows, output, tmp_path / "set")
    hours = pc.sum(pc.subtract(rows["end_s"], rows["start_s"])).as_py() / 3600
    assert asdict(counts) == {
        "num_clips": rows.num_rows,
        "hours": pytest.approx(hours),
        "num_skipped": {},
    }
    found = json.loads((tmp_path / "set" / "koasr_selection.json").read_bytes())
    assert found["counts"]["num_clips"] == rows.num_rows
    assert (found["selection"], found["output"]) == ("--keep 60%", output)
    assert (found["model"], found["fingerprint"]) == (["m"], ["f"])
    assert len(os.listdir(tmp_path / "set" / "data")) == len(shards(SPEECH))
    assert not (tmp_path / "set" / "koasr_selection.begun.json").exists()


@pytest.mark.parametrize("to", ["nemo", "webdataset"])
def test_the_same_selection_is_the_same_bytes(
    to: Format, output: str, rows: pa.Table, tmp_path: Path
) -> None:
    some = rows.filter(pc.less(rows["start_s"], 3.0))
    export(some, output, tmp_path / "a", to)
    backwards = some.take(list(reversed(range(some.num_rows))))
    export(backwards, output, tmp_path / "b", to)
    assert held(tmp_path / "a") == held(tmp_path / "b")
    assert len(held(tmp_path / "a")) > len(shards(SPEECH))


def test_to_a_store(
    output: str, rows: pa.Table, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(selected: dict[str, tuple[Shard, pa.Table]], target: Target) -> Iterator[Exported]:
        """In this process: the cluster may have been started before the store."""
        return (export_shard(shard, name, part, target) for name, (shard, part) in selected.items())

    monkeypatch.setattr("koasr.export_job.export_shards", here)
    some = rows.slice(0, 5)
    counts, _ = export(some, output, f"{s3}/set", "csv")
    export(some, output, tmp_path / "set", "csv")
    assert held(f"{s3}/set") == held(tmp_path / "set")
    assert export(some, output, f"{s3}/set", "csv")[0] == counts
    with pytest.raises(JobError, match="holds another selection"):
        export(some, output, f"{s3}/set", "nemo")


def test_a_set_that_is_there_is_left_as_it_is_and_another_refused(
    output: str, rows: pa.Table, tmp_path: Path
) -> None:
    some = rows.slice(0, 3)
    counts, _ = export(some, output, tmp_path)
    (part,) = tmp_path.glob("data/*")
    part.write_bytes(b"as it is")
    again, said = export(some, output, tmp_path)
    assert again == counts
    assert "holds this selection already" in said
    assert part.read_bytes() == b"as it is"
    for other in ({"trim": True}, {"to": "csv"}, {"selection": "--hours 1"}):
        with pytest.raises(JobError, match="holds another selection"):
            export(some, output, tmp_path, **other)
    with pytest.raises(JobError, match="holds another selection"):
        export(rows.slice(0, 4), output, tmp_path)


def test_a_set_that_was_cut_off_is_begun_anew(
    output: str, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise JobError("cut off")

    some = rows.slice(0, 3)
    with monkeypatch.context() as patch:
        patch.setattr("koasr.training_sets.write_index", fail)
        with pytest.raises(JobError, match="cut off"):
            export(some, output, tmp_path / "a")
    (tmp_path / "a" / "data" / "stale.parquet").write_bytes(b"of the first attempt")
    with pytest.raises(JobError, match="holds another selection"):
        export(rows.slice(0, 4), output, tmp_path / "a")
    export(some, output, tmp_path / "a")
    export(some, output, tmp_path / "b")
    assert held(tmp_path / "a") == held(tmp_path / "b")


def test_a_folder_with_other_things_is_refused(output: str, rows: pa.Table, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(JobError, match=r"is not empty: found thesis\.txt"):
        export(rows, output, tmp_path)
    assert list(held(tmp_path)) == ["/thesis.txt"]
    with pytest.raises(JobError, match="Not a directory"):
        export(rows, output, tmp_path / "thesis.txt")


def test_what_cannot_be_selected_is_one_line(output: str, rows: pa.Table, tmp_path: Path) -> None:
    with pytest.raises(JobError, match="selects no segment"):
        export(rows.slice(0, 0), output, tmp_path / "set")
    with pytest.raises(JobError, match="selected twice"):
        export(pa.concat_tables([rows, rows.slice(3, 1)]), output, tmp_path / "set")
    other = str(tmp_path / "other")
    planned(other, SPEECH, "20261123T000000Z-bbbbbb")
    with pytest.raises(JobError, match="cannot find the speech"):
        export(rows, other, tmp_path / "set")
    with pytest.raises(JobError, match="is not an output of koasr"):
        export(rows, str(tmp_path), tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_what_is_gone_since_is_counted_by_why(tmp_path: Path) -> None:
    speech = tmp_path / "speech"
    moved = (str(SPEECH), str(speech))
    shutil.copytree(SPEECH, speech)
    rows = planned(str(tmp_path / "out"), speech)
    number = {s.kind: len(rows.filter(pc.equal(rows["source_uri"], s.uri))) for s in shards(speech)}
    strangers = [*rows.slice(0, 1).to_pylist(), *rows.slice(1, 1).to_pylist()]
    lost = [row | {"segment_id": f"x#{n}", "run_id": "x"} for n, row in enumerate(strangers)]
    rows = pa.concat_tables([rows, pa.Table.from_pylist(lost, schema=rows.schema)])
    next(speech.glob("webdataset/*.tar")).unlink()
    os.utime(next(speech.glob("parquet/*.parquet")), (1, 1))
    counts, _ = export(rows, str(tmp_path / "out"), tmp_path / "set")
    skipped = {"changed": number["parquet"], "unplanned": 2, "vanished": number["tar"]}
    assert counts.num_skipped == skipped
    assert counts.num_clips == rows.num_rows - sum(skipped.values())
    is_gone = pc.equal(rows["source_uri"], shards(SPEECH)[0].uri.replace(*moved))
    gone = rows.filter(pc.and_(is_gone, pc.not_equal(rows["run_id"], "x")))
    with pytest.raises(JobError, match=f"no segment could be cut: {gone.num_rows} vanished"):
        export(gone, str(tmp_path / "out"), tmp_path / "none")
    assert not (tmp_path / "none" / "koasr_selection.json").exists()


def test_rows_of_a_retry_are_found_in_its_plan(output: str, rows: pa.Table) -> None:
    tar = shards(SPEECH)[0]
    run = Run(output, "20261123T000000Z-cccccc", "2026-11-22", FINGERPRINT, ("timeout",))
    write_plan(run, [tar])
    of_tar = rows.filter(pc.equal(rows["source_uri"], tar.uri)).to_pylist()
    mixed = [row | {"run_id": run.run_id} if n % 2 else row for n, row in enumerate(of_tar)]
    found, num_lost = find_shards(pa.Table.from_pylist(mixed, rows.schema), ["text"], output)
    ((shard, part),) = found.values()
    assert (shard, part.num_rows, num_lost) == (tar, len(of_tar), 0)
    write_bytes(f"{run.folder}/summary.json", b"{}")


def test_koasr_learns_from_what_it_selected(output: str, rows: pa.Table, tmp_path: Path) -> None:
    export(rows, output, tmp_path, trim=True)
    items = [item for shard in list_shards([str(tmp_path)]) for item in read_recordings(shard)]
    assert len(items) == rows.num_rows
    assert sorted(getattr(item, "reference", "") for item in items) == sorted(
        rows["text"].to_pylist()
    )


def test_hours_do_not_depend_on_which_shard_was_done_first() -> None:
    # Added one by one, these give 0.6 or 0.6000000000000001.
    done = [Exported(str(n), 1, n / 10, {}, b"") for n in (1, 2, 3)]
    assert _count(done, Counter(), 3) == _count(done[::-1], Counter(), 3)
