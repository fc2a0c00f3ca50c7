"""What the report shows of embeddings: what is retrieved, where landmarks are found, how embeddings lie, common regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from partwise.evaluate.base import Images, Rows
from partwise.evaluate.embedding_numbers import evenly, query_pictures
from partwise.evaluate.embedding_places import LANDMARK_SIDE, Known
from partwise.evaluate.pixels import as_pixels
from partwise.ops import draws
from partwise.ops.clusters import co_segment
from partwise.ops.correspondence import distances, match
from partwise.ops.neighbours import find_neighbours
from partwise.ops.part_whole_probes import cut, square_windows

if TYPE_CHECKING:
    from partwise.report.values import Cell, Picture

NUM_LANDMARKS = 6
"""Landmarks that are retrieved for."""
NUM_NEAREST = 5
NUM_QUERIES = 2
NUM_KEYS = 3
NUM_REGIONS = 6
"""Pictures whose common regions are shown."""
TILE = 96
MOST_POINTS = 1500
BLACK = 0.05
"""Mean intensity of a cell below which it is no foreground."""


def draw_all(
    rows: Rows, groups: Tensor, names: Sequence[str], classes: Sequence[str], known: Known, images: Images
) -> list[Picture]:
    """All pictures that the rows allow."""
    found: list[Picture | None] = [embedding_map(rows, classes)]
    if "landmark" in rows and not rows["points"].isnan().all():
        found += [landmark_map(rows, names), retrieved(rows, groups, names, known, images)]
    if "query" in rows and len(groups.unique()) > 1:
        found.append(transferred(rows, groups, names, known, images))
    if "dense" in rows:
        found.append(regions(rows, known, images))
    return [picture for picture in found if picture is not None]


def planar(embeddings: Tensor) -> Tensor:
    """The first two principal components `(n, 2)` of embeddings at unit length; the largest weight of each is positive."""
    units = torch.nn.functional.normalize(embeddings.float(), dim=1)
    _, _, axes = torch.linalg.svd(units - units.mean(0), full_matrices=False)
    axes = axes[:2]
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    flat = (units - units.mean(0)) @ (axes * signs).T
    return torch.nn.functional.pad(flat, (0, 2 - flat.shape[1]))


def _scattered(name: str, title: str, caption: str, points: Tensor, of: Sequence[str], order: Sequence[str]) -> Picture:
    from partwise.report.points import scatter
    from partwise.report.values import Picture

    each: dict[str, Any] = {group: points[[k for k, own in enumerate(of) if own == group]].numpy() for group in order}
    table: list[dict[str, Cell]] = [
        {"group": own, "x": round(x, 5), "y": round(y, 5)} for own, (x, y) in zip(of, points.tolist(), strict=True)
    ]
    return Picture(name=name, title=title, caption=caption, image=scatter(each), rows=table)


def embedding_map(rows: Rows, classes: Sequence[str]) -> Picture:
    """Embeddings of whole pictures on the plane, coloured by class where a picture has one."""
    places = evenly(len(rows["index"]), MOST_POINTS)
    of = ["picture"] * len(places)
    if "target" in rows and rows["target"].ndim == 1:
        of = [classes[k] if k >= 0 else "unknown" for k in rows["target"][places].tolist()]
    return _scattered(
        "embedding_map",
        "Embeddings of pictures",
        "The first two principal components of the pictures' embeddings (at unit length); axes mean nothing.",
        planar(rows["embedding"][places]),
        of,
        [name for name in (*classes, "unknown", "picture") if name in of],
    )


def landmark_map(rows: Rows, names: Sequence[str]) -> Picture:
    """Embeddings of the windows about landmarks on the plane, coloured by landmark."""
    places = evenly(len(rows["index"]), max(1, MOST_POINTS // len(names)))
    row, label = (~rows["points"][places].isnan().any(-1)).nonzero(as_tuple=True)
    of = [names[k] for k in label.tolist()]
    return _scattered(
        "landmark_map",
        "Embeddings of landmarks",
        "The first two principal components of the embeddings (at unit length) of windows about landmarks, a dot a patient "
        "and landmark. One cloud for each landmark is wanted; axes mean nothing.",
        planar(rows["landmark"][places[row], label]),
        of,
        [name for name in names if name in of],
    )


def retrieved(rows: Rows, groups: Tensor, names: Sequence[str], known: Known, images: Images) -> Picture:
    """A window about each of some landmarks, and beside it the windows of other patients that are most like it."""
    from partwise.report import masks as drawing
    from partwise.report.values import Picture

    places = evenly(len(rows["index"]))
    row, label = (~rows["points"][places].isnan().any(-1)).nonzero(as_tuple=True)
    row = places[row]
    embeddings, points = rows["landmark"][row, label], rows["points"][row, label]
    queries = [int((label == k).nonzero()[n % int((label == k).sum()), 0]) for n, k in enumerate(_some(label))]
    nearest = find_neighbours(
        embeddings[queries], embeddings, k=NUM_NEAREST, groups=(groups[row[queries]], groups[row])
    )
    columns: dict[str, list[Any]] = {}
    captions: dict[str, list[str]] = {}
    table: list[dict[str, Cell]] = []
    for number, query in enumerate(queries):
        shown = [("query", query, 1.0)]
        pairs = zip(nearest.places[number].tolist(), nearest.cosines[number].tolist(), strict=True)
        shown += [(f"nearest {k + 1}", at, cosine) for k, (at, cosine) in enumerate(pairs)]
        for column, at, cosine in shown:
            name = names[int(label[at])]
            columns.setdefault(column, []).append(_window(images, int(rows["index"][row[at]]), points[at]))
            captions.setdefault(column, []).append(name if column == "query" else f"{cosine:.3f} {name}")
            table.append(
                {
                    "query": names[int(label[query])],
                    "shown_as": column,
                    "id": known.id_of(int(rows["index"][row[at]])),
                    "landmark": name,
                    "cosine": round(cosine, 4),
                }
            )
    return Picture(
        name="retrieved_windows",
        title="Windows most alike in other patients",
        caption="A window about a landmark, and those of other patients with the highest cosine, among windows about all "
        "landmarks; below each its cosine and what it truly shows.",
        image=drawing.rows_figure(columns, captions),
        rows=table,
    )


def _some(label: Tensor) -> list[int]:
    """Some of the landmarks that there are, evenly over their list."""
    there = label.unique()
    return there[evenly(len(there), NUM_LANDMARKS)].tolist()


def _window(images: Images, index: int, point: Tensor) -> Any:
    picture = images([index]).float().cpu()
    window = cut(picture, square_windows(point.float(), LANDMARK_SIDE)[None], TILE)[:, 0]
    return _rgb(window)[0]


def _rgb(pictures: Tensor) -> Any:
    """Pictures as the report draws them; grey ones in three channels."""
    pictures = pictures.float().cpu()
    return as_pixels(pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures)


def transferred(rows: Rows, groups: Tensor, names: Sequence[str], known: Known, images: Images) -> Picture | None:
    """Landmarks of one patient, and where their embeddings find them in others, with a line to where they truly are."""
    from partwise.report import masks as drawing
    from partwise.report.points import draw_points
    from partwise.report.values import Picture

    colours = drawing.class_colours(len(names))
    columns: dict[str, list[Any]] = {}
    captions: dict[str, list[str]] = {}
    table: list[dict[str, Cell]] = []
    annotated = (~rows["points"].isnan().all(-1).all(-1)).nonzero()[:, 0]
    for query in annotated[evenly(len(annotated), NUM_QUERIES)].tolist():
        keys = [key for key in query_pictures(query, groups).tolist() if key in set(annotated.tolist())][:NUM_KEYS]
        if len(keys) < NUM_KEYS:
            continue
        for number, place in enumerate([query, *keys]):
            index = int(rows["index"][place])
            tile = drawing.fit_tile(_rgb(images([index]))[0], NUM_KEYS + 1)
            extent = torch.tensor([tile.shape[1], tile.shape[0]])
            true = rows["points"][place]
            column = f"patient {number + 1}" if number else "given"
            if number == 0:
                drawn, words = draw_points(tile, (true * extent).numpy(), colours), known.id_of(index)
            else:
                at = match(rows["query"][query], rows["dense"][place].float())
                at = torch.where(rows["points"][query].isnan(), torch.nan, at)
                error = float(distances(at, true).nanmean())
                drawn = draw_points(tile, (at * extent).numpy(), colours, away=(true * extent).numpy())
                words = f"off by {error:.3f}"
                table.append(
                    {"query": known.id_of(int(rows["index"][query])), "id": known.id_of(index), "error": error}
                )
            columns.setdefault(column, []).append(drawn)
            captions.setdefault(column, []).append(words)
    if not columns:
        return None
    return Picture(
        name="correspondence",
        title="Landmarks found in other patients",
        caption="Left the landmarks of one patient. Beside it dots where their embeddings are found in other patients, with a "
        "line to a ring where the same landmark truly is; below, the mean distance in sides of the picture.",
        image=drawing.rows_figure(columns, captions),
        rows=table,
    )


def regions(rows: Rows, known: Known, images: Images) -> Picture:
    """Regions that pictures have in common, by clusters of the cells of their dense maps; what is not salient stays grey."""
    from partwise.report import masks as drawing
    from partwise.report.values import Picture

    places = evenly(len(rows["index"]), NUM_REGIONS)
    maps = rows["dense"][places].float()
    indices = rows["index"][places].tolist()
    pictures = images(indices).float().cpu()
    light = torch.nn.functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), (maps.shape[-2], maps.shape[-1]))[
        :, 0
    ]
    labels, salient = co_segment(maps, light > BLACK, draws.generator(0, "embedding", "regions"))
    numbers = torch.where(salient, salient.cumsum(0), 0)
    colours = drawing.class_colours(max(1, int(salient.sum())))
    tiles = [drawing.fit_tile(tile, 2) for tile in _rgb(pictures)]
    shown = [
        drawing.overlay_mask(tile, numbers[own].to(torch.uint8).numpy(), colours)
        for tile, own in zip(tiles, labels, strict=True)
    ]
    named = [known.id_of(index) for index in indices]
    table: list[dict[str, Cell]] = [
        {
            "id": name,
            **{
                f"share of region {k + 1}": float((numbers[own] == k + 1).double().mean())
                for k in range(int(salient.sum()))
            },
        }
        for name, own in zip(named, labels, strict=True)
    ]
    half = -(-len(tiles) // 2)
    empty = [np.full((1, 1, 3), 255, np.uint8)] * (2 * half - len(tiles))
    columns = {
        "picture": tiles[:half],
        "regions": shown[:half],
        " picture": [*tiles[half:], *empty],
        " regions": [*shown[half:], *empty],
    }
    blank = [""] * len(empty)
    return Picture(
        name="common_regions",
        title="Regions common to pictures",
        caption=f"Cells of the dense maps of {len(tiles)} pictures in clusters, one colour for each. Clusters that are not "
        "foreground (brighter than black) in three quarters of the pictures that show them are left out.",
        image=drawing.rows_figure(columns, {"picture": named[:half], " picture": [*named[half:], *blank]}),
        rows=table,
    )
