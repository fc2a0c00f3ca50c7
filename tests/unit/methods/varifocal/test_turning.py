"""Turned pictures against places worked out one by one."""

import math

import pytest
import torch

from partwise.methods.varifocal.turning import Turns, after, draw_turns, turned


def turns_of(*degrees: float, upended: tuple[bool, ...], stretch: tuple[float, float] = (1.0, 1.0)) -> Turns:
    """Turns by angle, all stretched alike."""
    angle = torch.tensor([math.radians(value) for value in degrees])
    return Turns(angle, torch.tensor(upended), torch.tensor([stretch] * len(degrees)))


def by_hand(
    picture: torch.Tensor, angle: float, upended: bool, stretch: tuple[float, float] = (1.0, 1.0)
) -> torch.Tensor:
    """One grey picture `(S, S)`: every output pixel looks up where it came from, between four neighbours; outside is white."""
    side = len(picture)
    found = torch.ones(side, side)

    def ink(y: int, x: int) -> float:
        return 1 - float(picture[y, x]) if 0 <= y < side and 0 <= x < side else 0.0

    for y in range(side):
        for x in range(side):
            right, down = x + 0.5 - side / 2, y + 0.5 - side / 2
            # Rotated counter-clockwise as seen: what stands at an angle a came from a - angle (y points down).
            from_right = math.cos(angle) * right - math.sin(angle) * down
            from_down = math.sin(angle) * right + math.cos(angle) * down
            from_down = -from_down if upended else from_down
            from_right, from_down = from_right / stretch[0], from_down / stretch[1]
            column, row = from_right + side / 2 - 0.5, from_down + side / 2 - 0.5
            left, top = math.floor(column), math.floor(row)
            across, below = column - left, row - top
            amount = (
                ink(top, left) * (1 - across) * (1 - below)
                + ink(top, left + 1) * across * (1 - below)
                + ink(top + 1, left) * (1 - across) * below
                + ink(top + 1, left + 1) * across * below
            )
            found[y, x] = 1 - amount
    return found


@pytest.mark.parametrize("stretch", [(1.0, 1.0), (0.8, 1.25)])
@pytest.mark.parametrize("upended", [False, True])
@pytest.mark.parametrize("degrees", [0.0, 17.0, -45.0, 90.0])
def test_a_turned_picture_pixel_by_pixel(degrees: float, upended: bool, stretch: tuple[float, float]) -> None:
    picture = torch.rand(9, 9, generator=torch.Generator().manual_seed(0))
    turns = turns_of(degrees, upended=(upended,), stretch=stretch)
    expected = by_hand(picture, math.radians(degrees), upended, stretch)
    torch.testing.assert_close(turned(picture[None, None], turns)[0, 0], expected, rtol=0, atol=1e-5)


def test_a_quarter_turn_is_counter_clockwise_and_upending_mirrors_top_for_bottom() -> None:
    pictures = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    turns = turns_of(90, 0, upended=(False, True))
    found = turned(pictures, turns)
    torch.testing.assert_close(found[0], torch.rot90(pictures[0], 1, (1, 2)), rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], pictures[1].flip(1), rtol=0, atol=1e-5)


def test_corners_that_turn_in_are_white() -> None:
    turns = turns_of(45, upended=(False,))
    found = turned(torch.zeros(1, 1, 32, 32), turns)[0, 0]
    assert float(found[0, 0]) == 1 and float(found[16, 16]) == 0


def test_polarity_follows_the_coin_and_stays_unknown() -> None:
    turns = turns_of(0, 0, 0, 0, upended=(False, True, True, False))
    assert after(torch.tensor([1, 1, 0, -1]), turns).tolist() == [1, 0, 1, -1]
    assert after(torch.tensor([-1, -1, 1, 0]), turns).tolist() == [-1, -1, 0, 0]


def test_draws_fill_their_range_and_can_be_switched_off() -> None:
    drawn = draw_turns(4000, rotation=30, upend=True, generator=torch.Generator().manual_seed(0))
    degrees = drawn.angle.rad2deg()
    assert -30 <= float(degrees.min()) < -29.8 and 29.8 < float(degrees.max()) <= 30
    assert abs(float(degrees.mean())) < 1.0 and abs(float(drawn.upended.float().mean()) - 0.5) < 0.03
    still = draw_turns(8, rotation=0, upend=False, generator=torch.Generator().manual_seed(0))
    assert not still.upended.any() and not still.angle.any()
    assert torch.equal(drawn.rows(slice(3, 5)).angle, drawn.angle[3:5])
    assert torch.equal(drawn.stretch, torch.ones(4000, 2))


def test_stretches_fill_their_range_each_side_by_itself() -> None:
    drawn = draw_turns(4000, rotation=0, upend=False, stretch=0.25, generator=torch.Generator().manual_seed(0))
    found = drawn.stretch.log() / math.log(1.25)
    assert -1 <= float(found.min()) < -0.99 and 0.99 < float(found.max()) <= 1
    assert found.mean(dim=0).abs().max() < 0.05 and abs(float(torch.corrcoef(found.T)[0, 1])) < 0.05
    assert torch.equal(drawn.rows(slice(3, 5)).stretch, drawn.stretch[3:5])
