"""Charts of numbers, drawn by matplotlib through its object API: no pyplot, no global state, Agg only.

Every function returns uint8 `(H, W, 3)` RGB on white. Colours are Okabe and Ito's, told apart by people who see fewer.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from partwise.report.canvas import font

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE: tuple[tuple[int, int, int], ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (213, 94, 0),
    (204, 121, 167),
    (86, 180, 233),
    (90, 90, 90),
)
STYLES = ("-", "--", ":", "-.")
INK = "#1f242b"
FAINT = "#6e7681"
LINES = "#d9dde2"
DPI = 160
FACE = "DejaVu Sans"


def _colour(number: int) -> tuple[float, float, float]:
    red, green, blue = PALETTE[number % len(PALETTE)]
    return red / 255, green / 255, blue / 255


def _style(number: int) -> str:
    """Line styles change once the colours have all been used."""
    return STYLES[number // len(PALETTE) % len(STYLES)]


def _figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure, sizes in inches at 160 dots an inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=layout)


def _dress(axes: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Quiet axes: no frame, faint grid, one font whatever the user's matplotlibrc says."""
    axes.set_facecolor("white")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINES)
    axes.grid(visible=True, color=LINES, linewidth=0.7, linestyle="-")
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, labelcolor=FAINT, labelfontfamily=FACE, length=0, pad=5)
    axes.set_xlabel(_plain(x), fontsize=9, color=FAINT, fontfamily=FACE)
    axes.set_ylabel(_plain(y), fontsize=9, color=FAINT, fontfamily=FACE)
    axes.set_title(_plain(title), fontsize=10.5, color=INK, fontfamily=FACE, fontweight="bold", loc="left", pad=10)


