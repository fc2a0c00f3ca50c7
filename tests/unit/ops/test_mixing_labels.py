"""Mixed targets and detection boxes against loss identities and a per-pixel second version."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.data.mixup import mixup_target
from torch import Tensor
from torch.nn import functional as F

from partwise.config import UserError
from partwise.ops.mixing import (
    Mix,
    draw_cutmix,
    draw_cutout,
    draw_mixup,
    draw_resizemix,
    mix_boxes,
    mix_targets,
    target_pair,
)

K = 6


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def indices(batch: int = 8) -> Tensor:
    return torch.randint(K, (batch,), generator=seeded(1))


def soft_rows(batch: int = 8) -> Tensor:
    return torch.rand(batch, K, generator=seeded(2)).softmax(1)


def one_by_one(rows: Tensor, mix: Mix, smoothing: float, towards: float) -> Tensor:
    """Each entry by itself, smoothed before mixing."""
    mixed = torch.zeros(len(mix), K)
    for i in range(len(mix)):
        lam, partner = mix.lam[i].item(), int(mix.partner[i])
        for k in range(K):
            own = (1 - smoothing) * float(rows[i, k]) + smoothing * towards
            other = (1 - smoothing) * float(rows[partner, k]) + smoothing * towards
            mixed[i, k] = lam * own + (1 - lam) * other
    return mixed


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("draw", [draw_cutmix, draw_mixup, draw_cutout, draw_resizemix])
def test_class_indices_and_rows(draw, smoothing: float) -> None:
    mix = draw(8, 16, 16, generator=seeded())
    hot = F.one_hot(indices(), K)
    for targets, rows in ((indices(), hot), (indices().to(torch.int32), hot), (hot, hot), (soft_rows(), soft_rows())):
        mixed = mix_targets(targets, mix, num_classes=K, smoothing=smoothing)
        assert mixed.dtype == torch.float32
        torch.testing.assert_close(mixed, one_by_one(rows, mix, smoothing, 1 / K))
        torch.testing.assert_close(mixed.sum(1), torch.ones(8))


def test_timm_agrees_on_smoothed_targets() -> None:
    mix = draw_mixup(8, 4, 4, partner="flip", generator=seeded())
    want = mixup_target(indices(), K, mix.lam[:, None], smoothing=0.1)
    torch.testing.assert_close(mix_targets(indices(), mix, num_classes=K, smoothing=0.1), want)


def test_multi_hot_is_smoothed_towards_a_half() -> None:
    mix = draw_cutmix(8, 16, 16, generator=seeded())
    hot = torch.rand(8, K, generator=seeded(3)) < 0.4
    mixed = mix_targets(hot, mix, num_classes=K, smoothing=0.2, multi_label=True)
    torch.testing.assert_close(mixed, one_by_one(hot, mix, 0.2, 0.5))


def test_a_picture_mixed_with_its_own_class_keeps_the_whole_weight() -> None:
    mix = draw_cutmix(4, 16, 16, partner="flip", generator=seeded())
    assert torch.equal(mix_targets(torch.full((4,), 2), mix, num_classes=K)[:, 2], torch.ones(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_soft_labels_is_the_mix_of_two(smoothing: float) -> None:
    """Spec 1.2, step 9, also with the loss's own smoothing."""
    logits = torch.randn(8, K, generator=seeded(4))
    mix = draw_cutmix(8, 16, 16, generator=seeded())
    own, other, lam = target_pair(indices(), mix)
    two = lam * F.cross_entropy(logits, own, reduction="none", label_smoothing=smoothing)
    two = two + (1 - lam) * F.cross_entropy(logits, other, reduction="none", label_smoothing=smoothing)
    soft = mix_targets(indices(), mix, num_classes=K, smoothing=smoothing)
    torch.testing.assert_close(F.cross_entropy(logits, soft, reduction="none"), two)


def test_binary_cross_entropy_of_soft_labels_is_the_mix_of_two() -> None:
    logits = torch.randn(8, K, generator=seeded(4))
    hot = (torch.rand(8, K, generator=seeded(3)) < 0.4).float()
    mix = draw_cutmix(8, 16, 16, generator=seeded())
    own, other, lam = target_pair(hot, mix)

    def loss(target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target, reduction="none").sum(1)

    torch.testing.assert_close(
        loss(mix_targets(hot, mix, num_classes=K, multi_label=True)), lam * loss(own) + (1 - lam) * loss(other)
    )


def test_targets_of_ranks_together_are_those_of_the_global_batch() -> None:
    mix = draw_cutmix(8, 16, 16, generator=seeded())
    for targets in (indices(), soft_rows()):
        whole = mix_targets(targets, mix, num_classes=K)
        parts = [
            mix_targets(targets[lo:hi], mix.slice(lo, hi), num_classes=K, source=targets) for lo, hi in ((0, 5), (5, 8))
        ]
        assert torch.equal(torch.cat(parts), whole)


def test_targets_are_left_unharmed() -> None:
    mix = draw_cutmix(8, 16, 16, generator=seeded())
    for targets in (indices(), soft_rows()):
        before = targets.clone()
        mix_targets(targets, mix, num_classes=K, smoothing=0.1).zero_()
        assert torch.equal(targets, before)


