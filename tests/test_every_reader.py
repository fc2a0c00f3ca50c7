"""Every kind of source that reads files, found in the table of sources, against every layout it reads."""

from __future__ import annotations

import inspect
import os
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.readers.files import ArraySource
from partwise.data.sample import FaultySample, Source
from partwise.data.sources import SOURCES, open_source, source_class
from tests import miniatures, miniatures_chest, miniatures_chromosomes, miniatures_distilled, miniatures_masks
from tests.miniatures import Miniature

MAKERS = miniatures.MAKERS | miniatures_masks.MAKERS | miniatures_chromosomes.MAKERS | miniatures_chest.MAKERS
MAKERS |= miniatures_distilled.MAKERS
READERS = [kind for kind in SOURCES if "path" in inspect.signature(source_class(kind)).parameters]
LAYOUTS = [maker for kind in READERS for maker in MAKERS.get(kind, ())]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(params=LAYOUTS, ids=lambda maker: maker.__name__)
def miniature(request: pytest.FixtureRequest, tmp_path: Path) -> Miniature:
    return request.param(tmp_path / "data" / "set")


def everything(source: Source) -> list[Any]:
    return [source.classes, list(source.records), [source.load_image(i) for i in range(len(source))]]


def same(first: Source, second: Source) -> bool:
    a, b = everything(first), everything(second)
    return a[:2] == b[:2] and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))


def test_every_reader_has_a_miniature() -> None:
    assert set(MAKERS) == set(READERS)


def test_records_are_sane(miniature: Miniature) -> None:
    source = open_source(miniature.source)
    records = source.records
    assert dict(Counter(record.split for record in records)) == miniature.splits
    assert len({record.id for record in records}) == len(records) == len(source)
    assert len(set(source.classes)) == len(source.classes) == miniature.classes
    assert source.name and source.kind == miniature.source.partition(":")[0]
    for record in records:
        assert (record.label is None and record.labels is None) == (not source.classes)
        assert (record.labels is not None) == source.multi_label
        labels = () if record.label is None else (record.label,)
        assert all(0 <= label < len(source.classes) for label in record.labels or labels)
        assert all(x1 < x2 and y1 < y2 for x1, y1, x2, y2 in record.boxes)
        assert not record.file or (source.root is not None and (source.root / record.file).is_file())


def test_a_sample_says_what_its_record_says(miniature: Miniature) -> None:
    source = open_source(miniature.source)
    for index, record in enumerate(source.records):
        sample = source.load(index)
        assert (sample.id, sample.split, sample.label, sample.group) == (
            record.id,
            record.split,
            record.label,
            record.group,
        )
        assert sample.image.dtype == torch.uint8 and sample.image.shape[0] == source.channels
        assert torch.equal(sample.image, source.load_image(index))
        assert (sample.mask is not None) == record.has_mask
        if sample.mask is not None:
            assert sample.mask.dtype == torch.uint8 and sample.mask.shape == sample.image.shape[1:]
        if record.boxes:
            assert sample.boxes is not None and sample.boxes.shape == (len(record.boxes), 4)
            assert (
                sample.boxes[:, 2].max() <= sample.image.shape[2] and sample.boxes[:, 3].max() <= sample.image.shape[1]
            )
    if source.image_size is not None:
        several = source.images([2, 0])
        assert torch.equal(several, torch.stack([source.load_image(2), source.load_image(0)]))
        assert torch.equal(source.images(range(1, 3)), source.images([1, 2]))


def test_nothing_is_found_in_a_sound_data_set(miniature: Miniature) -> None:
    source = open_source(miniature.source)
    assert check_headers(source) == []
    report = check_source(source)
    assert [fault for fault in report.faults if fault.serious] == []
    assert sum(report.splits.values()) == sum(report.sizes.values()) == len(source)


