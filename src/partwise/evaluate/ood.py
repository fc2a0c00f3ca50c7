"""Whether a classifier is less sure of pictures that belong to none of its classes: noise, and any foreign source.

Every picture is measured beside two noise pictures of its own, uniform and Gaussian as the CutMix paper has them; foreign
sources are those of `evaluate.foreign`. Much of what the paper reports comes from the two noise sets, so means are given with
and without them. Nothing is tuned: ODIN's temperature and step are those of its paper. Statistics that know nothing of classes
stand beside: a set that these tell apart says little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import ClassVar

import torch
from torch import Tensor

from partwise.data.sample import Batch
from partwise.evaluate.base import Classifier, Evaluation, Evaluator, Images, Redraw, Rows
from partwise.ops import draws
from partwise.ops.ood_scores import OF_LOGITS, STEP, TEMPERATURE, TRIVIAL, odin
from partwise.ops.separation import Separation, auroc, separation

SCORES = (*OF_LOGITS, "odin")
NOISES = ("uniform", "gaussian")
NUMBERS = Separation._fields
SOURCES = "sources"
"""What the mean over the sets that are no noise is called."""


class OutOfDistribution(Evaluator):
    """AUROC, areas under precision-recall, TNR at 95 % TPR and the best accuracy of four scores, on noise and foreign sets."""

    suite: ClassVar[str] = "ood"
    metrics: ClassVar[tuple[str, ...]] = tuple(f"{score}/{number}" for score in SCORES for number in NUMBERS)
    """The means over all sets; each set has its own, `@` and its name behind the score."""
    needs: ClassVar[type] = Classifier
    needs_gradient: ClassVar[bool] = True
    measures_most: ClassVar[int | None] = 2000
    compares: ClassVar[bool] = True

    def measure(self, model: Classifier, batch: Batch) -> Rows:
        """The scores of each picture, and of its own two noise pictures."""
        found = self.measure_foreign(model, batch)
        for noise in NOISES:
            scores = self._scores(model, noise_pictures(noise, batch))
            found |= {f"{noise}/{name}": values for name, values in scores.items()}
        return found

    def measure_foreign(self, model: Classifier, batch: Batch) -> Rows:
        """The scores of each picture."""
        return self._scores(model, batch.images)

    def _scores(self, model: Classifier, images: Tensor) -> Rows:
        with torch.no_grad():
            logits = model.logits(images).float()
        if not logits.isfinite().all():
            raise ValueError("the model's logits are not finite")
        found = {name: score(logits) for name, score in OF_LOGITS.items()}
        found["odin"] = odin(model.logits, images)
        found |= {name: statistic(images) for name, statistic in TRIVIAL.items()}
        return {name: values.cpu() for name, values in found.items()}

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """Nothing is chosen here, so `validation` is not used."""
        found, count = Evaluation(), len(rows["index"])
        sets = {name: {score: rows[f"{name}/{score}"] for score in (*SCORES, *TRIVIAL)} for name in NOISES}
        sets |= self.foreign
        each = {score: {name: separation(rows[score], own[score]) for name, own in sets.items()} for score in SCORES}
        for score, by_set in each.items():
            facts = {"temperature": TEMPERATURE, "step": STEP} if score == "odin" else {}
            for name, numbers in by_set.items():
                n_foreign = len(sets[name][score])
                for number, value in numbers._asdict().items():
                    found.found(f"ood/{score}@{name}/{number}", value, n=count, n_foreign=n_foreign, **facts)
            self._means(found, score, by_set, count)
        for statistic in TRIVIAL:
            for name, own in sets.items():
                area = auroc(rows[statistic], own[statistic])
                # Whichever way it tells them apart: nobody says that foreign pictures are rougher.
                found.found(f"ood/{statistic}@{name}/auroc", max(area, 1 - area), n=count, inverted=area < 0.5)
        if images is not None:
            from partwise.evaluate.ood_pictures import draw_sets

            found.pictures.append(draw_sets(each, self._trivial(found, list(sets))))
        return found

    def _means(self, found: Evaluation, score: str, by_set: Mapping[str, Separation], count: int) -> None:
        """The plain mean over all sets, as in the paper's table 12, and over those that are no noise."""
        foreign = [name for name in by_set if name not in NOISES]
        for number in NUMBERS:
            values = {name: getattr(numbers, number) for name, numbers in by_set.items()}
            found.found(f"ood/{score}/{number}", fmean(values.values()), n=count, sets=list(values))
            name = f"ood/{score}@{SOURCES}/{number}"
            if foreign:
                found.found(name, fmean(values[own] for own in foreign), n=count, sets=foreign)
            else:
                found.leave_out(name, "there is no foreign source (evaluate.foreign), only noise")

    def _trivial(self, found: Evaluation, names: Sequence[str]) -> dict[str, dict[str, float]]:
        return {s: {name: found.metrics[f"ood/{s}@{name}/auroc"] for name in names} for s in TRIVIAL}


def noise_pictures(kind: str, batch: Batch) -> Tensor:
    """A picture of noise for each of a batch, by its id: uniform in [0, 1), or Gaussian (0.5, deviation 1), clipped."""
    size = batch.images.shape[1:]
    generators = [draws.generator(0, "noise", kind, name) for name in batch.ids]
    if kind == "uniform":
        drawn = [torch.rand(size, generator=generator) for generator in generators]
    else:
        drawn = [(0.5 + torch.randn(size, generator=generator)).clamp(0, 1) for generator in generators]
    return torch.stack(drawn).to(batch.images)