@pytest.mark.parametrize(
    ("targets", "options", "words"),
    [
        (torch.tensor([0, K]), {}, "go from 0 to 6, expected 0 to 5"),
        (torch.tensor([-1, 0]), {}, "go from -1"),
        (torch.tensor([0.5, 1.0]), {}, "expected integer class indices"),
        (torch.zeros(2, K + 1), {}, r"expected \(B,\) indices or \(B, 6\)"),
        (torch.tensor([0, 1]), {"multi_label": True}, "expected dense targets"),
        (torch.tensor([0, 1]), {"smoothing": -0.1}, "smoothing"),
        (torch.tensor([0, 1, 2]), {}, "3 targets"),
    ],
)
def test_wrong_targets_are_named(targets: Tensor, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        mix_targets(targets, draw_cutmix(2, 8, 8, generator=seeded()), num_classes=K, **options)


SIDE = 12
whole_box = st.tuples(*[st.integers(0, SIDE - 1)] * 2, *[st.integers(1, SIDE)] * 2).map(
    lambda c: (c[0], c[1], min(c[0] + c[2], SIDE), min(c[1] + c[3], SIDE))
)


def single(rule: str, cut: tuple[int, ...], lam: float = 0.5) -> Mix:
    """Two pictures that are each other's partner, one cut for both."""
    return Mix(rule, (SIDE, SIDE), torch.tensor([cut, cut]), torch.tensor([1, 0]), torch.tensor([lam, lam]))


def tightest(seen: Tensor) -> list[float]:
    rows, columns = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    return [int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1]


def rendered(own: list, others: list, cut: tuple[int, ...], min_visible: float) -> list[list[float]]:
    """Every box drawn as pixels, cut, and measured again."""
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[cut[1] : cut[3], cut[0] : cut[2]] = True
    kept = []
    for boxes, region in ((own, ~inside), (others, inside)):
        for x1, y1, x2, y2 in boxes:
            pixels = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            pixels[y1:y2, x1:x2] = True
            seen = pixels & region
            if seen.any() and seen.sum() >= min_visible * pixels.sum():
                kept.append(tightest(seen))
    return kept


@given(
    own=st.lists(whole_box, max_size=4),
    others=st.lists(whole_box, max_size=4),
    cut=whole_box,
    min_visible=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
@settings(max_examples=150, deadline=None)
def test_boxes_are_what_pixels_show(own: list, others: list, cut: tuple, min_visible: float) -> None:
    boxes = [torch.tensor(own, dtype=torch.float32).reshape(-1, 4), torch.tensor(others).float().reshape(-1, 4)]
    labels = [torch.zeros(len(own), dtype=torch.int64), torch.ones(len(others), dtype=torch.int64)]
    mixed, mixed_labels = mix_boxes(boxes, labels, single("cutmix", cut), min_visible=min_visible)
    assert mixed[0].tolist() == rendered(own, others, cut, min_visible)
    own_count = int((mixed_labels[0] == 0).sum())
    assert mixed_labels[0].tolist() == [0] * own_count + [1] * (len(mixed[0]) - own_count)
    assert mixed[1].tolist() == rendered(others, own, cut, min_visible)


def test_resizemix_boxes_shrink_with_the_picture() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 12.0, 12.0]]), torch.tensor([[6.0, 3.0, 12.0, 6.0]])]
    labels = [torch.tensor([7]), torch.tensor([8])]
    mixed, mixed_labels = mix_boxes(boxes, labels, single("resizemix", (2, 4, 8, 8)))
    assert mixed[0].tolist() == [[0.0, 0.0, 12.0, 12.0], [5.0, 5.0, 8.0, 6.0]] and mixed_labels[0].tolist() == [7, 8]
    # The whole of the first picture now stands in the second, whose own object the paste left at its right and bottom.
    assert mixed[1].tolist() == [[6.0, 3.0, 12.0, 6.0], [2.0, 4.0, 8.0, 8.0]]


def test_mixup_shows_both_and_cutout_leaves_all() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[5.0, 5.0, 9.0, 9.0]])]
    labels = [torch.tensor([0]), torch.tensor([1])]
    mixed, mixed_labels = mix_boxes(boxes, labels, single("mixup", (0, 0, 0, 0)))
    assert torch.equal(mixed[0], torch.cat(boxes)) and mixed_labels[1].tolist() == [1, 0]
    for mix in (
        single("cutout", (0, 0, 5, 5), 1.0),
        single("mixup", (0, 0, 0, 0), 1.0),
        single("cutmix", (0, 0, 0, 0), 1.0),
    ):
        mixed, mixed_labels = mix_boxes(boxes, labels, mix)
        assert torch.equal(mixed[0], boxes[0]) and mixed_labels[0].tolist() == [0]
        mixed[0].zero_()
        assert boxes[0].sum() == 8.0


def test_a_picture_pasted_into_itself_keeps_its_boxes_once() -> None:
    boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]]), torch.tensor([[5.0, 5.0, 9.0, 9.0]])]
    labels = [torch.tensor([0]), torch.tensor([1])]
    cut = torch.tensor([[0, 0, 6, 6]] * 2)
    itself = Mix("cutmix", (SIDE, SIDE), cut, torch.arange(2), torch.tensor([0.75, 0.75]))
    for mix, rows in ((itself, slice(0, 2)), (itself.slice(1, 2), slice(1, 2))):
        mixed, _ = mix_boxes(boxes[rows], labels[rows], mix, source=(boxes, labels))
        assert all(torch.equal(a, b) for a, b in zip(mixed, boxes[rows], strict=True))


def test_wrong_counts_of_boxes_are_named() -> None:
    with pytest.raises(UserError, match="1 box sets"):
        mix_boxes([torch.zeros(0, 4)], [torch.zeros(0)], single("cutmix", (0, 0, 5, 5)))
