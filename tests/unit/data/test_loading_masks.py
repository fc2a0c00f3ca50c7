"""Masks beside pictures: in the same random view in training, and at the pictures' own size in evaluation."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from partwise.config import AugmentFields, DataFields, UserError
from partwise.data.augment import Placement, draw_views, place, training_placement
from partwise.data.loading import PictureData
from partwise.data.sample import VOID, FaultySample, Record, Sample, Source
from partwise.data.sharing import Share

BORDER = (7, 7, 7)


class Striped(Source):
    """Pictures whose first channel says what the mask must be: `mask = channel // 10`; every third is of another size."""

    kind = name = "striped"
    classes = ("a", "b")

    def __init__(self, *, side: int = 20, even: bool = False, broken: tuple[int, ...] = ()) -> None:
        self.side, self.even, self.broken = side, even, broken
        self.image_size = (side, side) if even else None
        splits = ["train"] * 8 + ["val"] * 2 + ["test"] * 5
        self.records = [Record(id=f"{n}", split=split, label=n % 2, has_mask=n != 11) for n, split in enumerate(splits)]

    def mask(self, index: int) -> Tensor:
        width = self.side if self.even else self.side + 6 * (index % 3 == 0)
        generator = torch.Generator().manual_seed(index)
        return torch.randint(1, 20, (self.side, width), dtype=torch.uint8, generator=generator)

    def load_image(self, index: int) -> Tensor:
        if index in self.broken:
            raise FaultySample(f"{index}", "torn")
        return (self.mask(index) * 10)[None].expand(3, -1, -1).contiguous()

    def load(self, index: int) -> Sample:
        return Sample(id=f"{index}", image=self.load_image(index), label=index % 2, mask=self.mask(index))


def fields(**options: object) -> DataFields:
    augment = AugmentFields(**{"crop": "pad", "padding": 3, "border": BORDER} | options.pop("augment", {}))  # type: ignore[arg-type,operator]
    return DataFields(source="striped:", size=20, augment=augment, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_a_mask_lies_on_its_picture_in_every_view(storage: str) -> None:
    source = Striped(even=True)
    data = PictureData(source, fields(storage=storage))
    batches = list(islice(data.train_batches(0, batch_size=4, parts=2, seed=0, stage="s", masks=source.mask), 8))
    data.close()
    bordered = 0
    for batch in batches:
        assert batch.masks is not None and batch.masks.dtype == torch.uint8
        inside = batch.masks != VOID
        assert torch.equal(batch.images[:, 0][inside], (batch.masks * 10)[inside])
        assert (batch.images[:, 0][~inside] == BORDER[0]).all()
        bordered += int(not inside.all())
    assert bordered, "some view must leave the picture"


def test_resident_and_streamed_views_are_the_same() -> None:
    source = Striped(even=True)
    found = []
    for storage in ("resident", "streamed"):
        data = PictureData(source, fields(storage=storage))
        found.append(
            list(islice(data.train_batches(1, batch_size=4, parts=1, seed=3, stage="s", masks=source.mask), 3))
        )
        data.close()
    for one, other in zip(*found, strict=True):
        assert one.ids == other.ids
        assert torch.equal(one.images, other.images) and torch.equal(one.masks, other.masks)  # type: ignore[arg-type]


def test_a_substitute_comes_with_its_own_mask() -> None:
    source = Striped(broken=(2,))
    data = PictureData(source, fields(on_fault="skip", augment={"crop": "none", "flip": False}))
    for batch in islice(data.train_batches(0, batch_size=8, parts=1, seed=0, stage="s", masks=source.mask), 2):
        assert "2" not in batch.ids and batch.masks is not None
        for row, name in enumerate(batch.ids):
            if int(name) % 3:  # those of the frame's own size
                assert torch.equal(batch.masks[row], source.mask(int(name)))
    data.close()


def test_processes_share_out_the_rows_of_one_batch() -> None:
    source = Striped()
    whole = next(
        PictureData(source, fields()).train_batches(0, batch_size=8, parts=1, seed=0, stage="s", masks=source.mask)
    )
    halves = [
        next(
            PictureData(source, fields(), share=Share(rank, 2)).train_batches(
                0, batch_size=8, parts=1, seed=0, stage="s", masks=source.mask
            )
        )
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([h.masks for h in halves]), whole.masks)  # type: ignore[arg-type,misc]


def test_native_batches_keep_order_and_size_and_leave_out_pictures_without_masks() -> None:
    source = Striped()
    data = PictureData(source, fields())
    wanted = frozenset({"masks"})
    batches = list(data.native_batches("test", 4, fields=wanted))
    assert [name for batch in batches for name in batch.ids] == ["10", "12", "13", "14"]
    assert [len(batch) for batch in batches] == [1, 1, 2]  # neighbours of one size
    for batch in batches:
        assert batch.images.dtype == torch.float32 and batch.masks is not None
        assert torch.equal((batch.images[:, 0] * 255).round().to(torch.uint8), batch.masks * 10)
    assert next(b.ids for b in data.native_batches("test", 4)) == ["10", "11"]
    shares = [PictureData(source, fields(), share=Share(rank, 2)) for rank in range(2)]
    names = [[n for b in own.native_batches("test", 4, fields=wanted) for n in b.ids] for own in shares]
    assert names == [["10", "13"], ["12", "14"]]
    (one,) = [data.native_batch(10, wanted)]
    assert one is not None and one.ids == ["10"] and one.masks is not None
    assert data.has("masks", "test", of_some=True) and not data.has("masks", "test")


# -- crop=scaled ---------------------------------------------------------------------------------------------------------


def placements(height: int, width: int, count: int = 200, *, size: int = 32) -> list[Placement]:
    augment = AugmentFields(crop="scaled", long_side=(24, 48))
    views = draw_views(count, augment, torch.Generator().manual_seed(0))
    return [
        training_placement(height, width, views, row, augment, size=size, resize=size, keep_aspect=False)
        for row in range(count)
    ]


@pytest.mark.parametrize(("height", "width"), [(60, 40), (10, 30), (1, 1), (5000, 3)])
def test_the_longer_side_is_drawn_evenly_and_the_ratio_is_kept(height: int, width: int) -> None:
    found = placements(height, width, 2000)
    sides = [max(p.resized) for p in found]
    assert set(sides) == set(range(24, 49))
    assert sum(sides) / len(sides) == pytest.approx(36, abs=0.6)
    for p in found:
        assert p.window == (0, 0, height, width)
        assert min(p.resized) == max(1, round(min(height, width) * max(p.resized) / max(height, width)))


def test_windows_lie_anywhere_inside_and_borders_on_either_side() -> None:
    for p in placements(40, 40):
        room = p.resized[0] - 32
        assert min(room, 0) <= p.offset[0] <= max(room, 0) and min(room, 0) <= p.offset[1] <= max(room, 0)
    assert {p.offset[0] for p in placements(40, 40, 3000) if p.resized[0] == 34} == {0, 1, 2}
    assert {p.offset[1] for p in placements(40, 40, 3000) if p.resized[1] == 30} == {0, -1, -2}


def test_the_border_has_its_colour_and_masks_are_void_there() -> None:
    image, mask = torch.full((3, 10, 10), 200, dtype=torch.uint8), torch.ones(10, 10, dtype=torch.uint8)
    placement = Placement((0, 0, 10, 10), (10, 10), (-3, -5))
    framed = place(image, placement, 20, border=(1, 2, 3))
    marked = place(mask, placement, 20, mask=True)
    assert (framed[:, 3:13, 5:15] == 200).all() and (marked[3:13, 5:15] == 1).all()
    assert framed[:, 0, 0].tolist() == [1, 2, 3] and (marked == VOID).sum() == 300


def test_whole_pictures_cannot_be_resident() -> None:
    data = PictureData(Striped(even=True), fields(storage="resident", augment={"crop": "scaled"}))
    with pytest.raises(UserError, match="needs the whole pictures"):
        data.prepare()
