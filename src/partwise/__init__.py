"""Partwise: vision models that know where, from labels of whole images or from none.

The names below are loaded when first used, so that `import partwise` is instant. Every verb of the command line is a
function of `partwise.api`; those that share their name with a subpackage (data, evaluate, report) are only there.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_NAMES = {
    "train": "partwise.api",
    "predict": "partwise.api",
    "load": "partwise.api",
    "export": "partwise.api",
    "doctor": "partwise.api",
    "open_source": "partwise.data.sources",
    "CutMix": "partwise.ops.mix_transforms",
    "Mixup": "partwise.ops.mix_transforms",
    "Cutout": "partwise.ops.mix_transforms",
    "ResizeMix": "partwise.ops.mix_transforms",
    "cutmix": "partwise.ops.mixing",
    "cam": "partwise.ops.cam",
    "grad_cam": "partwise.ops.cam",
    "flip_pairs": "partwise.ops.flips",
    "PatchLearning": "partwise.models.patch_learning",
    "ops": "partwise.ops",
}

__all__ = ["__version__", *sorted(_NAMES)]  # noqa: PLE0604  # names of a lazy table

if TYPE_CHECKING:
    from partwise import ops as ops
    from partwise.api import doctor as doctor
    from partwise.api import export as export
    from partwise.api import load as load
    from partwise.api import predict as predict
    from partwise.api import train as train
    from partwise.data.sources import open_source as open_source
    from partwise.models.patch_learning import PatchLearning as PatchLearning
    from partwise.ops.cam import cam as cam
    from partwise.ops.cam import grad_cam as grad_cam
    from partwise.ops.flips import flip_pairs as flip_pairs
    from partwise.ops.mix_transforms import CutMix as CutMix
    from partwise.ops.mix_transforms import Cutout as Cutout
    from partwise.ops.mix_transforms import Mixup as Mixup
    from partwise.ops.mix_transforms import ResizeMix as ResizeMix
    from partwise.ops.mixing import cutmix as cutmix


def __getattr__(name: str) -> object:
    if name not in _NAMES:
        raise AttributeError(f"module 'partwise' has no attribute {name!r}")
    module = import_module(_NAMES[name])
    return module if name == "ops" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
