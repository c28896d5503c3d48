"""An order for pseudo-labels → how many of the surest to keep, and on what grounds."""

import re
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from cyclopts import Parameter, validators

from koasr.calibration import Calibration
from koasr.drift import Drift
from koasr.errors import JobError
from koasr.selection import ROUNDING_H, Candidates

_rate = Parameter(validator=validators.Number(gt=0, lte=1))
_positive = Parameter(validator=validators.Number(gt=0))


@dataclass(frozen=True)
class Order:
    """How much to keep. One of these.

    A CER is held by the calibration's threshold, where its promise carries, and by the forecast.

    Args:
        max_expected_cer: What holds this CER: 0.05 for 5 %.
        hours: So many hours, the surest.
        keep: Such a share of what passes, the surest: 60% or 0.6.
    """

    max_expected_cer: Annotated[float | None, _rate] = None
    hours: Annotated[float | None, _positive] = None
    keep: str | None = None

    def __str__(self) -> str:
        """As flags: a selection is known by it."""
        named = {"max-expected-cer": self.max_expected_cer, "hours": self.hours, "keep": self.keep}
        return " ".join(f"--{name} {value}" for name, value in named.items() if value is not None)


NO_ORDER = Order()


@dataclass(frozen=True)
class Chosen:
    """How many of the best candidates to keep, and on what grounds."""

    count: int
    why: str


def share_of(order: Order) -> float | None:
    """The share that `--keep` names, with what else is wrong about an order."""
    given = [v for v in (order.max_expected_cer, order.hours, order.keep) if v is not None]
    if len(given) != 1:
        found = "none" if not given else f"{len(given)}"
        raise JobError(f"wanted one of --max-expected-cer, --hours and --keep, found {found}", 2)
    if order.keep is None:
        return None
    number = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", order.keep)
    share = float(number[1]) / (100 if number[2] else 1) if number else 0.0
    if not 0 < share <= 1:
        raise JobError(f"--keep: found {order.keep!r}, wanted a share such as 60% or 0.6", 2)
    return share


def choose(
    found: Candidates,
    order: Order,
    share: float | None,
    calibration: Calibration | None,
    drift: Drift | None,
) -> Chosen:
    """How many of the best candidates an order keeps.

    Raises:
        JobError: It needs a calibration, or nothing fits it.
    """
    if order.max_expected_cer is None:
        hours = found.hours.cumsum()
        limit = order.hours if share is None else share * float(found.hours.sum())
        count = int(np.searchsorted(hours, (limit or 0.0) + ROUNDING_H, side="right"))
        if order.hours is not None and count == len(found.rows):
            return Chosen(count, "all that passes the filters: there is no more")
        return Chosen(count, "the surest, as ordered")
    if calibration is None or drift is None:
        raise JobError(
            "--max-expected-cer needs a calibration: make one with koasr calibrate and pass it "
            "with --calibration, or order with --hours or --keep"
        )
    target = order.max_expected_cer
    fits = np.flatnonzero(found.forecast() <= target)
    hoped = int(fits[-1]) + 1 if len(fits) else 0
    threshold = calibration.threshold(target)
    if drift.has_drifted or threshold is None or threshold.min_score is None:
        because = "the speech has drifted" if drift.has_drifted else "no threshold can be held"
        return Chosen(hoped, f"forecast only, without guarantee: {because}")
    held = int(np.sum(found.scores >= threshold.min_score))
    promise = f"the threshold that holds CER ≤ {threshold.target:.1%}"
    if threshold.target < target - 1e-9:
        promise += f" (the calibration's nearest to {target:.1%})"
    # This speech may have more near the threshold than the labelled had: the forecast sees that.
    if hoped < held:
        return Chosen(hoped, f"by the forecast, stricter here than {promise}")
    return Chosen(held, f"by {promise}")
