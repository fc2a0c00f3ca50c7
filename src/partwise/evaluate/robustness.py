"""What a classifier still knows of changed pictures: attacked, covered, corrupted, and between two classes.

Attacks are in pixel space with eps 8/255. FGSM, one step, is what the CutMix paper reports, and says little: a network whose
gradients vanish withstands it. Read PGD beside it. What is drawn for a picture (starts, noise) is a function of its id. Of
large splits 2,000 pictures are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.evaluate.base import Again, Classifier, Evaluation, Evaluator, Images, Redraw, Rows
from partwise.ops import draws
from partwise.ops.attacks import between, fgsm, occluded, withstands
from partwise.ops.corruption_tables import SEVERITIES
from partwise.ops.corruptions import CORRUPTIONS, corrupted

if TYPE_CHECKING:
    from partwise.report.values import Picture

EPS = 8 / 255
SHARES = tuple(number / 8 for number in range(9))
"""Sides of holes, and shares of two pictures."""
OCCLUSIONS = {"centre": False, "boundary": True}
MIXES = {"mixup": False, "cutmix": True}
PAIRS = 512
"""Pairs of pictures of different classes that are looked at between their classes."""
MEAN = (0.485, 0.456, 0.406)


class Robustness(Evaluator):
    """Top-1 under FGSM and PGD, with holes, on 15 corruptions at 5 severities; neither class between two."""

    suite: ClassVar[str] = "robustness"
    metrics: ClassVar[tuple[str, ...]] = (
        "fgsm_top1",
        "pgd_top1",
        "corruption_top1",
        *(f"{name}_top1" for name in CORRUPTIONS),
        *(f"occlusion_{kind}_top1" for kind in OCCLUSIONS),
        *(f"between_{kind}_neither" for kind in MIXES),
    )
    needs: ClassVar[type] = Classifier
    wants: ClassVar[frozenset[str]] = frozenset({"targets"})
    needs_gradient: ClassVar[bool] = True
    one_class: ClassVar[bool] = True
    measures_most: ClassVar[int | None] = 2000

    def __init__(
        self,
        classes: Sequence[str],
        *,
        fill: Sequence[float] = MEAN,
        steps: int = 20,
        restarts: int = 5,
        corruptions: Sequence[str] = tuple(CORRUPTIONS),
    ) -> None:
        """`fill` is what holes show: the mean colour of the training pictures. Steps and restarts are PGD's."""
        super().__init__(classes)
        self.fill, self.steps, self.restarts = torch.tensor(fill), steps, restarts
        self.corruptions = tuple(corruptions)

    def measure(self, model: Classifier, batch: Batch) -> Rows:
        """Per picture what it is named right under, and its class."""
        assert batch.targets is not None
        images, targets = batch.images, batch.targets.to(batch.images.device)
        with torch.no_grad():
            logits = model.logits(images)
        if logits.shape[1] != len(self.classes):
            raise UserError(f"the model names {logits.shape[1]} classes, the data {len(self.classes)}")

        def right(changed: Tensor) -> Tensor:
            with torch.no_grad():
                return model.logits(changed).argmax(1) == targets

        def starts(number: int) -> Tensor:
            size = images.shape[1:]
            drawn = [torch.rand(size, generator=draws.generator(0, "pgd", number, name)) for name in batch.ids]
            return 2 * torch.stack(drawn).to(images) - 1

        attack: dict[str, Any] = {"eps": EPS, "starts": starts, "steps": self.steps, "restarts": self.restarts}
        found = {
            "target": targets,
            "plain": logits.argmax(1) == targets,
            "fgsm": right(fgsm(model.logits, images, targets, eps=EPS)),
            "pgd": withstands(model.logits, images, targets, **attack),
        }
        for kind, outside in OCCLUSIONS.items():
            covered = [right(occluded(images, share, self._fill(images), outside=outside)) for share in SHARES]
            found[kind] = torch.stack(covered, dim=1)
        for name in self.corruptions:
            found[name] = torch.stack([right(self._corrupted(batch, name, level)) for level in SEVERITIES], dim=1)
        return {name: values.cpu() for name, values in found.items()}

    def _fill(self, images: Tensor) -> Tensor:
        return self.fill if len(self.fill) == images.shape[1] else self.fill.mean().expand(images.shape[1])

    def _corrupted(self, batch: Batch, name: str, severity: int) -> Tensor:
        generators = [draws.generator(0, "corruption", name, severity, picture) for picture in batch.ids]
        return corrupted(batch.images.detach(), name, severity, generators)

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """Nothing is chosen here, so `validation` is not used."""
        found, count = Evaluation(), len(rows["index"])
        plain = share(rows["plain"])
        for name in ("fgsm", "pgd"):
            facts = {"eps": EPS} | ({} if name == "fgsm" else {"steps": self.steps, "restarts": self.restarts})
            found.found(f"robustness/{name}_top1", share(rows[name]), n=count, unchanged=plain, **facts)
        for kind in OCCLUSIONS:
            curve = rows[kind].double().mean(0).tolist()
            found.found(
                f"robustness/occlusion_{kind}_top1", sum(curve) / len(curve), n=count, sides=list(SHARES), curve=curve
            )
        levels = {name: rows[name].double().mean(0).tolist() for name in self.corruptions}
        for name, level in levels.items():
            found.found(f"robustness/{name}_top1", sum(level) / len(level), n=count, severities=level)
        if levels:
            mean = sum(map(sum, levels.values())) / (len(levels) * len(SEVERITIES))
            found.found("robustness/corruption_top1", mean, n=count, unchanged=plain, corruptions=len(levels))
        if images is not None:
            from partwise.evaluate.robustness_pictures import draw_curves

            found.pictures.extend(draw_curves(found, levels, plain))
        return found

    def show(self, model: Classifier, rows: Rows, found: Evaluation, again: Again) -> list[Picture]:
        """Also measures what lies between two classes: that takes two pictures, and a row is of one alone."""
        from partwise.evaluate.robustness_pictures import draw_between

        curves = self._between(model, pairs(rows["index"].tolist(), rows["target"].tolist()), again)
        if not curves:
            for kind in MIXES:
                found.leave_out(f"robustness/between_{kind}_neither", "there are no two pictures of different classes")
            return []
        for kind, curve in curves.items():
            found.found(
                f"robustness/between_{kind}_neither",
                sum(curve["neither"]) / len(SHARES),
                n=curve["pairs"],
                shares=list(SHARES),
                curve=curve["neither"],
                larger_top1=curve["larger"],
            )
        return [draw_between(curves)]

    def _between(self, model: Classifier, chosen: Sequence[tuple[int, int]], again: Again) -> dict[str, dict[str, Any]]:
        """Kind -> shares of pairs that are named neither class, and the class with the larger share, at each of SHARES."""
        neither = {kind: torch.zeros(len(SHARES)) for kind in MIXES}
        larger = {kind: torch.zeros(len(SHARES)) for kind in MIXES}
        count = 0
        for one, other in chosen:
            first, second = again(one), again(other)
            if first is None or second is None or first.targets is None or second.targets is None:
                continue
            count += 1
            a, b = int(first.targets[0]), int(second.targets[0])
            for kind, boxes in MIXES.items():
                mixed = [between(first.images, second.images, share, boxes=boxes) for share in SHARES]
                named = model.logits(torch.cat(mixed)).argmax(1).cpu()
                neither[kind] += (named != a) & (named != b)
                shares = torch.tensor(SHARES)
                larger[kind] += named == torch.where(shares >= 0.5, a, b)
        if not count:
            return {}
        return {
            kind: {
                "neither": (neither[kind] / count).tolist(),
                "larger": (larger[kind] / count).tolist(),
                "pairs": count,
            }
            for kind in MIXES
        }


def share(right: Tensor) -> float:
    """The share of rows that are true."""
    return right.double().mean().item()


def pairs(index: Sequence[int], target: Sequence[int], *, most: int = PAIRS) -> list[tuple[int, int]]:
    """Pairs of positions of pictures of different classes, drawn once for a split; each picture is in one pair at most."""
    order = draws.order(len(index), 0, "between").tolist()
    found: list[tuple[int, int]] = []
    waiting: list[int] = []
    for place in order:
        match = next((i for i, other in enumerate(waiting) if target[other] != target[place]), None)
        if match is None:
            waiting.append(place)
            continue
        found.append((index[waiting.pop(match)], index[place]))
        if len(found) == most:
            break
    return found