class _Reversed:
    """`os.scandir` with its entries in a given order."""

    def __init__(self, entries: list[os.DirEntry[str]]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[os.DirEntry[str]]:
        return self._entries

    def __next__(self) -> os.DirEntry[str]:
        return next(self._entries)

    def __enter__(self) -> _Reversed:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_the_order_is_not_the_file_systems(miniature: Miniature, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir, scandir = os.listdir, os.scandir
    found = []
    for backwards in (False, True):

        def in_order(path: Any = ".", backwards: bool = backwards) -> list[str]:
            return sorted(listdir(path), reverse=backwards)

        def entries(path: Any = ".", backwards: bool = backwards) -> _Reversed:
            return _Reversed(sorted(scandir(path), key=lambda entry: entry.name, reverse=backwards))

        monkeypatch.setattr(os, "listdir", in_order)
        monkeypatch.setattr(os, "scandir", entries)
        found.append(open_source(miniature.source))
    assert same(*found)
    assert found[0].fingerprint() == found[1].fingerprint()


@pytest.mark.parametrize("maker", LAYOUTS, ids=lambda maker: maker.__name__)
def test_the_fingerprint_follows_the_content(maker: Callable[..., Miniature], tmp_path: Path) -> None:
    miniature = maker(tmp_path / "set")
    before = open_source(miniature.source)
    fingerprint = before.fingerprint()
    assert open_source(miniature.source).fingerprint() == fingerprint
    if isinstance(before, ArraySource):
        miniature = maker(tmp_path / "other", seed=1)
        assert open_source(miniature.source).records == before.records
    else:
        miniature.torn.write_bytes(miniature.torn.read_bytes() + b"\0")
    assert open_source(miniature.source).fingerprint() != fingerprint


def test_a_torn_file_is_named(miniature: Miniature) -> None:
    data = miniature.torn.read_bytes()
    miniature.torn.write_bytes(data[: len(data) * 2 // 3])
    try:
        source = open_source(miniature.source)
    except UserError as error:
        assert miniature.torn.name in str(error)
        return
    serious = [fault for fault in check_source(source).faults if fault.serious]
    assert [(fault.kind, Path(fault.file).name) for fault in serious] == [("truncated", miniature.torn.name)]
    assert [fault.file for fault in check_headers(source)] == [fault.file for fault in serious]
    index = serious[0].index
    assert index is not None
    with pytest.raises(FaultySample, match=miniature.torn.name):
        source.load(index)


def test_an_empty_file_is_named(miniature: Miniature) -> None:
    miniature.torn.write_bytes(b"")
    try:
        source = open_source(miniature.source)
    except UserError as error:
        assert miniature.torn.name in str(error)
        return
    faults = [(fault.kind, Path(fault.file).name) for fault in check_headers(source)]
    assert faults == [("empty", miniature.torn.name)]


def test_a_missing_file_is_named(miniature: Miniature) -> None:
    missing = miniature.listed or miniature.torn
    missing.unlink()
    try:
        source = open_source(miniature.source)
    except UserError as error:
        assert missing.name in str(error) or "expected" in str(error)
        return
    if miniature.listed is not None:
        assert [(fault.kind, Path(fault.file).name) for fault in check_headers(source)] == [("missing", missing.name)]


@pytest.mark.parametrize("kind", READERS)
def test_a_missing_data_set_is_answered_with_its_layout(kind: str, tmp_path: Path) -> None:
    reader = source_class(kind)
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError) as caught:
            open_source(f"{kind}:{path}")
        message = str(caught.value)
        assert str(path) in message and reader.layout in message and reader.home in message
        assert "\n" not in message


@pytest.mark.parametrize("pack", [".tar", ".tar.gz", ".zip"])
def test_an_archive_is_as_good_as_its_folder(miniature: Miniature, pack: str, tmp_path: Path) -> None:
    if miniature.source.startswith("csv:") or miniature.torn.suffix == ".npz":
        pytest.skip("a file of its own")
    archive = _pack(miniature.root, tmp_path / f"archive{pack}")
    folder, packed = (
        open_source(miniature.source),
        open_source(miniature.source.replace(str(miniature.root), str(archive))),
    )
    if miniature.source.startswith("images:"):
        assert len(folder) == len(packed)
    else:
        assert same(folder, packed)


def _pack(folder: Path, archive: Path) -> Path:
    if archive.suffix == ".zip":
        shutil.make_archive(str(archive.with_suffix("")), "zip", folder.parent, folder.name)
    else:
        with tarfile.open(archive, "w:gz" if archive.suffix == ".gz" else "w") as opened:
            opened.add(folder, folder.name)
    return archive
