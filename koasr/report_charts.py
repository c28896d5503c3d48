"""Figures of a run → diagrams that lie in the page: SVG whose colours are the page's own."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from koasr.calibration import CONFIDENCE_BINS, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = {"#010203": "var(--muted)", "#020304": "var(--line)", "#030405": "var(--accent)"}
_COLOURS |= {"#040506": "var(--ink)", "#050607": "none"}
_TEXT, _GRID, _BARS, _LINE, _NOTHING = _COLOURS
"""What stands for a colour of the page while matplotlib draws."""
_SIZE_INCHES = (4.2, 2.5)
_FONT = 10.5
_NUM_BARS = 20
_NUM_POINTS = 200
_MAX_BAR_S = 20
_SVG = "{http://www.w3.org/2000/svg}"
_HREF = "{http://www.w3.org/1999/xlink}href"


def draw_confidence(counts: Sequence[int], before: Sequence[int], told: str) -> Markup:
    """Histogram of confidence, against that of earlier nights.

    Args:
        counts: As of `count_confidence`.
        before: The same of earlier nights, empty without any.
        told: What it says, for those who do not see it.
    """
    figure, axes = _new_figure("confidence", "share of the segments")
    edges = np.linspace(0.0, 1.0, _NUM_BARS + 1)
    axes.bar(edges[:-1], _shares(counts), 0.9 / _NUM_BARS, align="edge", color=_BARS)
    if before:
        axes.stairs(_shares(before), edges, color=_LINE, linewidth=1.2, label="nights before")
        axes.legend(loc="upper left", frameon=False, labelcolor=_TEXT)
    axes.set_xlim(0, 1)
    return _to_svg(figure, "confidence", told)


def _shares(counts: Sequence[int]) -> Floats:
    """In per cent of the segments in which something was said, by `_NUM_BARS` bars."""
    spoken = np.array(counts[:CONFIDENCE_BINS], float).reshape(_NUM_BARS, -1).sum(axis=1)
    return np.asarray(100 * spoken / max(spoken.sum(), 1.0))


def draw_durations(duration_s: Floats, told: str) -> Markup:
    """Histogram of the length of segments, a bar a second; the last has all longer ones."""
    figure, axes = _new_figure("seconds", "share of the segments")
    last = min(max(1, int(np.ceil(duration_s.max(initial=1.0)))), _MAX_BAR_S)
    edges = np.arange(last + 1)
    counts, _ = np.histogram(np.minimum(duration_s, last), edges)
    shares = 100 * counts / max(len(duration_s), 1)
    axes.bar(edges[:-1], shares, 0.9, align="edge", color=_BARS)
    axes.set_xlim(0, last)
    return _to_svg(figure, "durations", told)


def draw_yield(hours: Floats, confidence: Floats, cer: Floats | None, told: str) -> Markup:
    """What the hours kept cost: their expected CER, or the least confidence among them.

    Args:
        hours: Of the surest one, two, … segments together.
        confidence: Of each, falling.
        cer: Expected of the surest one, two, … together; None without a calibration.
        told: What it says.
    """
    places = np.unique(np.linspace(0, len(hours) - 1, _NUM_POINTS).astype(int))
    places = np.concatenate([places[:1], places])
    is_short = hours[-1] < 2.0
    kept = hours[places] * (60 if is_short else 1)
    kept[0] = 0.0
    label = "least confidence" if cer is None else "expected CER"
    figure, axes = _new_figure(f"{'minutes' if is_short else 'hours'} kept", label)
    values = confidence[places] if cer is None else 100 * cer[places]
    axes.plot(kept, values, color=_BARS, linewidth=2)
    axes.set_xlim(0, max(float(kept[-1]), 1e-6))
    axes.set_ylim(0, 1 if cer is None else None)
    if cer is None:
        axes.yaxis.set_major_formatter("{x:.1f}")
    return _to_svg(figure, "yield", told)


def _new_figure(xlabel: str, ylabel: str) -> tuple["Figure", "Axes"]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.size": _FONT, "axes.unicode_minus": False}):
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.set_xlabel(xlabel, color=_TEXT, fontsize=_FONT)
    axes.set_ylabel(ylabel, color=_TEXT, fontsize=_FONT)
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.tick_params(length=0, labelcolor=_TEXT, labelsize=_FONT, pad=5)
    axes.locator_params(axis="y", nbins=5)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "left", "right"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_GRID)
    return figure, axes


def _to_svg(figure: "Figure", name: str, told: str) -> Markup:
    import matplotlib

    sink = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    root = ElementTree.fromstring(sink.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        _restyle(element)
        # Several charts are in one page; only what cuts them off is referred to, by a hash.
        if element.tag != f"{_SVG}clipPath":
            element.attrib.pop("id", None)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-label": told, "class": "chart"}
    ElementTree.register_namespace("", _SVG[1:-1])
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _restyle(element: Any) -> None:
    """Attributes for what matplotlib puts into `style`, which the page's policy forbids."""
    for entry in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in entry.partition(":"))
        if key and not key.startswith("font"):
            element.attrib[key] = _COLOURS.get(value, value)
    if _HREF in element.attrib:
        element.attrib["href"] = element.attrib.pop(_HREF)
