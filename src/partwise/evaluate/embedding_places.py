"""Where the suite `embedding` looks: windows that are the same in every picture, windows about landmarks, dense maps.

What is drawn is drawn once from a fixed seed, so that every encoder, picture and run is asked about the same places, and the
window of one patient is also that of another. Places are in sides of the picture; see ops/part_whole_probes.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from partwise.data.sample import Source
from partwise.ops import draws
from partwise.ops.correspondence import distances, match, sample_map
from partwise.ops.part_whole_probes import (
    cut,
    draw_centres,
    draw_lines,
    draw_windows,
    line_points,
    split_windows,
    square_windows,
)

Embed = Callable[[Tensor], Tensor]

NUM_WINDOWS = 8
NUM_LINES = 4
NUM_CENTRES = 4
LANDMARK_SIDE = 224 / 1024
"""Windows about landmarks and on lines: 224 pixels of 1024, as the authors' scripts cut them."""
SCALES = (96 / 1024, 128 / 1024, 160 / 1024, 224 / 1024, 320 / 1024)
MOST_LANDMARKS = 24
TOGETHER = 256
"""Windows that are embedded at once."""
VIEW = (0.06, 0.04, 0.94, 0.9)
"""What a second view of a picture shows of it, and with it a gain and an offset of its brightness."""
GAIN, OFFSET = 0.8, 0.1


@dataclass(frozen=True)
class Places:
    """The drawn places: `windows` `(w, 4)`, `parts` `(w, 4, 4)`, A and B of `lines` `(l, 2, 2)`, `centres` `(m, 2)`."""

    windows: Tensor
    parts: Tensor
    lines: Tensor
    centres: Tensor

    @classmethod
    def drawn(cls) -> Places:
        """Those of the suite."""
        windows = draw_windows(NUM_WINDOWS, draws.generator(0, "embedding", "windows"))
        return cls(
            windows=windows,
            parts=split_windows(windows),
            lines=draw_lines(NUM_LINES, draws.generator(0, "embedding", "lines"), side=LANDMARK_SIDE),
            centres=draw_centres(NUM_CENTRES, draws.generator(0, "embedding", "centres"), side=max(SCALES)),
        )


@dataclass(frozen=True)
class Known:
    """What a source says beside its pictures, by position: ids and groups; and the names of its landmarks.

    A picture without a group is its own. With no source there are only positions.
    """

    ids: Sequence[str] = ()
    groups: Sequence[str] = ()
    landmarks: Sequence[str] = ()
    _numbers: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, source: Source) -> Known:
        """What `source` says."""
        return cls(
            [record.id for record in source.records],
            [f"group {r.group}" if r.group else f"picture {r.id}" for r in source.records],
            source.landmark_names,
        )

    def id_of(self, index: int) -> str:
        """The id of the picture at a position."""
        return self.ids[index] if self.ids else str(index)

    def group_numbers(self, index: Tensor) -> Tensor:
        """Positions int64 `(n,)` -> numbers int64 `(n,)`, equal for pictures of one group."""
        if not self.groups:
            return index.clone()
        names = [self.groups[i] for i in index.tolist()]
        return torch.tensor([self._numbers.setdefault(name, len(self._numbers)) for name in names], dtype=torch.int64)

    def landmark_name(self, number: int) -> str:
        """The name of a landmark."""
        return self.landmarks[number] if number < len(self.landmarks) else f"landmark {number}"


# -- landmarks -----------------------------------------------------------------------------------------------------------


def opposite(name: str) -> str | None:
    """The landmark of the other side of the body: `left hilum` for `right hilum`; None for one that has no side."""
    for side, other in (("right ", "left "), ("left ", "right ")):
        if name.startswith(side):
            return other + name.removeprefix(side)
    return None


