"""What a user may ask of one run of the job."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter, validators

from koasr.help import COMPUTE, ENDING
from koasr.precision import Device, Precision

_positive = Parameter(validator=validators.Number(gt=0))
_count = Parameter(validator=validators.Number(gte=1))
_from_0 = Parameter(validator=validators.Number(gte=0))
_share = Parameter(validator=validators.Number(gte=0, lte=1))
_compute, _ending = Parameter(group=COMPUTE), Parameter(group=ENDING)
_elsewhere = Parameter(parse=False)
"""Flags of one command alone: the command line fills them in."""


@dataclass(frozen=True)
class Options:
    """Options of a run; None and `auto` are settled when the cluster is known.

    A run stops where it has no GPU for `wait_for_gpu` seconds, at its start or later; a pack is the
    unit of work and of recovery: a crash costs those that were in work.

    Args:
        max_reject_rate: Share of rejects that exit code 0 allows.
        device: auto: GPUs where the cluster has some.
        precision: auto: float16 on a GPU, float32 on a CPU.
        num_actors: Copies of the model; else one a GPU, or for 4 CPUs.
        batch_seconds: Audio at once; else 40 on a CPU, 240 or less on a GPU.
        pack_seconds: Audio of a pack, the unit of recovery.
        stop_at: Time of day to stop at (HH:MM, this machine's).
        max_hours: Hours after which to stop.
        calibration: File of koasr calibrate: fills in expected_cer.
        wait_for_gpu: Seconds to wait for a missing GPU.
    """

    max_reject_rate: Annotated[float, _share, _ending] = 0.05
    device: Annotated[Device, _compute] = "auto"
    precision: Annotated[Precision, _compute] = "auto"
    num_actors: Annotated[int | None, _count, _compute] = None
    batch_seconds: Annotated[float | None, _positive, _compute] = None
    pack_seconds: Annotated[float, _positive, _compute] = 20 * 60.0
    stop_at: Annotated[str | None, _ending] = None
    max_hours: Annotated[float | None, _positive, _ending] = None
    calibration: str | None = None
    wait_for_gpu: Annotated[float, _from_0, _compute] = 600.0
    date: Annotated[str | None, _elsewhere] = None
    prune: Annotated[bool, _elsewhere] = False