def _plain(text: str) -> str:
    """Text that matplotlib will not take for mathematics."""
    return text.replace("$", r"\$")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _pixels(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure and read its pixels back, uint8 `(H, W, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    surface = FigureCanvasAgg(figure)
    surface.draw()
    return np.ascontiguousarray(np.asarray(surface.buffer_rgba())[..., :3])


def curves(
    series: Mapping[str, tuple[ArrayLike, ArrayLike]],
    *,
    x: str,
    y: str,
    title: str,
    marks: Mapping[str, float] | None = None,
    size: tuple[float, float] = (6.2, 3.5),
) -> NDArray[np.uint8]:
    """Lines over a common axis, one colour each; points that are not finite leave a gap, a single point is a dot.

    `marks` are named places on the axis.
    """
    figure = _figure(*size)
    axes = figure.add_subplot()
    _dress(axes, x=x, y=y, title=title)
    for number, (name, (along, values)) in enumerate(series.items()):
        across, heights = np.asarray(along, np.float64), np.asarray(values, np.float64)
        heights = np.where(np.isfinite(heights), heights, np.nan)
        few = np.isfinite(heights).sum() <= 30
        axes.plot(
            across, heights, color=_colour(number), linestyle=_style(number), linewidth=1.7,
            marker="o" if few else "", markersize=3.2, label=_plain(_short(name, 40)), solid_capstyle="round",
        )  # fmt: skip
    axes.margins(x=0.02, y=0.08)
    _mark(axes, marks or {})
    if len(series) > 1:
        _legend(axes, len(series))
    return _pixels(figure)


def _mark(axes: Axes, marks: Mapping[str, float]) -> None:
    """Named lines across the axes; a name that the next one would run into is left out."""
    low, high = axes.get_xlim()
    places = [*marks.values(), high]
    for (name, place), following in zip(marks.items(), places[1:], strict=True):
        axes.axvline(place, color=LINES, linewidth=1.4, zorder=0.5)
        words = _plain(_short(name, 16))
        if following - place > 0.016 * len(words) * (high - low):
            axes.annotate(
                words, (place, 1), xycoords=("data", "axes fraction"), xytext=(3, -1), textcoords="offset points",
                fontsize=7.5, color=FAINT, fontfamily=FACE, va="bottom",
            )  # fmt: skip
    axes.set_xlim(low, high)


def _legend(axes: Axes, entries: int) -> None:
    axes.legend(
        frameon=False, ncols=1 if entries <= 6 else 2, labelcolor=INK, prop={"family": FACE, "size": 8.5},
        handlelength=1.6, borderaxespad=0.2,
    )  # fmt: skip


def bars(groups: Mapping[str, Mapping[str, Sequence[float]]], *, title: str = "", y: str = "") -> NDArray[np.uint8]:
    """Mean and spread: `groups[metric][arm]` holds one value a seed. A panel a metric, a bar an arm, a dot a seed.

    The whisker is the standard deviation (n - 1) over the finite values; mean and deviation stand beside the bar.
    """
    arms = list(dict.fromkeys(name for group in groups.values() for name in group))
    columns = max(1, min(2, len(groups)))
    rows = -(-max(1, len(groups)) // columns)
    figure = _figure(5.6 * columns, rows * (0.9 + 0.34 * max(1, len(arms))) + (0.4 if title else 0.1))
    if title:
        figure.suptitle(_plain(title), fontsize=11.5, color=INK, fontfamily=FACE, fontweight="bold", x=0.02, ha="left")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (metric, group) in zip(panels, groups.items(), strict=False):
        _bar_panel(panel, arms, group, metric, y)
    for panel in panels[len(groups) :]:
        panel.set_axis_off()
    return _pixels(figure)


def _bar_panel(axes: Axes, arms: Sequence[str], group: Mapping[str, Sequence[float]], metric: str, label: str) -> None:
    """One metric's bars, the first arm on top."""
    _dress(axes, x=label, title=metric)
    axes.grid(visible=False, axis="y")
    finite = {arm: [v for v in group.get(arm, ()) if np.isfinite(v)] for arm in arms}
    reach = max((max(abs(v) for v in values) for values in finite.values() if values), default=1.0) or 1.0
    for place, arm in enumerate(arms):
        values = finite[arm]
        if not values:
            axes.text(0, place, " no value", va="center", fontsize=8.5, color=FAINT, fontfamily=FACE)
            continue
        mean, spread = statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0
        axes.barh(place, mean, height=0.62, color=_colour(place), alpha=0.5)
        axes.plot([mean - spread, mean + spread], [place, place], color=_colour(place), linewidth=2)
        axes.plot(values, [place] * len(values), "o", markersize=3.4, color=_colour(place))
        words = f"{mean:.3f}" + (f" ± {spread:.3f}" if len(values) > 1 else "")
        edge = max(mean + spread, *values, 0.0)
        axes.text(edge + 0.02 * reach, place, words, va="center", fontsize=8.5, color=INK, fontfamily=FACE)
    axes.set_yticks(range(len(arms)), [_plain(_short(arm, 34)) for arm in arms])
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    low = min((min(values) for values in finite.values() if values), default=0.0)
    axes.set_xlim(min(0.0, 1.1 * low), 1.32 * reach)


def confusion(matrix: ArrayLike, classes: Sequence[str]) -> NDArray[np.uint8]:
    """A confusion matrix: rows are true classes, columns predicted ones, colours the share of the row.

    `matrix` `(K, K)` of counts. Up to 14 classes show every share in per cent; up to 120 name both axes; with more than
    14 a list names the pairs most often taken for one another, which is what one looks for in a large matrix.
    """
    counts = np.nan_to_num(np.asarray(matrix, np.float64))
    size = len(classes)
    assert counts.shape == (size, size), f"{size} classes need a matrix ({size}, {size}), not {counts.shape}"
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    points = float(np.clip(560 / size, 5.4, 8.5))
    cells = max(2.0, size * (0.42 if size <= 14 else float(np.clip(9 / size, 0.1 if size <= 120 else 0.0, 0.2))))
    words = [_short(name, 18) for name in classes] if size <= 120 else []
    names = max((font(40).getlength(word) for word in words), default=0.0) / 40 * points / 72
    # Sizes are known in inches, so everything is placed by hand: matplotlib's solver takes seconds over 200 names.
    left, below, scale = names + 0.4, names + 0.5, 1.15
    width, height = left + cells + scale + (3.1 if size > 14 else 0.0), below + cells + 0.1
    figure = _figure(width, height, layout=None)

    def panel(x: float, y: float, wide: float, high: float) -> Axes:
        return figure.add_axes((x / width, y / height, wide / width, high / height))

    image = _confusion_cells(panel(left, below, cells, cells), shares, words, points)
    _confusion_scale(figure, panel(left + cells + 0.12, below + 0.2 * cells, 0.1, 0.6 * cells), image)
    if size > 14:
        _worst_pairs(panel(left + cells + scale, 0.1, 3.0, height - 0.2), shares, classes, height - 0.2)
    return _pixels(figure)


def _confusion_cells(axes: Axes, shares: NDArray[np.float64], names: Sequence[str], points: float) -> Any:
    """The matrix, with the names of its classes where there are any."""
    from matplotlib.colors import PowerNorm

    size = len(shares)
    _dress(axes, x="predicted", y="true")
    axes.grid(visible=False)
    # The square root lifts rare confusions off the white: with a linear scale only the diagonal would be seen.
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(0.5, 0.0, 1.0), interpolation="nearest", aspect="auto")
    if names:
        turn = 90 if size > 6 or max(map(len, names)) > 7 else 0
        axes.set_xticks(range(size), [_plain(name) for name in names], rotation=turn, fontsize=points)
        axes.set_yticks(range(size), [_plain(name) for name in names], fontsize=points)
    if size <= 14:
        for (row, column), share in np.ndenumerate(shares):
            if share > 0:
                words, dark = f"{100 * share:.0f}" if share >= 0.005 else "<1", share > 0.45
                axes.text(
                    column, row, words, ha="center", va="center", fontsize=8.5, fontfamily=FACE,
                    color="white" if dark else INK,
                )  # fmt: skip
    return image


def _confusion_scale(figure: Figure, axes: Axes, image: Any) -> None:
    """What the matrix's colours mean."""
    bar = figure.colorbar(image, cax=axes, ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, labelcolor=FAINT, labelfontfamily=FACE, length=0)
    bar.ax.set_yticklabels(["0", "1 %", "10 %", "25 %", "50 %", "100 %"])
    bar.set_label("share of the true class", fontsize=8.5, color=FAINT, fontfamily=FACE)


def _worst_pairs(axes: Axes, shares: NDArray[np.float64], classes: Sequence[str], height: float) -> None:
    """The confusions that took the largest shares of their true class, as lines of text; `height` in inches."""
    axes.set_axis_off()
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0.0)
    step = 0.21 / height
    lines = min(24, int(height / 0.21) - 2)
    order = [int(place) for place in np.argsort(-wrong, axis=None, kind="stable")[:lines] if wrong.flat[place] > 0]
    style: dict[str, Any] = {"fontsize": 8.5, "fontfamily": FACE, "va": "top", "transform": axes.transAxes}
    axes.text(0, 1, "Most often taken for another", fontweight="bold", color=INK, **style)
    if not order:
        axes.text(0, 1 - 1.4 * step, "no confusion at all", color=FAINT, **style)
    for number, place in enumerate(order, start=1):
        row, column = divmod(place, len(classes))
        words = f"{_short(classes[row], 16)} → {_short(classes[column], 16)}"
        down = 1 - (number + 0.4) * step
        axes.text(0, down, f"{100 * wrong[row, column]:.0f} %", color=FAINT, **style)
        axes.text(0.17, down, _plain(words), color=INK, **style)


def reliability(confidence: ArrayLike, accuracy: ArrayLike, share: ArrayLike, *, title: str = "") -> NDArray[np.uint8]:
    """A reliability diagram: per bin its mean confidence, its accuracy, its share of pictures (dot area)."""
    figure = _figure(4.2, 4.0)
    axes = figure.add_subplot()
    _dress(axes, x="confidence", y="accuracy", title=title)
    along, heights, weight = (np.asarray(v, np.float64) for v in (confidence, accuracy, share))
    kept = np.isfinite(along) & np.isfinite(heights) & (weight > 0)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle="--")
    axes.plot(along[kept], heights[kept], color=_colour(0), linewidth=1.4)
    axes.scatter(along[kept], heights[kept], s=12 + 260 * weight[kept], color=_colour(0), alpha=0.55, linewidths=0)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return _pixels(figure)
