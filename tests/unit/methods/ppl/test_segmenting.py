"""The segmentation network's loss, its stage and its answers, against versions of one pixel, one scale and one mirror image."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from partwise.config import UserError
from partwise.data.palette import encode_palette_png
from partwise.data.sample import VOID, Batch
from partwise.engine.loop import Job, run_stages
from partwise.methods.ppl.config import SegmentationFields
from partwise.methods.ppl.method import PplMethod
from partwise.methods.ppl.segmenting import LearnMasks, MaskLoss, probabilities
from partwise.methods.ppl.sizing import LARGEST
from partwise.models.backbones import build_backbone
from partwise.models.segmentation import SegmentationNetwork, build_head
from partwise.ops.crf import CRF_PRESETS, dense_crf
from tests.unit.methods.ppl.small import run

HEADS = ("deeplab-v1", "deeplab-v2", "deeplab-v3+")


def network(head: str, num_classes: int = 4) -> SegmentationNetwork:
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])
    top = build_head(head, backbone, num_classes=num_classes, rate_scale=0.1)
    made = SegmentationNetwork(backbone, top, mean=(0.5,) * 3, std=(0.2,) * 3).eval()
    with torch.no_grad():
        for p in made.head_parameters():
            if p.ndim == 4:
                p.mul_(5)  # scores that differ
    return made


def labelled(height: int = 18, width: int = 20) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 4, (2, height, width), dtype=torch.uint8, generator=generator)
    masks[:, :3] = VOID
    return Batch(["a", "b"], torch.arange(2), images, None, masks)


def naive_loss(scores: Tensor, masks: Tensor, *, balanced: bool) -> float:
    """-log softmax at the label, pixel by pixel; void counts nowhere; `balanced`: ground and objects averaged apart."""
    sums: dict[str, list[float]] = {"ground": [], "objects": []}
    for own, mask in zip(scores, masks, strict=True):
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                label = int(mask[y, x])
                if label != VOID:
                    values = [float(v) for v in own[:, y, x]]
                    loss = math.log(sum(math.exp(v - values[label]) for v in values))
                    sums["ground" if label == 0 else "objects"].append(loss)
    if balanced:
        return sum(sum(part) / len(part) / 2 for part in sums.values() if part)
    every = [loss for part in sums.values() for loss in part]
    return sum(every) / len(every)


def resized_by_pil(masks: Tensor, size: torch.Size) -> Tensor:
    rows, columns = size
    each = [Image.fromarray(mask.numpy()).resize((columns, rows), Image.Resampling.NEAREST) for mask in masks]
    return torch.stack([torch.from_numpy(np.array(image)) for image in each])


@pytest.mark.parametrize("loss", ["ce", "balanced_ce"])
@pytest.mark.parametrize("head", HEADS)
def test_the_loss_is_that_of_every_pixel(head: str, loss: str) -> None:
    net, batch = network(head), labelled()
    assert batch.masks is not None
    fields = SegmentationFields(head=head, loss=loss)  # type: ignore[arg-type]
    losses, logs = MaskLoss(net, fields)(batch)
    images, balanced = batch.images.float() / 255, loss == "balanced_ce"
    with torch.no_grad():
        if head != "deeplab-v2":
            scores = F.interpolate(net(images), size=(18, 20), mode="bilinear", align_corners=False)
            expected = naive_loss(scores, batch.masks, balanced=balanced)
        else:
            every = []
            for scale in (1.0, 0.75, 0.5):
                size = (round(18 * scale), round(20 * scale))
                every.append(net(F.interpolate(images, size=size, mode="bilinear", align_corners=False)))
            size = every[0].shape[-2:]
            greatest = torch.stack(
                [F.interpolate(s, size=tuple(size), mode="bilinear", align_corners=False) for s in every]
            ).amax(0)
            expected = sum(
                naive_loss(s, resized_by_pil(batch.masks, s.shape[-2:]), balanced=balanced) for s in [*every, greatest]
            )
    assert logs == {} and set(losses) == {"masks"}
    assert losses["masks"].item() == pytest.approx(expected, rel=1e-4)


def test_bytes_and_floats_are_the_same_pictures() -> None:
    net, batch, fields = network("deeplab-v2"), labelled(), SegmentationFields()
    floats = Batch(batch.ids, batch.index, batch.images.float() / 255, None, batch.masks)  # after a jitter of colours
    torch.testing.assert_close(MaskLoss(net, fields)(batch)[0]["masks"], MaskLoss(net, fields)(floats)[0]["masks"])


@pytest.mark.parametrize("loss", ["ce", "balanced_ce"])
def test_masks_that_are_all_void_teach_nothing(loss: str) -> None:
    net, batch = network("deeplab-v2"), labelled()
    assert batch.masks is not None
    batch.masks.fill_(VOID)
    found = MaskLoss(net, SegmentationFields(loss=loss))(batch)[0]["masks"]  # type: ignore[arg-type]
    found.backward()
    assert found.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in net.parameters())


# -- answers -------------------------------------------------------------------------------------------------------------


def naive_scores(net: SegmentationNetwork, image: Tensor, fields: SegmentationFields) -> Tensor:
    """One picture `(1, 3, H, W)`: probabilities `(K + 1, H, W)`, by the rule of each head."""
    size = (image.shape[2], image.shape[3])
    views: list[tuple[float, bool, Tensor]] = []
    for scale in fields.scales:
        small = (max(1, round(size[0] * scale)), max(1, round(size[1] * scale)))
        view = F.interpolate(image, size=small, mode="bilinear", align_corners=False)
        for mirrored in (False, True) if fields.flip else (False,):
            scores = net(view.flip(3)).flip(3) if mirrored else net(view)
            views.append((scale, mirrored, scores))

    def at(scores: Tensor, where: tuple[int, ...]) -> Tensor:
        return F.interpolate(scores, size=tuple(where), mode="bilinear", align_corners=False)

    if fields.head == "deeplab-v1":  # mean of the scores
        return torch.stack([at(s, size) for _, _, s in views]).mean(0).softmax(1)[0]
    if fields.head == "deeplab-v3+":  # mean of the probabilities
        return torch.stack([at(s, size).softmax(1) for _, _, s in views]).mean(0)[0]
    largest = max((s.shape[-2:] for _, _, s in views), key=lambda shape: shape[0] * shape[1])
    twins = []
    for mirrored in {m for _, m, _ in views}:
        twins.append(torch.stack([at(s, largest) for _, m, s in views if m == mirrored]).amax(0))
    return at(torch.stack(twins).mean(0), size).softmax(1)[0]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("height", "width"), [(18, 25), (1, 1), (3, 40)])
def test_answers_are_those_of_the_naive_version(height: int, width: int, head: str, flip: bool) -> None:
    net = network(head)
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(3))
    fields = SegmentationFields(head=head, scales=(0.5, 1.0, 1.5), flip=flip)  # type: ignore[arg-type]
    found = probabilities(net, images, fields)
    assert found.shape == (2, 4, height, width)
    torch.testing.assert_close(found.sum(1), torch.ones(2, height, width))
    with torch.no_grad():
        for row in range(2):
            torch.testing.assert_close(
                found[row], naive_scores(net, images[row : row + 1], fields), rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("head", HEADS)
def test_a_mirrored_picture_has_the_mirrored_answer(head: str) -> None:
    net, image = network(head), torch.rand(1, 3, 18, 27)
    fields = SegmentationFields(head=head, scales=(1.0, 0.5))  # type: ignore[arg-type]
    torch.testing.assert_close(
        probabilities(net, image, fields).flip(-1), probabilities(net, image.flip(-1), fields), rtol=1e-4, atol=1e-5
    )


def test_a_field_sharpens_each_picture_by_its_own_colours() -> None:
    net, images = network("deeplab-v2"), torch.rand(2, 3, 14, 17)
    plain = probabilities(net, images, SegmentationFields())
    found = probabilities(net, images, SegmentationFields(crf="deeplab"))
    for row in range(2):
        picture = torch.round(images[row] * 255).to(torch.uint8)
        unary = -torch.log(plain[row].clamp(1e-5, 1))
        torch.testing.assert_close(found[row], dense_crf(picture, unary, CRF_PRESETS["deeplab"]), rtol=1e-4, atol=1e-5)


# -- the stage -----------------------------------------------------------------------------------------------------------


def prepared(path: Path, *settings: str) -> tuple[PplMethod, LearnMasks, Job]:
    """The stage of a run whose pseudo masks are there: random ones with ground, classes and void."""
    method, stages, job = run(path, "method.segmentation.batch_size=8", "data.augment.crop=none", *settings)
    (stage,) = (s for s in stages if isinstance(s, LearnMasks))
    for number, index in enumerate(stage.data.splits["train"].tolist()):
        generator = torch.Generator().manual_seed(number)
        values = torch.tensor([0, 1, 2, 3, VOID], dtype=torch.uint8)
        mask = values[torch.randint(5, (32, 32), generator=generator)]
        job.products.write_file("pseudo", stage.data.source.records[index].id, ".png", encode_palette_png(mask))
    return method, stage, job


def test_the_backbone_begins_as_the_recipe_says(tmp_path: Path) -> None:
    for start in ("classifier", "random"):
        method, stage, job = prepared(tmp_path / start, f"method.segmentation.start={start}")
        own = {n: t.clone() for n, t in method.segmenter.backbone.state_dict().items()}
        wanted = method.classifier.backbone.state_dict()
        assert any(not torch.equal(own[n], wanted[n]) for n in wanted)
        stage.prepare(job.products)
        now = method.segmenter.backbone.state_dict()
        expected = wanted if start == "classifier" else own
        assert all(torch.equal(now[n], expected[n]) for n in now)


def test_rates_of_head_and_backbone_and_a_batch_size_of_its_own(tmp_path: Path) -> None:
    words = ("method.segmentation.optim.lr=0.01", "method.segmentation.optim.head_lr=7", "method.segmentation.epochs=3")
    method, stage, _ = prepared(tmp_path, *words, "train.batch_size=4")
    plan = stage.plans()["segmenter"]
    factor = {id(p): group["lr_factor"] for group in plan.optimizer.param_groups for p in group["params"]}
    assert {factor[id(p)] for p in method.segmenter.head.parameters()} == {7.0}
    assert {factor[id(p)] for p in method.segmenter.backbone.parameters()} == {1.0}
    assert (stage.batch_size, stage.steps_per_epoch, stage.steps) == (8, 2, 6)


def test_pictures_come_with_their_pseudo_masks_in_the_same_view(tmp_path: Path) -> None:
    _, stage, job = prepared(tmp_path)
    stage.prepare(job.products)
    batch = next(stage.batches(0))
    assert batch.masks is not None and len(batch) == 8
    for row, item in enumerate(batch.ids):
        with Image.open(job.products.path("pseudo", item, ".png")) as file:
            assert file.mode == "P"
            mask = torch.from_numpy(np.array(file))
        index = [record.id for record in stage.data.source.records].index(item)
        mirrored = not torch.equal(batch.images[row], stage.data.source.load_image(index))
        assert torch.equal(batch.masks[row], mask.flip(-1) if mirrored else mask)


@pytest.mark.parametrize("freeze", [True, False])
def test_batch_norm_keeps_its_statistics_where_it_is_frozen(freeze: bool, tmp_path: Path) -> None:
    method, stage, job = prepared(tmp_path, f"method.segmentation.freeze_norm={str(freeze).lower()}")
    before = {n: t.clone() for n, t in method.classifier.backbone.state_dict().items()}
    run_stages([stage], job)
    after = method.segmenter.backbone.state_dict()
    for name, tensor in after.items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(tensor, before[name]) is freeze, name
        elif name.endswith("conv1.weight"):
            assert not torch.equal(tensor, before[name]), name
    assert all(torch.equal(t, before[n]) for n, t in method.classifier.backbone.state_dict().items()), "not shared"


def test_a_mask_that_is_gone_is_named(tmp_path: Path) -> None:
    _, stage, job = prepared(tmp_path)
    stage.prepare(job.products)
    item = stage.data.source.records[int(stage.data.splits["train"][3])].id
    job.products.path("pseudo", item, ".png").unlink()
    with pytest.raises(UserError, match=f"the mask of {item} is gone; --fresh"):
        stage.labels(item)


def test_large_pictures_are_answered_at_a_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, _, _ = run(tmp_path, "method.segmentation.flip=false")
    seen: list[tuple[int, ...]] = []
    forward = method.segmenter.forward
    monkeypatch.setattr(method.segmenter, "forward", lambda x: (seen.append(tuple(x.shape[2:])), forward(x))[1])
    method.eval()
    with torch.inference_mode():
        mask = method.segment(torch.rand(1, 3, 3000, 30))
        small = method.segment(torch.rand(2, 3, 20, 31))
    assert seen == [(LARGEST, 10), (20, 31)]
    assert mask.shape == (1, 3000, 30) and mask.dtype == torch.uint8 and int(mask.max()) <= 3
    assert small.shape == (2, 20, 31)
    (answer,) = method.predict(torch.rand(1, 3, 1500, 12))
    assert answer.mask.shape == (1500, 12)
