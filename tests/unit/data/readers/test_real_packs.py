"""The readers on the packs of real pictures, against the counts that their descriptions give."""

from __future__ import annotations

import io
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from partwise.data.checks import check_headers, check_source
from partwise.data.pictures import FaultyPicture, decode, decode_mask
from partwise.data.sample import Source
from partwise.data.sources import open_source
from partwise.data.splits import split_indices

pytestmark = pytest.mark.data
Pack = Callable[[str], Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def splits(source: Source) -> dict[str, int]:
    return dict(Counter(record.split for record in source.records))


def test_cifar10(pack: Pack) -> None:
    source = open_source(f"cifar10:{pack('cifar10')}")
    assert splits(source) == {"train": 50_000, "test": 10_000}
    assert Counter(record.label for record in source.records[:50_000]) == dict.fromkeys(range(10), 5_000)
    assert source.classes == tuple(
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    )
    with np.load(pack("cifar10") / "cifar10_jpeg.npz") as arrays:
        blob, offsets = arrays["test_bytes"], arrays["test_offsets"]
    for i in (0, 4_999, 9_999):
        wanted = np.asarray(Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]].tobytes())))
        assert (source.load_image(50_000 + i).permute(1, 2, 0).numpy() == wanted).all()
    assert check_headers(source) == []
    assert {name: len(part) for name, part in split_indices(source).items()} == {
        "train": 45_000,
        "val": 5_000,
        "test": 10_000,
    }


def test_tiny_imagenet20(pack: Pack) -> None:
    source = open_source(f"tinyimagenet:{pack('tiny_imagenet20')}")
    assert splits(source) == {"train": 6_000, "val": 1_000}
    assert len(source.classes) == 20 and {"goldfish", "teapot", "Egyptian cat"} <= set(source.classes)
    report = check_source(source)
    assert report.num_unusable == 0 and report.sizes == {(64, 64): 7_000}
    assert report.modes == {"RGB": 6_920, "L": 80} and report.num_boxes == 7_000
    assert {fault.kind for fault in report.faults} == {"grey among colour"}
    assert check_headers(source) == []
    assert {name: len(part) for name, part in split_indices(source).items()} == {
        "train": 5_400,
        "val": 600,
        "test": 1_000,
    }


def test_cub20(pack: Pack) -> None:
    source = open_source(f"cub:{pack('cub20')}")
    assert splits(source) == {"train": 600, "test": 579} and len(source.classes) == 20
    report = check_source(source)
    assert report.num_unusable == 0 and report.modes == {"RGB": 1_177, "L": 2}
    outside = [fault.file for fault in report.faults if fault.kind == "box leaves its picture"]
    assert [Path(file).name for file in outside] == ["Gray_Catbird_0032_21551.jpg"]
    index = next(fault.index for fault in report.faults if fault.kind == "box leaves its picture")
    assert index is not None
    sample = source.load(index)
    assert sample.boxes is not None and sample.boxes[0, 3] == sample.image.shape[1] < source.records[index].boxes[0][3]


def test_imagenet_samples(pack: Pack) -> None:
    folder = pack("imagenet_samples")
    source = open_source(f"imagenet:{folder}")
    assert splits(source) == {"": 1_000} and [record.label for record in source.records] == list(range(1_000))
    assert source.classes[0] == "tench" and source.classes[999] == "toilet tissue"
    assert check_headers(source) == []
    table = open_source(f"csv:{source.root}/labels.csv?label=index")
    assert [record.label for record in table.records] == list(range(1_000))
    assert len(open_source(f"images:{folder / 'imagenet_samples.tar'}")) == 1_000


def test_malformed_tiffs_are_refused(pack: Pack) -> None:
    """Their directory gives the strip offsets twice; PIL takes the wrong one, at times without an error."""
    with tarfile.open(pack("chromosomes_gband") / "source_tiff_sample.tar.gz") as archive:
        files = [file for member in archive if (file := archive.extractfile(member)) is not None]
        assert len(files) == 47
        for file in files:
            with pytest.raises(FaultyPicture, match="strips"):
                decode(file.read())


def test_palette_masks_of_voc(pack: Pack, tmp_path: Path) -> None:
    with tarfile.open(next(pack("voc2012_masks").glob("*.tar*"))) as archive:
        names = [member for member in archive if member.name.endswith(".png")][:20]
        for member in names:
            file = archive.extractfile(member)
            assert file is not None
            (tmp_path / "mask.png").write_bytes(file.read())
            values = set(decode_mask(tmp_path / "mask.png").unique().tolist())
            assert values <= {*range(21), 255} and 0 in values
    assert names
