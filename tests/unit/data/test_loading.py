"""Batches are functions of counters: of seed, stage, step and position, and of nothing else."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from partwise.config import AugmentFields, DataFields, UserError
from partwise.data.loading import PictureData
from partwise.data.sample import Batch, FaultySample, Record, Source
from partwise.data.sharing import Share


class Stripes(Source):
    """Pictures that say their own position: all pixels of picture i are i."""

    kind = name = "stripes"
    classes = ("a", "b", "c")

    def __init__(self, train: int = 40, *, same_size: bool = True, broken: frozenset[int] = frozenset()) -> None:
        counts = {"train": train, "val": 6, "test": 6}
        splits = [split for split, count in counts.items() for _ in range(count)]
        self.records = [Record(f"p{i}", split=s, label=i % 3, file=f"p{i}.png") for i, s in enumerate(splits)]
        self.image_size = (12, 12) if same_size else None
        self.broken = broken

    def load_image(self, index: int) -> Tensor:
        if index in self.broken:
            raise FaultySample(f"p{index}.png", "torn")
        side = 12 if self.image_size else 12 + index % 5
        return torch.full((3, side, side + (0 if self.image_size else 3)), index, dtype=torch.uint8)


def data(
    source: Source, *, share: Share | None = None, storage: str = "auto", threads: int = 2, **fields: object
) -> PictureData:
    chosen = DataFields(source="stripes:", size=12, storage=storage, threads=threads, **fields)
    return PictureData(source, chosen, share=share)


def first(pictures: PictureData, count: int, *, start: int = 0, batch: int = 8, parts: int = 1) -> list[Batch]:
    batches = pictures.train_batches(start, batch_size=batch, parts=parts, seed=3, stage="train")
    found = list(islice(batches, count))
    pictures.close()
    return found


def same(one: Batch, other: Batch) -> bool:
    return one.ids == other.ids and torch.equal(one.images, other.images) and torch.equal(one.targets, other.targets)


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_any_step_can_be_had_again(storage: str) -> None:
    whole = first(data(Stripes(), storage=storage), 12)
    assert all(same(a, b) for a, b in zip(whole[5:], first(data(Stripes(), storage=storage), 7, start=5), strict=True))


def test_memory_and_decoding_ahead_give_the_same_batches() -> None:
    resident, streamed = first(data(Stripes(), storage="resident"), 6), first(data(Stripes(), storage="streamed"), 6)
    assert all(same(a, b) for a, b in zip(resident, streamed, strict=True))


def test_threads_change_nothing() -> None:
    one, four = (first(data(Stripes(), storage="streamed", threads=n), 6) for n in (1, 4))
    assert all(same(a, b) for a, b in zip(one, four, strict=True))


@pytest.mark.parametrize("storage", ["resident", "streamed"])
@pytest.mark.parametrize("crop", ["pad", "resized"])
def test_slices_of_the_processes_make_the_batch_of_one(storage: str, crop: str) -> None:
    if (storage, crop) == ("resident", "resized"):
        pytest.skip("crop 'resized' needs the whole pictures")
    augment = AugmentFields(crop=crop, jitter=0.2)
    one = first(data(Stripes(), storage=storage, augment=augment), 4, parts=2)
    shares = [first(data(Stripes(), storage=storage, augment=augment, share=Share(r, 2)), 4, parts=2) for r in (0, 1)]
    for whole, left, right in zip(one, *shares, strict=True):
        assert whole.ids == left.ids + right.ids
        assert torch.equal(whole.images, torch.cat([left.images, right.images]))


def test_an_epoch_shows_every_picture_once_and_epochs_differ() -> None:
    batches = first(data(Stripes()), 10)
    epochs = [[i for b in batches[k : k + 5] for i in b.index.tolist()] for k in (0, 5)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(40))
    assert epochs[0] != epochs[1]


def test_targets_and_ids_belong_to_their_pictures() -> None:
    for batch in first(data(Stripes(), augment=AugmentFields(crop="none")), 3):
        assert torch.equal(batch.images[:, 0, 0, 0].long(), batch.index)
        assert torch.equal(batch.targets, batch.index % 3)
        assert batch.ids == [f"p{i}" for i in batch.index.tolist()]


def test_a_set_smaller_than_a_batch_is_repeated() -> None:
    batch = first(data(Stripes(5)), 1)[0]
    assert len(batch) == 8 and set(batch.index.tolist()) == set(range(5))


def test_uneven_shares_are_refused_with_the_nearest_batch() -> None:
    with pytest.raises(UserError, match=r"8 pictures .* 3 processes; the nearest that can is 9"):
        first(data(Stripes(), share=Share(0, 3)), 1)


@pytest.mark.parametrize("same_size", [True, False])
def test_a_broken_picture_ends_the_run_by_name_or_is_set_aside(same_size: bool) -> None:
    source = Stripes(broken=frozenset({4}), same_size=same_size)
    with pytest.raises(UserError, match=r"p4\.png.*torn"):
        first(data(source, storage="streamed"), 6)
    pictures = data(source, storage="streamed", on_fault="skip")
    seen = {i for batch in first(pictures, 5) for i in batch.index.tolist()}
    assert 4 not in seen and pictures.faults == {"p4.png": "torn"}


def test_a_limit_is_balanced_and_the_same_each_time() -> None:
    pictures = data(Stripes(), train_limit=9)
    labels = [pictures.source.records[i].label for i in pictures.splits["train"].tolist()]
    assert sorted(labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert torch.equal(pictures.splits["train"], data(Stripes(), train_limit=9).splits["train"])


def test_evaluation_shows_a_split_once_in_order_over_all_processes() -> None:
    own = [list(data(Stripes(), share=Share(r, 2)).evaluation_batches("test", 2)) for r in (0, 1)]
    seen = sorted(i for batches in own for batch in batches for i in batch.index.tolist())
    assert seen == list(range(46, 52))
    assert own[0][0].images.dtype == torch.float32 and float(own[0][0].images.max()) <= 1


def test_evaluation_brings_boxes_and_masks_into_the_frame() -> None:
    from partwise.data.sources import open_source

    creatures = open_source("creatures:?size=32&classes=4&train=8&val=4&test=6")
    pictures = PictureData(creatures, DataFields(source="creatures:", size=24, resize=24))
    batch = next(pictures.evaluation_batches("test", 6, fields=frozenset({"boxes", "masks"})))
    pictures.close()
    assert batch.masks.shape == (6, 24, 24) and len(batch.boxes) == 6
    for mask, boxes in zip(batch.masks, batch.boxes, strict=True):
        rows, columns = ((mask != 0) & (mask != 255)).nonzero().unbind(1)
        tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert (boxes[0] - tight).abs().max() <= 2.0, "nearest neighbour and rounding move an edge by a pixel"


def test_folds_cover_everything_once() -> None:
    seen: list[int] = []
    for fold in range(3):
        pictures = data(Stripes(), folds=3, fold=fold)
        held_out = pictures.splits["val"].tolist()
        assert not set(held_out) & set(pictures.splits["train"].tolist())
        seen += held_out
    assert len(seen) == len(set(seen))


def test_storage_follows_size_and_crop() -> None:
    assert data(Stripes()).resident
    assert not data(Stripes(same_size=False)).resident
    assert not data(Stripes(), augment=AugmentFields(crop="resized")).resident
    with pytest.raises(UserError, match="needs the whole pictures"):
        _ = data(Stripes(), storage="resident", augment=AugmentFields(crop="resized")).resident
