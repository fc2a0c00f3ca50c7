"""DICOM radiographs: windows by the standard's own rule, what a screen shows, and every fault by its file."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.miniatures import write_picture

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.headers import FaultyPicture
from partwise.data.readers.dicom import (
    RadiographSource,
    by_stem,
    file_of,
    is_dicom,
    probe_dicom,
    radiographs_below,
    read_dicom,
    require_pydicom,
    window,
)
from partwise.data.sample import Record

STORED = np.arange(24, dtype=np.uint16).reshape(4, 6) * 100


def write_dicom(path: Path, stored: np.ndarray = STORED, **changes: Any) -> Path:
    """A file of one grey picture of 16 bits, by pydicom; `changes` are elements by keyword, None to leave one out."""
    pydicom = pytest.importorskip("pydicom")
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset = pydicom.Dataset()
    dataset.file_meta = meta
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    values: dict[str, Any] = {
        "PhotometricInterpretation": "MONOCHROME2", "SamplesPerPixel": 1, "Rows": stored.shape[0], "PixelRepresentation": 0,
        "Columns": stored.shape[1], "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11,
    }  # fmt: skip
    for key, value in (values | changes).items():
        if value is not None:
            setattr(dataset, key, value)
    dataset.PixelData = stored.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def window_by_loops(value: float, center: float, width: float, function: str) -> float:
    """The standard's pseudo-code, for one value and an output from 0 to 1."""
    if function == "SIGMOID":
        return 1 / (1 + math.exp(min(700, -4 * (value - center) / width)))
    if function == "LINEAR_EXACT":
        if value <= center - width / 2:
            return 0.0
        return 1.0 if value > center + width / 2 else (value - center) / width + 0.5
    if value <= center - 0.5 - (width - 1) / 2:
        return 0.0
    if value > center - 0.5 + (width - 1) / 2:
        return 1.0
    return (value - (center - 0.5)) / (width - 1) + 0.5


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(100, 50), (0, 1), (-20.5, 7.25), (1000, 4000)])
def test_windows(function: str, center: float, width: float) -> None:
    values = np.linspace(-200, 300, 101, dtype=np.float32)
    wanted = [window_by_loops(float(value), center, width, function) for value in values]
    assert window(values, center, width, function) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(("function", "width"), [("LINEAR", 0.5), ("LINEAR_EXACT", 0), ("SIGMOID", -1), ("CUBIC", 9)])
def test_windows_that_the_standard_forbids(function: str, width: float) -> None:
    with pytest.raises(ValueError, match=f"function {function}"):
        window(STORED.astype(np.float32), 0, width, function)


def shown(path: Path) -> np.ndarray:
    image = read_dicom(path)
    assert image.dtype == torch.uint8 and torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
    return image[0].numpy().astype(int)


