"""Figures of an evaluation → diagrams: what a score promised and what came true, what to keep."""

import io
from typing import TYPE_CHECKING, Any

from koasr.calibration import Floats
from koasr.confidence_quality import ORACLE, WORDS
from koasr.errors import JobError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NUM_CURVES = 5


def draw_plots(document: dict[str, Any]) -> dict[str, bytes]:
    """SVG files by name: `reliability.svg` and `risk_coverage.svg`.

    Args:
        document: As `evaluation.evaluate_transcripts` gives it.

    Raises:
        JobError: There is nothing to draw: too few segments, or scikit-learn is not installed.
    """
    confidence = document["confidence"]
    if "left_out" in confidence:
        raise JobError(f"nothing to draw: {confidence['left_out']}")
    return {
        "reliability.svg": _draw_reliability(confidence),
        "risk_coverage.svg": _draw_risk_coverage(confidence),
    }


def _new_figure() -> "Figure":
    # Late: it takes a second, and no other command needs it.
    from matplotlib.figure import Figure

    return Figure(figsize=(6, 5), layout="constrained")


def _draw_reliability(confidence: dict[str, Any]) -> bytes:
    figure = _new_figure()
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--", label="what was promised")
    found = {name: one.get("char_error") for name, one in confidence["segments"].items()}
    found[WORDS] = confidence["words"][WORDS]["word_error"]
    for name, one in found.items():
        if one:
            bins = one["bins"]
            axes.plot(
                bins["predicted"],
                bins["observed"],
                marker="o",
                markersize=4,
                label=f"{name} (ECE {one['ece']:.3f})",
            )
    axes.set(
        xlabel="predicted error rate (15 bins)", ylabel="observed error rate", xlim=(0, 1), ylim=0
    )
    axes.legend()
    return _to_svg(figure)


def _draw_risk_coverage(confidence: dict[str, Any]) -> bytes:
    figure = _new_figure()
    axes = figure.add_subplot()
    scores = {name: one for name, one in confidence["segments"].items() if name != ORACLE}
    best = sorted(scores, key=lambda name: float(scores[name]["aurc"]))[:_NUM_CURVES]
    for name in [*best, ORACLE]:
        one = confidence["segments"][name]
        curve = one["risk_coverage"]
        label = f"{name} (area {one['aurc']:.3f})"
        line = "--" if name == ORACLE else "-"
        axes.plot(curve["coverage"], curve["cer"], linestyle=line, label=label)
    axes.set(
        xlabel="share of the audio kept, the most trusted first",
        ylabel="CER of it",
        xlim=(0, 1),
        ylim=0,
    )
    axes.legend()
    return _to_svg(figure)


def draw_yield(hours: Floats, expected_cer: Floats, num_kept: int) -> bytes:
    """An SVG of how the expected CER grows with the hours kept, and where a selection stands.

    Args:
        hours: Of the best one, two, … segments together. Shape (num_segments,).
        expected_cer: Of the same; NaN without a calibration.
        num_kept: How many were selected.
    """
    figure = _new_figure()
    axes = figure.add_subplot()
    axes.plot(hours, expected_cer)
    if num_kept:
        label = f"kept: {hours[num_kept - 1]:.2f} h"
        axes.plot(hours[num_kept - 1], expected_cer[num_kept - 1], "o", label=label)
        axes.legend()
    axes.set(xlabel="hours kept, the surest first", ylabel="expected CER of them", ylim=0)
    return _to_svg(figure)


def _to_svg(figure: "Figure") -> bytes:
    import matplotlib

    sink = io.BytesIO()
    # The same figures give the same file, with text that can be searched.
    with matplotlib.rc_context({"svg.hashsalt": "koasr", "svg.fonttype": "none"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
