"""Version 1 of the world stays what it was: numbers measured on it would mean nothing otherwise.

What is drawn (bodies, outlines, marks, looks) is compared exactly; pixels within one grey value, should a machine round
differently. A change to either is a new version, and everything measured on the old one is measured again.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

from partwise.data.worlds.radiographs import VERSION, Radiographs

INDICES = (0, 1, 1999, 2000, 2300)
RECORDS = "6fef308fece60471"
SCENE = "68c01d8b1ea50f53"
LAYERS = "70e3533e9bd8eb15"
PIXELS = (
    "1b4f749391919991908c9a827f759ba39eb88f92a39a5d869995909fb4acac86565ebca8535c79a29ea1abb6b570576ec0c36a5565bba8a5"
    "b1b9876c6697c8cfbb5951a3a78f9aaf8676609dd3c4c7664a929a797e9e7e705d9ad7c9cbb44b7d82442a7b6a575491d4c8c8a83d5c6512"
    "125b5f6bc2ced8cec6b872624c0a0b3868b8bcc3dbd1cb9396a54e0b0a1893b6bac6d6c9c5b7b5964d0b0a158da7b8c2cdd3c5c1ac90520b"
    "0a127aa3b4c4c7d2cabaac90540c0a14739eb6bfc9cfc1bdad8f4f0923262a5a8c8d96918b877430292730788c939d989da19590959c9488"
    "a29d9f8d7c5ba3a76d7070a69896a5a8ac6f5e61acb0605a5c7ca1a0a9b2856b6170b7be855f5873a9a7a2ad7765636bbcc0b7705362aaa0"
    "93a471655b6dc3bfb26d5959a29375936656596cbfc0bf67515082783578584f5564bec1bda34e4e5d5c2162494f5d68bfc0bdae5a524129"
    "1d4e3767a5b9bac2bab391456e281e4f509dacb6bbc1bab4909d7d3b1d4e87a1afb6bdc2bcb8ac9e84471f4f86a2afb8bcc2aeb6b0a0874f"
    "0d0c0c13acb3b1b6b029110c0809141557a7b5b7c0b8b2b57512110fc1bfd3d18778c9c87ecccdc2be9bd4d4d0906b88dfcd7474d9cfcedc"
    "ced9e37e7480dae39078a8dbd6e0cdd9cd757e9ce9e68e6f8cddd8d1bdd0b2647a9de8e6956880d3cfb49fbb9d64779fe9e4c57164cbb17e"
    "3ea87a6074deeaebdd744dc385100e8b57617addebe8d8cd39af120a0c765ddae2e5eeecdcd886740d0a0b70bed5dee3e8e3e3d9c38a0e07"
    "0866b6d0e2e8e9e1e4d9bb860b070858b5d3e0e3ece3e4d8c17f0c07030406088da7abaeaba90604030123faaeadc1bfc0c7c1beac6c0606"
    "c9bbbcae8a79c4c96195c7d0bfbbc2c5d08b5f66d0d06b7b9fcccad3c1c8b9666872d4d2af708bd3d2ceb7c7ac597187d4d5ab7d7fc7cfc9"
    "a7bd9a5171a0d5d6c5787fc9c7b887b0855e66ced5d5cf6d7ec1bb99389f5e545ecfd7d5cbc571a5a044049663c5ccd4d4d3cac5567e7c03"
    "05a2c5cad0d2d5d4d1cac6a2570306a5bcccced2d5d3d1cec0ae4b0106a7becbd4d4d5d4d3cec2a5430205abbdcad2d2d4d3d1ccc1a43501"
    "14181a3f898d9a958f8e6a1f1a181d7b8fa78374a699616c9ea7887fa59ea0817470b5a468746ea29198a6a6a5765864b5b2615366a89f9c"
    "a7a9b5715a76c3b9c2545694a99898a1a9615f7ebab5a35f5185a38e87959c676169cebcba646075977a5a8a7e61506fbdc3b8a65c628a64"
    "1e726a51535db4beada6527594501870584a7f81b9bbbaa47247964e166958abb1bab9c8b4bdaf9f82461669949eb5aab7c0b3baaf9b8c46"
    "16628da9b4b3b4c1b6adb0a28340176289a6a7b1b4c0b1b8a7978140"
)


def digest(*values: Any) -> str:
    """A hash of arrays, of records of arrays, and of what has a repr."""
    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            found.update(np.ascontiguousarray(value).tobytes())
        elif isinstance(value, tuple):
            for each in value:
                add(each)
        elif hasattr(value, "__dataclass_fields__"):
            for name in sorted(value.__dataclass_fields__):
                add(getattr(value, name))
        else:
            found.update(repr(value).encode())

    add(values)
    return found.hexdigest()[:16]


def test_the_patients_of_version_1_are_frozen() -> None:
    source = Radiographs(pictures=2)
    assert VERSION == 1
    assert digest(*((record.id, record.label, record.group) for record in source.records)) == RECORDS


def test_what_version_1_paints_is_frozen() -> None:
    assert digest(Radiographs().scene(INDICES)) == SCENE
    assert digest(Radiographs().render(INDICES).layers.numpy()) == LAYERS


def test_the_pixels_of_version_1_are_frozen() -> None:
    pixels = Radiographs().images(INDICES)[:, 0, 5::9, 5::9].flatten()
    frozen = torch.tensor(list(bytes.fromhex(PIXELS)))
    assert int((pixels.int() - frozen).abs().max()) <= 1
