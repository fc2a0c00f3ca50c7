"""The mixing objects in loaders and loops that are not ours."""

from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from partwise.config import UserError
from partwise.ops.mix_transforms import CutMix, Cutout, Mixer, Mixup, ResizeMix
from partwise.ops.mixing import apply_mix, draw_cutmix, draw_cutout, draw_mixup, draw_resizemix, mix_targets

K = 10
DRAWS = {CutMix: draw_cutmix, Mixup: draw_mixup, ResizeMix: draw_resizemix, Cutout: draw_cutout}


def mixer(kind: type[Mixer], seed: int = 0, **options) -> Mixer:
    classes = {} if kind is Cutout else {"num_classes": K}
    return kind(generator=torch.Generator().manual_seed(seed), **classes, **options)


def batch(size: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.rand(size, 3, 8, 11, generator=generator), torch.randint(K, (size,), generator=generator)


@pytest.mark.parametrize("kind", list(DRAWS))
def test_in_a_loop_and_as_one_argument(kind: type[Mixer]) -> None:
    images, targets = batch()
    mix = DRAWS[kind](5, 8, 11, p=0.7, mode="batch", generator=torch.Generator().manual_seed(0))
    want = targets if kind is Cutout else mix_targets(targets, mix, num_classes=K)
    for arguments in ((images, targets), ((images, targets),), ([images, targets],)):
        mixed, soft = mixer(kind, p=0.7, mode="batch")(*arguments)
        assert torch.equal(mixed, apply_mix(images, mix)) and torch.equal(soft, want)
    assert mixer(kind)(images, targets, "third", 4)[2:] == ("third", 4)


@pytest.mark.parametrize("kind", list(DRAWS))
def test_as_a_collate_function(kind: type[Mixer]) -> None:
    images, targets = batch()
    loader = DataLoader(TensorDataset(images, targets), batch_size=2, collate_fn=mixer(kind))
    together = mixer(kind)
    batches = list(loader)
    assert [len(mixed) for mixed, _ in batches] == [2, 2, 1]
    for (mixed, soft), lo in zip(batches, (0, 2, 4), strict=True):
        want, want_soft = together(images[lo : lo + 2], targets[lo : lo + 2])
        assert torch.equal(mixed, want) and torch.equal(soft, want_soft)


def test_options_reach_the_draw_and_the_targets() -> None:
    images, targets = batch(4)
    options = {"alpha": 0.3, "mode": "pair", "partner": "flip", "gate": "batch", "correct_lambda": False}
    mixed, soft = mixer(CutMix, smoothing=0.2, **options)(images, targets)
    mix = draw_cutmix(4, 8, 11, generator=torch.Generator().manual_seed(0), **options)
    assert torch.equal(mixed, apply_mix(images, mix))
    assert torch.equal(soft, mix_targets(targets, mix, num_classes=K, smoothing=0.2))
    holes, _ = mixer(Cutout, length=4, fill=(0.5,))(torch.zeros(3, 3, 8, 11), targets[:3])
    assert set(holes.unique().tolist()) == {0.0, 0.5} and (holes == 0.5).sum(dim=(1, 2, 3)).max() <= 3 * 16
    shrunk, _ = mixer(ResizeMix, scale=(1.0, 1.0))(images, targets)
    resized = draw_resizemix(4, 8, 11, scale=(1.0, 1.0), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(shrunk, images[resized.partner])


def test_multi_label_targets() -> None:
    images, _ = batch()
    hot = (torch.rand(5, K, generator=torch.Generator().manual_seed(1)) < 0.3).float()
    _, soft = mixer(CutMix, p=0.0, smoothing=0.1, multi_label=True)(images, hot)
    torch.testing.assert_close(soft, hot * 0.9 + 0.05)


def test_without_a_generator_the_global_seed_rules() -> None:
    images, targets = batch()
    kind = CutMix(num_classes=K)
    torch.manual_seed(3)
    one, _ = kind(images, targets)
    torch.manual_seed(3)
    two, _ = kind(images, targets)
    assert torch.equal(one, two)
    assert torch.equal(replace(kind, p=0.0)(images, targets)[0], images)


def test_misuse_is_named() -> None:
    images, targets = batch()
    with pytest.raises(UserError, match="CutMix: expected images and targets"):
        mixer(CutMix)(images)
    with pytest.raises(UserError, match=r"expected a batch of pictures \(B, C, H, W\), got shape \(3, 8, 11\)"):
        mixer(CutMix)(images[0], targets)
    with pytest.raises(UserError, match="expected images and targets"):
        mixer(Mixup)([])
