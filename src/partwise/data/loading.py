"""Batches of a source: held on the device as uint8 where it is small, decoded ahead in threads where it is not.

The order and every random view are functions of (seed, stage, epoch or step, position) for the global batch, of which
each process takes its slice: threads, prefetching and the number of processes change nothing, and any step can be had again.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from partwise.config import DataFields, UserError
from partwise.data.annotations import ANNOTATIONS, annotate, in_frame
from partwise.data.augment import (
    Placement,
    Views,
    draw_views,
    fit,
    jitter_colour,
    place,
    take_windows,
    training_placement,
    window_offsets,
)
from partwise.data.sample import VOID, Batch, FaultySample, Sample, Source
from partwise.data.sharing import Share, start_threads
from partwise.data.splits import fold_indices, split_indices
from partwise.ops import draws

T = TypeVar("T")
MaskLoader = Callable[[int], Tensor]
"""A position in the source -> uint8 `(H, W)` of that picture's own size, for training on masks."""

RESIDENT_LIMIT = 2 << 30
AHEAD = 3
"""Batches that are decoded ahead of the one in use."""
PICTURES_A_JOB = 4
"""Pictures that a decoding thread takes up at once: few enough to share a batch out evenly, many enough to pay for asking."""


@dataclass(frozen=True)
class Decoding:
    """A batch whose rows the decoding threads are filling in; its tensors are whole once all jobs are done."""

    step: int
    part: int
    index: Tensor
    images: Tensor
    masks: Tensor | None
    jobs: list[Future[None]]


