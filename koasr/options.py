"""What a user may ask of one run of the job."""

from dataclasses import dataclass
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
FloatType = Literal["float32", "float16", "bfloat16"]
Precision = Literal["auto", FloatType]


@dataclass(frozen=True)
class Options:
    """Options of `koasr transcribe`; None and `auto` are settled when the cluster is known."""

    device: Device = "auto"
    precision: Precision = "auto"
    num_actors: int | None = None
    batch_seconds: float | None = None
    date: str | None = None
    max_reject_rate: float = 0.05
