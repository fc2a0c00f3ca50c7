"""The contract of evaluators, the small protocols they ask of a model, and the table of suites. Imports no torch.

An evaluator turns batches into rows, one a picture, and rows into numbers named as `suite/metric`. Because a row is one
picture's alone, batches, their order and the number of processes do not matter. Whatever is chosen (a threshold, a
temperature) is chosen on rows of the validation split. Not for loops over data: see runner.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias, runtime_checkable

from partwise.config import UserError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from partwise.data.sample import Batch, Source
    from partwise.report.values import Picture

Rows: TypeAlias = "dict[str, Tensor]"
"""Name -> one entry a picture along the first dimension, on the host; `index` int64 is the position in the source."""

Images: TypeAlias = "Callable[[Sequence[int]], Tensor]"
"""Positions in the source -> float pictures `(n, 3, H, W)` in [0, 1], in the frame that the network saw."""

Redraw: TypeAlias = "Callable[[Sequence[int]], Tensor]"
"""Positions in the source -> the model's maps `(n, K, h, w)` of those pictures, computed anew."""

Again: TypeAlias = "Callable[[int], Batch | None]"
"""A position in the source -> that picture as it was measured, a batch of one; None where it can no longer be read."""


@runtime_checkable
class Classifier(Protocol):
    """Names the class of a picture, or scores several."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the K classes."""

    def logits(self, images: Tensor, /) -> Tensor:
        """Pictures `(B, 3, H, W)` in [0, 1] -> `(B, K)`."""


@runtime_checkable
class Mapper(Protocol):
    """Says where in a picture it finds each class."""

    def maps(self, images: Tensor, /) -> Tensor:
        """Pictures `(B, 3, H, W)` in [0, 1] -> raw class activation maps `(B, K, h, w)`, float32."""


@dataclass(frozen=True)
class Evaluation:
    """What a suite found: `metrics` and `detail` by full name (`localization/pxap`), detail plain enough for JSON.

    A metric that could not be measured is absent from `metrics`, and its detail says why under `left_out`.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    detail: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    def found(self, name: str, value: float, **facts: Any) -> None:
        """Record a number with what belongs to it, such as `n` or the threshold."""
        self.metrics[name] = float(value)
        self.detail[name] = facts

    def leave_out(self, name: str, why: str) -> None:
        """Record why a number is missing."""
        self.detail[name] = {"left_out": why}


class Evaluator(ABC):
    """A suite of measurements, made for the classes of one source."""

    suite: ClassVar[str]
    family: ClassVar[str] = ""
    """The first half of its numbers' names, where that is not the suite."""
    split: ClassVar[str | None] = None
    """The split that it measures whatever split is reported; None for that one."""
    native: ClassVar[bool] = False
    """Whether pictures and masks come at their own size instead of in the network's frame."""
    metrics: ClassVar[tuple[str, ...]]
    """The names it may give, without the suite."""
    needs: ClassVar[type]
    """The protocol that a model must answer to."""
    wants: ClassVar[frozenset[str]] = frozenset()
    """Fields of a batch without which there is nothing to measure."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Fields that give further numbers where the data has them."""
    needs_gradient: ClassVar[bool] = False
    one_class: ClassVar[bool] = False
    """Whether it needs pictures of exactly one class; sources with several labels a picture are left out."""
    uses_validation: ClassVar[bool] = False
    """Whether `conclude` chooses something on the validation split; without, the runner does not measure that split."""
    learns_on: ClassVar[str] = "val"
    """The split that is handed over as the validation split: `train` for suites that learn from labels, as probes do."""
    learns_most: ClassVar[int | None] = None
    """So many pictures of that split at most; None for all."""

    measures_most: ClassVar[int | None] = None
    """So many pictures of the split at most, for suites that take long; None for all."""
    compares: ClassVar[bool] = False
    """Whether pictures of other sources (`evaluate.foreign`) are measured beside."""
    foreign: Mapping[str, Rows] = MappingProxyType({})
    """Name of a foreign source -> what `measure_foreign` gave of it, there before `conclude`."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)

    def attend(self, source: Source) -> None:
        """Take from the source to be measured what batches do not carry, such as which pictures make a case."""
        return

    @abstractmethod
    def measure(self, model: Any, batch: Batch) -> Rows:
        """One row a picture of a batch with float pictures in [0, 1], boxes and masks in their frame; without `index`."""

    def measure_learned(self, model: Any, batch: Batch) -> Rows:
        """The rows of the split that `conclude` chooses or learns on; fewer than `measure` gives where it needs fewer."""
        return self.measure(model, batch)

    def measure_foreign(self, model: Any, batch: Batch) -> Rows:
        """The rows of pictures of a foreign source, for suites that compare."""
        return self.measure(model, batch)

    @abstractmethod
    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """The numbers of all rows, sorted by `index`. Pictures are drawn only where `images` is given."""

    def show(self, model: Any, rows: Rows, found: Evaluation, again: Again) -> list[Picture]:
        """Further pictures, for which the model is asked once more; `found` is what `conclude` gave."""
        return []

    def why_not(self, model: object, batch: Batch) -> str | None:
        """Why this suite cannot measure this model on such data, as one line; None where it can."""
        if not isinstance(model, self.needs):
            return f"suite {self.suite!r} needs a {self.needs.__name__}, and {type(model).__name__} is none"
        lacking = sorted(name for name in self.wants if getattr(batch, name) is None)
        if lacking:
            return f"suite {self.suite!r} needs {' and '.join(lacking)}, and the data has none"
        return None


SUITES: Mapping[str, str] = {
    "classification": "partwise.evaluate.classification:Classification",
    "localization": "partwise.evaluate.localization:Localization",
    "ood": "partwise.evaluate.ood:OutOfDistribution",
    "robustness": "partwise.evaluate.robustness:Robustness",
    "segmentation": "partwise.evaluate.segmentation:Segmentation",
    "pseudo_masks": "partwise.evaluate.segmentation:PseudoMasks",
    "karyotype": "partwise.evaluate.karyotype:Karyotype",
    "embedding": "partwise.evaluate.embedding:Embedding",
    "fewshot": "partwise.evaluate.fewshot:FewShot",
    "distilled": "partwise.evaluate.distilled:Distilled",
}


def find_evaluator(name: str) -> type[Evaluator]:
    """The evaluator of a suite, imported now. Raises UserError with the nearest name for an unknown one."""
    if name not in SUITES:
        raise UserError(
            f"there is no suite {name!r} (expected one of {', '.join(sorted(SUITES))}){did_you_mean(name, SUITES)}"
        )
    module, _, attribute = SUITES[name].partition(":")
    found: type[Evaluator] = getattr(import_module(module), attribute)
    return found
