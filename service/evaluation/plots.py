"""The plots of a report. The only module that imports matplotlib, and only when a plot is drawn."""

import math
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from index.errors import InputError
from service.evaluation.figures import Part
from service.evaluation.policies import CATEGORY, LENGTH, ORACLE, RANDOM, ROUTER, ZERO

_Box = tuple[float, float, float, float]
_DPI: Final = 150
_NORMAL_95: Final = 1.96
_BETWEEN: Final = 24  # points drawn between two of a curve
_WIDE: Final = 5
_LETTER, _LINE = 4.6, 9.0  # width and height of a letter of a name, in points
_FAR: Final = 0.8  # how bad it is to stand a point away, squared, beside covering so many square points
# Where a name may stand beside its point, in points, the likeliest first.
_AROUND: Final = tuple((dx, dy) for dy in (0, -7, 7, -14, 14, -21, 21, -28) for dx in (7, -7)) + tuple(
    (0, dy) for dy in (-11, 11, -20, 20, 30, -30)
)
_DOT: Final = 6  # pixels from a point's middle that no name may cover
_LABELLED: Final = 14  # single models with a name; more cannot be told apart
# Colours that the colour-blind can tell apart (Okabe & Ito 2008).
_STYLES: Final[dict[str, dict[str, Any]]] = {
    ROUTER: {"color": "#0072B2", "linewidth": 2.4, "zorder": 5},
    ZERO: {"color": "#444444", "linewidth": 1.4, "linestyle": "--", "zorder": 3},
    RANDOM: {"color": "#999999", "linewidth": 1.4, "linestyle": ":", "zorder": 2},
    LENGTH: {"color": "#E69F00", "linewidth": 1.4, "zorder": 3},
    CATEGORY: {"color": "#009E73", "linewidth": 1.4, "zorder": 3},
    ORACLE: {"color": "#CC79A7", "linewidth": 1.4, "linestyle": "-.", "zorder": 3},
}
_NAMES: Final = {ZERO: "zero router (hull of single models)", RANDOM: "random mix of cheapest and best"}


def require() -> None:
    """Raise InputError where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise InputError(
            "plots need matplotlib, which is not installed: "
            f"{sys.executable} -m pip install 'waypost[report]', or leave out --output"
        ) from error
    mpl.use("Agg")


def draw(part: Part, output: Path, *, several: bool) -> list[Path]:
    """Draw the plots of one kind of rows and return the files.

    Args:
        part: what to show.
        output: folder.
        several: whether there are plots of another kind: the names then say which.
    """
    prefix = f"{part.kind}_" if several else ""
    written = [output / f"{prefix}quality_cost.png"]
    save(_quality_cost(part), written[0])
    if part.share_curves:
        written.append(output / f"{prefix}share_quality.png")
        save(_share_quality(part), written[1])
    if part.reliability:
        written.append(output / f"{prefix}reliability.png")
        save(_reliability(part), written[-1])
    return written


def _quality_cost(part: Part) -> Any:
    """Return the figure of quality against cost: what each policy reaches for how much."""
    figure, axes = figure_with_axes()
    curves = {name: _mixed(points) for name, points in part.curves.items() if name in _STYLES and len(points) > 1}
    names = dict(_NAMES)
    if len(part.models) == 2 and RANDOM in curves and ZERO in curves:  # noqa: PLR2004 - then they are the same
        del curves[RANDOM]
        names[ZERO] = "random mix of the two (zero router)"
    for name, points in curves.items():
        axes.plot(*zip(*points, strict=True), label=names.get(name, name), **_STYLES[name])
    router = part.policies[ROUTER]
    star = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "linestyle": "none", "zorder": 7}
    at = (1e3 * router["cost_usd"], router["quality"])
    axes.plot(*at, color=_STYLES[ROUTER]["color"], label="router, default decision", **star)
    models = {n: (1e3 * f["cost_usd"], f["quality"]) for n, f in part.single_models.items() if f["quality"] > 0}
    axes.plot(*zip(*models.values(), strict=True), "o", color="black", markersize=5, zorder=9, label="single models")
    drawn = [at, *models.values(), *(point for points in curves.values() for point in points)]
    _scale(axes, [cost for cost, _ in drawn])
    axes.set_xlabel("USD per 1,000 requests")
    axes.set_ylabel("accuracy" if part.kind == "labels" else "mean quality")
    axes.set_title(f"Quality and cost, {part.rows:,} held-out prompts")
    legend(axes)
    _name_points(figure, axes, dict(list(models.items())[:_LABELLED]), drawn)
    return figure


def _mixed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a curve (USD per 1,000, quality) with points between its own: a mix of two lies on a line of cost.

    On a logarithmic axis such a line is bent, and drawing from corner to corner would show what nobody reaches.
    """
    mixed = [(1e3 * cost, quality) for cost, quality in points[:1]]
    for (x0, y0), (x1, y1) in pairwise(points):
        parts = (step / _BETWEEN for step in range(1, _BETWEEN + 1))
        mixed += [(1e3 * (x0 + part * (x1 - x0)), y0 + part * (y1 - y0)) for part in parts]
    return mixed


