"""Dense conditional random fields: labels that follow the edges of a picture (Krähenbühl and Koltun 2011).

Every pixel is tied to every other by two Gaussian kernels, one of position and one of position and colour, and equal
labels attract (Potts). Mean field, `Q <- softmax(-U + sum_m w_m K_m Q)` from `Q = softmax(-U)`, with
`K = D^-1/2 G D^-1/2` and G on the permutohedral lattice, a pixel's own share included: the semantics of the public C++
code, with which the presets were tuned. Not differentiable on purpose; for use inside a training step see pamr.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from partwise.ops.lattice import Permutohedral

VOID = 255


@dataclass(frozen=True, kw_only=True)
class CrfSettings:
    """Standard deviations in pixels and in steps of colour (of 255), weights of the two kernels, mean-field steps.

    A kernel of weight 0 is left out. Raises ValueError for deviations not above 0 and negative weights or iterations.
    """

    spatial_std: float
    spatial_weight: float
    bilateral_std: float
    colour_std: float
    bilateral_weight: float
    iterations: int

    def __post_init__(self) -> None:
        for name in ("spatial_std", "bilateral_std", "colour_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"CrfSettings.{name} is {getattr(self, name)}; expected above 0")
        for name in ("spatial_weight", "bilateral_weight", "iterations"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"CrfSettings.{name} is {getattr(self, name)}; expected at least 0")


def _settings(spatial: tuple[float, float], bilateral: tuple[float, float, float], iterations: int = 10) -> CrfSettings:
    """From (deviation, weight) and (deviation, deviation of colour, weight), as papers list them."""
    return CrfSettings(
        spatial_std=spatial[0],
        spatial_weight=spatial[1],
        bilateral_std=bilateral[0],
        colour_std=bilateral[1],
        bilateral_weight=bilateral[2],
        iterations=iterations,
    )


CRF_PRESETS: Mapping[str, CrfSettings] = MappingProxyType(
    {
        "irn": _settings((3, 3), (50, 5, 10)),  # labels from maps: IRN, AdvCAM, ReCAM
        "puzzle_cam": _settings((3, 3), (50, 5, 10), iterations=1),
        "psa": _settings((3, 3), (80, 13, 10)),  # seeds of AffinityNet and of SEAM
        "seam": _settings((3, 3), (32, 13, 10), iterations=1),  # SEAM's segmentation network at test time
        "deeplab": _settings((1, 3), (67, 3, 4)),  # DeepLab-v2 at test time
        "afa": _settings((3, 3), (64, 5, 4)),
        "toco": _settings((1, 1), (121, 5, 4)),
    }
)
"""Published parameters by where they were used."""


class DenseCrf:
    """The field of one picture `(3, h, w)`, RGB of 8 bits, built once for any number of unaries.

    Raises ValueError for pictures of another shape or dtype, or so many different colours per deviation that the
    lattice cannot number them.
    """

    def __init__(self, image: UInt8[Tensor, "3 h w"], settings: CrfSettings) -> None:
        if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8 or 0 in image.shape:
            raise ValueError(f"dense CRF: a picture {tuple(image.shape)} of {image.dtype}; expected (3, H, W) of uint8")
        self.settings = settings
        self._size = (image.shape[1], image.shape[2])
        position = _positions(*self._size, image.device)
        features = torch.cat([position, image.flatten(1).T], dim=1)
        deviations = features.new_tensor([settings.bilateral_std] * 2 + [settings.colour_std] * 3)
        self._kernels: list[Permutohedral] = []
        # Divided by tensors: by a plain number, accelerators multiply with its reciprocal and round differently.
        if settings.spatial_weight > 0:
            spatial = Permutohedral(position / position.new_tensor(settings.spatial_std))
            self._kernels.append(spatial.normalised(settings.spatial_weight))
        if settings.bilateral_weight > 0:
            self._kernels.append(Permutohedral(features / deviations).normalised(settings.bilateral_weight))

    @torch.no_grad()
    def infer(self, unary: Float[Tensor, "l h w"]) -> Float[Tensor, "l h w"]:
        """Marginals of l labels from energies, both of float32, after `settings.iterations` steps of mean field.

        Energies matter up to a constant a pixel. Raises ValueError for a unary of another size.
        """
        if unary.ndim != 3 or unary.shape[0] == 0 or tuple(unary.shape[1:]) != self._size:
            raise ValueError(
                f"dense CRF: unary {tuple(unary.shape)}; expected (labels, {self._size[0]}, {self._size[1]})"
            )
        # A row a pixel: every product then moves whole rows.
        evidence = -unary.float().flatten(1).T.contiguous()
        marginals = evidence.softmax(dim=1)
        for _ in range(self.settings.iterations):
            logits = evidence
            for kernel in self._kernels:
                logits = logits + kernel.filter(marginals)
            marginals = logits.softmax(dim=1)
        return marginals.T.reshape(unary.shape)


def _positions(height: int, width: int, device: torch.device) -> Float[Tensor, "n 2"]:
    """(x, y) of all pixels, row by row."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2).float()


