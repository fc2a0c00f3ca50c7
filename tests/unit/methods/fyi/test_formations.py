"""IDC's turns against a loop written out, and what its pictures hold."""

from pathlib import Path

import torch
import torch.nn.functional as F

from partwise.data.siamese import augment
from partwise.methods.fyi.formations import MatchFormations
from partwise.ops.multi_formation import decode_tiles, pack_tiles
from tests.unit.methods.fyi.runs import pictures_before, setting

IDC = (
    "method.matching=idc",
    "method.factor=2",
    "method.images_per_class=1",
    "method.strategy=color_crop_cutout",
    "method.inner=2",
    "method.network_pictures=8",
    "method.synthetic_batch=6",
    "method.trial.convention=idc",
    "method.trial.strategy=flip_color_crop_scale_rotate",
    "optim.lr=0.01",
)


def test_a_turn_steps_after_every_class(tmp_path: Path) -> None:
    stage = setting(tmp_path, IDC).distil
    assert isinstance(stage, MatchFormations)
    network, images = stage.fresh(0).train(), pictures_before(stage)
    real = stage.real.draw(4, range(4), 0, "distil", "real", 0, 0)
    momentum = torch.zeros_like(images)
    weights = [p for p in network.parameters() if p.ndim == 4]
    total = 0.0
    for k in range(4):
        pixels = images.clone().requires_grad_()
        tiles = decode_tiles(pixels[k : k + 1], factor=2)[stage_subset(stage, k)]
        synthetic = stage.set.normalise(torch.cat([tiles, tiles.flip(3)]))
        both = torch.cat([stage.set.seen(stage.real.pictures(real[k : k + 1])[0]), synthetic])
        both = augment(both, stage.draw(0, 0).slice(k, k + 1))
        slopes = [
            torch.autograd.grad(F.cross_entropy(network(x), torch.full((len(x),), k)), weights, create_graph=True)
            for x in (both[:4], both[4:])
        ]
        loss = sum(((a.detach() - b) ** 2).sum() for a, b in zip(*slopes, strict=True))
        assert isinstance(loss, torch.Tensor)
        (slope,) = torch.autograd.grad(loss, pixels)
        momentum = 0.5 * momentum + slope
        images = images - 0.01 * momentum
        total += float(loss.detach())
    optimizer = stage.plans()["pictures"].optimizer
    found = stage.turn(network, optimizer, 0, 0)
    torch.testing.assert_close(float(found), total, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stage.set.images.detach(), images, rtol=1e-4, atol=1e-6)


def stage_subset(stage: MatchFormations, k: int) -> torch.Tensor:
    """Three of the four small pictures: six with their mirror images."""
    from partwise.ops import draws

    return draws.order(4, 0, "distil", "subset", 0, 0, k)[:3]


def test_a_step_trains_and_keeps_pictures_in_their_range(tmp_path: Path) -> None:
    made = setting(tmp_path, IDC)
    stage = made.distil
    with torch.no_grad():
        stage.set.images[0, 0, 0, 0] = 7.0
    losses = stage.step(0, {name: plan.optimizer for name, plan in stage.plans().items()})
    assert bool(losses["loss"].isfinite()) and float(stage.set.images.detach().max()) < 7
    images, labels = stage.set()
    assert len(images) == len(labels) == 16


def test_pictures_begin_as_real_ones_packed_together(tmp_path: Path) -> None:
    made = setting(tmp_path, IDC)
    stage = made.distil
    places = stage.real.draw(4, range(4), 0, "distil", "beginning")
    wanted = torch.cat([pack_tiles(stage.real.pictures(row[None])[0], factor=2) for row in places])
    assert torch.equal(stage.set.images.detach(), wanted)


def test_nothing_but_mirror_images_comes_with_fyi(tmp_path: Path) -> None:
    """IDC's matching draws no flip; its arm `flip` does."""
    rules = [setting(tmp_path, [*IDC, f"method.distil={arm}"]).distil.rule.before for arm in ("plain", "flip", "fyi")]
    assert rules == [("color",), ("flip", "color"), ("color",)]
