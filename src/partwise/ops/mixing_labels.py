"""What a drawn `Mix` does to labels: class targets (indices, soft, multi-hot) and detection boxes.

Cross entropy and binary cross entropy are linear in the target, so a loss against the mixed target of `mix_targets`
equals lam * loss(own) + (1 - lam) * loss(partner's) of `target_pair`; use whichever form the loop already has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from partwise.config import UserError
from partwise.ops.mixing_rules import Mix, check_share

LabelRule = Literal["share", "one_hot", "complete"]


def weighed(mix: Mix, rule: LabelRule) -> Mix:
    """The mix with other weights of the targets, pixels unchanged: the label ablations of CutMix's table 8.

    "share": as it is. "one_hot": the picture that shows more keeps its whole label, on a tie the own one. "complete": half
    and half, whatever the shares; pictures that were not mixed keep theirs.
    """
    if rule == "share":
        return mix
    ones = torch.ones_like(mix.lam)
    if rule == "one_hot":
        return replace(mix, lam=torch.where(mix.lam >= 0.5, ones, 0.0))
    return replace(mix, lam=torch.where(mix.lam < 1.0, 0.5, ones))


def target_pair(
    targets: Shaped[Tensor, " b *k"], mix: Mix, *, source: Shaped[Tensor, " s *k"] | None = None
) -> tuple[Shaped[Tensor, " b *k"], Shaped[Tensor, " b *k"], Float32[Tensor, " b"]]:
    """(own targets, partner's targets, weight of the own): the form for loops that take two losses."""
    if targets.shape[0] != len(mix):
        raise UserError(f"targets: got {targets.shape[0]} targets for a mix of {len(mix)} pictures")
    mix = mix.to(targets.device)
    partners = targets if source is None else source
    return targets, partners[mix.partner], mix.lam


def mix_targets(
    targets: Shaped[Tensor, " b *k"],
    mix: Mix,
    *,
    num_classes: int,
    smoothing: float = 0.0,
    multi_label: bool = False,
    source: Shaped[Tensor, " s *k"] | None = None,
) -> Float32[Tensor, "b num_classes"]:
    """Soft targets lam * own + (1 - lam) * partner's from class indices `(B,)` or dense rows `(B, K)`.

    `smoothing` e, the same before mixing as after: t -> (1 - e) t + e / K, and with `multi_label=True` (dense rows of
    independent yes or no, for binary cross entropy) t -> (1 - e) t + e / 2. `source` are the targets of the batch that
    partners point into.
    """
    check_share(smoothing, "smoothing")
    own, others, lam = target_pair(targets, mix, source=source)
    if targets.ndim == 1:
        if multi_label:
            raise UserError(f"multi_label: expected dense targets (B, {num_classes}), got class indices")
        mixed = _soft_from_indices(own, others, lam, num_classes)
    elif targets.ndim != 2 or targets.shape[1] != num_classes:
        raise UserError(f"targets: got shape {tuple(targets.shape)}, expected (B,) indices or (B, {num_classes}) rows")
    else:
        mixed = torch.lerp(others.to(torch.float32), own.to(torch.float32), lam[:, None])
    if smoothing == 0.0:
        return mixed
    return mixed * (1.0 - smoothing) + smoothing * (0.5 if multi_label else 1.0 / num_classes)


def mix_boxes(
    boxes: Sequence[Float[Tensor, "_ 4"]],
    labels: Sequence[Shaped[Tensor, " _"]],
    mix: Mix,
    *,
    min_visible: float = 0.25,
    source: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """Detection boxes `(n, 4)` and labels `(n,)` after the mix, own ones first, then those pasted with the partner.

    An own box shrinks to the tightest one round what the paste left of it; a pasted box is clipped to the paste
    (ResizeMix: scaled with the picture). Either is dropped where less than `min_visible` of its area can be seen, or
    nothing. Mixup shows both pictures whole and keeps all boxes; Cutout changes no label. Reads the mix on the host.
    Raises UserError for FMix, whose shapes leave no boxes.
    """
    if mix.shapes is not None:
        raise UserError("mix_boxes: FMix pastes shapes, which cut boxes into pieces; use CutMix or ResizeMix")
    check_share(min_visible, "min_visible")
    if not len(boxes) == len(labels) == len(mix):
        raise UserError(f"mix_boxes: got {len(boxes)} box sets, {len(labels)} label sets, a mix of {len(mix)} pictures")
    other_boxes, other_labels = (boxes, labels) if source is None else source
    mixed_boxes, mixed_labels = [], []
    rows = zip(mix.boxes.tolist(), mix.partner.tolist(), mix.lam.tolist(), strict=True)
    for row, (cut, partner, lam) in enumerate(rows):
        itself = partner == mix.first + row
        own, own_labels = boxes[row], labels[row]
        if _unchanged(mix, cut, lam, itself):
            mixed_boxes.append(own.clone())
            mixed_labels.append(own_labels.clone())
            continue
        others, others_labels = other_boxes[partner], other_labels[partner]
        if mix.rule != "mixup":
            own, keep = uncovered(own, cut, min_visible)
            own_labels = own_labels[keep]
            others = _scaled_into(others, cut, mix.size) if mix.rule == "resizemix" else others
            others, keep_others = clipped_to(others, cut, min_visible)
            own, others, others_labels = own[keep], others[keep_others], others_labels[keep_others]
        mixed_boxes.append(torch.cat((own, others)))
        mixed_labels.append(torch.cat((own_labels, others_labels)))
    return mixed_boxes, mixed_labels


def _unchanged(mix: Mix, cut: list[int], lam: float, itself: bool) -> bool:
    """Whether a picture shows exactly the objects it showed before."""
    if mix.rule == "mixup":
        return itself or lam == 1.0
    empty = cut[0] >= cut[2] or cut[1] >= cut[3]
    return mix.rule == "cutout" or empty or (itself and mix.rule == "cutmix")


def uncovered(boxes: Float[Tensor, "n 4"], cut: Sequence[int], min_visible: float) -> tuple[Tensor, Tensor]:
    """(tightest boxes round what `cut` leaves of each, which of them stay visible enough)."""
    x1, y1, x2, y2 = boxes.unbind(1)
    cut_x1, cut_y1, cut_x2, cut_y2 = cut
    overlap = _overlap(boxes, cut)
    hit = overlap > 0
    # Only a cut across the whole width takes rows away from the box, and only from its ends; likewise for columns.
    across = hit & (x1 >= cut_x1) & (x2 <= cut_x2)
    down = hit & (y1 >= cut_y1) & (y2 <= cut_y2)
    rest = torch.stack(
        (
            torch.where(down & (x1 >= cut_x1), x1.clamp_min(cut_x2), x1),
            torch.where(across & (y1 >= cut_y1), y1.clamp_min(cut_y2), y1),
            torch.where(down & (x2 <= cut_x2), x2.clamp_max(cut_x1), x2),
            torch.where(across & (y2 <= cut_y2), y2.clamp_max(cut_y1), y2),
        ),
        dim=1,
    )
    area = (x2 - x1) * (y2 - y1)
    visible = area - overlap
    return rest, (visible > 0) & (visible >= min_visible * area) & ~(across & down)


def clipped_to(boxes: Float[Tensor, "n 4"], cut: Sequence[int], min_visible: float) -> tuple[Tensor, Tensor]:
    """(boxes clipped to `cut`, which of them stay visible enough)."""
    x1, y1, x2, y2 = boxes.unbind(1)
    cut_x1, cut_y1, cut_x2, cut_y2 = cut
    clipped = torch.stack(
        (x1.clamp(cut_x1, cut_x2), y1.clamp(cut_y1, cut_y2), x2.clamp(cut_x1, cut_x2), y2.clamp(cut_y1, cut_y2)), dim=1
    )
    visible = _overlap(boxes, cut)
    return clipped, (visible > 0) & (visible >= min_visible * (x2 - x1) * (y2 - y1))


def _overlap(boxes: Tensor, cut: Sequence[int]) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(1)
    columns = (x2.clamp_max(cut[2]) - x1.clamp_min(cut[0])).clamp_min(0)
    rows = (y2.clamp_max(cut[3]) - y1.clamp_min(cut[1])).clamp_min(0)
    return columns * rows


def _scaled_into(boxes: Tensor, cut: Sequence[int], size: tuple[int, int]) -> Tensor:
    height, width = size
    x1, y1, x2, y2 = cut
    factors = boxes.new_tensor([(x2 - x1) / width, (y2 - y1) / height] * 2)
    return boxes * factors + boxes.new_tensor([x1, y1, x1, y1])


def _soft_from_indices(own: Tensor, others: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    if own.is_floating_point() or own.dtype == torch.bool:
        expected = f"integer class indices or rows (B, {num_classes})"
        raise UserError(f"targets: got {own.dtype} of shape (B,), expected {expected}")
    own, others = own.to(torch.int64), others.to(torch.int64)
    soft = lam.new_zeros((own.shape[0], num_classes))
    # Two plain scatters instead of adding ones: those are deterministic on every device.
    both = torch.where(own == others, 1.0, 1.0 - lam)
    try:
        soft.scatter_(1, own[:, None], lam[:, None])
        return soft.scatter_(1, others[:, None], both[:, None])
    except (RuntimeError, IndexError) as error:
        # The CPU refuses classes that do not exist; an accelerator does so at its own time.
        low, high = min(int(own.min()), int(others.min())), max(int(own.max()), int(others.max()))
        if low >= 0 and high < num_classes:
            raise
        message = f"targets: class indices go from {low} to {high}, expected 0 to {num_classes - 1}"
        raise UserError(message) from error
