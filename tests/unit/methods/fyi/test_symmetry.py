"""The report's figure of left and right: its numbers against a loop over networks and classes."""

from pathlib import Path

import pytest
import torch

from partwise.evaluate.fresh_networks import fresh_network
from partwise.methods.fyi.symmetry import symmetry_picture
from partwise.ops import draws
from tests.unit.methods.fyi.runs import setting


def test_numbers_are_means_over_networks(tmp_path: Path) -> None:
    made = setting(tmp_path)
    stage = made.distil
    before = stage.set.images.detach().clone()
    with torch.no_grad():
        stage.set.images.mul_(0).add_(torch.rand(16) - 0.5)
        stage.set.images.copy_((stage.set.images + stage.set.images.flip(-1)) / 2)
    picture = symmetry_picture(made.method, made.data, before)
    rows = {(row["measure"], row["pictures"], row["class"]): float(row["value"]) for row in picture.rows}
    energy, apart = "share of energy that is symmetric", "means of features apart, by spread"
    for k, name in enumerate(made.method.classes):
        assert rows[energy, "learned", name] == pytest.approx(1.0, abs=1e-6)
        assert 0 < rows[energy, "real", name] < 1
        wanted = 0.0
        for number in range(2):
            network = fresh_network(
                "convnet", {"depth": 2, "width": 16}, num_classes=4, size=16, channels=3,
                seed=draws.derive(0, "symmetry", number),
            )  # fmt: skip
            with torch.no_grad():
                one, other = (
                    network.embed(x).double() for x in (before[2 * k : 2 * k + 2], before[2 * k : 2 * k + 2].flip(3))
                )
            spread = (one.var(0).sum() + other.var(0).sum()) / 2
            wanted += float(((one.mean(0) - other.mean(0)) ** 2).sum() / spread) / 2
        assert rows[apart, "begun as", name] == pytest.approx(wanted, rel=1e-3)
        assert (apart, "real, chance", name) in rows
    assert picture.image.ndim == 3


def test_sets_of_one_picture_a_class_have_no_spread(tmp_path: Path) -> None:
    made = setting(tmp_path, ["method.images_per_class=1"])
    stage = made.distil
    picture = symmetry_picture(made.method, made.data, stage.set.images.detach().clone())
    kinds = {row["pictures"] for row in picture.rows if str(row["measure"]).startswith("means")}
    assert kinds == {"real", "real, chance"}