def _share_quality(part: Part) -> Any:
    """Return the figure of the gap recovered against the share of strong calls."""
    figure, axes = figure_with_axes()
    for name, points in part.share_curves.items():
        figures = part.policies[name]
        label = f"{name}: APGR {figures['apgr']:.3f}"
        axes.plot(*zip(*points, strict=True), label=label, **_STYLES[name])
    for wanted, figure_name in ((0.5, "cpt50"), (0.8, "cpt80")):
        share = part.policies[ROUTER][figure_name]
        axes.plot([0, share, share], [wanted, wanted, 0], color="#0072B2", linewidth=0.8, alpha=0.6, zorder=1)
        axes.annotate(
            f"CPT({wanted * 100:.0f}) = {share:.1%}",
            (share, 0),
            xytext=(4, 6),
            textcoords="offset points",
            fontsize=9,
            color="#0072B2",
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(0, max(1.05, *(y for points in part.share_curves.values() for _, y in points)) * 1.02)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(percent())
    axes.set_xlabel(f"share of calls to {part.strong}")
    axes.set_ylabel("gap recovered between the two models")
    axes.set_title(f"{part.strong} or {part.weak}, {part.rows:,} held-out prompts", fontsize=11)
    legend(axes)
    return figure


def _reliability(part: Part) -> Any:
    """Return the figure of actual against expected quality, with the share of prompts below it."""
    figure, axes = figure_with_axes()
    expected, actual, shares = zip(*part.reliability, strict=True)
    axes.plot([0, 1], [0, 1], label="as expected", **_STYLES[ZERO])
    axes.bar(expected, shares, width=0.03, color="#0072B2", alpha=0.25, label="share of the prompts", zorder=1)
    error = part.policies[ROUTER]["calibration_error"]
    axes.plot(expected, actual, "o-", label=f"router: off by {error:.3f} on average", **_STYLES[ROUTER])
    low, high = zip(*(_chance(a, share * part.rows) for a, share in zip(actual, shares, strict=True)), strict=True)
    axes.vlines(expected, low, high, color=_STYLES[ROUTER]["color"], linewidth=1.2, label="95 % interval")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("expected quality of the chosen model")
    axes.set_ylabel("actual quality")
    axes.set_title(f"Calibration, {part.rows:,} held-out prompts", fontsize=11)
    legend(axes)
    return figure


def _chance(mean: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval (Wilson) of a mean of so many outcomes of 0 or 1; of others it is narrower."""
    square = _NORMAL_95**2 / max(count, 1.0)
    middle = (mean + square / 2) / (1 + square)
    half = math.sqrt(max(mean * (1 - mean), 0.0) * square + square**2 / 4) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def figure_with_axes() -> tuple[Any, Any]:
    """Return an empty figure, in the style of all plots, and its axes."""
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.6), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return figure, axes


def legend(axes: Any) -> None:
    """Put the legend beside the axes, where it covers nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=9)


def _scale(axes: Any, costs: list[float]) -> None:
    """Choose the axis of costs: logarithmic where they span a factor of five or more and none is zero."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if min(costs) <= 0 or max(costs) < _WIDE * min(costs):
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def percent(decimals: int | None = None) -> Any:
    """Return what writes shares as percent; None: with as many decimals as it takes."""
    from matplotlib.ticker import PercentFormatter

    return PercentFormatter(1.0, decimals=decimals)


def _name_points(
    figure: Any, axes: Any, points: dict[str, tuple[float, float]], drawn: Sequence[tuple[float, float]]
) -> None:
    """Write the name beside each point, where it covers as little as can be of points, curves and other names."""
    from matplotlib.patheffects import withStroke

    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    dots = axes.transData.transform([*points.values(), *drawn]).tolist()
    # Covering a curve is not so bad: names have a white edge.
    taken = [(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots[: len(points)] * 6 + dots[len(points) :]]
    pixel = figure.dpi / 72
    for name, point in sorted(points.items(), key=lambda one: -one[1][1]):
        short = name.rsplit("/", 1)[-1]
        x, y = axes.transData.transform(point).tolist()
        width, height = _LETTER * len(short) * pixel, _LINE * pixel
        boxes = [_beside(x + dx * pixel, y + dy * pixel, width, height, dx) for dx, dy in _AROUND]
        far = [_FAR * pixel**2 * (dx * dx + dy * dy) for dx, dy in _AROUND]
        worst = [cost + _covered(box, taken, inside) for box, cost in zip(boxes, far, strict=True)]
        best = worst.index(min(worst))
        taken += [boxes[best]] * 6
        dx, dy = _AROUND[best]
        side = "left" if dx > 0 else "right" if dx < 0 else "center"
        place = {"xytext": (dx, dy), "textcoords": "offset points", "ha": side, "va": "center"}
        leader = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6} if abs(dy) > _LINE else None
        named = axes.annotate(short, point, fontsize=8, color="#222222", zorder=8, arrowprops=leader, **place)
        named.set_path_effects([withStroke(linewidth=2, foreground="white")])


def _beside(x: float, y: float, width: float, height: float, side: float) -> _Box:
    """Return the box of a name that begins at x, ends there or is centred on it: by the sign of `side`."""
    left = x if side > 0 else x - width if side < 0 else x - width / 2
    return left, y - height / 2, left + width, y + height / 2


def _covered(box: _Box, taken: Sequence[_Box], inside: Any) -> float:
    """Return the area of other things that a box covers; outside the axes it is as bad as can be."""
    outside = box[0] < inside.x0 or box[2] > inside.x1 or box[1] < inside.y0 or box[3] > inside.y1
    return float("inf") if outside else sum(_overlap(box, other) for other in taken)


def _overlap(one: _Box, other: _Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return width * height if width > 0 and height > 0 else 0.0


def save(figure: Any, path: Path) -> None:
    """Write a figure."""
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
