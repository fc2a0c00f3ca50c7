"""Any timm network as a Backbone: what it returns is looked at once, on a blank picture, instead of being assumed.

Nothing is downloaded: networks are created without weights, and names that carry a weights tag are refused.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from partwise.config import UserError, nearest
from partwise.models.contract import Backbone

log = logging.getLogger(__name__)

RESERVED = frozenset(
    {
        *(
            "pretrained",
            "pretrained_cfg",
            "pretrained_cfg_overlay",
            "pretrained_strict",
            "checkpoint_path",
            "cache_dir",
        ),
        *("num_classes", "global_pool", "features_only", "feature_cfg", "out_indices", "kwargs_filter"),
        *("pretrained_custom_load", "pretrained_filter_fn", "scriptable", "exportable", "no_jit", "device", "dtype"),
    }
)
"""timm arguments that load files, or that the contract itself decides."""

PROBE_SIZE = 128
COLUMN_STAGES = 4


class TimmBackbone(Backbone):
    """timm's `name` behind the contract.

    Channels-last and token outputs become `(B, C, h, w)`; class and register tokens are dropped. A norm that timm's own
    head applies after pooling (ConvNeXt, `fc_norm`) is applied to every cell, so that pooling stays the last thing
    before the linear layer. Modules that only a timm head would use are removed. Networks of one resolution (ViT) give
    four stages, the last block of each quarter. `last_stride=1` undoes the stride of `layer4` without dilation, as
    weakly supervised localization uses ResNets; other arguments, such as `output_stride`, `img_size`, `in_chans`, go to
    timm.

    Raises UserError for an unknown name, for arguments that timm refuses and for networks that give no feature map.
    """

    def __init__(self, name: str, *, last_stride: int = 2, **arguments: Any) -> None:
        super().__init__()
        self.name = name
        self.arguments = arguments | ({"last_stride": last_stride} if last_stride != 2 else {})
        """What it was made with beside its name."""
        self.network: Any = create_network(name, arguments)
        if last_stride != 2:
            set_last_stride(self.network, name, last_stride)
        self._norms = closing_norms(self.network)
        size = probe_size(self.network, arguments)
        with quiet(self.network), called_modules(self.network) as called:
            blank = torch.zeros(1, int(arguments.get("in_chans", 3)), *size)
            last, stages = self._probe(blank)
        ends = [str(row["module"]) for row in self.network.feature_info]
        drop_unused(self.network, called)
        self.num_features = last.shape[1]
        self._taps = pick_taps([int(stage.shape[-1]) for stage in stages])
        self.stage_channels = tuple(int(stages[tap].shape[1]) for tap in self._taps)
        strides = [int(row["reduction"]) for row in self.network.feature_info]
        if last_stride == 1:
            strides[-1] //= 2
        self.stage_strides = tuple(strides[tap] for tap in self._taps)
        self.stride = strides[-1]
        own = called.difference(module for path in self._norms for module in self.network.get_submodule(path).modules())
        self._blocks = chain_of_blocks(self.network, [ends[tap] for tap in self._taps], own)
        if self._blocks and not self._chains(blank, last):
            self._blocks = []

    def forward(self, x: Tensor) -> Tensor:
        with self._sizes_explained(x):
            features = self.network.forward_features(x)
        return self._finish(features, x.shape[-2:])

    def pooled(self, x: Tensor) -> Tensor:
        """As timm pools maps: the mean of all cells, and only then the closing norms (which `forward` gives each cell)."""
        with self._sizes_explained(x):
            features = self.network.forward_features(x)
        if features.ndim == 3:
            return self._finish(features, x.shape[-2:]).mean((2, 3))
        mean = features.mean((1, 2) if self._nhwc else (2, 3))[:, :, None, None]
        for path in self._norms:
            mean = norm_cells(self.network.get_submodule(path), mean)
        return mean.flatten(1)

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        with self._sizes_explained(x):
            return list(self.network.forward_intermediates(x, indices=self._taps, intermediates_only=True))

    def block(self, number: int, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        for path in self._block_paths(number):
            x = self.network.get_submodule(path)(x)
        return self._finish(x, size) if number + 1 == self.num_blocks else x

    def block_modules(self, number: int) -> list[nn.Module]:
        paths = [*self._block_paths(number), *(self._norms if number + 1 == self.num_blocks else [])]
        return [self.network.get_submodule(path) for path in paths]

    def _block_paths(self, number: int) -> list[str]:
        if not self._blocks:
            raise UserError(
                f"network {self.name!r}: its stages are no chain of blocks on maps, which patch learning needs; "
                "choose a ResNet, RegNet, EfficientNet or ConvNeXt"
            )
        return self._blocks[number]

    def _chains(self, blank: Tensor, last: Tensor) -> bool:
        """Whether the blocks, one after the other, are the network: the same last map of a picture, maps in between."""
        picture = torch.linspace(-1, 1, blank.numel(), device=blank.device).reshape(blank.shape)
        with quiet(self.network):
            x, expected = picture, self.forward(picture)
            try:
                for number in range(self.num_blocks):
                    x = self.block(number, x)
                    if x.ndim != 4 or (number + 1 < self.num_blocks and x.shape[1] != self.stage_channels[number]):
                        return False
            except (RuntimeError, TypeError, ValueError):
                return False
        alike = x.is_meta or torch.allclose(x, expected, rtol=1e-4, atol=1e-5)  # only shapes on the meta device
        return x.shape == last.shape and alike

    @contextmanager
    def _sizes_explained(self, x: Tensor) -> Iterator[None]:
        """Networks of a fixed picture size say so by an assertion; for the user it is a setting to change."""
        try:
            yield
        except AssertionError as error:
            size = "x".join(str(side) for side in x.shape[-2:])
            raise UserError(f"network {self.name!r} does not take {size} pictures ({error}); set img_size") from error

    def _probe(self, blank: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last map and every stage timm can give, or the UserError that says why there are none."""
        if not hasattr(self.network, "forward_intermediates"):
            raise UserError(f"network {self.name!r}: this timm version gives no stages for it; choose another network")
        features = self.network.forward_features(blank)
        if not isinstance(features, Tensor) or features.ndim not in {3, 4}:
            raise UserError(
                f"network {self.name!r}: gives no single feature map, which heatmaps need; choose another network"
            )
        self._channels = int(self.network.num_features)
        stages = list(self.network.forward_intermediates(blank, intermediates_only=True))
        self._grid_stride = blank.shape[-1] / stages[-1].shape[-1]
        self._nhwc = features.ndim == 4 and features.shape[1] != self._channels == features.shape[-1]
        return self._finish(features, blank.shape[-2:]), stages

    def _finish(self, features: Tensor, size: torch.Size) -> Tensor:
        """timm's features -> `(B, C, h, w)` after the closing norms."""
        if features.ndim == 3:
            for path in self._norms:
                features = self.network.get_submodule(path)(features)
            return tokens_to_map(features, size=(size[0], size[1]), stride=self._grid_stride)
        if self._nhwc:
            features = features.permute(0, 3, 1, 2)
        for path in self._norms:
            features = norm_cells(self.network.get_submodule(path), features)
        return features


