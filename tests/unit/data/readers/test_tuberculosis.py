"""Montgomery and Shenzhen: what the names say, masks of both lungs, and what does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests import miniatures_chest
from tests.miniatures import write_picture
from tests.miniatures_chest import ORGANS, block, write_area

from partwise.config import UserError
from partwise.data.checks import check_headers
from partwise.data.readers.tuberculosis import Montgomery, Shenzhen


def test_lungs_of_montgomery(tmp_path: Path) -> None:
    source = Montgomery(miniatures_chest.montgomery(tmp_path).root)
    assert source.classes == ("right lung", "left lung") and source.multi_label
    assert [record.group for record in source.records] == ["MCUCXR_0001_0", "MCUCXR_0002_0", "MCUCXR_0104_1"]
    sample = source.load(2)
    assert sample.mask is not None and sample.parts is None
    for value, organ in enumerate(source.classes, start=1):
        assert ((sample.mask == value).numpy() == block(ORGANS[organ])).all()


def test_tuberculosis_of_montgomery(tmp_path: Path) -> None:
    root = miniatures_chest.montgomery(tmp_path).root
    source = Montgomery(root, labels="tuberculosis")
    assert source.classes == ("normal", "tuberculosis") and [record.label for record in source.records] == [0, 0, 1]
    assert source.load(0).mask is None
    shutil.rmtree(root / "MontgomerySet" / "ManualMask" / "rightMask")
    assert len(Montgomery(root, labels="tuberculosis")) == 3
    with pytest.raises(UserError, match="ManualMask/rightMask/ is not there; labels=tuberculosis needs no masks"):
        Montgomery(root)


def test_faulty_masks_of_montgomery_are_named(tmp_path: Path) -> None:
    root = miniatures_chest.montgomery(tmp_path).root
    masks = root / "MontgomerySet" / "ManualMask"
    write_area(masks / "leftMask" / "MCUCXR_0001_0.png", block(height=20))
    (masks / "rightMask" / "MCUCXR_0104_1.png").unlink()
    assert [(fault.kind, fault.file) for fault in check_headers(Montgomery(root))] == [
        ("wrong size", "ManualMask/leftMask/MCUCXR_0001_0.png"),
        ("missing", "ManualMask/rightMask/MCUCXR_0104_1.png"),
    ]


def test_shenzhen(tmp_path: Path) -> None:
    root = miniatures_chest.shenzhen(tmp_path).root
    source = Shenzhen(root)
    assert source.classes == ("normal", "tuberculosis") and [record.label for record in source.records] == [0, 1, 1]
    assert len({record.group for record in source.records}) == 3
    stray = write_picture(root / "ChinaSet_AllFiles" / "CXR_png" / "CHNCXR_0663_2.png", 1)
    with pytest.raises(UserError, match=rf"{stray.name}: expected a name such as CHNCXR_0001_0"):
        Shenzhen(root)
