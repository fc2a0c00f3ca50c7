"""What the readers of folders and lists make of their layouts, beyond what every reader must do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests import miniatures
from tests.miniatures import WNIDS, write_picture

from partwise.config import UserError
from partwise.data.sources import open_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_an_image_folder_in_a_folder(tmp_path: Path) -> None:
    miniatures.imagefolder_flat(tmp_path / "outer" / "inner")
    (tmp_path / "outer" / "__MACOSX").mkdir()
    (tmp_path / "outer" / "readme.txt").write_text("words")
    source = open_source(f"imagefolder:{tmp_path / 'outer'}")
    assert source.classes == ("cat", "dog", "emu") and source.root == tmp_path / "outer" / "inner"


def test_two_image_folders_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("one", "two"):
        miniatures.imagefolder(tmp_path / "outer" / name)
    with pytest.raises(UserError, match=r"holds 2 data sets \(one, two\); name one of them"):
        open_source(f"imagefolder:{tmp_path / 'outer'}")


def test_an_image_folder_with_a_class_in_one_split_only(tmp_path: Path) -> None:
    made = miniatures.imagefolder(tmp_path / "set")
    write_picture(made.root / "valid" / "ant" / "0.webp", 7)
    source = open_source(made.source)
    assert source.classes == ("ant", "cat", "dog")
    assert source.records[-1].split == "test" and {r.label for r in source.records if r.split == "train"} == {1, 2}
    assert [r.id for r in source.records if r.label == 0] == ["valid/ant/0.webp"]


def test_pictures_without_class_folders_are_told_where_they_belong(tmp_path: Path) -> None:
    write_picture(tmp_path / "loose.png", 1)
    with pytest.raises(UserError, match="without labels: images:DIR"):
        open_source(f"imagefolder:{tmp_path}")


def test_one_picture_is_a_source(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "one.png", 1)
    source = open_source(f"images:{path}")
    assert [record.id for record in source.records] == ["one.png"] and source.classes == ()
    (tmp_path / "words.txt").write_text("no picture")
    with pytest.raises(UserError, match="holds no picture"):
        open_source(f"images:{tmp_path / 'words.txt'}")


def test_tiny_imagenet(tmp_path: Path) -> None:
    source = open_source(miniatures.tinyimagenet(tmp_path / "set").source)
    assert source.classes == ("word 4", "word 1", "word 2") and source.image_size == (64, 64)
    first, last = source.records[0], source.records[-1]
    assert first.boxes == ((0, 5, 64, 41),)  # the lists count the last pixel in
    assert last.id == "val/images/val_2.JPEG" and last.label == 2 and last.boxes == ((1, 2, 4, 5),)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("val/val_annotations.txt", "val_0.JPEG\tn00000000\t1\t2\t3\t4", "n00000000"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01440764\t1\t2\t3", "expected file, wnid"),
        ("val/val_annotations.txt", "val_0.JPEG\tn01440764\t1\t2\t3\tx", "four whole numbers"),
        (f"train/{WNIDS[0]}/{WNIDS[0]}_boxes.txt", "a.JPEG 1 2 3", "four whole numbers"),
        ("wnids.txt", "n09999999", "n09999999: not there"),
    ],
)
def test_torn_lists_of_tiny_imagenet_are_named(name: str, text: str, words: str, tmp_path: Path) -> None:
    made = miniatures.tinyimagenet(tmp_path / "set")
    (made.root / "tiny-imagenet-200" / name).write_text(text)
    with pytest.raises(UserError, match=words):
        open_source(made.source)


def test_a_listed_picture_that_is_not_there_is_kept_as_missing(tmp_path: Path) -> None:
    made = miniatures.tinyimagenet(tmp_path / "set")
    made.torn.unlink()
    assert len(open_source(made.source)) == 9


def test_imagenet_names(tmp_path: Path) -> None:
    assert open_source(miniatures.imagenet(tmp_path / "a").source).classes == WNIDS
    flat = open_source(miniatures.imagenet_flat(tmp_path / "b").source)
    assert flat.classes == ("word 0", "word 1", "word 2")
    # the kit numbers the classes 3, 2, 1 and its ground truth says 1, 2, 3
    assert [record.label for record in flat.records if record.split == "val"] == [2, 1, 0]
    samples = open_source(miniatures.imagenet_samples(tmp_path / "c").source)
    assert samples.classes == ("word 0", "word 1", "word 2")


def test_a_later_kit_of_imagenet(tmp_path: Path) -> None:
    made = miniatures.imagenet_flat(tmp_path / "a")
    kit = made.root / "ILSVRC2012_devkit_t12" / "data"
    before = open_source(made.source)
    (kit / "meta.mat").unlink()
    (kit / "map_clsloc.txt").write_text("".join(f"{wnid} {3 - i} word_{i}\n" for i, wnid in enumerate(WNIDS)))
    after = open_source(made.source)
    assert after.records == before.records and after.classes == before.classes


def test_a_flat_validation_of_imagenet_needs_its_kit(tmp_path: Path) -> None:
    made = miniatures.imagenet_flat(tmp_path / "a")
    kit = made.root / "ILSVRC2012_devkit_t12" / "data"
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("1\n2\n7\n")
    with pytest.raises(UserError, match="line 3: '7' is no class"):
        open_source(made.source)
    truth.write_text("1\n2\n")
    with pytest.raises(UserError, match="a number up to 00000002"):
        open_source(made.source)
    truth.unlink()
    with pytest.raises(UserError, match="need the development kit"):
        open_source(made.source)
    (kit / "meta.mat").write_bytes(b"no matlab file")
    with pytest.raises(UserError, match=r"meta\.mat: cannot be read"):
        open_source(made.source)


def test_samples_of_imagenet_in_another_order_are_refused(tmp_path: Path) -> None:
    made = miniatures.imagenet_samples(tmp_path / "a")
    table = made.root / "labels.csv"
    table.write_text(table.read_text().replace("\n0,", "\n5,"))
    with pytest.raises(UserError, match="does not follow the order of the wnids"):
        open_source(made.source)


def test_cub(tmp_path: Path) -> None:
    source = open_source(miniatures.cub(tmp_path / "set").source)
    assert source.classes == ("Black footed Albatross", "Laysan Albatross")
    assert [record.split for record in source.records] == ["test", "train", "train"] * 2
    assert source.records[1].boxes == ((10, 20.5, 40, 40.5),)
    outside = source.records[3]
    assert outside.boxes == ((10, 20.5, 40, 65.5),)  # as annotated
    boxes = source.load(3).boxes
    assert boxes is not None and torch.equal(boxes, torch.tensor([[10, 20.5, 40, 60]]))  # cut to its 60 rows


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("image_class_labels.txt", "no line for picture 6"),
        ("train_test_split.txt", "no line for picture 6"),
        ("bounding_boxes.txt", "no line for picture 6"),
    ],
)
def test_a_torn_list_of_cub_is_named(name: str, words: str, tmp_path: Path) -> None:
    made = miniatures.cub(tmp_path / "set")
    path = made.root / "CUB_200_2011" / name
    path.write_text("\n".join(path.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match=words) as caught:
        open_source(made.source)
    assert name in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=f"{name} is not there"):
        open_source(made.source)


def test_lines_of_cub_that_are_otherwise_are_named(tmp_path: Path) -> None:
    made = miniatures.cub(tmp_path / "set")
    path = made.root / "CUB_200_2011" / "image_class_labels.txt"
    text = path.read_text()
    path.write_text(text + "x 1\n")
    with pytest.raises(UserError, match="'x 1'; expected a number"):
        open_source(made.source)
    path.write_text(text.replace("1 2\n", "1 9\n", 1))
    with pytest.raises(UserError, match=r"class 9, which classes\.txt lacks"):
        open_source(made.source)


def test_two_archives_are_not_guessed_between(tmp_path: Path) -> None:
    folder = tmp_path / "packs"
    folder.mkdir()
    for name in ("a.tar", "b.zip"):
        (folder / name).write_bytes(b"")
    with pytest.raises(UserError, match="holds 2 archives"):
        open_source(f"cub:{folder}")