def create_network(name: str, arguments: Mapping[str, Any]) -> Any:
    """timm's network without weights or classifier; unknown names and refused arguments as UserError."""
    import timm

    reserved = RESERVED.intersection(arguments)
    if reserved:
        raise UserError(f"network {name!r}: {sorted(reserved)[0]} is not yours to set; for weights give weights=FILE")
    base, _, tag = name.partition(".")
    if tag and timm.is_model(base):
        raise UserError(f"network {name!r} names weights, and nothing is downloaded; use {base!r} with weights=FILE")
    if tag or not timm.is_model(name):
        close = nearest(name, timm.list_models())
        raise UserError(f"unknown timm network {name!r}" + (f"; nearest: {close!r}" if close else ""))
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except (TypeError, ValueError, AssertionError, NotImplementedError, KeyError, RuntimeError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        raise UserError(f"network {name!r} does not take ({given}): {str(error) or 'refused by timm'}") from error


def set_last_stride(network: nn.Module, name: str, stride: int) -> None:
    """Take the stride out of a ResNet's `layer4`, undilated: its map is twice as fine, its weights still fit."""
    layer = getattr(network, "layer4", None)
    if stride != 1 or not isinstance(layer, nn.Module):
        raise UserError(f"network {name!r}: last_stride must be 2, or 1 for networks with a layer4; try output_stride")
    for path, module in list(layer.named_modules()):
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif isinstance(module, nn.AvgPool2d) and module.stride in {2, (2, 2)}:
            layer.set_submodule(path, nn.Identity())
        elif type(module).__name__.startswith("BlurPool"):
            raise UserError(
                f"network {name!r}: last_stride=1 does not work with anti-aliased pooling; try output_stride"
            )


def closing_norms(network: nn.Module) -> list[str]:
    """Paths of norms that timm applies after pooling: `fc_norm` of token networks, `head.norm` of ConvNeXt's kind."""
    modules = dict(network.named_modules())
    return [path for path in ("fc_norm", "head.norm") if path in modules and has_parameters(modules[path])]


def has_parameters(module: nn.Module) -> bool:
    """Whether there is anything to learn in it."""
    return next(module.parameters(), None) is not None


def norm_cells(norm: nn.Module, features: Tensor) -> Tensor:
    """A norm over the channels of every cell, whichever dimension it expects them in."""
    if type(norm).__name__.endswith("2d") or isinstance(norm, nn.GroupNorm):
        normed: Tensor = norm(features)
        return normed
    return norm(features.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def tokens_to_map(tokens: Tensor, *, size: tuple[int, int], stride: float) -> Tensor:
    """Tokens `(B, n, C)` of a picture of `size` -> `(B, C, h, w)`; leading class and register tokens are dropped.

    Raises UserError where the tokens left do not make a grid.
    """
    height, width = round(size[0] / stride), round(size[1] / stride)
    extra = tokens.shape[1] - height * width
    if extra < 0:
        raise UserError(f"{tokens.shape[1]} tokens do not make a {height}x{width} map of a {size[0]}x{size[1]} picture")
    return tokens[:, extra:].transpose(1, 2).unflatten(2, (height, width))


def pick_taps(widths: list[int]) -> list[int]:
    """Which of timm's stages are ours: all, or the last block of each quarter where every stage has one resolution."""
    if len(widths) <= COLUMN_STAGES or len(set(widths)) > 1:
        return list(range(len(widths)))
    return [round(len(widths) * (quarter + 1) / COLUMN_STAGES) - 1 for quarter in range(COLUMN_STAGES)]


def probe_size(network: nn.Module, arguments: Mapping[str, Any]) -> tuple[int, int]:
    """A picture size the network takes: its own where it is fixed, a small one where it is not."""
    settings = getattr(network, "pretrained_cfg", None) or {}
    given = arguments.get("img_size")
    if given is not None:
        return (int(given), int(given)) if isinstance(given, int) else (int(given[0]), int(given[1]))
    if settings.get("fixed_input_size") or hasattr(network, "patch_embed"):
        return tuple(settings["input_size"][-2:])
    return PROBE_SIZE, PROBE_SIZE


@contextmanager
def quiet(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside, the former mode after."""
    training = network.training
    network.eval()
    with torch.no_grad():
        yield
    network.train(training)


@contextmanager
def called_modules(network: nn.Module) -> Iterator[set[nn.Module]]:
    """The modules whose forward runs inside the block."""
    called: set[nn.Module] = set()

    def note(module: nn.Module, _inputs: object) -> None:
        called.add(module)

    hooks = [module.register_forward_pre_hook(note) for module in network.modules()]
    try:
        yield called
    finally:
        for hook in hooks:
            hook.remove()


def chain_of_blocks(network: nn.Module, ends: list[str], called: set[nn.Module]) -> list[list[str]]:
    """The modules that ran, in order, cut behind each of `ends`; what follows the last end joins the last block.

    Empty where an end is not reached that way. Whether the blocks make the network is for the caller to try.
    """
    units: list[str] = []

    def walk(parent: nn.Module, prefix: str) -> None:
        for name, child in parent.named_children():
            path = prefix + name
            if called.isdisjoint(child.modules()):
                continue
            if any(end.startswith(f"{path}.") for end in ends):
                walk(child, f"{path}.")
            else:
                units.append(path)

    walk(network, "")
    if not all(end in units for end in ends):
        return []
    borders = [0, *(units.index(end) + 1 for end in ends[:-1]), len(units)]
    if borders != sorted(borders):
        return []
    return [units[low:high] for low, high in itertools.pairwise(borders)]


def drop_unused(network: nn.Module, called: set[nn.Module]) -> None:
    """Replace the parts of `network` and of its head that never ran by nothing: their parameters would get no gradient.

    Only whole children are judged: deeper modules may be used for their weights without being called.
    """
    parents = [network, getattr(network, "head", None)]
    for parent in parents:
        if not isinstance(parent, nn.Module):
            continue
        for child, module in list(parent.named_children()):
            if has_parameters(module) and called.isdisjoint(module.modules()):
                log.debug("%s of %s is a head's and is left out", child, type(network).__name__)
                setattr(parent, child, nn.Identity())
