"""Which shards `koasr retry` plans anew, and which of their recordings it reads."""

from pathlib import Path

import outputs
import pyarrow as pa
import pytest
from outputs import group, ids, members, night, place, tar

from koasr.errors import JobError
from koasr.inventory import open_output
from koasr.retry import DEFAULT_REASONS, check_reasons, plan_retries, wanted
from koasr.rows import Recording, Reject, Shard, recording_id
from koasr.runs import Run, is_forgotten_key, read_plan, shard_name, unfinished_runs
from koasr.shard_objects import make_object, read_object, remove_object
from koasr.storage import join, write_bytes

GROUP = group(1, 2, 3)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished night: tar 2 has a timeout (0) and a truncated one (5), the group a crash (1)."""
    return night(str(tmp_path / "out"))


def plan(run: Run, *reasons: str) -> list[Run]:
    return plan_retries(open_output(run.output), check_reasons(reasons))


def kept(run: Run, shard: Shard) -> list[str]:
    """Ids that a retry reads of a shard, the reject of its rest among them."""
    is_wanted = wanted(run, shard_name(shard, run.fingerprint))
    items: list[Recording | Reject] = [
        Recording(recording_id(uri, key), uri, key, version, b"")
        for uri, key, version in members(shard)
    ]
    items.append(rest(shard))
    return [item.recording_id for item in items if is_wanted(item)]


def rest(shard: Shard) -> Reject:
    name = f"{recording_id(shard.uri)}/"
    return Reject(name, shard.uri, "", shard.version, "read", "unreadable", "changed")


def retry(run: Run, *reasons: str) -> Run:
    return Run(run.output, "r", run.date, run.fingerprint, reasons)


def test_only_shards_with_such_rejects_are_planned(run: Run) -> None:
    (planned,) = plan(run, "timeout")
    assert list(read_plan(planned).values()) == [tar(2)]
    assert (planned.retry, planned.date) == (("timeout",), run.date)
    assert unfinished_runs(run.output) == [planned]


def test_by_default_what_a_bad_hour_explains_is_planned(run: Run) -> None:
    (planned,) = plan(run)
    assert set(planned.retry) == set(DEFAULT_REASONS)
    assert set(read_plan(planned).values()) == {tar(2), GROUP}
    assert plan_retries(open_output(run.output), ("bad_name",)) == []


def test_each_date_has_a_run_of_its_own(run: Run) -> None:
    later = outputs.begin(run.output, "20261123T000000Z-b", tar(3), tar(4), date="2026-11-23")
    records = [outputs.commit(later, tar(3), {1: "truncated"}), outputs.commit(later, tar(4))]
    outputs.finish(later, records)
    first, second = plan(run, "all")
    assert (first.date, set(read_plan(first).values())) == (run.date, {tar(2), GROUP})
    assert (second.date, set(read_plan(second).values())) == ("2026-11-23", {tar(3)})


def test_what_an_unfinished_retry_will_read_is_not_planned_twice(run: Run) -> None:
    assert len(plan(run, "timeout")) == 1
    assert plan(run, "timeout") == []
    (other,) = plan(run, "all")
    assert list(read_plan(other).values()) == [GROUP]


def test_a_reason_that_is_none_is_wrong_usage() -> None:
    with pytest.raises(JobError, match="'tired', wanted one of all, bad_name") as failure:
        check_reasons(["timeout", "tired"])
    assert failure.value.exit_code == 2


def test_a_retry_reads_what_was_rejected_for_its_reasons_alone(run: Run) -> None:
    assert kept(retry(run, "timeout"), tar(2)) == [ids(tar(2))[0]]
    assert kept(retry(run, "timeout", "truncated"), tar(2)) == [ids(tar(2))[n] for n in (0, 5)]
    assert kept(retry(run, "all"), GROUP) == [ids(GROUP)[1]]
    assert kept(retry(run, "all"), tar(1)) == []


def test_where_the_rest_of_a_shard_was_rejected_all_that_is_not_known_is_read(run: Run) -> None:
    uri = place(run, tar(2))
    held = read_object(uri)
    row = {"recording_id": rest(tar(2)).recording_id, "source_uri": tar(2).uri, "source_key": ""}
    row |= {"reason": "unreadable", "source_version": "v1"}
    rejects = pa.concat_tables(
        [held.rejects, pa.Table.from_pylist([row], schema=held.rejects.schema)]
    )
    known = held.transcripts.filter(pa.compute.not_equal(held.transcripts["source_key"], "3.flac"))
    write_bytes(uri, make_object(held.record, known, rejects)[1])
    assert kept(retry(run, "unreadable"), tar(2)) == [ids(tar(2))[3], rest(tar(2)).recording_id]
    assert kept(retry(run, "timeout"), tar(2)) == [ids(tar(2))[0]]


def test_no_run_reads_what_was_forgotten(run: Run) -> None:
    keys = [is_forgotten_key(ids(tar(2))[0]), is_forgotten_key(ids(tar(3))[2])]
    write_bytes(join(run.output, "_koasr/forgotten/1.txt"), "\n".join(keys).encode())
    assert kept(retry(run, "all"), tar(2)) == [ids(tar(2))[5]]
    whole = [*ids(tar(3)), rest(tar(3)).recording_id]
    assert kept(run, tar(3)) == [name for name in whole if name != ids(tar(3))[2]]


def test_a_retry_of_what_was_removed_says_so(run: Run) -> None:
    remove_object(place(run, tar(2)))
    with pytest.raises(JobError, match="was removed while it was retried"):
        wanted(retry(run, "all"), shard_name(tar(2), run.fingerprint))
