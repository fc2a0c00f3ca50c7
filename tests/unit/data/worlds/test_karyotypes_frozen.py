"""Version 1 of the world stays what it was: numbers measured on it would mean nothing otherwise.

Which cells there are and what is painted is compared exactly; pixels within one grey value, should a machine round
differently. A change to either is a new version, and everything measured on the old one is measured again.
"""

import hashlib
from dataclasses import fields

import numpy as np
import torch

from partwise.data.worlds.karyotypes import Karyotypes
from partwise.data.worlds.karyotypes_scene import draw_bodies

INDICES = (0, 17, 46, 91, 1000, 5007)
CELLS = "6a714a834b668253"
BODIES = "5a801c1d001ab2da"
PIXELS = (
    "ffffffffffffffffffffffffffffffffffffffa589e6fffffffffb5450dbfffffffffa3738d4fffffffffe625cd1ffffffffffb975ffffff"
    "ffffff786adaffffffffff595ecbffffffffff5162cdffffffffff3262aefffffffffffeffffffffffffffffffffffffffffffffffffffff"
    "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffee3f5ffffffffff83397ffbffffffffff3b794967"
    "ffffff642e56fffffffff21f30b0fffffffffffbf8ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "fffff6f4fffffffffff56f7af9fffffffff86f74f3fffffffff04152d5fffffffff2283ebdffffffffff4d68d6ffffffffff8c79e4ffffff"
    "ffffb754a4ffffffffffdf7c66fffffffffffd5d7fd0ffffffffff5b7d60ffffffffffe19338f5ffffffffff5892ceffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa99bffffffffffff7e4efaffff"
    "ffffff6882bdffffffffff92cffeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffbe6663fffffffffffe67bdffff"
    "ffffff5f61a8fffffffff53530d7fffffffffffffeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
    "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffafa5f0ffffffffffc58cfdffff"
    "fffff63a3bf5fffffffffff2eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"
)


def digest(*values: object) -> str:
    found = hashlib.sha256()
    for value in values:
        found.update(np.ascontiguousarray(value).tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    return found.hexdigest()[:16]


def test_the_cells_of_version_1_are_frozen() -> None:
    source = Karyotypes()
    ids = [(record.id, record.label, record.polarity) for record in source.records]
    assert digest(ids, sorted(source.karyotypes.items()), sorted(source.incomplete)) == CELLS


def test_what_version_1_paints_is_frozen() -> None:
    layers, look = draw_bodies(*Karyotypes().drawing_keys(INDICES), 64)
    numbers = [getattr(look, field.name) for field in fields(look)]
    for layer in layers:
        for whole in (layer.stripes, layer.rows):
            numbers += [getattr(whole, field.name) for field in fields(whole)]
        numbers += [layer.owner, layer.first, layer.last, layer.down, layer.right, layer.slant, layer.bounds]
    assert digest(*numbers) == BODIES


def test_the_pixels_of_version_1_are_frozen() -> None:
    pixels = Karyotypes().images(INDICES)[:, 0, 12:54:3, 24:40:2].flatten()
    frozen = torch.tensor(list(bytes.fromhex(PIXELS)))
    assert int((pixels.int() - frozen).abs().max()) <= 1
