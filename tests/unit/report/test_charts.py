import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest

from partwise.report import charts, figures


def count(image: np.ndarray, number: int) -> int:
    return int((np.abs(image.astype(int) - charts.PALETTE[number]).max(-1) <= 3).sum())


def test_curves_draw_each_series_in_its_own_colour_on_white() -> None:
    steps = np.arange(50)
    image = charts.curves({"a": (steps, steps), "b": (steps, 50 - steps)}, x="step", y="loss", title="Loss")
    assert image.dtype == np.uint8 and image.shape == (560, 992, 3)
    assert count(image, 0) > 300 and count(image, 1) > 300
    assert tuple(image[0, 0]) == (255, 255, 255)
    np.testing.assert_array_equal(
        image, charts.curves({"a": (steps, steps), "b": (steps, 50 - steps)}, x="step", y="loss", title="Loss")
    )


def test_marks_are_drawn_and_move_no_line() -> None:
    series = {"a": (np.arange(50), np.arange(50))}
    plain = charts.curves(series, x="step", y="loss", title="")
    marked = charts.curves(series, x="step", y="loss", title="", marks={"first": 0, "second": 30, "third": 31})
    assert plain.shape == marked.shape and (plain != marked).any()


def test_curves_leave_gaps_where_numbers_are_missing() -> None:
    steps = np.arange(60)
    values = np.ones(60)
    whole = charts.curves({"a": (steps, values)}, x="", y="", title="")
    values[20:40] = [np.nan, np.inf] * 10
    broken = charts.curves({"a": (steps, values)}, x="", y="", title="")
    assert 0.55 < count(broken, 0) / count(whole, 0) < 0.75
    nothing = charts.curves({"a": ([0, 1], [np.nan, np.nan])}, x="", y="", title="$ alone, and _ too")
    assert count(nothing, 0) == 0
    assert count(charts.curves({"a": ([3], [1.0])}, x="", y="", title=""), 0) > 5


def test_bars_show_mean_spread_and_seeds() -> None:
    nan = float("nan")
    groups = {"top1": {"plain": [0.5, 0.6], "mixed": [0.9]}, "nll": {"plain": [nan, 1.0], "mixed": [nan]}}
    image = charts.bars(groups, title="Study", y="share")
    assert image.shape[2] == 3 and count(image, 0) > 20
    np.testing.assert_array_equal(image, charts.bars(groups, title="Study", y="share"))
    assert charts.bars({}).ndim == 3
    assert charts.bars({"delta": {"a": [-0.5, -0.4], "b": [0.0]}}).ndim == 3


@pytest.mark.parametrize("size", [1, 2, 15, 100, 121])
def test_confusion_stays_readable_in_size(size: int) -> None:
    matrix = np.eye(size) * 9
    image = charts.confusion(matrix, [f"class number {n}" for n in range(size)])
    assert 400 <= image.shape[0] <= 2200 and 400 <= image.shape[1] <= 3000
    dark = (image.astype(int).sum(-1) < 250).sum()
    assert dark > 0


def test_confusion_is_by_row_and_bears_empty_rows() -> None:
    names = ["a", "b", "c"]
    few = charts.confusion([[1, 1, 0], [0, 2, 0], [0, 0, 0]], names)
    many = charts.confusion([[500, 500, 0], [0, 7, 0], [0, 0, 0]], names)
    np.testing.assert_array_equal(few, many)
    other = charts.confusion([[1, 0, 1], [0, 2, 0], [0, 0, 0]], names)
    assert (few != other).any()
    with pytest.raises(AssertionError, match="need a matrix"):
        charts.confusion([[1, 2], [3, 4]], names)


def test_reliability_draws_only_bins_with_pictures() -> None:
    full = charts.reliability([0.2, 0.6, 0.9], [0.1, 0.5, 0.9], [0.2, 0.3, 0.5])
    nearly = charts.reliability([0.2, 0.6, 0.9], [0.1, np.nan, 0.9], [0.2, 0.0, 0.5])
    assert (full != nearly).any()


def test_the_users_settings_and_pyplot_stay_out_of_it() -> None:
    matrix, names = [[3, 1], [0, 4]], ["a$b", "c_d"]
    before, plain = dict(mpl.rcParams), charts.confusion(matrix, names)
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"font.family": "serif", "axes.facecolor": "red", "text.color": "red"}):
        np.testing.assert_array_equal(charts.confusion(matrix, names), plain)
    code = (
        "import sys; from partwise.report import charts; charts.curves({'a': ([0], [1])}, x='', y='', title='');"
        "sys.exit('matplotlib.pyplot' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_offers_the_charts_too() -> None:
    assert figures.confusion is charts.confusion and figures.curves is charts.curves and figures.bars is charts.bars
