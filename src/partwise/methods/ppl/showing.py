"""The report's figure of the whole way: the same validation pictures after every step, from the worst to the best."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.data.sample import VOID, Sample
from partwise.engine.stages import Products
from partwise.methods.ppl.config import Sharpener
from partwise.methods.ppl.growing import named, thresholded
from partwise.methods.ppl.mapping import known_classes, read_maps
from partwise.methods.ppl.masking import WritePseudoMasks
from partwise.methods.ppl.sharpening import sharpen_labels
from partwise.models.patch_learning import PatchLearning
from partwise.ops.confusion import class_counts, confusion, mean_iou
from partwise.report import masks as drawing
from partwise.report.figures import overlay
from partwise.report.values import Cell, Picture

if TYPE_CHECKING:
    from partwise.methods.ppl.method import PplMethod

NUM_SHOWN = 8
NUM_LOOKED_AT = 64
"""Validation pictures that are compared; the shown ones are spread evenly over their scores."""
SHARPENING: Sharpener = "irn"
"""The CRF that the figure shows where the recipe has none."""

Pixels = NDArray[np.uint8]


class Steps:
    """Every step of one run's way, for one picture at a time."""

    def __init__(self, method: PplMethod, data: PictureData, products: Products) -> None:
        self.method, self.data, self.products = method, data, products
        self.writer = WritePseudoMasks(method, data)
        self.writer.products = products
        facts = products.facts("pseudo")
        self.writer.threshold = float(facts["threshold"])
        self.plain = plain_network(method, products)
        own = method.fields.pseudo.crf
        self.sharpener: Sharpener = own if own != "none" else SHARPENING

    def final(self, sample: Sample, index: int) -> Tensor:
        """The mask at the end of the way: the network's, or that of the maps after the walk."""
        return self.network(sample) if self.method.makes_network else self.grown(sample, index)

    def network(self, sample: Sample) -> Tensor:
        return self.method.segment(self._float(sample))[0].cpu()

    def maps(self, sample: Sample, index: int, network: PatchLearning) -> Tensor:
        """The greatest map of the picture's classes, `(H, W)` in [0, 1]."""
        present = known_classes(self.data, [index])
        found = read_maps(network, self._float(sample), present, self.method.fields.maps)
        return found.full[0].amax(0).float().cpu()

    def mapped(self, sample: Sample, index: int) -> Tensor:
        """The maps' mask, at the threshold of the recipe or of the figure."""
        stored = self.products.read("maps", self.data.source.records[index].id)
        level = self.method.fields.maps.threshold
        return named(thresholded(stored["full"].float(), 0.15 if level is None else level), stored["classes"])

    def grown(self, sample: Sample, index: int, *, sharpened: bool = False) -> Tensor:
        """The mask after the walk; `sharpened`: and after the CRF."""
        size = (sample.image.shape[1], sample.image.shape[2])
        classes, scores = self.writer.scores(self.data.source.records[index].id, size)
        places = self.writer.places(scores, len(classes)).cpu()
        if sharpened:
            places = sharpen_labels(sample.image, places, len(classes), self.sharpener)
        return named(places, classes)

    def _float(self, sample: Sample) -> Tensor:
        return sample.image.to(self.data.device)[None].float() / 255


def plain_network(method: PplMethod, products: Products) -> PatchLearning | None:
    """The classifier as it was after its warm-up, before any patches; None where there was no warm-up."""
    if not products.complete("warm_up"):
        return None
    network = copy.deepcopy(method.classifier)
    network.begin_plain()
    stored = products.read("warm_up", "networks")
    network.load_state_dict({name.removeprefix("classifier."): tensor for name, tensor in stored.items()})
    return network.eval()


def step_by_step(method: PplMethod, data: PictureData) -> list[Picture]:
    """The figure, where validation pictures have masks to be judged by; nothing otherwise."""
    products = method.products
    if products is None or not method.makes_masks or not products.complete("pseudo"):
        return []
    records = data.source.records
    judges = [i for i in data.splits["val"].tolist() if records[i].has_mask][:NUM_LOOKED_AT]
    steps = Steps(method, data, products)
    scored: list[tuple[float, int, Sample]] = []
    for index in judges:
        sample = data.native(index, whole=True)
        if sample is not None and sample.mask is not None:
            scored.append((overlap(steps.final(sample, index), sample.mask, len(data.source.classes)), index, sample))
    if not scored:
        return []
    scored.sort(key=lambda row: row[:2])
    places = np.unique(np.linspace(0, len(scored) - 1, NUM_SHOWN).round().astype(int))
    return [_figure(steps, [scored[place] for place in places], len(scored))]


def overlap(mask: Tensor, truth: Tensor, num_classes: int) -> float:
    """Mean IoU of one picture's classes and the ground."""
    counts = class_counts(confusion(truth[None].cpu(), mask[None].cpu(), num_classes + 1)[0])
    return float(mean_iou(counts))


def _figure(steps: Steps, rows: list[tuple[float, int, Sample]], total: int) -> Picture:
    classes = steps.data.source.classes
    colours = drawing.class_colours(len(classes))
    columns: dict[str, list[Pixels]] = {}
    captions: dict[str, list[str]] = {}
    table: list[dict[str, Cell]] = []
    for _, index, sample in rows:
        shown = _row(steps, sample, index)
        assert sample.mask is not None
        tile = drawing.fit_tile(sample.image.permute(1, 2, 0).numpy(), len(shown) + 2)
        columns.setdefault("picture", []).append(tile)
        line: dict[str, Cell] = {"id": sample.id}
        for name, what in shown.items():
            if what.is_floating_point():
                columns.setdefault(name, []).append(overlay(tile, what.numpy()))
                continue
            columns.setdefault(name, []).append(drawing.overlay_mask(tile, what.numpy(), colours))
            score = overlap(what, sample.mask, len(classes))
            captions.setdefault(name, []).append(f"IoU {score:.2f}")
            line[f"iou {name}"] = round(score, 4)
        columns.setdefault("truth", []).append(drawing.overlay_mask(tile, sample.mask.numpy(), colours))
        table.append(line)
    values = sorted({int(v) for _, _, s in rows if s.mask is not None for v in s.mask.unique().tolist()} - {0, VOID})
    return Picture(
        name="step_by_step",
        title="From maps to masks, step by step",
        caption=f"{len(rows)} of {total} validation pictures, from the worst to the best by the IoU of the last mask. The maps "
        "show the greatest of the picture's classes; plain is the classifier before any patches. None of these masks was "
        "learned from.",
        image=drawing.rows_figure(
            columns, captions, legend={classes[v - 1]: colours[v - 1] for v in values}, void=True
        ),
        rows=table,
    )


def _row(steps: Steps, sample: Sample, index: int) -> dict[str, Tensor]:
    """What one row shows between picture and truth: maps `(H, W)` float, masks `(H, W)` uint8."""
    shown: dict[str, Tensor] = {}
    if steps.plain is not None:
        shown["plain map"] = steps.maps(sample, index, steps.plain)
    shown["patch map"] = steps.maps(sample, index, steps.method.classifier)
    shown["maps"] = steps.mapped(sample, index)
    if steps.method.walks:
        shown["after walk"] = steps.grown(sample, index)
    shown["after CRF"] = steps.grown(sample, index, sharpened=True)
    if steps.method.makes_network:
        shown["network"] = steps.network(sample)
    return shown