def choose_landmarks(names: Sequence[str], most: int = MOST_LANDMARKS) -> list[int]:
    """At most `most` landmarks, evenly over their list, in order; one with an opposite comes with it."""
    at = {name: place for place, name in enumerate(names)}
    units: dict[int, tuple[int, ...]] = {}
    for place, name in enumerate(names):
        other = at.get(opposite(name) or "")
        units.setdefault(
            min(place, other) if other is not None else place, (place,) if other is None else (place, other)
        )
    wanted = list(units.values())
    for count in range(len(wanted), 0, -1):
        spread = [wanted[(2 * k + 1) * len(wanted) // (2 * count)] for k in range(count)]
        chosen = sorted(place for unit in spread for place in unit)
        if len(chosen) <= most:
            return chosen
    return []


def mirror_pairs(names: Sequence[str]) -> list[tuple[int, int]]:
    """(left, right) places of the landmarks that have an opposite among `names`."""
    at = {name: place for place, name in enumerate(names)}
    found = [(place, at.get(opposite(name) or "")) for place, name in enumerate(names) if name.startswith("left ")]
    return [(left, right) for left, right in found if right is not None]


# -- embeddings of places ------------------------------------------------------------------------------------------------


def embed_windows(embed: Embed, images: Tensor, windows: Tensor, size: int, *, mirrored: bool = False) -> Tensor:
    """Embeddings float32 `(B, n, D)` of windows, `(n, 4)` for all pictures or `(B, n, 4)`; `mirrored`: of mirror images."""
    each, num = max(1, TOGETHER // len(images)), windows.shape[-2]
    found = []
    for start in range(0, num, each):
        pixels = cut(images, windows[..., start : start + each, :], size).flatten(0, 1)
        embeddings = embed(pixels.flip(-1) if mirrored else pixels)
        found.append(embeddings.float().unflatten(0, (len(images), -1)))
    return torch.cat(found, dim=1)


def embed_grid(embed: Embed, images: Tensor, cells: int, size: int) -> Tensor:
    """A dense map `(B, D, cells, cells)` of windows of LANDMARK_SIDE, black beyond the picture: slow, with any encoder."""
    steps = (torch.arange(cells) + 0.5) / cells
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    windows = square_windows(torch.stack([x, y], dim=-1).flatten(0, 1), LANDMARK_SIDE)
    return embed_windows(embed, images, windows, size).unflatten(1, (cells, cells)).movedim(-1, 1)


def embed_lines(embed: Embed, images: Tensor, lines: Tensor, size: int) -> dict[str, Tensor]:
    """`ends` `(B, l, 2, D)`, and between A and B and beyond B `(B, l, t, D)` at every time."""
    found = {}
    for name, centres in zip(("ends", "between", "beyond"), (lines, *line_points(lines)), strict=True):
        windows = square_windows(centres, LANDMARK_SIDE).flatten(0, 1)
        found[name] = embed_windows(embed, images, windows, size).unflatten(1, centres.shape[:2])
    return found


def embed_scales(embed: Embed, images: Tensor, centres: Tensor, size: int) -> Tensor:
    """Windows of all SCALES about centres, `(B, m, s, D)`."""
    windows = torch.stack([square_windows(centres, side) for side in SCALES], dim=1)
    return embed_windows(embed, images, windows.flatten(0, 1), size).unflatten(1, windows.shape[:2])


def embed_landmarks(
    embed: Embed, images: Tensor, points: Tensor, pairs: Sequence[tuple[int, int]], size: int
) -> dict[str, Tensor]:
    """`landmark` `(B, L, D)`, windows about points `(B, L, 2)`, and those of left ones `mirrored` `(B, pairs, D)`.

    Where a point is NaN, the middle of the picture stands for it.
    """
    windows = square_windows(points.nan_to_num(nan=0.5), LANDMARK_SIDE)
    found = {"landmark": embed_windows(embed, images, windows, size)}
    if pairs:
        left = windows[:, [place for place, _ in pairs]]
        found["mirrored"] = embed_windows(embed, images, left, size, mirrored=True)
    return found


def second_view_errors(dense: Embed, images: Tensor, queries: Tensor, points: Tensor) -> Tensor:
    """Distances `(B, L)`, in sides of the view, of landmarks found in a second view of the same picture; NaN for unknown ones.

    The view shows VIEW of the picture, resized, at another brightness. `queries` `(B, L, D)` come from the first.
    """
    window = torch.tensor(VIEW)
    view = cut(images, window[None], images.shape[-1])[:, 0] * GAIN + OFFSET
    maps = dense(view).float()
    corner, sides = window[:2].to(points), (window[2:] - window[:2]).to(points)
    moved = (points - corner) / sides
    moved = torch.where(((moved >= 0) & (moved <= 1)).all(-1, keepdim=True), moved, torch.nan)
    found = torch.stack([match(own, map) for own, map in zip(queries, maps, strict=True)])
    return distances(found, moved)


def sample_landmarks(maps: Tensor, points: Tensor) -> Tensor:
    """Embeddings of points `(B, L, 2)` on dense maps, `(B, L, D)`; the middle's where a point is NaN."""
    return sample_map(maps.float(), points.nan_to_num(nan=0.5))
