"""A finished run as an object: its method with the trained weights, and what the folder says of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from partwise.config import Recipe, UserError, build, to_yaml
from partwise.engine.stages import Products
from partwise.evaluate.embedding import DenseEmbedder, Embedder, window_size
from partwise.evaluate.embedding_places import embed_windows
from partwise.methods.base import DataFacts, Method
from partwise.methods.recipes import find_recipe, load_recipe
from partwise.methods.table import find_method
from partwise.models.saved import load_networks, save_networks
from partwise.report.values import AnyPrediction
from partwise.run import RunFolder


class TrainedRun:
    """`pw.load(RUN)`: predicts, and gives the networks to a loop of one's own."""

    def __init__(self, folder: RunFolder, recipe: Recipe, method: Method) -> None:
        self.folder = folder
        self.recipe = recipe
        self.method = method

    @property
    def summary(self) -> dict[str, Any]:
        """What `summary.json` holds."""
        return self.folder.read_summary()

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.method.classes)

    def predict(self, images: Tensor) -> Sequence[AnyPrediction]:
        """One result a picture, from float images `(B, 3, S, S)` in [0, 1] at the recipe's `data.size` (methods that make
        masks take any size)."""
        return self.method.predict(images)

    @torch.inference_mode()
    def embed(self, images: Tensor, *, windows: Tensor | None = None) -> Tensor:
        """Embeddings `(B, D)` of float images `(B, C, H, W)` in [0, 1], of any size.

        With `windows` `(n, 4)` for all of them or `(B, n, 4)`, as x1, y1, x2, y2 in shares of the picture's sides (black beyond
        it), those of windows, `(B, n, D)`. Raises UserError for a run that gives no embeddings.
        """
        encoder = self._encoder()
        if windows is None:
            return encoder.embed(images)
        return embed_windows(encoder.embed, images, windows.float(), window_size(encoder, images))

    @torch.inference_mode()
    def embed_dense(self, images: Tensor) -> Tensor:
        """One embedding a cell, `(B, D, h, w)`, of float images `(B, C, H, W)` in [0, 1] at their own size."""
        encoder = self._encoder()
        assert isinstance(encoder, DenseEmbedder)
        return encoder.dense(images)

    def _encoder(self) -> Embedder:
        if not isinstance(self.method, Embedder):
            raise UserError(f"{self.folder.path}: a run of {self.method.name}, which gives no embeddings; adam_v2 does")
        return self.method


def save_trained(folder: RunFolder, method: Method) -> None:
    """Write `model.safetensors`: every network with what rebuilds it, and the facts of the data it was trained on."""
    save_networks(folder.model, method.networks(), method.specs(), _metadata(method))


def save_whole(path: Path, method: Method, names: Sequence[str]) -> None:
    """Write some networks into a file that `load_whole` reads without the run: the whole recipe stands in its header."""
    networks, specs = method.networks(), method.specs()
    metadata = _metadata(method) | {"whole_recipe": to_yaml(method.recipe)}
    save_networks(path, {n: networks[n] for n in names}, {n: specs[n] for n in names}, metadata)


def load_whole(path: Path, device: torch.device | str = "cpu") -> Method:
    """The method of a file of `save_whole`, in evaluation mode. Raises UserError for any other file."""
    saved = load_networks(path)
    try:
        values = yaml.safe_load(saved.metadata["whole_recipe"])
        name = str(values["recipe"])
    except (KeyError, ValueError, TypeError, yaml.YAMLError):
        raise UserError(
            f"{path}: holds no whole recipe; expected a run's folder, or a file such as set.safetensors"
        ) from None
    recipe = build(find_recipe(name)[1].model, values, str(path))
    method = find_method(recipe.method_name)(_bare(recipe), _known(path, saved.metadata))
    method.load(saved.networks)
    return _ready(method, recipe, device)


def _metadata(method: Method) -> dict[str, str]:
    return {"method": method.name, "recipe": method.recipe.recipe, "facts": json.dumps(asdict(method.facts))}


def _known(path: Path, metadata: Mapping[str, str]) -> DataFacts:
    """The facts of the data that networks were trained on."""
    try:
        facts = json.loads(metadata["facts"])
        return DataFacts(
            tuple(facts["classes"]), bool(facts["multi_label"]), int(facts["channels"]), int(facts.get("frame", 0))
        )
    except (KeyError, ValueError, TypeError):
        raise UserError(
            f"{path}: does not say which classes it knows; the file was changed or made elsewhere"
        ) from None


def _bare(recipe: Recipe) -> Recipe:
    """The recipe without the file its weights once started from, which may be gone: they come with the run."""
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"weights": None})})


def _ready(method: Method, recipe: Recipe, device: torch.device | str) -> Method:
    """On its device, in the layout it was trained in: the same sums in the same order."""
    method.to(torch.device(device))
    if recipe.train.channels_last:
        for network in method.networks().values():
            network.to(memory_format=torch.channels_last)
    method.eval()
    return method


def load_trained(path: Path, device: torch.device | str = "cpu") -> TrainedRun:
    """The run in a folder. Raises UserError where there is none, or where it is unfinished or copied in part."""
    folder = RunFolder(path)
    folder.require()
    if not folder.model.exists():
        raise UserError(f"{path}: has no model.safetensors yet; `partwise train {folder.recipe}` finishes the run")
    recipe, _ = load_recipe(str(folder.recipe))
    saved = load_networks(folder.model)
    method = find_method(recipe.method_name)(_bare(recipe), _known(folder.model, saved.metadata))
    method.load(saved.networks)
    method.products = Products(folder.products)
    return TrainedRun(folder, recipe, _ready(method, recipe, device))
