"""CIFAR's layouts hold the same pictures, and torn or foreign batches are named."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import miniatures

from partwise.config import UserError
from partwise.data.sample import FaultySample
from partwise.data.sources import open_source


def test_binary_and_python_hold_the_same(tmp_path: Path) -> None:
    binary = open_source(miniatures.cifar10_binary(tmp_path / "a").source)
    python = open_source(miniatures.cifar10_python(tmp_path / "b").source)
    assert binary.records == python.records and binary.classes == python.classes
    assert torch.equal(binary.images(range(24)), python.images(range(24)))


def test_pixels_are_where_the_format_puts_them(tmp_path: Path) -> None:
    made = miniatures.cifar10_binary(tmp_path / "a")
    data = made.torn.read_bytes()
    source = open_source(made.source)
    for i in range(4):
        record = data[3073 * i : 3073 * (i + 1)]
        assert source.records[8 + i].label == record[0] and source.records[8 + i].id == f"train/{8 + i:05d}"
        for channel, y, x in ((0, 0, 0), (1, 3, 7), (2, 31, 31)):
            assert source.load_image(8 + i)[channel, y, x] == record[1 + 1024 * channel + 32 * y + x]
    assert source.records[20].id == "test/00000"


def test_cifar100_has_two_kinds_of_labels(tmp_path: Path) -> None:
    binary = miniatures.cifar100_binary(tmp_path / "a").source
    python = miniatures.cifar100_python(tmp_path / "b").source.partition("?")[0]
    for source in (binary, python):
        fine, coarse = open_source(source), open_source(f"{source}?labels=coarse")
        assert fine.classes[9] == "fine9" and coarse.classes[1] == "coarse1" and len(coarse.classes) == 20
        assert [record.label for record in fine.records[:5]] == [0, 9, 18, 27, 36]
        assert [record.label for record in coarse.records[:5]] == [0, 1, 2, 3, 4]


def test_a_pack_decodes_as_pil_does(tmp_path: Path) -> None:
    made = miniatures.cifar10_pack(tmp_path / "a")
    with np.load(made.torn) as pack:
        blob, offsets, labels = pack["test_bytes"].tobytes(), pack["test_offsets"], pack["test_labels"]
    for path in (made.root, made.torn):
        source = open_source(f"cifar10:{path}")
        for i in range(4):
            wanted = np.asarray(Image.open(io.BytesIO(blob[offsets[i] : offsets[i + 1]])).convert("RGB"))
            assert np.abs(source.load_image(20 + i).permute(1, 2, 0).numpy().astype(int) - wanted).max() <= 2
            assert source.records[20 + i].label == labels[i]


def test_images_is_a_view_for_a_range_and_takes_any_indices(tmp_path: Path) -> None:
    source = open_source(miniatures.cifar10_binary(tmp_path / "a").source)
    whole = source.images(range(len(source)))
    assert whole.data_ptr() == source.images(range(4)).data_ptr()
    for indices in ([3, 1], torch.tensor([3, 1]), np.array([3, 1])):
        assert torch.equal(source.images(indices), whole[[3, 1]])
    assert source.images([]).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("name", ["data_batch_4.bin", "test_batch.bin", "batches.meta.txt"])
def test_a_missing_batch_is_named(name: str, tmp_path: Path) -> None:
    made = miniatures.cifar10_binary(tmp_path / "a")
    (made.torn.parent / name).unlink()
    with pytest.raises(UserError, match=f"{name} is not there"):
        open_source(made.source)


def test_a_label_without_a_class_is_named(tmp_path: Path) -> None:
    made = miniatures.cifar10_binary(tmp_path / "a")
    data = bytearray(made.torn.read_bytes())
    data[3073] = 77
    made.torn.write_bytes(data)
    with pytest.raises(UserError, match=r"train/00009 has label 77; expected 0 to 9"):
        open_source(made.source)


@pytest.mark.parametrize(
    "content",
    [
        {"labels": [1, 2]},
        {"data": np.zeros((2, 3072), np.uint8)},
        {"data": np.zeros((2, 3071), np.uint8), "labels": [1, 2]},
        {"data": np.zeros((2, 3072), np.float32), "labels": [1, 2]},
        {"data": np.zeros((2, 3072), np.uint8), "labels": ["cat", "dog"]},
        {"data": [1, 2], "labels": [1, 2]},
        ["no", "mapping"],
    ],
)
def test_a_batch_of_other_content_is_named(content: object, tmp_path: Path) -> None:
    made = miniatures.cifar10_python(tmp_path / "a")
    made.torn.write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match="data_batch_3"):
        open_source(made.source)


def test_a_pack_with_pickled_objects_is_refused(tmp_path: Path) -> None:
    made = miniatures.cifar10_pack(tmp_path / "a")
    with np.load(made.torn) as pack:
        arrays = dict(pack)
    np.savez(made.torn, **(arrays | {"class_names": np.array([object()] * 10)}))
    with pytest.raises(UserError, match=r"cifar10_jpeg\.npz: cannot be read"):
        open_source(made.source)


@pytest.mark.parametrize("change", ["missing", "short", "backwards", "beyond", "float"])
def test_a_pack_with_torn_offsets_is_refused(change: str, tmp_path: Path) -> None:
    made = miniatures.cifar10_pack(tmp_path / "a")
    with np.load(made.torn) as pack:
        arrays = dict(pack)
    offsets = arrays.pop("train_offsets")
    changed = {
        "missing": None,
        "short": offsets[:-1],
        "backwards": offsets[::-1],
        "beyond": np.concatenate([offsets[:-1], offsets[-1:] + 1]),
        "float": offsets.astype(float),
    }[change]
    np.savez(made.torn, **arrays, **({} if changed is None else {"train_offsets": changed}))
    with pytest.raises(UserError, match="train_offsets"):
        open_source(made.source)


def test_a_picture_of_another_size_in_a_pack_is_set_aside(tmp_path: Path) -> None:
    made = miniatures.cifar10_pack(tmp_path / "a")
    with np.load(made.torn) as pack:
        arrays = dict(pack)
    files = [miniatures.jpeg(miniatures.pixels(i, 32, 33 if i == 2 else 32)) for i in range(4)]
    arrays["test_bytes"] = np.frombuffer(b"".join(files), np.uint8)
    arrays["test_offsets"] = np.cumsum([0, *map(len, files)])
    np.savez(made.torn, **arrays)
    source = open_source(made.source)
    with pytest.raises(FaultySample, match="33 x 32"):
        source.load_image(22)
    with pytest.raises(FaultySample):
        source.images([21, 22])
    with pytest.raises(FaultySample):
        source.images(range(24))
    assert source.images([21, 23]).shape == (2, 3, 32, 32)
