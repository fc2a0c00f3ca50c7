"""Palette PNGs, COCO's run lengths and annotations, against facts of the formats and other readers."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from partwise.config import UserError
from partwise.data.palette import (
    coco_annotations,
    coco_categories,
    decode_rle,
    encode_palette_png,
    encode_rle,
    run_lengths,
    voc_palette,
)
from partwise.data.pictures import decode_mask


def blobs(height: int, width: int, *, seed: int = 0, share: float = 0.5) -> Tensor:
    coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")[0, 0] < share


def naive_colour(value: int) -> list[int]:
    colour = [0, 0, 0]
    for place in range(7, -1, -1):
        for channel in range(3):
            colour[channel] |= (value & 1) << place
            value >>= 1
    return colour


def test_palette_bit_by_bit() -> None:
    palette = voc_palette()
    assert palette.tolist() == [naive_colour(value) for value in range(256)]
    assert palette[:5].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert palette[20].tolist() == [0, 64, 128] and palette[255].tolist() == [224, 224, 192]
    assert len({tuple(row) for row in palette.tolist()}) == 256


def test_every_value_survives_a_png(tmp_path: Path) -> None:
    mask = torch.arange(256, dtype=torch.uint8).reshape(8, 32).T  # no layout that PIL would take as it is
    data = encode_palette_png(mask)
    assert data == encode_palette_png(mask)
    (tmp_path / "mask.png").write_bytes(data)
    assert torch.equal(decode_mask(tmp_path / "mask.png"), mask)
    image = Image.open(io.BytesIO(data))
    assert (image.mode, image.format, image.size) == ("P", "PNG", (8, 32))
    colours = np.asarray(image.convert("RGB"))
    assert (colours == voc_palette()[mask.numpy()]).all()


def test_masks_of_few_classes_keep_eight_bits() -> None:
    data = encode_palette_png(torch.tensor([[0, 1, 255]], dtype=torch.uint8))
    assert data[24] == 8 and data[25] == 3  # PNG's header: bit depth, indexed colour


@pytest.mark.parametrize("mask", [torch.zeros(2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8)])
def test_what_is_no_mask_is_refused(mask: Tensor) -> None:
    with pytest.raises(ValueError, match=r"expected a uint8 mask \(H, W\)"):
        encode_palette_png(mask)


def naive_runs(mask: Tensor) -> list[int]:
    runs, current = [0], False
    for x in range(mask.shape[1]):
        for y in range(mask.shape[0]):
            if bool(mask[y, x]) != current:
                runs.append(0)
                current = not current
            runs[-1] += 1
    return runs


def naive_text(counts: list[int]) -> str:
    """Each number as the shortest two's complement of a whole number of five-bit groups, least group first."""
    text = ""
    for at, count in enumerate(counts):
        number, groups = count - (counts[at - 2] if at > 2 else 0), 1
        while not -(1 << (5 * groups - 1)) <= number < 1 << (5 * groups - 1):
            groups += 1
        bits = format(number % (1 << (5 * groups)), f"0{5 * groups}b")
        pieces = [int(bits[5 * k : 5 * k + 5], 2) for k in reversed(range(groups))]
        text += "".join(chr(48 + piece + (32 if k < groups - 1 else 0)) for k, piece in enumerate(pieces))
    return text


def test_a_mask_computed_by_hand() -> None:
    mask = torch.tensor([[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]).bool()
    assert run_lengths(mask) == [3, 2, 1, 3, 3]
    # 3, 2 and 1 as they are, then 3 - 2 and 3 - 1
    assert encode_rle(mask) == "32112"
    assert run_lengths(~mask) == [0, 3, 2, 1, 3, 3]
    assert encode_rle(~mask) == "032N12"  # 1 - 3 is -2: 30 of 32, and "N" is 48 + 30


def test_long_runs_take_several_letters() -> None:
    mask = torch.zeros(10, 100, dtype=torch.bool)
    mask[:, 10:15] = True
    assert run_lengths(mask) == [100, 50, 850]
    # 100 = 3 * 32 + 4, 50 = 1 * 32 + 18, 850 = 26 * 32 + 18, whose 26 would read as a sign: a third letter
    assert encode_rle(mask) == "T3b1bj0"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 1000), st.floats(0, 1))
def test_run_lengths_pixel_by_pixel(height: int, width: int, seed: int, share: float) -> None:
    mask = blobs(height, width, seed=seed, share=share)
    counts = run_lengths(mask)
    assert counts == naive_runs(mask) and sum(counts) == height * width
    text = encode_rle(mask)
    assert text == naive_text(counts)
    assert torch.equal(decode_rle(text, (height, width)), mask)


@pytest.mark.parametrize("value", [False, True])
def test_masks_of_one_value(value: bool) -> None:
    mask = torch.full((300, 400), value)
    assert run_lengths(mask) == ([0, 120_000] if value else [120_000])
    assert torch.equal(decode_rle(encode_rle(mask), (300, 400)), mask)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("T", "cut short"),
        ("3!", "'!' is no letter"),
        ("3\u20ac", "is no letter"),
        ("32112", "do not fill a mask of 3x5"),
        ("", "do not fill"),
        ("3N11:", "do not fill"),
        ("o" * 5000 + "0", "do not fill"),
    ],
)
def test_damaged_texts_are_answered_in_words(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        decode_rle(text, (3, 5))


def test_annotations_of_a_mask() -> None:
    mask = torch.tensor([[0, 2, 2, 0], [255, 2, 0, 4], [255, 0, 0, 4]], dtype=torch.uint8)
    names = ("ant", "bee", "cat", "dog")
    bee, dog = coco_annotations(mask, names, image_id=7, first_id=31)
    assert json.loads(json.dumps([bee, dog])) == [bee, dog]
    assert (bee["id"], bee["image_id"], bee["category_id"], bee["area"], bee["bbox"]) == (31, 7, 2, 3, [1, 0, 2, 2])
    assert (dog["id"], dog["category_id"], dog["area"], dog["bbox"]) == (32, 4, 2, [3, 1, 1, 2])
    for found in (bee, dog):
        size = found["segmentation"]["size"]
        assert size == [3, 4] and found["iscrowd"] == 0
        assert torch.equal(decode_rle(found["segmentation"]["counts"], tuple(size)), mask == found["category_id"])
    assert coco_categories(names)[1] == {"id": 2, "name": "bee"}
    assert coco_annotations(torch.zeros(3, 4, dtype=torch.uint8), names, image_id=7) == []
    with pytest.raises(UserError, match="picture 7: holds class 4, but there are 3 classes"):
        coco_annotations(mask, names[:3], image_id=7)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of its decode under NumPy 2
def test_run_lengths_of_cocos_own_tools() -> None:
    library = pytest.importorskip("pycocotools.mask")
    for seed in range(20):
        mask = blobs(37 + seed, 61 - seed, seed=seed, share=0.05 * seed)
        theirs = library.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))
        assert encode_rle(mask) == theirs["counts"].decode()
        assert library.area(theirs) == mask.sum()
        for found in coco_annotations(mask.byte(), ["thing"], image_id=0):
            assert found["bbox"] == library.toBbox(theirs).tolist() and found["area"] == library.area(theirs)
            assert (library.decode(found["segmentation"]) == mask.numpy()).all()
