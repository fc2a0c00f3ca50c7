"""What the arms' maps are read from, and how good they are: one protocol for all of them.

Every arm's maps go through `read_maps` (scales, mirror images, each class by its own maximum), as the stage `maps` reads
them; the picture's classes are known. The background threshold is chosen on the validation split.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.data.worlds.creatures import PARTS
from partwise.evaluate.base import Evaluation, Rows
from partwise.evaluate.classification import Classification
from partwise.evaluate.runner import collect, run_suite
from partwise.evaluate.segmentation import Segmentation, all_counts
from partwise.methods.base import Method
from partwise.methods.cutmix.method import CutMixMethod
from partwise.methods.ppl.config import MapFields
from partwise.methods.ppl.mapping import read_maps
from partwise.methods.ppl.method import PplMethod
from partwise.models.heads import ImageClassifier
from partwise.models.patch_learning import PatchLearning
from partwise.ops.cam import upsample
from partwise.ops.confusion import mean_iou
from partwise.ops.layer_cam import layer_cam

TELLING = PARTS.index("ornament")
LAYERS, GAIN = 2, 2.0
"""LayerCAM: blocks from the last that are fused, and the gain of those in front of the last."""


class Reader:
    """A Seeder from whatever has `maps(images, half) -> (_, raw maps)`, by the protocol of the stage `maps`."""

    def __init__(self, maps: Any, fields: MapFields) -> None:
        self.network, self.fields = maps, fields

    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        """As the protocol Seeder says."""
        return read_maps(self.network, images, labels, self.fields).full


class OwnMaps:
    """The class activation maps of a plain classifier, which has no halves."""

    def __init__(self, network: ImageClassifier) -> None:
        self.network = network

    def maps(self, images: Tensor, half: str) -> tuple[Tensor, Tensor]:
        """Logits and raw maps."""
        return self.network.maps(images)


class LayerMaps:
    """LayerCAM of the last blocks of a plain network, fused as its paper does.

    Every map is divided by its greatest value, those of blocks in front of the last then pass tanh(2 x), which lifts
    their weak cells; of all layers the greatest value of a cell counts.
    """

    def __init__(self, network: PatchLearning) -> None:
        self.network = network
        blocks = range(network.backbone.num_blocks - LAYERS, network.backbone.num_blocks)
        self.layers = [network.backbone.block_modules(number)[-1] for number in blocks]

    def maps(self, images: Tensor, half: str) -> tuple[Tensor, Tensor]:
        """The fused maps in both places: nobody asks for logits here."""
        found = [layer_cam(self.network, images, layer=layer) for layer in self.layers]
        finest = max(tuple(maps.shape[-2:]) for maps in found)
        scaled = [maps / maps.amax((2, 3), keepdim=True).clamp(min=1e-12) for maps in found]
        scaled = [(GAIN * maps).tanh() for maps in scaled[:-1]] + scaled[-1:]
        fused = torch.stack([upsample(maps, finest) for maps in scaled]).amax(0)
        return fused, fused


class CentreBox:
    """A rival that sees nothing: a centred box of `side` times the picture's sides is the object, whatever it is.

    Of several classes that a picture shows the first gets the box. Side 1 calls everything an object.
    """

    def __init__(self, side: float) -> None:
        self.side = side

    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        """As the protocol Seeder says."""
        height, width = images.shape[-2:]
        inside = [((torch.arange(n) + 0.5) / n - 0.5).abs() <= self.side / 2 for n in (height, width)]
        box = (inside[0][:, None] & inside[1]).to(images)
        return labels[:, :, None, None] * box


def seeder(method: Method, maps: str, fields: MapFields) -> Reader:
    """What an arm's trained networks are asked for."""
    if isinstance(method, CutMixMethod):
        return Reader(OwnMaps(method.network), fields)
    assert isinstance(method, PplMethod)
    return Reader(LayerMaps(method.classifier) if maps == "layers" else method.classifier, fields)


class Yardstick:
    """The suites of a study on its splits."""

    def __init__(self, data: PictureData, classes: Sequence[str], batch: int) -> None:
        self.data, self.batch = data, batch
        self.segmentation, self.classification = Segmentation(classes), Classification(classes)
        parts = data.source.kind == "creatures"
        self.fields = frozenset({"targets", "masks", *(["parts"] if parts else [])})

    def batches(self, split: str) -> Iterable[Batch]:
        """The pictures of a split at their own size, with what is needed to score them."""
        return self.data.native_batches(split, self.batch, fields=self.fields)

    def rows(self, model: object, batches: Iterable[Batch]) -> Rows:
        """One row a picture, for any threshold."""
        return collect(self.segmentation, model, batches)[0]

    def score(self, model: object, validation: Rows) -> Evaluation:
        """mIoU, precision and recall on the test split, the threshold chosen on `validation`."""
        return self.segmentation.conclude(self.rows(model, self.batches("test")), validation)

    def classified(self, method: Method) -> Evaluation:
        """How well the test pictures are classified."""
        batches = self.data.evaluation_batches("test", self.batch, fields=frozenset({"targets"}))
        return run_suite(self.classification, method, batches, validation=None)


def best_miou(rows: Rows) -> float:
    """mIoU at the best threshold of these very rows: what lengths are chosen by, on validation."""
    return float(mean_iou(all_counts(rows)).max())


def measured(*findings: Evaluation) -> dict[str, Any]:
    """Numbers and details for JSON, what could not be measured left out; recall of telling and of other parts as metrics."""
    metrics = {name: value for found in findings for name, value in found.metrics.items()}
    detail = {name: facts for found in findings for name, facts in found.detail.items() if name in metrics}
    parts = detail.get("segmentation/cam_recall", {}).get("parts")
    if parts:
        others = [share for part, share in parts.items() if part != str(TELLING)]
        metrics["segmentation/recall_telling"] = parts[str(TELLING)]
        metrics["segmentation/recall_others"] = sum(others) / len(others)
    return {"metrics": metrics, "detail": detail}
