"""How often the class is right, and how honest the probabilities are.

For one class a picture: `top1`, `top5` (left out below six classes, where it says nothing), `nll` (natural logarithm) and
`ece` (15 equal-width bins of the top probability). For several classes a picture (targets `(B, K)` of zeros and ones):
`map`, the mean over classes of the average precision of ranking all pictures by that class's logit; classes that no
picture shows are left out of the mean. Of equal logits the lower class counts as the higher one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.evaluate.base import Classifier, Evaluation, Evaluator, Images, Redraw, Rows
from partwise.evaluate.pixels import as_pixels
from partwise.ops.precision import average_precision

if TYPE_CHECKING:
    from partwise.report.values import Cell, Picture

NUM_BINS = 15
NUM_WORST = 24


def calibration_error(confidence: Tensor, correct: Tensor, *, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error (Guo et al. 2017, eq. 3): mean |accuracy - confidence| of bins, weighted by size.

    `confidence` `(N,)` in [0, 1], `correct` bool `(N,)`. Bins are (0, 1/n], ..., ((n - 1)/n, 1].
    """
    sure, right = confidence.double(), correct.double()
    column = ((confidence * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)
    gap = torch.zeros(num_bins, dtype=torch.float64).index_add_(0, column, right - sure)
    return float(gap.abs().sum() / len(sure))


def confusion_matrix(true: Tensor, predicted: Tensor, num_classes: int) -> Tensor:
    """Counts int64 `(K, K)`: rows are true classes, columns predicted ones."""
    return torch.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


class Classification(Evaluator):
    """Top-1 and top-5, likelihood, calibration and confusion; mean average precision where labels are several."""

    suite: ClassVar[str] = "classification"
    metrics: ClassVar[tuple[str, ...]] = ("top1", "top5", "nll", "ece", "map")
    needs: ClassVar[type] = Classifier
    wants: ClassVar[frozenset[str]] = frozenset({"targets"})

    def measure(self, model: Classifier, batch: Batch) -> Rows:
        """Per picture: true and predicted class, place of the true one, probabilities; or all logits and labels."""
        assert batch.targets is not None
        logits = model.logits(batch.images).float()
        if logits.shape[1] != len(self.classes):
            raise UserError(f"the model names {logits.shape[1]} classes, the data {len(self.classes)}")
        if not logits.isfinite().all():
            raise ValueError("the model's logits are not finite")
        targets = batch.targets.to(logits.device)
        if targets.ndim == 2:
            return {"logits": logits.cpu(), "labels": targets.cpu() > 0.5}
        # Float64: the logarithm of a float32 softmax loses the small probabilities of a sure network.
        log_p = logits.double().log_softmax(dim=1)
        own = logits.gather(1, targets[:, None])
        earlier = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
        rank = ((logits > own) | ((logits == own) & earlier)).sum(dim=1)
        top = logits.argmax(dim=1)
        rows = {
            "target": targets,
            "predicted": top,
            "rank": rank,
            "nll": -log_p.gather(1, targets[:, None])[:, 0],
            "confidence": log_p.gather(1, top[:, None])[:, 0].exp(),
        }
        return {name: values.cpu() for name, values in rows.items()}

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """Nothing is chosen here, so `validation` is not used."""
        return self._several(rows) if "labels" in rows else self._one(rows, images)

    def _several(self, rows: Rows) -> Evaluation:
        found = Evaluation()
        shown = rows["labels"].any(dim=0).nonzero()[:, 0].tolist()
        if not shown:
            found.leave_out("classification/map", "no picture carries a label")
            return found
        each = {self.classes[k]: average_precision(rows["logits"][:, k], rows["labels"][:, k]) for k in shown}
        found.found(
            "classification/map", sum(each.values()) / len(each), n=len(rows["index"]), classes=len(each), each=each
        )
        return found

    def _one(self, rows: Rows, images: Images | None) -> Evaluation:
        count, found = len(rows["index"]), Evaluation()
        correct = rows["rank"] == 0
        found.found("classification/top1", correct.double().mean().item(), n=count)
        if len(self.classes) > 5:
            found.found("classification/top5", (rows["rank"] < 5).double().mean().item(), n=count)
        else:
            found.leave_out("classification/top5", f"there are only {len(self.classes)} classes")
        found.found("classification/nll", rows["nll"].mean().item(), n=count)
        found.found("classification/ece", calibration_error(rows["confidence"], correct), n=count, bins=NUM_BINS)
        if images is not None:
            found.pictures.extend([self._confusion(rows), *self._worst(rows, images)])
        return found

    def _confusion(self, rows: Rows) -> Picture:
        from partwise.report import figures
        from partwise.report.values import Picture

        matrix = confusion_matrix(rows["target"], rows["predicted"], len(self.classes))
        cells: list[dict[str, Cell]] = [
            {"true": self.classes[t], "predicted": self.classes[p], "pictures": int(matrix[t, p])}
            for t, p in matrix.nonzero().tolist()
        ]
        return Picture(
            name="confusion",
            title="Confusion",
            caption="Rows are true classes, columns predicted ones; pairs that never occur are not in the table.",
            image=figures.confusion(matrix.numpy(), self.classes),
            rows=cells,
        )

    def _worst(self, rows: Rows, images: Images) -> list[Picture]:
        """The wrong pictures of which the model was most sure; none where all are right."""
        from partwise.report import figures
        from partwise.report.values import Picture

        wrong = (rows["rank"] > 0).nonzero()[:, 0]
        chosen = wrong[rows["confidence"][wrong].argsort(descending=True, stable=True)][:NUM_WORST]
        if len(chosen) == 0:
            return []
        table: list[dict[str, Cell]] = [self._row(rows, place) for place in chosen.tolist()]
        titles = [f"{row['label']}\nas {row['prediction']}\nat {row['probability']:.2f}" for row in table]
        pixels = as_pixels(images([int(row["index"]) for row in table]))
        return [
            Picture(
                name="most_sure_and_wrong",
                title="Most sure and wrong",
                caption=f"The {len(table)} wrong pictures with the highest probability, of {len(wrong)} wrong ones.",
                image=figures.gallery(pixels, titles, columns=8),
                rows=table,
            )
        ]

    def _row(self, rows: Rows, place: int) -> dict[str, Any]:
        return {
            "index": int(rows["index"][place]),
            "label": self.classes[int(rows["target"][place])],
            "prediction": self.classes[int(rows["predicted"][place])],
            "probability": float(rows["confidence"][place]),
        }
