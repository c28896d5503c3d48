"""What a user may ask of one run of the job."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cyclopts import Parameter, validators

Device = Literal["auto", "cpu", "cuda"]
FloatType = Literal["float32", "float16", "bfloat16"]
Precision = Literal["auto", FloatType]

_positive = Parameter(validator=validators.Number(gt=0))
_count = Parameter(validator=validators.Number(gte=1))
_share = Parameter(validator=validators.Number(gte=0, lte=1))
_elsewhere = Parameter(parse=False)
"""Flags of one command alone: the command line fills them in."""


@dataclass(frozen=True)
class Options:
    """Options of a run; None and `auto` are settled when the cluster is known.

    Args:
        max_reject_rate: Share of rejected recordings above which the exit code is 3.
        device: auto takes the cluster's GPUs where it has some.
        precision: Numbers the model computes in, up to its last layer; auto is float16 on a GPU,
            float32 on a CPU.
        num_actors: Copies of the model; one for every GPU, or one for every 4 CPUs.
        batch_seconds: Audio that goes through the model at once; 40 on a CPU, on a GPU 240 or what
            fits. Less needs less memory.
        pack_seconds: Audio of a pack, the unit of work and of recovery: a crash costs the packs
            that were in work.
        stop_at: Time of day (HH:MM, this machine's) to stop at; the same command goes on later.
        max_hours: Hours after which to stop.
        calibration: File of koasr calibrate: fills in confidence and expected_cer.
        wait_for_gpu: Seconds to wait for a GPU where the cluster has none, at the start or later.
    """

    max_reject_rate: Annotated[float, _share] = 0.05
    device: Device = "auto"
    precision: Precision = "auto"
    num_actors: Annotated[int | None, _count] = None
    batch_seconds: Annotated[float | None, _positive] = None
    pack_seconds: Annotated[float, _positive] = 20 * 60.0
    stop_at: str | None = None
    max_hours: Annotated[float | None, _positive] = None
    calibration: str | None = None
    wait_for_gpu: Annotated[float, Parameter(validator=validators.Number(gte=0))] = 600.0
    date: Annotated[str | None, _elsewhere] = None
    prune: Annotated[bool, _elsewhere] = False
