"""`chromosomes:DIR`: crops of single chromosomes with type, polarity, cell and person, in several layouts."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from partwise.data.headers import FaultyPicture, Header
from partwise.data.readers.chromosomes_layouts import Ground, recognise
from partwise.data.readers.crops import WHITE, CropSource, probe_crop, read_crop
from partwise.ops.iscn import TYPES

LOOKED_AT = 32
"""Crops that are looked at, spread over the set, to tell its ground."""


class Chromosomes(CropSource):
    """Types 1 to 22, X and Y; no classes in a set without labels. Group is the person, case the cell.

    `pad`: the side of the frame in pixels, by default (0) chosen from the data; a network has to be used with the side that it
    was trained with. `ground`: black for bright chromosomes, which are inverted; by default what the layout says, else what
    the borders of most crops show.
    """

    kind = "chromosomes"
    layout = (
        "labels.csv (file, type, polarity, case, specimen, if wanted split; and cases.csv) beside the crops it names, "
        "<k>/<k>_<copy>_<patient>_<slide>_<metaphase>.tiff, <cell>/<cell> <k><a|b>.bmp, "
        "<specimen>.<cell>.tiff/clase<k>/clase<k>_<i>_<specimen>.<cell>.tiff (k from 1 to 24), "
        "or without labels a folder of crops, or a folder of crops for each case"
    )
    home = "G-banded chromosomes are to be had from the repository CloudDataLab/CIR-Net"

    def __init__(self, path: Path, *, pad: int = 0, ground: Ground = "auto") -> None:
        root = self.locate(path, lambda folder: recognise(folder) is not None)
        layout = recognise(root)
        assert layout is not None, "locate gives a folder of a known layout"
        crops = layout.read(root)
        if not crops.records:
            raise self.not_found(path, f"none of {len(crops.left_out)} pictures is a crop of a type")
        super().__init__(path, root, crops.records, TYPES if crops.labelled else (), pad=pad)
        self.karyotypes, self.left_out = crops.karyotypes, crops.left_out
        ground = crops.ground if ground == "auto" else ground
        self.inverted = ground == "black" or (ground == "auto" and self._looks_black())

    def crop(self, index: int) -> Tensor:
        """The chromosome alone, dark on white, unpadded: uint8 `(1, h, w)`. Raises FaultyPicture."""
        crop = self._read(index)
        return WHITE - crop if self.inverted else crop

    def crop_height(self, index: int) -> int | None:
        """The height that the file's header tells; None where it cannot be read."""
        try:
            return self.file_header(index).size[0]
        except FaultyPicture:
            return None

    def file_header(self, index: int) -> Header:
        """The header of a crop's file, of a malformed TIFF too. Raises FaultyPicture."""
        file = self.records[index].file
        return probe_crop(self.root / file, name=file)

    def fingerprint(self) -> str:
        """As of other crops, and over karyotypes and ground."""
        details = repr((sorted(self.karyotypes.items()), self.inverted))
        return hashlib.sha256(f"{super().fingerprint()}/{details}".encode()).hexdigest()[:16]

    def _read(self, index: int) -> Tensor:
        file = self.records[index].file
        return read_crop(self.root / file, name=file)

    def _looks_black(self) -> bool:
        """Whether of most crops looked at the median of the outermost pixels is dark; what cannot be read does not count."""
        dark = []
        for index in range(0, len(self), -(-len(self) // LOOKED_AT)):
            try:
                crop = self._read(index)[0]
            except FaultyPicture:
                continue
            border = torch.cat([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
            dark.append(int(border.median()) <= WHITE // 2)
        return 2 * sum(dark) > len(dark)
