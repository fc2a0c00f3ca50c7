"""Random walk: class maps that spread along affinities of nearby cells, by a sparse matrix applied step after step.

y = T x with T = D^-1 S: S_ii = 1, S_ij = affinity^beta for cells closer than the radius, 0 elsewhere, D the sums of its
rows. S is symmetric, so this is the published x T with normalised columns. The published code squares the dense
matrix of all pairs of cells log2(steps) times; here it is never built. No gradient flows. The walks of IRN (Ahn et al.
2019) and of AffinityNet (Ahn and Kwak 2018) differ in where links come from. Affinities are affinity.py's.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from partwise.ops.affinity import Offset, feature_affinity, pair_offsets, pair_targets, path_affinity


def path_links(edge: Float[Tensor, "h w"], radius: int) -> Float[Tensor, "p h w"]:
    """Affinity of every cell with the cell at each of `pair_offsets(radius)`, by the boundary between them.

    The boundary is 1 outside the map, so that nothing links with what lies there (IRN).
    """
    margin = radius - 1
    padded = F.pad(edge[None], (margin, margin, 0, margin), value=1.0)
    return path_affinity(padded, radius)[0].reshape(-1, *edge.shape)


def feature_links(features: Float[Tensor, "d h w"], radius: int) -> Float[Tensor, "p h w"]:
    """Affinity of every cell with the cell at each of `pair_offsets(radius)`, by their features; 0 outside the map.

    AffinityNet's published code leaves out the pairs whose source lies in the margin, so that cells near the border
    have fewer neighbours; `pairs_as_links(feature_affinity(features[None], radius)[0], (h, w), radius)` gives that.
    """
    margin = radius - 1
    size = features.shape[-2:]
    border = (margin, margin, 0, margin)
    affinity = feature_affinity(F.pad(features, border)[None], radius)[0]
    inside = pair_targets(F.pad(features.new_ones(size), border), radius)
    return (affinity * inside).reshape(-1, *size)


def pairs_as_links(affinity: Float[Tensor, "p n"], size: tuple[int, int], radius: int) -> Float[Tensor, "p h w"]:
    """The pairs of affinity.py, whose sources leave out a margin, on the map of `size` that they were taken from."""
    margin = radius - 1
    height, width = size
    inner = affinity.unflatten(-1, (height - margin, width - 2 * margin))
    return F.pad(inner, (margin, margin, 0, margin))


@torch.no_grad()
def transition(links: Float[Tensor, "p h w"], *, radius: int, beta: float) -> Float[Tensor, "n n"]:
    """T of the walk as a sparse CSR matrix over the h w cells in reading order; every row sums to 1.

    `links` are affinities in [0, 1], 0 where an offset leads out of the map. Half precision becomes float32. Raises
    ValueError where `links` does not belong to `radius`, or for a beta that is not above 0.
    """
    if len(links) != len(pair_offsets(radius)):
        raise ValueError(f"{len(links)} links a cell: radius {radius} has {len(pair_offsets(radius))}")
    if beta <= 0:
        raise ValueError(f"beta {beta}: expected a power above 0")
    size, border = (links.shape[1], links.shape[2]), (radius - 1,) * 4
    strength = F.pad(links.to(torch.promote_types(links.dtype, torch.float32)).pow(beta), border)
    cells = torch.arange(size[0] * size[1], dtype=torch.int32, device=links.device).reshape(1, *size)
    cells = F.pad(cells, border, value=-1)[0]
    weights = {(0, 0): strength.new_ones(size)}
    for (dy, dx), links_at in zip(pair_offsets(radius), strength, strict=True):
        weights[dy, dx] = _seen_at(links_at, (0, 0), radius)
        # The link of a cell with the one at -offset is that one's link at +offset.
        weights[-dy, -dx] = _seen_at(links_at, (-dy, -dx), radius)
    # Offsets in reading order, for columns must ascend within each row.
    offsets = sorted(weights)
    values = torch.stack([weights[offset] for offset in offsets], dim=-1)
    values = values / values.sum(dim=-1, keepdim=True)
    columns = torch.stack([_seen_at(cells, offset, radius) for offset in offsets], dim=-1)
    inside = columns >= 0
    ends = F.pad(inside.flatten(0, 1).sum(dim=1).cumsum(0, dtype=torch.int32), (1, 0))
    # masked_select, for it is far quicker here than indexing by the mask
    return _csr(ends, columns.masked_select(inside), values.masked_select(inside), size[0] * size[1])


@torch.no_grad()
def walk(maps: Float[Tensor, "c h w"], matrix: Float[Tensor, "n n"], *, steps: int) -> Float[Tensor, "c h w"]:
    """`steps` steps of `matrix` (of `transition`) from `maps`, in its dtype; a constant map stays what it is.

    Every value is a weighted mean of the map's own. Raises ValueError where cells and matrix do not agree.
    """
    size = maps.shape[-2:]
    if matrix.shape[0] != size.numel():
        raise ValueError(f"maps of {size[0]} x {size[1]} cells: the transition is one of {matrix.shape[0]} cells")
    values = maps.to(matrix.dtype).flatten(1).T.contiguous()
    if len(maps) == 0:
        return values.T.reshape(0, *size)
    with torch.autocast(maps.device.type, enabled=False):
        for _ in range(steps):
            values = matrix @ values
    return values.T.reshape(-1, *size)


def random_walk(
    maps: Float[Tensor, "c h w"],
    edge: Float[Tensor, "h w"],
    *,
    radius: int = 5,
    beta: float = 10.0,
    steps: int = 256,
) -> Float[Tensor, "c h w"]:
    """IRN's walk: class maps, damped by `1 - edge` here, spread where no boundary `edge` lies between cells.

    The defaults are the published ones; `steps` = 2^8. Raises ValueError for a boundary outside [0, 1] or not finite,
    and where the sizes differ.
    """
    if maps.shape[-2:] != edge.shape:
        raise ValueError(
            f"maps of {tuple(maps.shape[-2:])} cells, a boundary of {tuple(edge.shape)}: expected the same"
        )
    if not ((edge >= 0) & (edge <= 1)).all():  # NaN compares as false
        raise ValueError("edge must lie in [0, 1] and be finite: give the sigmoid of the boundary's logits")
    return walk(maps * (1 - edge), transition(path_links(edge, radius), radius=radius, beta=beta), steps=steps)


def affinity_walk(
    maps: Float[Tensor, "c h w"],
    features: Float[Tensor, "d h w"],
    *,
    radius: int = 5,
    beta: float = 8.0,
    steps: int = 256,
) -> Float[Tensor, "c h w"]:
    """AffinityNet's walk: maps with a background row (`with_background`), at the resolution of the features.

    The defaults are the published ones; SEAM walks 2^6 steps. Raises ValueError where the sizes differ.
    """
    if maps.shape[-2:] != features.shape[-2:]:
        raise ValueError(
            f"maps of {tuple(maps.shape[-2:])} cells, features of {tuple(features.shape[-2:])}: expected the same"
        )
    return walk(maps, transition(feature_links(features, radius), radius=radius, beta=beta), steps=steps)


def with_background(maps: Float[Tensor, "k h w"], *, power: float = 16.0) -> Float[Tensor, "k1 h w"]:
    """A first row (1 - the greatest class)^power in front of class maps in [0, 1]; 1 where there is no class.

    AffinityNet's power is 16 for the walk, SEAM's 6. It is taken before the maps are pooled to the walk's resolution.
    """
    background = 1 - F.pad(maps, (0, 0, 0, 0, 1, 0)).amax(dim=0)
    return torch.cat([background[None] ** power, maps])


def _seen_at(padded: Tensor, offset: Offset, radius: int) -> Tensor:
    """What every cell sees at an offset from itself, in a map that a border of `radius - 1` was added to."""
    height, width = (side - 2 * (radius - 1) for side in padded.shape)
    top, left = offset[0] + radius - 1, offset[1] + radius - 1
    return padded[top : top + height, left : left + width]


def _csr(ends: Tensor, columns: Tensor, values: Tensor, num_cells: int) -> Tensor:
    """torch's sparse CSR matrix, without its remark that the layout is young.

    Whole numbers of 32 bits are what the sparse products of MKL and cuSPARSE work with.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(ends, columns, values, size=(num_cells, num_cells), check_invariants=False)
