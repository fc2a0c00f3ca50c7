"""`pets:DIR`: the Oxford-IIIT Pet set: cats and dogs of 37 breeds, a trimap each, the official trainval/test split."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from partwise.config import UserError
from partwise.data.readers.files import read_lines, unique_names, visible
from partwise.data.readers.masked import MaskedSource, Table
from partwise.data.readers.voc_xml import Box, read_objects
from partwise.data.sample import VOID, Record

LISTS = {"trainval.txt": "train", "test.txt": "test"}
SPECIES = ("cat", "dog")
ANIMAL, GROUND, BORDER = 1, 2, 3
"""The values of a trimap."""


class Pets(MaskedSource):
    """Breeds in the order of their ids (gaps are closed), or with `labels=species` cats and dogs.

    The animal of a trimap becomes class + 1, its border void. Boxes are of the whole animal, border included, taken from the
    trimap when a picture is loaded; with `boxes=head` those of the head, which trainval pictures alone have.
    """

    kind = "pets"
    layout = "oxford-iiit-pet/ with images/ and annotations/ (trainval.txt, test.txt, trimaps/, xmls/)"
    home = "the Oxford-IIIT Pet set is to be had from the page of Oxford's Visual Geometry Group"

    def __init__(
        self,
        path: Path,
        *,
        labels: Literal["breed", "species"] = "breed",
        boxes: Literal["animal", "head"] = "animal",
    ) -> None:
        root = self.locate(path, _is_layout)
        annotations = root / "annotations"
        pets = [pet for name in LISTS if (annotations / name).is_file() for pet in _read_list(annotations / name)]
        breeds = {pet.breed: pet.name.rpartition("_")[0] for pet in sorted(pets, key=lambda pet: pet.breed)}
        keys = list(breeds) if labels == "breed" else [1, 2]
        names = [" ".join(word.capitalize() for word in name.split("_")) for name in breeds.values()]
        classes = unique_names(names, [str(key) for key in keys]) if labels == "breed" else SPECIES
        number = {key: index for index, key in enumerate(keys)}
        heads = _xml_files(annotations / "xmls") if boxes == "head" else {}
        has_trimaps = (annotations / "trimaps").is_dir()
        records = [
            Record(
                id=pet.name,
                split=pet.split,
                label=number[pet.breed if labels == "breed" else pet.species],
                boxes=_head(heads[pet.name]) if pet.name in heads else (),
                file=f"images/{pet.name}.jpg",
                has_mask=has_trimaps,
            )
            for pet in pets
        ]
        masks = {i: f"annotations/trimaps/{pet.name}.png" for i, pet in enumerate(pets) if has_trimaps}
        super().__init__(path, root, records, classes, masks=masks)
        self.boxes_from_masks = boxes == "animal"

    def table(self, index: int) -> Table:
        label = self.records[index].label
        assert label is not None
        return {ANIMAL: label + 1, GROUND: 0, BORDER: VOID}

    def object_pixels(self, mask: Tensor) -> Tensor:
        """The animal and its border."""
        return mask != 0


@dataclass(frozen=True, slots=True)
class _Pet:
    """A line of a list."""

    name: str
    split: str
    breed: int
    species: int


def _is_layout(folder: Path) -> bool:
    return (folder / "images").is_dir() and any((folder / "annotations" / name).is_file() for name in LISTS)


def _read_list(path: Path) -> list[_Pet]:
    """Lines of name, breed's id, species (1 cat, 2 dog) and id within the species; lines that begin with # say something."""
    pets = []
    for line in read_lines(path):
        if line.startswith("#"):
            continue
        name, *ids = line.split()
        if len(ids) != 3 or not all(word.isdecimal() for word in ids) or ids[1] not in ("1", "2"):
            raise UserError(f"{path}: {line!r}; expected a name, the breed's id, the species (1 cat, 2 dog) and an id")
        pets.append(_Pet(name, LISTS[path.name], int(ids[0]), int(ids[1])))
    return pets


def _xml_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: not there, but boxes=head asks for it")
    return {file.stem: file for file in visible(folder) if file.suffix == ".xml"}


def _head(path: Path) -> tuple[Box, ...]:
    return tuple(box for _, box in read_objects(path))