class PictureData:
    """A source, its splits and the network's frame, ready to yield batches on a device."""

    def __init__(
        self,
        source: Source,
        fields: DataFields,
        *,
        device: torch.device | str = "cpu",
        share: Share | None = None,
        set_aside: Sequence[int] = (),
    ) -> None:
        self.source = source
        self.fields = fields
        self.device = torch.device(device)
        self.share = share or Share()
        self.resize = fields.resize or fields.size
        self.faults: dict[str, str] = {}
        self.splits = self._split(set(set_aside))
        self.threads = fields.threads or os.cpu_count() or 1
        self._targets = self._all_targets()
        self._polarities = self._all_polarities()
        self._some_masks = any(record.has_mask for record in source.records)
        self._frames: Tensor | None = None
        self._pool: ThreadPoolExecutor | None = None

    def _split(self, set_aside: set[int]) -> dict[str, Tensor]:
        fields, source = self.fields, self.source
        if fields.folds:
            if not 0 <= fields.fold < fields.folds or fields.folds < 2:
                raise UserError(
                    f"data.fold: {fields.fold} of {fields.folds} folds; expected 0 <= fold < folds, folds >= 2"
                )
            splits = fold_indices(source, fields.folds, fields.fold, seed=fields.split_seed)
        else:
            splits = split_indices(source, validation=fields.validation, test=fields.test, seed=fields.split_seed)
        splits = self._without(splits, set_aside)
        if fields.train_limit is not None and fields.train_limit < len(splits["train"]):
            splits["train"] = self._balanced(splits["train"], fields.train_limit)
        return splits

    def _without(self, splits: dict[str, Tensor], set_aside: set[int]) -> dict[str, Tensor]:
        """The splits less the positions that are set aside. Raises UserError where nothing is left to train on."""
        if set_aside:
            splits = {n: torch.tensor([i for i in s.tolist() if i not in set_aside]).long() for n, s in splits.items()}
        if not len(splits["train"]):
            raise UserError(f"data.source {self.source.name}: no training pictures")
        return splits

    def _balanced(self, indices: Tensor, limit: int) -> Tensor:
        """`limit` positions drawn by seed, the classes in turn."""
        shuffled = indices[draws.order(len(indices), self.fields.split_seed, "train_limit")].tolist()
        by_class: dict[int, deque[int]] = {}
        for i in shuffled:
            label = self.source.records[i].label
            by_class.setdefault(-1 if label is None else label, deque()).append(i)
        chosen: list[int] = []
        while len(chosen) < limit:
            for queue in [by_class[key] for key in sorted(by_class)]:
                if queue and len(chosen) < limit:
                    chosen.append(queue.popleft())
        return torch.tensor(sorted(chosen))

    def _all_targets(self) -> Tensor | None:
        """Class indices int64 `(N,)`, or multi-hot float32 `(N, K)` where several are possible; None without labels."""
        source = self.source
        if not source.classes:
            return None
        if source.multi_label:
            hot = torch.zeros(len(source), len(source.classes))
            for i, record in enumerate(source.records):
                hot[i, list(record.labels or ())] = 1.0
            return hot
        return torch.tensor([-1 if r.label is None else r.label for r in source.records])

    def _all_polarities(self) -> Tensor | None:
        """Polarities int64 `(N,)`, -1 where a picture has none; None where no picture has one."""
        found = torch.tensor([-1 if r.polarity is None else r.polarity for r in self.source.records])
        return found if (found >= 0).any() else None

    @property
    def resident(self) -> bool:
        """Whether all pictures lie on the device as uint8."""
        fields, size = self.fields, self.source.image_size
        if fields.augment.crop in ("resized", "scaled") or fields.storage == "streamed":
            if fields.storage == "resident":
                raise UserError(
                    f"data.storage = 'resident': crop {fields.augment.crop!r} needs the whole pictures; "
                    "expected 'streamed' or 'auto'"
                )
            return False
        wanted = sum(len(s) for s in self.splits.values()) * self.source.channels * self.resize**2
        return fields.storage == "resident" or (size is not None and wanted <= RESIDENT_LIMIT)

    def prepare(self) -> None:
        """Bring small sets onto the device now: a broken picture ends the run, or is set aside, before the first step."""
        if not self.resident or self._frames is not None:
            return
        count, side = len(self.source), self.resize
        if self.source.image_size == (side, side):
            try:
                self._frames = self.source.images(range(count)).to(self.device)
                return
            except FaultySample:
                pass  # one by one below, where each is named or set aside
        frames = torch.zeros(count, self.source.channels, side, side, dtype=torch.uint8)
        wanted = torch.cat([s for s in self.splits.values()]).tolist()
        broken: set[int] = set()
        for index, frame in zip(wanted, self.pool.map(self._frame, wanted), strict=True):
            if frame is None:
                broken.add(index)
            else:
                frames[index] = frame
        self.splits = self._without(self.splits, broken)
        self._frames = frames.to(self.device)

    @property
    def pool(self) -> ThreadPoolExecutor:
        """The decoding threads, started when first needed."""
        if self._pool is None:
            self._pool = start_threads(self.threads)
        return self._pool

    def close(self) -> None:
        """Stop the decoding threads."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _image(self, index: int) -> Tensor:
        """A decoded picture."""
        return self._read(self.source.load_image, index)

    def _read(self, load: Callable[[int], T], index: int) -> T:
        """What `load` gives. A faulty picture ends the run by name, or with `on_fault=skip` is counted and raised again."""
        try:
            return load(index)
        except FaultySample as fault:
            if self.fields.on_fault == "stop":
                raise UserError(f"{fault}; data.on_fault=skip sets such pictures aside") from None
            self.faults[fault.file] = fault.reason
            raise

    def _frame(self, index: int) -> Tensor | None:
        """One picture resized to the frame from which windows are taken (resident pictures); None for a faulty one."""
        try:
            image = self._image(index)
        except FaultySample:
            return None
        height, width = image.shape[1:]
        side = self.resize
        return place(image, fit(height, width, size=side, resize=side, keep_aspect=self.fields.keep_aspect), side)

    # -- training ------------------------------------------------------------------------------------------------------

    def steps_per_epoch(self, batch_size: int, split: str = "train") -> int:
        """Whole batches in a pass; a set smaller than one batch gives one."""
        return max(1, len(self.splits[split]) // batch_size)

    def epoch_order(self, epoch: int, seed: int, stage: str, split: str = "train") -> Tensor:
        """Source positions of one pass in their order, int64."""
        indices = self.splits[split]
        return indices[draws.order(len(indices), seed, stage, "order", epoch)]

    def train_batches(
        self,
        first_step: int,
        *,
        batch_size: int,
        parts: int,
        seed: int,
        stage: str,
        masks: MaskLoader | None = None,
    ) -> Iterator[Batch]:
        """This process's slice of every part of every step from `first_step` on, without end.

        `images` come as uint8 (float32 with colour jitter), augmented, at the network's size; with `masks`, each picture's
        in the same view, void outside.
        """
        if batch_size % parts:
            raise UserError(f"train.accumulate: {parts} parts do not divide train.batch_size = {batch_size}")
        self.prepare()
        plan = self._plan(first_step, batch_size, parts, seed, stage)
        if self._frames is not None:
            for step, part, index, views in plan:
                batch = self._resident_batch(index, views, masks)
                yield self._colour(batch, step, part, batch_size // parts, seed, stage)
            return
        waiting: deque[Decoding] = deque()
        for step, part, index, views in plan:
            waiting.append(self._decode_ahead(step, part, index, views, masks))
            if len(waiting) > AHEAD:
                ready = waiting.popleft()
                for job in ready.jobs:
                    job.result()
                batch = self._batch(ready.index, ready.images)
                batch.masks = None if ready.masks is None else ready.masks.to(self.device, non_blocking=True)
                yield self._colour(batch, ready.step, ready.part, batch_size // parts, seed, stage)

    def _plan(
        self, first_step: int, batch_size: int, parts: int, seed: int, stage: str
    ) -> Iterator[tuple[int, int, Tensor, Views]]:
        """(step, part, source positions, views) of this process, without end."""
        steps = self.steps_per_epoch(batch_size)
        each = batch_size // parts
        rows = self.share.rows(each)
        step, epoch, order = first_step, -1, torch.empty(0)
        while True:
            if step // steps != epoch:
                epoch = step // steps
                order = self.epoch_order(epoch, seed, stage)
                order = order.repeat(-(-batch_size // len(order))) if len(order) < batch_size else order
            start = (step % steps) * batch_size
            for part in range(parts):
                index = order[start + part * each : start + (part + 1) * each]
                views = draw_views(each, self.fields.augment, draws.generator(seed, stage, "views", step, part))
                yield step, part, index[rows], views.slice(rows.start, rows.stop)
            step += 1

    def _resident_batch(self, index: Tensor, views: Views, masks: MaskLoader | None) -> Batch:
        assert self._frames is not None
        fields = self.fields
        frames = self._frames[index.to(self.device)]
        room = self.resize - fields.size
        top, left = window_offsets(views, fields.augment, (room, room))
        windows = take_windows(frames, top, left, fields.size, views.flip, fill=fields.augment.border)
        batch = self._batch(index, windows)
        if masks is not None:
            own = torch.stack([self._mask_frame(masks(int(i))) for i in index])[:, None].to(self.device)
            batch.masks = take_windows(own, top, left, fields.size, views.flip, fill=VOID)[:, 0]
        return batch

    def _mask_frame(self, mask: Tensor) -> Tensor:
        """A mask resized to the frame from which windows are taken."""
        side, keep_aspect = self.resize, self.fields.keep_aspect
        return place(mask, fit(*mask.shape, size=side, resize=side, keep_aspect=keep_aspect), side, mask=True)

    def _decode_ahead(self, step: int, part: int, index: Tensor, views: Views, masks: MaskLoader | None) -> Decoding:
        """Have a batch decoded into one block of memory, channels innermost as decoders give them."""
        count, side = len(index), self.fields.size
        images = torch.empty(count, side, side, self.source.channels, dtype=torch.uint8).permute(0, 3, 1, 2)
        own = torch.empty(count, side, side, dtype=torch.uint8) if masks is not None else None
        decoding = Decoding(step, part, index.clone(), images, own, [])
        for start in range(0, count, PICTURES_A_JOB):
            rows = range(start, min(start + PICTURES_A_JOB, count))
            decoding.jobs.append(self.pool.submit(self._fill, decoding, views, rows, masks))
        return decoding

    def _fill(self, batch: Decoding, views: Views, rows: range, masks: MaskLoader | None) -> None:
        """Write some rows of a batch; the position of a faulty picture's substitute goes into `index`."""
        size = self.fields.size
        for row in rows:
            image, placement, found = self._view(int(batch.index[row]), views, row)
            batch.images[row].copy_(place(image, placement, size, border=self.fields.augment.border))
            batch.index[row] = found
            if masks is not None and batch.masks is not None:
                batch.masks[row].copy_(place(masks(found), placement, size, mask=True))

    def _view(self, index: int, views: Views, row: int) -> tuple[Tensor, Placement, int]:
        """One picture decoded, with its random view; a faulty one is replaced by the next of the split."""
        fields = self.fields
        for attempt in range(len(self.source)):
            try:
                image = self._image(index)
                break
            except FaultySample:
                train = self.splits["train"]
                index = int(train[(int(torch.searchsorted(train, index)) + 1 + attempt) % len(train)])
        else:
            raise UserError(f"data.source {self.source.name}: not one picture can be read")
        height, width = image.shape[1:]
        placement = training_placement(
            height,
            width,
            views,
            row,
            fields.augment,
            size=fields.size,
            resize=self.resize,
            keep_aspect=fields.keep_aspect,
        )
        return image, placement, index

    def _colour(self, batch: Batch, step: int, part: int, each: int, seed: int, stage: str) -> Batch:
        augment = self.fields.augment
        if augment.jitter or augment.lighting:
            generator = draws.generator(seed, stage, "colour", step, part)
            first = self.share.rows(each).start
            batch.images = jitter_colour(batch.images.float() / 255, augment, generator, total=each, first=first)
        return batch

    def _batch(self, index: Tensor, images: Tensor) -> Batch:
        targets = None if self._targets is None else self._targets[index].to(self.device, non_blocking=True)
        polarities = None if self._polarities is None else self._polarities[index].to(self.device, non_blocking=True)
        ids = [self.source.records[i].id for i in index.tolist()]
        return Batch(ids, index, images.to(self.device, non_blocking=True), targets, polarities=polarities)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def evaluation_batches(
        self,
        split: str,
        batch_size: int,
        *,
        fields: frozenset[str] = frozenset(),
        most: int | None = None,
    ) -> Iterator[Batch]:
        """This process's share of a split, in order, in the fixed frame; what is in ANNOTATIONS only where asked for.

        `images` float32 in [0, 1] on the device. `most`: so many pictures at most, drawn by the seed of the splits.
        """
        self.prepare()
        own = self._some(split, most)[self.share.rank :: self.share.world]
        for start in range(0, len(own), batch_size):
            index = own[start : start + batch_size]
            batch = self.evaluation_batch(index, fields)
            if batch is not None:
                yield batch

    def _some(self, split: str, most: int | None) -> Tensor:
        """The positions of a split, or `most` of them, in order."""
        every = self.splits[split]
        if most is None or len(every) <= most:
            return every
        return every[draws.order(len(every), self.fields.split_seed, "some", split)[:most]].sort().values

    def evaluation_batch(self, index: Tensor, fields: frozenset[str]) -> Batch | None:
        """The pictures of a batch that can be read; None where none can."""
        if not fields & ANNOTATIONS and self._frames is not None:
            batch = self._batch(index, self.pictures(index))
            batch.images = batch.images.float() / 255
            return batch
        read = self._sample if fields & ANNOTATIONS else self._bare_sample
        found = [(i, s) for i, s in zip(index.tolist(), self.pool.map(read, index.tolist()), strict=True) if s]
        if not found:
            return None
        return self._gathered(found, fields)

    def _gathered(self, found: list[tuple[int, Sample]], fields: frozenset[str]) -> Batch:
        """Samples of one size, with their positions, as a batch for evaluation; a picture without a mask has one of void."""
        index, samples = torch.tensor([i for i, _ in found]), [sample for _, sample in found]
        batch = self._batch(index, torch.stack([sample.image for sample in samples]))
        batch.images = batch.images.float() / 255
        names, masked = self.source.landmark_names, self._some_masks
        annotate(batch, samples, fields, num_landmarks=len(names), some_masks=masked, device=self.device)
        return batch

    def native(self, index: int, *, whole: bool = False) -> Sample | None:
        """One picture at its own size (`whole`: with mask, parts and boxes); None for a faulty one that is set aside."""
        try:
            if whole:
                return self._read(self.source.load, index)
            return Sample(id=self.source.records[index].id, image=self._image(index))
        except FaultySample:
            return None

    def native_batch(self, index: int, fields: frozenset[str]) -> Batch | None:
        """One picture at its own size as a batch; None where it cannot be read."""
        sample = self.native(index, whole=bool(fields & ANNOTATIONS))
        return None if sample is None else self._gathered([(index, sample)], fields)

    def native_batches(
        self,
        split: str,
        batch_size: int,
        *,
        fields: frozenset[str] = frozenset(),
        most: int | None = None,
    ) -> Iterator[Batch]:
        """As `evaluation_batches`, with every picture at its own size; neighbours of one size share a batch.

        Where masks are asked for, pictures without one are left out.
        """
        whole = bool(fields & ANNOTATIONS)
        waiting: list[tuple[int, Sample]] = []
        wanted = [
            i for i in self._some(split, most).tolist() if "masks" not in fields or self.source.records[i].has_mask
        ]
        own = wanted[self.share.rank :: self.share.world]
        for start in range(0, len(own), batch_size):
            chunk = own[start : start + batch_size]
            for index, sample in zip(chunk, self.pool.map(lambda i: self.native(i, whole=whole), chunk), strict=True):
                if sample is None:
                    continue
                if waiting and (len(waiting) == batch_size or sample.image.shape != waiting[0][1].image.shape):
                    yield self._gathered(waiting, fields)
                    waiting = []
                waiting.append((index, sample))
        if waiting:
            yield self._gathered(waiting, fields)

    def pictures(self, index: Tensor) -> Tensor:
        """Pictures in the fixed frame, uint8 `(n, C, size, size)`, on the device."""
        size = self.fields.size
        if self._frames is not None:
            start = round((self.resize - size) / 2)
            return self._frames[index.to(self.device)][:, :, start : start + size, start : start + size]
        return torch.stack(list(self.pool.map(self._evaluation_frame, index.tolist()))).to(self.device)

    def _evaluation_frame(self, index: int) -> Tensor:
        image = self._image(index)
        fields = self.fields
        placement = fit(*image.shape[1:], size=fields.size, resize=self.resize, keep_aspect=fields.keep_aspect)
        return place(image, placement, fields.size)

    def _bare_sample(self, index: int) -> Sample | None:
        """A sample with its picture alone in the fixed frame; None for a faulty one."""
        try:
            return Sample(id=self.source.records[index].id, image=self._evaluation_frame(index))
        except FaultySample:
            return None

    def _sample(self, index: int) -> Sample | None:
        """A sample with picture, boxes and masks in the fixed frame; None for a faulty one."""
        try:
            sample = self._read(self.source.load, index)
        except FaultySample:
            return None
        fields = self.fields
        placement = fit(*sample.image.shape[1:], size=fields.size, resize=self.resize, keep_aspect=fields.keep_aspect)
        return in_frame(sample, placement, fields.size)

    def has(self, field: str, split: str, *, of_some: bool = False) -> bool:
        """Whether pictures of a split come with `targets`, `boxes`, `masks` or `landmarks`; `of_some`: at least one of them."""
        indices = self.splits.get(split, torch.empty(0)).tolist()
        if field == "targets":
            return self._targets is not None
        if field == "landmarks":
            return len(self.source.landmark_names) > 0
        records = (self.source.records[i] for i in indices[:64])
        if field == "boxes":
            return bool(indices) and any(r.boxes or r.has_mask for r in records)
        if of_some:
            return any(self.source.records[i].has_mask for i in indices)
        return bool(indices) and all(r.has_mask for r in records)
