"""Attacks against their formulas written out, on a network whose gradient is known; covered and blended pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from partwise.ops.attacks import between, centred_square, fgsm, loss_gradient, occluded, pgd, withstands

EPS = 8 / 255


class Linear(nn.Module):
    """Logits that are linear in the pixels: the gradient is W^T (softmax - one hot)."""

    def __init__(self, classes: int = 4, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(scale * torch.randn(classes, 3 * 5 * 6, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


def pictures(count: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, 5, 6, generator=generator), torch.randint(4, (count,), generator=generator)


def by_formula(model: Linear, images: Tensor, targets: Tensor) -> Tensor:
    error = model(images).softmax(1) - nn.functional.one_hot(targets, 4)
    return (error @ model.weight).view_as(images).detach()


def test_gradients_are_of_each_row_and_leave_the_network_alone() -> None:
    model, (images, targets) = Linear(), pictures()
    torch.testing.assert_close(loss_gradient(model, images, targets), by_formula(model, images, targets))
    assert model.weight.grad is None and not images.requires_grad
    with torch.no_grad():
        assert loss_gradient(model, images, targets).abs().sum() > 0


def test_a_network_without_a_gradient_gives_none() -> None:
    images, targets = pictures()
    for blind in (lambda x: torch.zeros(len(x), 4), lambda x: nn.functional.one_hot(x.sum((1, 2, 3)).long() % 4, 4)):
        assert not loss_gradient(blind, images, targets).any()
        assert torch.equal(fgsm(blind, images, targets, eps=EPS), images)


def test_fgsm_is_one_signed_step() -> None:
    model, (images, targets) = Linear(), pictures()
    expected = (images + EPS * by_formula(model, images, targets).sign()).clamp(0, 1)
    assert torch.equal(fgsm(model, images, targets, eps=EPS), expected)


def test_pgd_steps_and_projects() -> None:
    model, (images, targets) = Linear(), pictures()
    start = 2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) - 1
    x = (images + EPS * start).clamp(0, 1)
    for _ in range(20):
        x = x + EPS / 4 * by_formula(model, x, targets).sign()
        x = torch.maximum(torch.minimum(x, images + EPS), images - EPS).clamp(0, 1)
    found = pgd(model, images, targets, eps=EPS, start=start)
    torch.testing.assert_close(found, x)
    assert (found - images).abs().max() <= EPS + 1e-6
    losses = [float(nn.functional.cross_entropy(model(y), targets).detach()) for y in (images, found)]
    assert losses[1] > losses[0]


def test_one_restart_that_succeeds_is_enough() -> None:
    model, (images, _) = Linear(scale=0.2), pictures(60)
    targets = model(images).argmax(1)
    targets[:5] = (targets[:5] + 1) % 4  # wrong already
    starts = [2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(n)) - 1 for n in range(3)]
    eps, steps = 0.02, 2
    each = [model(pgd(model, images, targets, eps=eps, start=s, steps=steps)).argmax(1) == targets for s in starts]
    expected = (model(images).argmax(1) == targets) & each[0] & each[1] & each[2]
    found = withstands(model, images, targets, eps=eps, starts=lambda n: starts[n], restarts=3, steps=steps)
    assert torch.equal(found, expected) and 0 < int(found.sum()) < 55 and not found[:5].any()


@pytest.mark.oracle
def test_attacks_are_torchattacks() -> None:
    torchattacks = pytest.importorskip("torchattacks")
    model, (images, targets) = Linear().eval(), pictures()
    torch.testing.assert_close(
        torchattacks.FGSM(model, eps=EPS)(images, targets), fgsm(model, images, targets, eps=EPS)
    )
    theirs = torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=20, random_start=False)(images, targets)
    ours = pgd(model, images, targets, eps=EPS, start=torch.zeros_like(images))
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)


def test_squares_are_centred_and_whole() -> None:
    for height, width in ((8, 8), (9, 5)):
        for number in range(9):
            inside = centred_square(height, width, number / 8)
            rows, columns = inside.any(1).sum(), inside.any(0).sum()
            assert (int(rows), int(columns)) == (
                round(number / 8 * height),
                round(number / 8 * width),
            ) or not inside.any()
            assert int(inside.sum()) == int(rows * columns)
            flipped = inside.flip((0, 1))
            assert (inside.float() - flipped.float()).abs().sum() <= rows * 2 + columns * 2


def test_holes_and_all_but_holes_show_the_fill() -> None:
    images, _ = pictures(2)
    fill = torch.tensor([0.1, 0.2, 0.3])
    for share in (0.0, 0.4, 1.0):
        inside = centred_square(5, 6, share)
        centre, boundary = (occluded(images, share, fill, outside=outside) for outside in (False, True))
        for y in range(5):
            for x in range(6):
                hidden, shown = (centre, boundary) if inside[y, x] else (boundary, centre)
                assert torch.equal(hidden[:, :, y, x], fill.expand(2, -1))
                assert torch.equal(shown[:, :, y, x], images[:, :, y, x])
    assert torch.equal(occluded(images, 0.0, fill, outside=False), images)
    assert torch.equal(occluded(images, 1.0, fill, outside=True), images)


def test_between_begins_and_ends_with_either() -> None:
    a, b = pictures(1)[0], torch.ones(1, 3, 5, 6)
    for boxes in (False, True):
        torch.testing.assert_close(between(a, b, 1.0, boxes=boxes), a)
        torch.testing.assert_close(between(a, b, 0.0, boxes=boxes), b)
    torch.testing.assert_close(between(a, b, 0.25, boxes=False), 0.25 * a + 0.75 * b)
    hole = between(a, b, 0.5, boxes=True)
    assert torch.equal((hole == 1).all(1)[0] | (hole == a).all(1)[0], torch.ones(5, 6, dtype=torch.bool))
    assert torch.equal((hole == 1).all(1)[0], centred_square(5, 6, 0.5))
