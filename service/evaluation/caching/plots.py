"""The plots of a report on the cache, in the style of `service.evaluation.plots`."""

from itertools import groupby
from pathlib import Path
from typing import Any, Final

from service.evaluation.caching.figures import Figures
from service.evaluation.plots import figure_with_axes, legend, percent, save

# Colours that the colour-blind can tell apart (Okabe & Ito 2008).
_OURS: Final = {"color": "#0072B2", "linewidth": 2.4, "zorder": 5}
_FIXED: Final = {"color": "#E69F00", "linewidth": 1.6, "zorder": 3}
_EXACT: Final = {"color": "#444444", "linewidth": 1.4, "linestyle": "--", "zorder": 2}
_WRONG: Final = {"color": "#D55E00", "linewidth": 1.8, "zorder": 4}
_LEAST: Final = 0.001
_SHOWN: Final = 1.6  # how far the axis of errors reaches, as a multiple of the largest budget


def draw(found: Figures, budget: float, output: Path) -> list[Path]:
    """Draw the plots and return the files.

    Args:
        found: what to show.
        budget: the settings' own.
        output: folder.
    """
    written = [output / "hits_errors.png", output / "over_time.png"]
    save(_hits_errors(found, budget), written[0])
    save(_over_time(found), written[1])
    if found.points:
        written.append(output / "budgets.png")
        save(_budgets(found), written[2])
    return written


def _hits_errors(found: Figures, budget: float) -> Any:
    """Return the figure of hits against answers not known to be right: each budget, and each fixed cosine."""
    figure, axes = figure_with_axes()
    ours = [(one.service.doubtful, one.service.hits) for one in found.points]
    allowed = [one for one in (budget, *(point.budget for point in found.points)) if one < 1]
    most = min(_SHOWN * max([*allowed, found.main.doubtful, _LEAST]), 1.0)
    fixed = sorted((doubtful, hits) for _, hits, doubtful in found.fixed)
    axes.plot(*zip(*fixed, strict=True), label="fixed cosine, every one tried", **_FIXED)
    if ours:
        axes.plot(*zip(*ours, strict=True), "o-", label="Waypost, by error budget", **_OURS)
        for place, budgets in groupby(found.points, lambda one: (one.service.doubtful, one.service.hits)):
            axes.annotate(
                ", ".join(f"{one.budget:.1%}" for one in budgets),
                place,
                xytext=(6, -12),
                textcoords="offset points",
                fontsize=9,
                color=_OURS["color"],
            )
    star = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "linestyle": "none", "zorder": 7}
    axes.plot(
        found.main.doubtful,
        found.main.hits,
        color=_OURS["color"],
        label=f"Waypost as set, {budget:.1%} allowed",
        **star,
    )
    axes.axhline(found.exact_only.hits, label="exact only", **_EXACT)
    top = min(1.0, 1.15 * max([hits for doubtful, hits in fixed if doubtful <= most] + [found.main.hits, 0.05]))
    if found.answerable is not None and found.answerable < top:
        axes.axhline(found.answerable, color="#CC79A7", linestyle="-.", label="all that was asked before", zorder=2)
    axes.set_xlim(-0.02 * most, most)
    axes.set_ylim(0, top)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(percent())
    axes.set_xlabel(f"{_doubtful(found)} cached answers, share of all calls")
    axes.set_ylabel("hits, share of all calls")
    axes.set_title(f"Hits against errors, {found.main.calls:,} calls", fontsize=11)
    legend(axes)
    return figure


def _doubtful(found: Figures) -> str:
    """Return what the hits are that are not known to be right."""
    played = (found.main, *(point.service for point in found.points))
    return "wrong or unknown" if any(one.unknown for one in played) else "wrong"


def _over_time(found: Figures) -> Any:
    """Return the figure of hits along the log."""
    figure, axes = figure_with_axes()
    calls, hits, exact, doubtful = zip(*found.over_time, strict=True)
    axes.fill_between(calls, hits, color=_OURS["color"], alpha=0.12, zorder=1)
    axes.plot(calls, hits, label="hits", **_OURS)
    axes.plot(calls, exact, label="exact hits", **_EXACT)
    axes.plot(calls, doubtful, label=f"{_doubtful(found)} hits", **_WRONG)
    axes.set_xlim(0, calls[-1])
    axes.set_ylim(0, min(1.0, 1.15 * max(0.05, *hits)))
    axes.yaxis.set_major_formatter(percent())
    axes.set_xlabel("calls so far")
    axes.set_ylabel("share of the calls around")
    axes.set_title("Hits along the log, with the budget as set", fontsize=11)
    legend(axes)
    return figure


def _budgets(found: Figures) -> Any:
    """Return the figure of what each budget led to: wrong answers, the bound on them, and audits."""
    figure, axes = figure_with_axes()
    budgets = [one.budget for one in found.points]
    axes.plot(budgets, budgets, color="#999999", linestyle=":", label="the budget itself", zorder=2)
    bounds = [one.bound for one in found.points]
    axes.plot(budgets, bounds, "s--", color="#009E73", linewidth=1.4, label="bound of the account", zorder=3)
    axes.plot(budgets, [one.service.wrong for one in found.points], "o-", label="wrong answers", **_OURS)
    doubtful = [one.service.doubtful for one in found.points]
    if any(one.service.unknown for one in found.points):
        axes.plot(budgets, doubtful, "^:", color="#CC79A7", label="wrong or unknown", zorder=3)
    axes.set_xscale("log")
    axes.set_xticks(budgets, [f"{budget:.1%}" for budget in budgets])
    seen = [share for share in (*budgets, *bounds, *doubtful) if share > 0]
    ticks = [step * 10**decade for decade in range(-5, 0) for step in (1, 2, 5)]
    least = min(seen) / 1.5
    axes.set_yscale("symlog", linthresh=least, linscale=0.3)  # where nothing is wrong, that is to be seen
    ticks = [0.0, *(tick for tick in ticks if tick >= least)]
    axes.set_yticks(ticks, [f"{tick:.2%}" for tick in ticks])
    axes.set_ylim(-least / 4, max(seen) * 1.5)
    axes.minorticks_off()
    axes.set_xlabel("error budget")
    axes.set_ylabel("share of all calls")
    axes.set_title("What each error budget led to", fontsize=11)
    legend(axes)
    return figure
