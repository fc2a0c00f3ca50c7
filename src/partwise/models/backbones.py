"""Backbones by name: our own networks for 32 px pictures, and every timm network, behind one contract.

`build_backbone("resnet20")`, `build_backbone("resnet50", weights="resnet50.safetensors")`; `timm/NAME` always means
timm. timm is imported only where a name is not one of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from partwise.config import UserError, nearest
from partwise.models.cifar_resnet import CifarResNet
from partwise.models.contract import Backbone
from partwise.models.convnet import ConvNet, SmallAlexNet, SmallVgg11
from partwise.models.pyramidnet import PyramidNet
from partwise.models.small_resnet import SmallResNet
from partwise.models.vgg import VggGap
from partwise.models.wide_resnet import WideResNet
from partwise.models.wide_resnet38 import WideResNet38

__all__ = ["OWN", "Backbone", "build_backbone"]

OWN: Mapping[str, tuple[Callable[..., Backbone], Mapping[str, Any]]] = MappingProxyType(
    {
        "cifar-resnet": (CifarResNet, {}),
        "resnet20": (CifarResNet, {"depth": 20}),
        "resnet32": (CifarResNet, {"depth": 32}),
        "resnet44": (CifarResNet, {"depth": 44}),
        "resnet56": (CifarResNet, {"depth": 56}),
        "resnet110": (CifarResNet, {"depth": 110}),
        "resnet110-bottleneck": (CifarResNet, {"depth": 110, "block": "bottleneck", "shortcut": "projection"}),
        "pyramidnet": (PyramidNet, {}),
        "pyramidnet110-a64": (PyramidNet, {"depth": 110, "alpha": 64}),
        "pyramidnet200-a240": (PyramidNet, {"depth": 200, "alpha": 240}),
        "wide-resnet": (WideResNet, {}),
        "wrn16-8": (WideResNet, {"depth": 16, "widen": 8}),
        "wrn28-10": (WideResNet, {"depth": 28, "widen": 10}),
        "wrn40-4": (WideResNet, {"depth": 40, "widen": 4}),
        "resnet38": (WideResNet38, {}),
        "convnet": (ConvNet, {}),
        "convnet-d3": (ConvNet, {"depth": 3}),
        "convnet-d4": (ConvNet, {"depth": 4}),
        "convnet-d5": (ConvNet, {"depth": 5}),
        "small-alexnet": (SmallAlexNet, {}),
        "small-vgg11": (SmallVgg11, {}),
        "vgg-gap": (VggGap, {}),
        "small-resnet": (SmallResNet, {}),
        "small-resnet18": (SmallResNet, {"blocks": (2, 2, 2, 2), "width": 64, "halving": "stride"}),
        "small-resnet18-ap": (SmallResNet, {"blocks": (2, 2, 2, 2), "width": 64, "halving": "average"}),
        "small-resnet10": (SmallResNet, {"blocks": (1, 1, 1, 1), "width": 32, "halving": "stride"}),
    }
)
"""Name -> (class, the arguments the name stands for). The families without numbers take them as arguments."""


def build_backbone(name: str, *, weights: Path | str | None = None, **arguments: Any) -> Backbone:
    """The network called `name`, with `arguments`, and with the tensors of a local file where `weights` names one.

    Raises UserError for an unknown name (with the nearest), for arguments it does not take and for weights that do not
    fit.
    """
    if name in OWN:
        backbone = build_own(name, arguments)
        target = backbone
    else:
        backbone = target = build_timm(name, arguments)
    if weights is not None:
        from partwise.models.weights import load_weights

        load_weights(getattr(target, "network", target), Path(weights), name=name)
    return backbone


def build_own(name: str, arguments: Mapping[str, Any]) -> Backbone:
    """One of our own networks; what the name fixes cannot be given again."""
    kind, fixed = OWN[name]
    for argument in arguments:
        if argument in fixed:
            family = next(other for other, row in OWN.items() if row == (kind, {}))
            raise UserError(f"network {name!r} fixes {argument} at {fixed[argument]!r}; use {family!r} to choose it")
    try:
        return kind(**fixed, **arguments)
    except ValidationError as error:
        raise UserError(f"network {name!r}: {explain(kind, error)}") from error
    except ValueError as error:
        raise UserError(f"network {name!r}: {error}") from error


def explain(kind: Callable[..., Backbone], error: ValidationError) -> str:
    """The first thing wrong with the arguments, in words."""
    import inspect

    errors = error.errors()
    # An unknown argument before a missing one: it may be that one mistyped.
    first = next((e for e in errors if e["type"] == "unexpected_keyword_argument"), errors[0])
    argument = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        takes = [key for key in inspect.signature(kind.__init__).parameters if key != "self"]
        close = nearest(argument, takes)
        return f"no argument {argument!r}" + (f"; nearest: {close!r}" if close else f"; it takes {', '.join(takes)}")
    if first["type"] == "missing_keyword_only_argument":
        return f"needs {argument}"
    return f"{argument}={first['input']!r}: {first['msg']}"


def build_timm(name: str, arguments: Mapping[str, Any]) -> Backbone:
    """A timm network, by its name or as `timm/NAME`."""
    import timm

    from partwise.models.timm_backbone import TimmBackbone

    bare = name.removeprefix("timm/")
    if bare == name and not timm.is_model(name.split(".", 1)[0]):
        close = nearest(name, [*OWN, *timm.list_models()])
        raise UserError(f"unknown network {name!r}" + (f"; nearest: {close!r}" if close else ""))
    return TimmBackbone(bare, **arguments)
