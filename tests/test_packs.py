"""Packs are bounded, the same at every attempt, and survive the trip through Arrow."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from sound import encode, recording, tone

from koasr import packs
from koasr.audio import AudioInfo, Samples
from koasr.errors import TransientError
from koasr.pack_rows import (
    LOADED,
    PACK,
    loaded_to_table,
    pack_to_table,
    table_to_loaded,
    table_to_pack,
)
from koasr.packs import load_pack, plan_packs
from koasr.rows import Recording, Reject, Shard

SHARD = Shard("s3://bucket/a.tar", "etag", 1, "tar")
FLAC = encode(tone(10.0))


def make(index: int, audio: bytes = FLAC) -> Recording:
    return Recording(f"id{index}", SHARD.uri, f"{index}.flac", "etag", audio, "가", {"spk": "1"})


def plan(items: list[Recording | Reject], pack_seconds: float = 1_200.0) -> list[packs.Pack]:
    return list(plan_packs(items, SHARD, "name", pack_seconds))


def test_packs_hold_at_most_their_seconds_and_keep_the_order() -> None:
    planned = plan([make(i) for i in range(8)], 35)
    assert [len(pack.recordings) for pack in planned] == [3, 3, 2]
    assert [r.recording_id for p in planned for r in p.recordings] == [f"id{i}" for i in range(8)]
    assert [pack.header.is_last for pack in planned] == [False, False, True]
    assert planned == plan([make(i) for i in range(8)], 35)
    assert len({pack.header.pack_id for pack in planned}) == 3


def test_a_pack_is_known_by_what_it_holds_and_by_what_is_before_it() -> None:
    """Staged packs of runs that cut a shard in other ways must not be put together."""
    members = [pack.header.members for pack in plan([make(i) for i in range(6)], 25)]
    assert members[0].startswith(".")
    for before, own in itertools.pairwise(members):
        assert own.partition(".")[0] == before.partition(".")[2]
    shorter = [pack.header.members for pack in plan([make(i) for i in (0, 2, 3, 4, 5)], 25)]
    assert not set(members) & set(shorter)
    other_seconds = [pack.header.members for pack in plan([make(i) for i in range(6)], 45)]
    assert not set(members) & set(other_seconds)


def test_packs_hold_at_most_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MAX_PACK_BYTES", 2 * len(FLAC))
    assert [
        len(pack.recordings) for pack in plan([make(i, bytes(bytearray(FLAC))) for i in range(5)])
    ] == [2, 2, 1]


def test_packs_hold_at_most_so_many_recordings_and_rejects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "MAX_PACK_RECORDINGS", 3)
    items = [
        make(i) if i % 2 else Reject(f"id{i}", SHARD.uri, "", "", "read", "empty", "")
        for i in range(8)
    ]
    planned = plan([*items])
    assert [pack.header.num_recordings for pack in planned] == [3, 3, 2]
    kept = [r.recording_id for p in planned for r in p.recordings]
    kept += [r.recording_id for p in planned for r in p.rejects]
    assert sorted(kept) == [f"id{i}" for i in range(8)]


def test_an_empty_shard_is_one_empty_pack() -> None:
    (pack,) = plan([])
    assert pack.header.is_whole_shard
    assert pack.header.num_recordings == 0


def test_rejects_count_as_recordings() -> None:
    unread = Reject("id9", SHARD.uri, "9", "etag", "read", "too_large", "found 2 GiB")
    (pack,) = plan([make(0), unread])
    assert pack.header.num_recordings == 2
    (loaded,) = load_pack(pack, 320)
    assert loaded.rejects == [unread]


def test_a_long_recording_comes_in_pieces_and_is_counted_once() -> None:
    noise = np.random.default_rng(0).normal(0, 3000, 16_000 * 100).astype(np.int16)
    for second in range(10, 100, 10):
        noise[second * 16_000 : second * 16_000 + 8_000] = 0
    (pack,) = plan([make(0, encode(noise))])
    pieces = list(load_pack(pack, 320, pack_seconds=30))
    assert len(pieces) > 3
    assert [piece.header.piece for piece in pieces] == list(range(len(pieces)))
    assert [piece.header.is_last_piece for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert [piece.header.num_recordings for piece in pieces] == [1] + [0] * (len(pieces) - 1)
    segments = [segment for piece in pieces for segment in piece.segments]
    assert np.array_equal(np.concatenate([s.samples for s in segments]), noise)
    starts = np.cumsum([0] + [len(s.samples) for s in segments[:-1]])
    assert [s.start for s in segments] == starts.tolist()


def test_pieces_say_where_they_begin_and_end() -> None:
    """Staged pieces of sessions with other pieces must not pass for one pack."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 3000, 16_000 * 100).astype(np.int16)
    for second in range(10, 100, 10):
        noise[second * 16_000 : second * 16_000 + 8_000] = 0
    (pack,) = plan([make(0, encode(noise)), make(1)])

    def cuts(pack_seconds: float) -> list[str]:
        return [piece.header.cut for piece in load_pack(pack, 320, pack_seconds=pack_seconds)]

    assert cuts(1_000) == ["."]
    found = cuts(30)
    assert found == cuts(30)
    assert (found[0].partition(".")[0], found[-1].partition(".")[2]) == ("", "")
    for before, after in itertools.pairwise(found):
        assert before.partition(".")[2] == after.partition(".")[0] != ""
    assert cuts(55)[0] != found[0]


def test_a_recording_that_fails_leaves_its_neighbours_alone() -> None:
    (pack,) = plan([make(0), make(1, b"text"), make(2)])
    (loaded,) = load_pack(pack, 320)
    assert [r.recording_id for r in loaded.recordings] == ["id0", "id2"]
    (bad,) = loaded.rejects
    assert (bad.recording_id, bad.stage, bad.reason) == ("id1", "load", "unsupported_format")
    assert bad.size_bytes == 4
    assert len(bad.sha256) == 64


def test_packs_survive_the_trip_through_arrow() -> None:
    odd = recording(FLAC, offset_s=1.5, duration_s=None, raw_pcm=False, metadata={"a": "b"})
    (pack,) = plan([make(0), odd, make(1, b"text")])
    table = pack_to_table(pack)
    assert table.schema.equals(PACK)
    assert table_to_pack(table) == pack
    (loaded,) = load_pack(pack, 320)
    table = loaded_to_table(loaded)
    assert table.schema.equals(LOADED)
    back = table_to_loaded(table)
    assert back.header == loaded.header
    assert back.recordings == loaded.recordings
    assert (back.infos, back.rejects, back.owners) == (loaded.infos, loaded.rejects, loaded.owners)
    for one, other in zip(back.segments, loaded.segments, strict=True):
        assert one.start == other.start
        assert np.array_equal(one.samples, other.samples)


def test_a_fault_of_the_machine_makes_no_reject() -> None:
    def decode(recording: Recording) -> tuple[AudioInfo, Iterator[Samples]]:
        raise TransientError("no memory for a child")

    (pack,) = plan([make(0)])
    with pytest.raises(TransientError):
        list(load_pack(pack, 320, decode=decode))


def test_a_pack_is_planned_without_a_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("soundfile.SoundFile.__init__", lambda *_, **__: pytest.fail("opened"))
    odd = [FLAC[:100], b"RIFF", b"OggS" * 9, bytes(99)]
    (pack,) = plan([make(i, audio) for i, audio in enumerate(odd)])
    assert len(pack.recordings) == 4