def test_without_a_window_the_range_of_the_values(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm")
    assert (shown(path) == np.rint(STORED / 2300 * 255)).all()
    inverted = write_dicom(tmp_path / "b.dcm", PhotometricInterpretation="MONOCHROME1")
    assert (shown(inverted) == np.rint(255 - STORED / 2300 * 255)).all()
    assert not shown(write_dicom(tmp_path / "flat.dcm", np.full((4, 6), 7, np.uint16))).any()


def test_rescaled_values_and_the_first_window(tmp_path: Path) -> None:
    path = write_dicom(
        tmp_path / "a.dcm", RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=[500, 0], WindowWidth=[2000, 1]
    )
    wanted = [[round(255 * window_by_loops(2 * float(v) - 1000, 500, 2000, "LINEAR")) for v in row] for row in STORED]
    assert (shown(path) == wanted).all()


def test_a_table_of_interest(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    table = pydicom.Dataset()
    table.LUTDescriptor = [24, 0, 16]
    table.LUTData = [65535 - 1000 * entry for entry in range(24)]
    table["LUTData"].VR = table["LUTDescriptor"].VR = "US"
    stored = np.arange(24, dtype=np.uint16).reshape(4, 6)
    path = write_dicom(tmp_path / "a.dcm", stored, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    assert (shown(path) == np.rint((65535 - 1000 * stored.astype(int)) / 65535 * 255)).all()


@pytest.mark.oracle
def test_windows_agree_with_pydicom(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    path = write_dicom(tmp_path / "a.dcm", WindowCenter=900, WindowWidth=777)
    dataset = pydicom.dcmread(path)
    theirs = pydicom.pixels.processing.apply_voi_lut(dataset.pixel_array, dataset) / 4095
    assert window(STORED.astype(np.float32), 900, 777) == pytest.approx(theirs, abs=1e-6)


def test_headers(tmp_path: Path) -> None:
    header = probe_dicom(write_dicom(tmp_path / "a.dcm"))
    assert (header.format, header.mode, header.size) == ("DICOM", "I;16", (4, 6))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"PhotometricInterpretation": "RGB"},
            "unreadable: 1 frames of RGB; expected one of MONOCHROME1 or MONOCHROME2",
        ),
        ({"NumberOfFrames": 3}, "unreadable: 3 frames of MONOCHROME2"),
        ({"Rows": None}, "unreadable: a DICOM file without"),
        ({"Rows": 40}, "truncated: the file ends before the picture does"),
        ({"Rows": 60000, "Columns": 60000}, "too large: claims 60000 x 60000 pixels"),
    ],
)
def test_files_that_cannot_be_used(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", **changes)
    for read in (read_dicom, probe_dicom):
        with pytest.raises(FaultyPicture, match=rf"^x\.dcm: {words}"):
            read(path, name="x.dcm")


def test_torn_empty_and_foreign_files(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm")
    data = path.read_bytes()
    for content, kind in (
        (data[:-9], "truncated"),
        (data[:150], "truncated|unreadable"),
        (b"", "empty"),
        (b"no DICOM" * 40, "unreadable"),
    ):
        path.write_bytes(content)
        for read in (read_dicom, probe_dicom):
            with pytest.raises(FaultyPicture, match=kind):
                read(path)
    path.unlink()
    with pytest.raises(FaultyPicture, match="missing"):
        probe_dicom(path)
    with pytest.raises(FaultyPicture, match="unreadable: a window of function LINEAR and width 0"):
        read_dicom(write_dicom(path, WindowCenter=4, WindowWidth=0))


def write_jpeg_dicom(path: Path, stored: np.ndarray) -> Path:
    """A file of one grey picture of 8 bits, compressed as JPEG."""
    pydicom = pytest.importorskip("pydicom")
    encapsulate = pytest.importorskip("pydicom.encaps").encapsulate
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=95)
    changes = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "WindowCenter": 128, "WindowWidth": 256}
    dataset = pydicom.dcmread(write_dicom(path, stored, **changes))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit
    dataset.PixelData = encapsulate([buffer.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_compressed_pixels(tmp_path: Path) -> None:
    stored = (np.arange(64)[:, None] * 2 + np.arange(80)).astype(np.uint8)
    path = write_jpeg_dicom(tmp_path / "a.dcm", stored)
    assert np.abs(shown(path) - stored).mean() < 0.5 and probe_dicom(path).size == (64, 80)
    path.write_bytes(path.read_bytes()[:-100])
    for read in (read_dicom, probe_dicom):
        with pytest.raises(FaultyPicture, match="truncated: the file ends before the picture does"):
            read(path)


class Mixed(RadiographSource):
    """Whatever lies in a folder."""

    kind, layout, home = "mixed", "", ""

    def __init__(self, root: Path) -> None:
        super().__init__(root, root, [Record(file, file=file) for file in radiographs_below(root)])


def test_a_source_of_both(tmp_path: Path) -> None:
    write_dicom(tmp_path / "deep" / "a.dcm")
    write_picture(tmp_path / "b.png", 1)
    (tmp_path / "words.txt").write_text("no picture")
    write_picture(tmp_path / ".hidden" / "c.png", 1)
    source = Mixed(tmp_path)
    assert [record.file for record in source.records] == ["b.png", "deep/a.dcm"]
    assert [source.load_image(i).shape for i in range(2)] == [(3, 24, 32), (3, 4, 6)]
    assert check_headers(source) == []
    report = check_source(source)
    assert report.modes == {"RGB": 1, "I;16": 1} and report.num_unusable == 0
    (tmp_path / "deep" / "a.dcm").write_bytes((tmp_path / "deep" / "a.dcm").read_bytes()[:-9])
    assert [(fault.kind, fault.file) for fault in check_headers(source)] == [("truncated", "deep/a.dcm")]


def test_without_pydicom_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    require_pydicom("siim", ["a.png", "b.jpg"])
    words = r"pydicom is not installed, .*pip install 'partwise\[dicom\]', or save them as PNG"
    with pytest.raises(UserError, match=rf"^siim: train/b\.dicom: {words}"):
        require_pydicom("siim", ["a.png", "train/b.dicom"])
    (tmp_path / "a.dcm").write_bytes(b"something")
    for read in (read_dicom, probe_dicom):
        with pytest.raises(UserError, match=words):
            read(tmp_path / "a.dcm")


def test_files_by_name(tmp_path: Path) -> None:
    files = by_stem(tmp_path, ["train/a.dcm", "train/deep/b.2.dcm"])
    assert files == {"a": "train/a.dcm", "b.2": "train/deep/b.2.dcm"}
    assert file_of("b.2", files, folder="x", suffix=".png") == "train/deep/b.2.dcm"
    assert file_of("c", files, folder="x", suffix=".png") == "train/c.dcm"
    assert file_of("c", {}, folder="x", suffix=".png") == "x/c.png"
    with pytest.raises(UserError, match=r"a/x\.png and b/x\.dcm; expected one picture called x"):
        by_stem(tmp_path, ["a/x.png", "b/x.dcm"])
    assert is_dicom("A.DCM") and is_dicom("a.dicom") and not is_dicom("a.png")
