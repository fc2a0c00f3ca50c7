"""A trained backbone under the names that other libraries give its tensors: timm, torchvision, segmentation_models_pytorch.

Only names change (and the shape of one kind of tensor); what a foreign network computes with them is what ours does. Heads of
ours have no counterpart there and are left out, as are classifiers of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn

from partwise.config import UserError, did_you_mean
from partwise.models.contract import Backbone
from partwise.models.timm_backbone import TimmBackbone

CONVNEXT: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"stem\.([01])\.", lambda m: f"features.0.{m[1]}."),
    (r"stages\.(\d)\.downsample\.([01])\.", lambda m: f"features.{2 * int(m[1])}.{m[2]}."),
    (r"stages\.(\d)\.blocks\.(\d+)\.conv_dw\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}.block.0."),
    (r"stages\.(\d)\.blocks\.(\d+)\.norm\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}.block.2."),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc1\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}.block.3."),
    (r"stages\.(\d)\.blocks\.(\d+)\.mlp\.fc2\.", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}.block.5."),
    (r"stages\.(\d)\.blocks\.(\d+)\.gamma$", lambda m: f"features.{2 * int(m[1]) + 1}.{m[2]}.layer_scale"),
    (r"head\.norm\.", lambda _: "classifier.0."),
)
"""timm's names of a ConvNeXt -> torchvision's."""
PLAIN_RESNETS = frozenset({"resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d"})
"""Networks whose tensors have the same names in all three."""
RESNETS = PLAIN_RESNETS | {"resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2"}
"""Those that torchvision has under timm's names."""
CONVNEXTS = frozenset({"convnext_tiny", "convnext_small", "convnext_base", "convnext_large"})
HARMLESS = frozenset({"in_chans", "zero_init_last", "drop_rate", "drop_path_rate", "drop_block_rate"})
"""Arguments of a timm network that change neither tensors' names nor what an evaluated network computes with them."""


def to_timm(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of timm's network of this name, made with `num_classes=0`."""
    return {name: tensor.detach() for name, tensor in _timm_network(backbone, "timm").state_dict().items()}


def to_torchvision(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of torchvision's ResNet or ConvNeXt of this name, without its `fc` or its last linear layer.

    Raises UserError for a network that torchvision does not have.
    """
    tensors, name = to_timm(backbone), _name(backbone)
    if name in RESNETS:
        return tensors
    if name not in CONVNEXTS:
        raise UserError(
            f"export to torchvision: {name} is none of its networks; ResNets and ConvNeXts are, or --to timm"
        )
    return {renamed(old): tensor.view(-1, 1, 1) if old.endswith("gamma") else tensor for old, tensor in tensors.items()}


def to_smp(backbone: Backbone) -> dict[str, Tensor]:
    """The tensors of segmentation_models_pytorch's encoder of this name (`model.encoder.load_state_dict`).

    Raises UserError for other networks than ResNets, whose names there are timm's own.
    """
    name = _name(backbone)
    if name not in PLAIN_RESNETS:
        raise UserError(f"export to smp: {name} has another layout there; ResNets are exported, or --to timm")
    return to_timm(backbone)


TARGETS: Mapping[str, Callable[[Backbone], dict[str, Tensor]]] = MappingProxyType(
    {"timm": to_timm, "torchvision": to_torchvision, "smp": to_smp}
)
"""What a backbone can be exported to."""


def export_tensors(backbone: Backbone, to: str) -> dict[str, Tensor]:
    """Tensors by the names of another library. Raises UserError for an unknown one, and where a network has no place there."""
    if to not in TARGETS:
        raise UserError(f"export to {to!r}: expected one of {', '.join(TARGETS)}{did_you_mean(to, TARGETS)}")
    return TARGETS[to](backbone)


def renamed(name: str) -> str:
    """torchvision's name of a tensor of timm's ConvNeXt."""
    for pattern, new in CONVNEXT:
        found = re.match(pattern, name)
        if found:
            return new(found) + name[found.end() :]
    raise AssertionError(name)


def _name(backbone: Backbone) -> str:
    return backbone.name.removeprefix("timm/") if isinstance(backbone, TimmBackbone) else type(backbone).__name__


def _timm_network(backbone: Backbone, to: str) -> nn.Module:
    if not isinstance(backbone, TimmBackbone):
        raise UserError(f"export to {to}: {_name(backbone)} is Partwise's own network; only timm's have a place there")
    if altered := sorted(set(backbone.arguments) - HARMLESS):
        raise UserError(
            f"export to {to}: {_name(backbone)} was made with {', '.join(altered)}, and would compute something else there"
        )
    network: nn.Module = backbone.network
    return network
