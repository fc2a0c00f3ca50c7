"""What the two trainings on label maps share: the affinity network's and the segmentation network's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.engine.loop import Job
from partwise.engine.stages import Products, TrainStage
from partwise.methods.ppl.config import AffinityFields, SegmentationFields

if TYPE_CHECKING:
    from partwise.methods.ppl.method import PplMethod


class LearnFromLabels(TrainStage):
    """Trains on the label maps that earlier stages left of every training picture."""

    measured = False

    def __init__(
        self, method: PplMethod, data: PictureData, job: Job, fields: AffinityFields | SegmentationFields
    ) -> None:
        self.method, self.data, self.job = method, data, job
        self.batch_size = fields.batch_size
        self.steps_per_epoch = data.steps_per_epoch(fields.batch_size)
        self.steps = max(1, round(fields.epochs * self.steps_per_epoch))
        self._each = fields.batch_size

    def prepare(self, products: Products) -> None:
        self.products = products

    @abstractmethod
    def labels(self, item: str) -> Tensor:
        """The label map uint8 `(H, W)` of a training picture, 255 where there is none."""

    def batches(self, first_step: int) -> Iterator[Batch]:
        return self.data.train_batches(
            first_step,
            batch_size=self._each,
            parts=self.parts,
            seed=self.job.recipe.train.seed,
            stage=self.name,
            masks=lambda index: self.labels(self.data.source.records[index].id),
        )
