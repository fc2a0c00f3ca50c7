"""CutMix in one line: against its parts, against torchvision, compiled, and without ever waiting for a device."""

from dataclasses import replace

import pytest
import torch
from torchvision.transforms import v2

from partwise.ops.mixing import (
    Mix,
    apply_mix,
    cutmix,
    draw_cutmix,
    draw_cutout,
    draw_mixup,
    draw_resizemix,
    mix_targets,
)

K = 10
OPTIONS = {"alpha": 0.7, "p": 0.8, "mode": "pair", "partner": "flip", "gate": "batch", "correct_lambda": False}


def batch(size: int = 6, height: int = 12, width: int = 17) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    images = torch.rand(size, 3, height, width, generator=generator)
    return images, torch.randint(K, (size,), generator=generator)


@pytest.mark.parametrize("options", [{}, OPTIONS, {"mode": "batch"}])
def test_one_line_is_its_parts(options: dict) -> None:
    images, targets = batch()
    before = images.clone()
    for seed in range(3):
        mixed, soft = cutmix(
            images, targets, num_classes=K, smoothing=0.1, generator=torch.Generator().manual_seed(seed), **options
        )
        mix = draw_cutmix(6, 12, 17, generator=torch.Generator().manual_seed(seed), **options)
        assert torch.equal(mixed, apply_mix(images, mix)) and torch.equal(images, before)
        assert torch.equal(soft, mix_targets(targets, mix, num_classes=K, smoothing=0.1))
        buffer = torch.empty_like(images)
        generator = torch.Generator().manual_seed(seed)
        into, _ = cutmix(images, targets, num_classes=K, generator=generator, out=buffer, **options)
        assert into is buffer and torch.equal(buffer, mixed)


def test_torchvision_pastes_the_same_under_its_rules() -> None:
    """Batch mode with rolled partners is torchvision's CutMix, given the box that it drew."""
    images, targets = batch()
    theirs = v2.CutMix(num_classes=K)
    for seed in range(5):
        torch.manual_seed(seed)
        want, want_soft = theirs(images, targets)
        torch.manual_seed(seed)
        parameters = theirs.make_params([images])
        mix = draw_cutmix(6, 12, 17, mode="batch", partner="roll")
        box, lam = torch.tensor([parameters["box"]] * 6), torch.full((6,), parameters["lam_adjusted"])
        mix = replace(mix, boxes=box, lam=lam)
        assert torch.equal(apply_mix(images, mix), want)
        torch.testing.assert_close(mix_targets(targets, mix, num_classes=K), want_soft)


@pytest.mark.skipif(hasattr(cutmix, "__wrapped__"), reason="the compiler does not look through shape checks")
def test_compiles_without_a_graph_break_to_the_same_result() -> None:
    images, targets = batch()

    def step(images: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return cutmix(images, targets, num_classes=K, p=0.9, smoothing=0.1)

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    for seed in range(3):
        torch.manual_seed(seed)
        want = step(images, targets)
        torch.manual_seed(seed)
        got = compiled(images, targets)
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


@pytest.mark.parametrize("mode", ["sample", "pair", "batch"])
@pytest.mark.parametrize("draw", [draw_cutmix, draw_mixup, draw_cutout, draw_resizemix])
def test_nothing_is_read_back_from_a_device(draw, mode: str) -> None:
    """Tensors of the meta device hold no values: any reading of one on the host raises."""
    images = torch.empty(6, 3, 12, 17, device="meta")
    mix = draw(6, 12, 17, mode=mode, device="meta")
    assert apply_mix(images, mix).shape == images.shape
    assert mix_targets(torch.empty(6, dtype=torch.int64, device="meta"), mix, num_classes=K).shape == (6, K)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "p": 0.5}, {"correct_lambda": False, "p": 0.7}])
def test_batch_mode_on_the_host_rounds_as_on_a_device(options: dict, monkeypatch) -> None:
    def drawn(seed: int) -> Mix:
        return draw_cutmix(3, 37, 224, mode="batch", generator=torch.Generator().manual_seed(seed), **options)

    here = [drawn(seed) for seed in range(300)]
    # Take the way of devices and compilers.
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    for seed, host in enumerate(here):
        there = drawn(seed)
        assert torch.equal(host.boxes, there.boxes) and torch.equal(host.partner, there.partner)
        assert torch.equal(host.lam, there.lam)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("mode", ["sample", "pair", "batch"])
@pytest.mark.parametrize("draw", [draw_cutmix, draw_mixup, draw_cutout, draw_resizemix])
def test_an_accelerator_gives_the_same_batch_and_is_never_waited_for(draw, mode: str) -> None:
    images, targets = batch()
    here = draw(6, 12, 17, mode=mode, generator=torch.Generator().manual_seed(1))
    want, want_soft = apply_mix(images, here), mix_targets(targets, here, num_classes=K)
    images, targets = images.cuda(), targets.cuda()
    own = torch.Generator("cuda").manual_seed(1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = draw(6, 12, 17, mode=mode, generator=torch.Generator().manual_seed(1), device="cuda")
        mixed, soft = apply_mix(images, there), mix_targets(targets, there, num_classes=K)
        on_device = draw(6, 12, 17, mode=mode, generator=own, device="cuda")
        apply_mix(images, on_device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(mixed.cpu(), want)
    torch.testing.assert_close(soft.cpu(), want_soft)
