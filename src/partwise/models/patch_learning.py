"""The classifier of patch learning: branches that see patches of feature maps beside one that sees the whole.

All branches share one set of weights. PPL (figure 2) has one patch branch, whose cut moves from shallow to deep over the
training; EPL (figure 5) has all at once, with gradients stopped in front of each cut. `PatchLearning` works in any loop; the
stages of the method are in classify.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.config import UserError
from partwise.models.backbones import build_backbone
from partwise.models.contract import Backbone
from partwise.models.pictures import PictureNetwork
from partwise.ops.patches import patchwise

Mode = Literal["baseline", "single", "ppl", "epl"]
Half = Literal["full", "global", "patch"]
"""Which branches a map is read from: all, the whole picture's, the patches'."""


@dataclass(frozen=True)
class Cut:
    """Where and how finely feature maps are cut: behind which block, into how many rows and columns."""

    block: int
    grid: int


def plan_cuts(num_blocks: int, positions: Sequence[int], grids: Sequence[int]) -> tuple[Cut, ...]:
    """Positions (blocks behind which maps are cut, 0 the first) and grids (one for all, or one each) as cuts, shallow to deep.

    No positions: behind each of the three blocks before the last, or as many as there are. Raises UserError for a position
    that leaves no block behind it and for another number of grids.
    """
    chosen = tuple(positions) or tuple(range(max(0, num_blocks - 4), num_blocks - 1))
    if sorted(set(chosen)) != list(chosen) or not all(0 <= block < num_blocks - 1 for block in chosen):
        raise UserError(
            f"method.positions = {list(chosen)}: expected block numbers from 0 to {num_blocks - 2}, rising, for this backbone"
        )
    if len(grids) not in (1, len(chosen)):
        raise UserError(
            f"method.grids = {list(grids)}: expected one number, or one for each of {len(chosen)} positions"
        )
    each = tuple(grids) * len(chosen) if len(grids) == 1 else tuple(grids)
    return tuple(Cut(block, grid) for block, grid in zip(chosen, each, strict=True))


class PatchLearning(PictureNetwork):
    """Float images `(B, C, H, W)` in [0, 1] -> logits `(B, K)` of the branches that `mode` and `stage` call for.

    `backbone` is a `Backbone` of ordered blocks, or its name. The classifier is a 1x1 convolution without bias over the
    concatenated branches, patches first, pooled: u = [l_1; ...; l_S; g], z = W GAP(u). In mode ppl `stage` says which cut is
    in use (`num_stages` in all); weights stay as they are when it moves on. `plain` turns every mode into the global branch
    alone, for a warm-up; `leave_plain` then starts the concatenated classifier as the mean of what each branch says.

    Batch norm must use running statistics while patches are in play, since patches of a batch would change batch
    statistics: `freeze_norm` keeps it in evaluation mode, whatever mode the module is in (its affine weights still learn).
    """

    def __init__(
        self,
        backbone: Backbone | str,
        num_classes: int,
        *,
        mode: Mode = "ppl",
        positions: Sequence[int] = (),
        grids: Sequence[int] = (2,),
        detach: bool | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__(mean=mean, std=std)
        self.backbone = build_backbone(backbone) if isinstance(backbone, str) else backbone
        self.mode = mode
        self.detach = mode == "epl" if detach is None else detach
        self.cuts = () if mode == "baseline" else plan_cuts(self.backbone.num_blocks, positions, grids)
        if mode == "single" and len(self.cuts) != 1:
            raise UserError(f"method.positions = {list(positions)}: mode 'single' needs exactly one")
        self.num_patch_branches = {"baseline": 0, "single": 1, "ppl": 1, "epl": len(self.cuts)}[mode]
        width = self.backbone.num_features
        self.classifier = nn.Conv2d(width * (self.num_patch_branches + 1), num_classes, 1, bias=False)
        self.plain_classifier: nn.Conv2d | None = None
        self.stage = 0
        self.norm_frozen = False

    @property
    def num_stages(self) -> int:
        """How many stages the progression has: one, but in mode ppl one a cut."""
        return len(self.cuts) if self.mode == "ppl" else 1

    @property
    def active_cuts(self) -> tuple[Cut, ...]:
        """The cuts in use, one a patch branch."""
        if self.plain_classifier is not None:
            return ()
        return self.cuts[self.stage : self.stage + 1] if self.mode == "ppl" else self.cuts

    def begin_plain(self) -> None:
        """Leave the patch branches out for now, with a classifier of the global branch alone."""
        like = self.classifier
        width = self.backbone.num_features
        self.plain_classifier = nn.Conv2d(width, like.out_channels, 1, bias=False).to(like.weight)

    def leave_plain(self) -> None:
        """Take the patch branches up: each begins with the plain classifier's weights, shared out evenly."""
        if self.plain_classifier is None:
            return
        branches = self.num_patch_branches + 1
        with torch.no_grad():
            self.classifier.weight.copy_(self.plain_classifier.weight.repeat(1, branches, 1, 1) / branches)
        self.plain_classifier = None

    def freeze_norm(self, frozen: bool = True) -> None:
        """Whether batch norm keeps its running statistics and uses them in training too."""
        self.norm_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> PatchLearning:
        super().train(mode)
        if mode and self.norm_frozen:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def learn_from(self, block: int) -> None:
        """Let the blocks from `block` on learn, and not those in front of it."""
        for number in range(self.backbone.num_blocks):
            for module in self.backbone.block_modules(number):
                module.requires_grad_(number >= block)

    def run(self, x: Tensor, first: int, last: int) -> Tensor:
        """Blocks `first` up to, and without, `last`."""
        for number in range(first, last):
            x = self.backbone.block(number, x)
        return x

    def branches(self, images: Tensor, half: Half = "full", *, shifted: bool = False) -> Tensor:
        """The concatenated maps `(B, (S + 1) d, h, w)` of the branches in use: merged patches of each cut, then the whole.

        `half` leaves the others out; `shifted` moves the cuts by half a patch. What lies in front of a cut is computed once
        for both.
        """
        depth, cuts = self.backbone.num_blocks, () if half == "global" else self.active_cuts
        merged: list[Tensor] = []
        x, done = self.normalise(images), 0
        for cut in cuts:
            x, done = self.run(x, done, cut.block + 1), cut.block + 1
            merged.append(self._patches(x.detach() if self.detach else x, cut, shifted))
        if half == "patch" and merged:
            return torch.cat(merged, dim=1)
        return torch.cat([*merged, self.run(x, done, depth)], dim=1)

    def _patches(self, x: Tensor, cut: Cut, shifted: bool) -> Tensor:
        depth, strides = self.backbone.num_blocks, self.backbone.stage_strides
        left = self.backbone.stride // strides[cut.block]
        grid = (cut.grid, cut.grid)
        return patchwise(
            lambda patch: self.run(patch, cut.block + 1, depth), x, stride=left, grid=grid, shifted=shifted
        )

    def weight(self, half: Half = "full") -> Tensor:
        """The classifier's weights `(K, n d)` for the branches of `half`."""
        head = self.classifier if self.plain_classifier is None else self.plain_classifier
        weight, width = head.weight[:, :, 0, 0], self.backbone.num_features
        if half == "global":
            return weight[:, -width:]
        if half == "patch" and weight.shape[1] > width:
            return weight[:, :-width]
        return weight

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(self.branches(images).mean((2, 3)), self.weight())

    def maps(self, images: Tensor, half: Half = "full", *, shifted: bool = False) -> tuple[Tensor, Tensor]:
        """Logits `(B, K)` (of `half` alone) and raw class maps `(B, K, h, w)`, float32, whose mean is the logit."""
        features = self.branches(images, half, shifted=shifted)
        with torch.autocast(features.device.type, enabled=False):
            maps = F.conv2d(features.float(), self.weight(half).float()[:, :, None, None])
        return maps.mean((2, 3)), maps


@validate_call
def build_patch_learning(
    *,
    backbone: str,
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)],
    mode: Mode,
    positions: tuple[int, ...],
    grids: tuple[Annotated[int, Field(ge=1, le=64)], ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    detach: bool | None = None,
    arguments: dict[str, Any] | None = None,
) -> PatchLearning:
    """A PatchLearning from plain values, in its last stage, as a file keeps it; `arguments` are the backbone's."""
    network = build_backbone(backbone, weights=None, **(arguments or {}))
    made = PatchLearning(
        network, num_classes, mode=mode, positions=positions, grids=grids, detach=detach, mean=mean, std=std
    )
    made.stage = made.num_stages - 1
    return made
