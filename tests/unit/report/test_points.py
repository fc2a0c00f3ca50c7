"""Dots where they belong, in their colours, the same each time."""

from __future__ import annotations

import numpy as np

from partwise.report.points import draw_points, scatter

GREY = np.full((60, 80, 3), 128, np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def test_dots_lie_at_their_points() -> None:
    drawn = draw_points(GREY, [[20.5, 30.5], [60.5, 10.5], [np.nan, 5]], [RED, BLUE])
    assert drawn.shape == GREY.shape and drawn.dtype == np.uint8
    assert tuple(drawn[30, 20]) == RED and tuple(drawn[10, 60]) == BLUE
    changed = (drawn != GREY).any(axis=2)
    y, x = np.nonzero(changed[:, :40])
    assert abs(x.mean() - 20) < 0.6 and abs(y.mean() - 30) < 0.6
    assert changed.sum() < 60 and np.array_equal(draw_points(GREY, np.zeros((0, 2)), [RED]), GREY)


def test_lines_lead_to_rings() -> None:
    drawn = draw_points(GREY, [[20.5, 30.5], [60.5, 10.5]], [RED, BLUE], away=[[50.5, 30.5], [np.nan, np.nan]])
    assert drawn[30, 35, 0] > 150 and drawn[30, 35, 2] < 90, "the line is red"
    assert tuple(drawn[30, 50]) != RED, "a ring is open"
    row = drawn[30, 42:60].astype(int)
    assert (row[:, 0] - row[:, 2] > 100).any()
    assert (drawn[5:16, 50:72] != 128).any() and (drawn[40:] == 128).all()


def test_points_outside_the_picture_do_no_harm() -> None:
    assert draw_points(GREY, [[-30, 500]], [RED], away=[[1e4, 0]]).shape == GREY.shape


def test_a_scatter_keeps_shapes_and_colours() -> None:
    square = np.asarray([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
    drawn = scatter({"one": square * [1, 0.5], "two": [[np.inf, 0]]}, colours=[RED, BLUE], side=200)
    red = np.nonzero((drawn[:218] == RED).all(axis=2))
    assert np.ptp(red[1]) > 1.9 * np.ptp(red[0]), "both axes have one scale"
    assert np.array_equal(scatter({"a": square}), scatter({"a": square}))
    assert scatter({}).shape[2] == scatter({"a": np.zeros((3, 2))}).shape[2] == 3
