"""Settings that cannot work are refused by name before anything is trained, with what would work."""

from __future__ import annotations

from pathlib import Path

import pytest

from partwise.config import UserError
from partwise.methods.ppl.config import BOOK, PplRecipe
from tests.unit.methods.ppl.small import run

WRONG = {
    "method.maps.scales=[]": r"method\.maps\.scales",
    "method.maps.scales=[1.0,0.0]": r"method\.maps\.scales",
    "method.segmentation.scales=[]": r"method\.segmentation\.scales",
    "method.segmentation.scales=[-1.0]": r"method\.segmentation\.scales",
    "method.grids=[0]": r"method\.grids",
    "method.grids=[]": r"method\.grids",
    "method.grids=[2,2,2]": r"method\.grids = \[2, 2, 2\]: expected one number, or one for each of 2 positions",
    "method.positions=[2]": r"method\.positions = \[2\]: expected block numbers from 0 to 1",
    "method.mode=single": "needs exactly one",
    "method.affinity.radius=5": r"radius = 5: such pairs need 9 cells .* data\.size = 32 has 8 of 4 .* at most 4",
    "data.size=8": r"method\.affinity\.radius = 4: .* has 2 of 4 pixels; expected method\.affinity\.kind=none",
}


@pytest.mark.parametrize("setting", WRONG)
def test_what_cannot_work_is_said_at_once(setting: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=WRONG[setting]):
        run(tmp_path, setting)


@pytest.mark.parametrize(
    "settings",
    [
        ("method.affinity.radius=10", "method.until=maps"),
        ("method.affinity.radius=10", "method.affinity.kind=none"),
        ("method.affinity.radius=4", "data.size=25"),  # seven cells, the last of them partly outside
        ("method.grids=[1]",),
    ],
)
def test_what_can_work_is_let_through(settings: tuple[str, ...], tmp_path: Path) -> None:
    run(tmp_path, *settings)


@pytest.mark.parametrize("name", BOOK.makers)
def test_a_recipes_pairs_fit_into_its_pictures(name: str) -> None:
    """By the strides of the affinity networks (AffinityNet's on a ResNet-38: 8); nothing is built for it."""
    recipe = BOOK.makers[name]()
    assert isinstance(recipe, PplRecipe)
    affinity = recipe.method.affinity
    stride = 8 if affinity.kind == "affinitynet" else affinity.stride
    assert recipe.data.size // stride >= 2 * affinity.radius - 1
