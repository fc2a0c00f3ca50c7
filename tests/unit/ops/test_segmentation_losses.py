"""Losses against loops over pixels, void pixels, and labels resized exactly as PIL does."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from partwise.ops.segmentation_losses import (
    balanced_cross_entropy,
    cross_entropy,
    multi_scale_loss,
    nearest_indices,
    pixel_losses,
    resize_labels,
)

Loss = Callable[..., Tensor]
LOSSES: list[Loss] = [cross_entropy, balanced_cross_entropy]


def scores_and_labels(*, void: float = 0.2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 5, 3, generator=generator) * 3
    labels = torch.randint(0, 4, (2, 5, 3), generator=generator)
    labels[torch.rand(2, 5, 3, generator=generator) < void] = 255
    return logits, labels


def naive_pixels(logits: Tensor, labels: Tensor) -> dict[int, list[float]]:
    """-log of the softmax of every pixel that counts, by its class."""
    found: dict[int, list[float]] = {}
    for b, y, x in np.ndindex(*labels.shape):
        label = int(labels[b, y, x])
        if label != 255:
            total = sum(math.exp(logits[b, k, y, x]) for k in range(logits.shape[1]))
            found.setdefault(label, []).append(-math.log(math.exp(logits[b, label, y, x]) / total))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def naive_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    return mean([value for values in naive_pixels(logits, labels).values() for value in values])


def naive_balanced(logits: Tensor, labels: Tensor) -> float:
    pixels = naive_pixels(logits, labels)
    return 0.5 * (mean(pixels.pop(0, [])) + mean([value for values in pixels.values() for value in values]))


NAIVE = {cross_entropy: naive_cross_entropy, balanced_cross_entropy: naive_balanced}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_losses_pixel_by_pixel(loss: Loss, dtype: torch.dtype) -> None:
    for seed in range(3):
        logits, labels = scores_and_labels(seed=seed)
        assert loss(logits, labels.to(dtype)).item() == pytest.approx(NAIVE[loss](logits, labels), rel=1e-5)


def test_losses_computed_by_hand() -> None:
    """Two classes: background with a chance of 3/4, twice, and foreground with one of 1/4."""
    logits = torch.tensor([math.log(3), 0.0]).reshape(1, 2, 1, 1).expand(1, 2, 1, 4)
    labels = torch.tensor([[[0, 0, 1, 255]]])
    background, foreground = math.log(4 / 3), math.log(4)
    assert cross_entropy(logits, labels).item() == pytest.approx((2 * background + foreground) / 3)
    assert balanced_cross_entropy(logits, labels).item() == pytest.approx((background + foreground) / 2)


@pytest.mark.parametrize("kept", ["background", "foreground", "nothing"])
def test_a_set_without_pixels_counts_as_nothing(kept: str) -> None:
    logits, labels = scores_and_labels(void=0)
    keep = {"background": labels == 0, "foreground": labels > 0, "nothing": torch.zeros_like(labels).bool()}[kept]
    labels[~keep] = 255
    logits.requires_grad_()
    for loss in LOSSES:
        value = loss(logits, labels)
        assert value.item() == pytest.approx(NAIVE[loss](logits.detach(), labels), rel=1e-5)
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient.isfinite().all() and (gradient.abs().sum() > 0) == (kept != "nothing")


@pytest.mark.parametrize("loss", LOSSES)
def test_void_pixels_have_no_gradient(loss: Loss) -> None:
    logits, labels = scores_and_labels()
    poisoned = logits.clone()
    poisoned[(labels == 255)[:, None].expand_as(logits)] = 1e4
    poisoned.requires_grad_()
    value = loss(poisoned, labels)
    torch.testing.assert_close(value, loss(logits, labels))
    value.backward()
    touched = poisoned.grad.abs().sum(1) > 0  # type: ignore[union-attr]
    assert torch.equal(touched, labels != 255)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_by_finite_differences(loss: Loss) -> None:
    logits, labels = scores_and_labels()
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits.double().requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_scores_are_summed_in_float32(loss: Loss) -> None:
    logits, labels = scores_and_labels()
    half = logits.to(torch.bfloat16)
    found = loss(half, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(half.float(), labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_in_two_processes_is_a_batch(loss: Loss) -> None:
    """Slices with different numbers of void pixels: gradients are averaged over processes, counts too."""
    logits, labels = scores_and_labels(void=0.4)
    labels[0, :4] = 255
    counts: list[list[Tensor]] = []
    for part in (0, 1):
        seen: list[Tensor] = []

        def note(count: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(count)
            return count

        loss(logits[part : part + 1], labels[part : part + 1], average=note)
        counts.append(seen)
    means = [(a + b) / 2 for a, b in zip(*counts, strict=True)]
    parts = []
    for part in (0, 1):
        answers = iter(means)
        parts.append(loss(logits[part : part + 1], labels[part : part + 1], average=lambda _, it=answers: next(it)))
    torch.testing.assert_close(torch.stack(parts).mean(), loss(logits, labels))


def test_labels_that_do_not_fit_are_answered_in_words() -> None:
    logits, labels = scores_and_labels()
    with pytest.raises(ValueError, match="do not fit scores"):
        cross_entropy(logits, labels[:, :4])
    with pytest.raises(ValueError, match="do not fit scores"):
        cross_entropy(logits, labels[0])
    labels[0, 0, 0] = 21
    with pytest.raises(ValueError, match=r"labels hold \[21\]; expected 0 to 3, or 255 to be ignored"):
        balanced_cross_entropy(logits, labels)


def test_another_value_can_be_ignored() -> None:
    logits, labels = scores_and_labels()
    shifted = torch.where(labels == 255, -1, labels)
    for loss in LOSSES:
        torch.testing.assert_close(loss(logits, shifted, ignore=-1), loss(logits, labels))
    torch.testing.assert_close(pixel_losses(logits, shifted, ignore=-1), pixel_losses(logits, labels))


def pil_nearest(mask: Tensor, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(mask.numpy()).resize((width, height), Image.Resampling.NEAREST))


def pil_indices(old: int, new: int) -> list[int]:
    """Which pixels PIL takes, read off a ramp."""
    return np.asarray(Image.fromarray(np.arange(old, dtype=np.int32)[None]).resize((new, 1), Image.Resampling.NEAREST))[
        0
    ].tolist()


def test_indices_of_pil_for_all_small_sizes() -> None:
    for old in range(1, 71):
        for new in range(1, 71):
            assert list(nearest_indices(old, new)) == pil_indices(old, new), (old, new)


@pytest.mark.parametrize(
    ("old", "new"), [(321, 41), (241, 31), (161, 21), (512, 129), (500, 63), (366, 46), (41, 321), (4001, 1999)]
)
def test_indices_of_pil_for_published_sizes(old: int, new: int) -> None:
    assert list(nearest_indices(old, new)) == pil_indices(old, new)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_indices_of_pil_for_any_size(old: int, new: int) -> None:
    assert list(nearest_indices(old, new)) == pil_indices(old, new)


def test_resized_masks_of_pil() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 256, (3, 37, 50), generator=generator).to(torch.uint8)
    for height, width in [(5, 7), (37, 50), (38, 49), (90, 3), (1, 1)]:
        found = resize_labels(labels, (height, width))
        assert found.dtype == torch.uint8 and found.shape == (3, height, width)
        for own, mask in zip(found, labels, strict=True):
            assert (own.numpy() == pil_nearest(mask, height, width)).all()
        assert torch.equal(resize_labels(labels.long(), (height, width)), found.long())


def test_torch_alone_would_sample_elsewhere() -> None:
    labels = torch.arange(8).expand(1, 8, 8)
    torch_way = F.interpolate(labels[:, None].float(), size=(4, 4), mode="nearest")[:, 0].long()
    assert torch_way[0, 0].tolist() == [0, 2, 4, 6]
    assert resize_labels(labels, (4, 4))[0, 0].tolist() == [1, 3, 5, 7]


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.conv(images)
        return scores


@pytest.mark.parametrize("loss", LOSSES)
def test_multi_scale_loss_term_by_term(loss: Loss) -> None:
    network, images = Small(), torch.rand(2, 3, 21, 18)
    labels = torch.randint(0, 4, (2, 21, 18)).to(torch.uint8)
    labels[:, :5] = 255
    total, raised = 0.0, []
    for height, width in [(21, 18), (16, 14), (10, 9)]:  # 15.75 and 10.5 (to even), 13.5 (to even) and 9
        view = F.interpolate(images, size=(height, width), mode="bilinear", align_corners=False)
        scores = network(view if height != 21 else images)
        rows, columns = scores.shape[-2:]
        masks = [torch.from_numpy(pil_nearest(mask, rows, columns).copy()) for mask in labels]
        total += NAIVE[loss](scores.detach(), torch.stack(masks))
        raised.append(F.interpolate(scores, size=(11, 9), mode="bilinear", align_corners=False))
    fused = torch.stack(raised).amax(dim=0)
    masks = [torch.from_numpy(pil_nearest(mask, 11, 9).copy()) for mask in labels]
    total += NAIVE[loss](fused.detach(), torch.stack(masks))
    found = multi_scale_loss(network, images, labels, criterion=loss)
    assert found.item() == pytest.approx(total, rel=1e-5)


def test_multi_scale_loss_reaches_network_and_pictures() -> None:
    network, images = Small(), torch.rand(2, 3, 21, 18, requires_grad=True)
    multi_scale_loss(network, images, torch.randint(0, 4, (2, 21, 18))).backward()
    for tensor in (images, *network.parameters()):
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0


def test_one_scale_counts_twice() -> None:
    """The maximum over one map is the map."""
    network, images, labels = Small(), torch.rand(1, 3, 8, 8), torch.randint(0, 4, (1, 8, 8))
    expected = 2 * cross_entropy(network(images), resize_labels(labels, (4, 4)))
    torch.testing.assert_close(multi_scale_loss(network, images, labels, scales=(1.0,)), expected)
    with pytest.raises(ValueError, match="at least one scale"):
        multi_scale_loss(network, images, labels, scales=())
