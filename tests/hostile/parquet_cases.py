"""Parquet files: rows without bytes, columns of other types, and damage."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from hostile.cases import FLAC, WAV, Case, file_of
from koasr.limits import Limits

AUDIO = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ROW = {"bytes": FLAC, "path": "a.flac"}


def parquet(table: pa.Table, **options: Any) -> bytes:
    """A table as a file."""
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def rows(*audio: Any, **columns: Any) -> pa.Table:
    """A table as the Hugging Face hub has them."""
    return pa.table({"audio": pa.array(audio, AUDIO), **columns})


def case(name: str, data: bytes, num_loaded: int, *reasons: str, **limits: Any) -> Case:
    """A file and its outcome."""
    return Case(name, file_of("a.parquet", data), num_loaded, reasons, Limits(**limits))


class _Keys(pe.KmsClient):  # type: ignore[misc]
    """Wraps keys by not wrapping them."""

    def __init__(self, config: object) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return key_bytes.hex().encode()

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return bytes.fromhex(wrapped_key.decode())


def _encrypted(folder: Path) -> None:
    factory = pe.CryptoFactory(_Keys)
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"k": ["text"]})
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    table = rows(ROW, text=["가"])
    with pq.ParquetWriter(
        folder / "a.parquet", table.schema, encryption_properties=properties
    ) as writer:
        writer.write_table(table)


def _damaged_page() -> bytes:
    data = bytearray(parquet(rows(*[ROW] * 8), compression="zstd", use_dictionary=False))
    middle = len(data) // 2
    data[8:middle] = b"\xff" * (middle - 8)
    return bytes(data)


def _typed(kind: pa.DataType, value: Any, name: str = "audio") -> bytes:
    return parquet(pa.table({name: pa.array([value], kind)}))


_WHOLE = parquet(rows(*[ROW] * 4))
_LONG = "가" * (1 << 20)

PARQUETS = (
    case("Parquet rows without bytes", parquet(rows(ROW, {"bytes": None, "path": "b"}, None)), 1,
         "unreadable", "unreadable"),
    case("a Parquet row of no bytes", parquet(rows(ROW, {"bytes": b"", "path": "b"})), 1, "empty"),
    case("a Parquet row of other things", parquet(rows(ROW, {"bytes": b"<html>"})), 1,
         "unsupported_format"),
    case("a Parquet row past the limit", parquet(rows(ROW, {"bytes": WAV})), 1, "too_large",
         max_bytes=10_000),
    case("more Parquet rows than the limit", parquet(rows(*[ROW] * 7)), 5, "too_large",
         max_members=5),
    case("Parquet without rows", parquet(rows()), 0),
    case("Parquet with audio as numbers", _typed(pa.list_(pa.float32()), [0.5]), 0,
         "unsupported_format"),
    case("Parquet with audio as text", _typed(AUDIO, None, "other").replace(b"bytes", b"bytez"), 0,
         "unsupported_format"),
    case("Parquet with bytes that are text",
         _typed(pa.struct([("bytes", pa.string())]), {"bytes": "가"}), 0, "unsupported_format"),
    case("Parquet with audio as plain bytes", _typed(pa.binary(), FLAC), 1),
    case("Parquet with large bytes", _typed(pa.struct([("bytes", pa.large_binary())]),
                                            {"bytes": FLAC}), 1),
    case("Parquet with a path that is a number",
         _typed(pa.struct([("bytes", pa.binary()), ("path", pa.int8())]),
                {"bytes": FLAC, "path": 1}), 1),
    case("Parquet with columns of every kind",
         parquet(rows(ROW, ROW, text=[None, _LONG], n=[2**63 - 1, None], x=[float("nan"), 0.0],
                      deep=[[[1]], None], when=pa.array([0, 1], pa.timestamp("ns")))), 2),
    case("Parquet of no bytes", b"", 0, "unreadable"),
    case("Parquet of its marks alone", b"PAR1PAR1", 0, "unreadable"),
    case("Parquet without its footer", _WHOLE[:-200], 0, "unreadable"),
    case("Parquet without its start", _WHOLE[3_000:], 0, "unreadable"),
    case("Parquet with a footer of 10^9 bytes", _WHOLE[:-8] + b"\x00\xca\x9a\x3bPAR1", 0,
         "unreadable"),
    case("Parquet with a damaged page", _damaged_page(), 0, "unreadable"),
    Case("Parquet that is encrypted", _encrypted, 0, ("unreadable",)),
)  # fmt: skip