def dense_crf(
    image: UInt8[Tensor, "3 h w"], unary: Float[Tensor, "l h w"], settings: CrfSettings
) -> Float[Tensor, "l h w"]:
    """Marginals of l labels for one picture and one unary; see `DenseCrf`, which is built once for several."""
    return DenseCrf(image, settings).infer(unary)


def unary_from_labels(labels: Int[Tensor, "h w"], num_labels: int, *, confidence: float) -> Float[Tensor, "l h w"]:
    """Energies of hard labels: `-log confidence` for a pixel's own, `-log((1 - confidence) / (l - 1))` for the others.

    Void pixels (255) and a single label have energies of 0. Raises ValueError for a confidence outside (0, 1) and for
    other labels outside 0 .. l - 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"unary_from_labels: confidence {confidence}; expected between 0 and 1")
    known = labels != VOID
    if ((labels < 0) | (labels >= num_labels))[known].any():
        raise ValueError(f"unary_from_labels: labels outside 0 .. {num_labels - 1} that are not void ({VOID})")
    if num_labels == 1:
        return torch.zeros(1, *labels.shape, device=labels.device)
    own = torch.arange(num_labels, device=labels.device)[:, None, None] == labels
    chances = torch.where(own, confidence, (1 - confidence) / (num_labels - 1))
    return torch.where(known, -chances.log(), 0.0)


def unary_from_probabilities(probabilities: Float[Tensor, "l h w"]) -> Float[Tensor, "l h w"]:
    """`-log p`, with p kept in [1e-5, 1]."""
    return -probabilities.clamp(1e-5, 1).log()


def crf_labels(
    image: UInt8[Tensor, "3 h w"],
    labels: Int[Tensor, "h w"],
    settings: CrfSettings,
    *,
    confidence: float = 0.7,
    classes: Sequence[int] | None = None,
) -> Int[Tensor, "h w"]:
    """Hard labels refined: the most probable label of every pixel, in the dtype given.

    The field has the labels that occur, or `classes` (background 0 included) as in IRN, where all classes of the picture
    count even if no pixel has them. Void pixels (255) get a label too, unless there is no other. Confidence 0.7 is IRN's.
    Raises ValueError where a label is not among `classes`, and as `unary_from_labels`.
    """
    occurring = labels[labels != VOID].unique()
    admitted = occurring if classes is None else torch.tensor(sorted(set(classes) - {VOID}), device=labels.device)
    if not torch.isin(occurring, admitted).all():
        raise ValueError(f"crf_labels: labels {occurring.tolist()} are not all among classes {admitted.tolist()}")
    if len(admitted) == 0:
        return labels.clone()
    if len(admitted) == 1:
        return admitted.to(labels.dtype).expand(labels.shape).clone()
    places = torch.searchsorted(admitted, labels.to(admitted.dtype).contiguous())
    unary = unary_from_labels(torch.where(labels == VOID, VOID, places), len(admitted), confidence=confidence)
    return admitted[dense_crf(image, unary, settings).argmax(dim=0)].to(labels.dtype)
