"""Foreign sources: shared classes left out, names, the frame, the compression, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.miniatures import write_picture

from partwise.config import DataFields, UserError
from partwise.data.foreign import ForeignData
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.ops.corruptions import jpeg_compression


@pytest.fixture
def own(tmp_path: Path) -> PictureData:
    return _data(tmp_path / "own", ("cat", "dog"))


def _folder(root: Path, classes: tuple[str, ...], count: int = 4) -> str:
    for number, name in enumerate(classes):
        for i in range(count):
            write_picture(root / name / f"{i}.png", 10 * number + i, height=40)
    return f"imagefolder:{root}"


def _data(root: Path, classes: tuple[str, ...]) -> PictureData:
    fields = DataFields(source=_folder(root, classes), size=16, train_limit=2)
    return PictureData(open_source(fields.source), fields)


def test_pictures_of_known_classes_are_left_out_and_all_others_are_there(own: PictureData, tmp_path: Path) -> None:
    text = _folder(tmp_path / "Some-Textures", ("Dog", "brick", "wood"))
    foreign = ForeignData([text, text], own)
    assert list(foreign.sets) == ["some_textures", "some_textures_2"]
    records = foreign.sets["some_textures"].source.records
    assert {records[i].file.split("/")[0] for i in foreign.foreign("some_textures").tolist()} == {"brick", "wood"}
    batches = list(foreign.batches(3, most=None)["some_textures"])
    assert [len(batch) for batch in batches] == [3, 3, 2] and batches[0].images.shape[1:] == (3, 16, 16)
    few = [i for batch in foreign.batches(3, most=5)["some_textures"] for i in batch.index.tolist()]
    assert len(few) == 5 and few == sorted(few)
    again = [i for batch in foreign.batches(2, most=5)["some_textures"] for i in batch.index.tolist()]
    assert again == few
    foreign.close()
    own.close()


def test_compression_comes_before_the_network(own: PictureData, tmp_path: Path) -> None:
    text = _folder(tmp_path / "textures", ("brick",))
    plain, packed = (ForeignData([text], own, quality=quality) for quality in (None, 75))
    one, other = (next(iter(data.batches(4, most=None)["textures"])).images for data in (plain, packed))
    assert torch.equal(other, jpeg_compression(one, 75, ())) and not torch.equal(one, other)
    for data in (plain, packed):
        data.close()
    own.close()


def test_what_is_refused(own: PictureData, tmp_path: Path) -> None:
    same = ForeignData([_folder(tmp_path / "pets", ("cat",))], own)
    with pytest.raises(UserError, match="pets: every picture is of a class that the run knows"):
        next(iter(same.batches(4, most=None)["pets"]))
    with pytest.raises(UserError, match="1 channels; expected 3"):
        ForeignData(["radiographs:?size=32&train=4&val=1&test=1"], own)
    same.close()
    own.close()
