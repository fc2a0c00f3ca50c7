"""Rows from batches and processes, in order, and the mode they are measured in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.evaluate.base import Classifier, Evaluation, Evaluator, Rows
from partwise.evaluate.runner import collect, in_order, join, run_suite


class Model:
    classes = ("a", "b")

    def logits(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :2]

    def maps(self, images: Tensor) -> Tensor:
        return images * 2


class Watching(Evaluator):
    """Notes how it was called."""

    suite: ClassVar[str] = "watching"
    metrics: ClassVar[tuple[str, ...]] = ("sum",)
    needs: ClassVar[type] = Classifier
    wants: ClassVar[frozenset[str]] = frozenset({"targets"})
    calls: dict[str, Any]

    def measure(self, model: Model, batch: Batch) -> Rows:
        self.calls = {"inference": torch.is_inference_mode_enabled(), "grad": torch.is_grad_enabled()}
        return {"value": batch.index * 10}

    def conclude(self, rows: Rows, validation: Rows | None, *, images: Any = None, redraw: Any = None) -> Evaluation:
        self.calls |= {"rows": rows, "validation": validation, "images": images, "redraw": redraw}
        found = Evaluation()
        found.found("watching/sum", float(rows["value"].sum()))
        return found


class Choosing(Watching):
    uses_validation: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True


def batch(index: list[int]) -> Batch:
    return Batch([str(i) for i in index], torch.tensor(index), torch.rand(len(index), 3, 2, 2), torch.zeros(len(index)))


def test_rows_are_sorted_and_counted_once() -> None:
    evaluator = Watching(("a", "b"))
    found = run_suite(evaluator, Model(), [batch([5, 1]), batch([3, 5])], validation=[batch([9])])
    assert evaluator.calls["rows"]["index"].tolist() == [1, 3, 5]
    assert evaluator.calls["rows"]["value"].tolist() == [10, 30, 50]
    assert found.metrics == {"watching/sum": 90.0}
    assert evaluator.calls["validation"] is None, "a suite that chooses nothing does not cost a second pass"
    assert evaluator.calls["inference"]


def test_validation_is_measured_where_something_is_chosen() -> None:
    evaluator = Choosing(("a", "b"))
    run_suite(evaluator, Model(), [batch([2])], validation=[batch([7]), batch([4])])
    assert evaluator.calls["validation"]["index"].tolist() == [4, 7]
    assert evaluator.calls["grad"] and not evaluator.calls["inference"]


def test_batches_are_made_outside_of_inference_mode() -> None:
    def loader() -> Iterator[Batch]:
        for start in (0, 1):
            assert not torch.is_inference_mode_enabled()
            yield batch([start])

    run_suite(Watching(("a", "b")), Model(), loader(), validation=None)


def test_gathering_over_processes() -> None:
    """Two processes with a padded share each give what one gives."""
    shares = [[batch([0, 4]), batch([2])], [batch([1, 3]), batch([0])]]
    local = [collect(Watching(("a", "b")), Model(), share)[0] for share in shares]

    def gather(rows: Rows) -> Rows:
        assert rows["index"].tolist() == [0, 4, 2]
        return join([rows, local[1]])

    evaluator = Watching(("a", "b"))
    run_suite(evaluator, Model(), shares[0], validation=None, gather=gather)
    assert evaluator.calls["rows"]["index"].tolist() == [0, 1, 2, 3, 4]
    # A process that has no pictures of its own still learns the rest.
    run_suite(evaluator, Model(), [], validation=None, gather=lambda rows: join([rows, local[0]]))
    assert evaluator.calls["rows"]["index"].tolist() == [0, 2, 4]


def test_progress_counts_pictures() -> None:
    seen: list[int] = []
    run_suite(Choosing(("a",)), Model(), [batch([0, 1]), batch([2])], validation=[batch([3])], progress=seen.append)
    assert seen == [1, 2, 1]


def test_maps_are_drawn_again_on_request() -> None:
    store = torch.rand(6, 3, 2, 2)
    evaluator = Watching(("a", "b"))
    run_suite(evaluator, Model(), [batch([0])], validation=None, images=lambda indices: store[list(indices)])
    assert torch.equal(evaluator.calls["redraw"]([4, 1]), store[[4, 1]] * 2)


def test_what_cannot_be_measured_is_refused_in_one_line() -> None:
    evaluator = Watching(("a", "b"))
    bare = batch([0])
    bare.targets = None
    with pytest.raises(UserError, match="'watching' needs targets"):
        run_suite(evaluator, Model(), [bare], validation=None)
    with pytest.raises(UserError, match="needs a Classifier, and Linear is none"):
        run_suite(evaluator, nn.Linear(2, 2).eval(), [batch([0])], validation=None)
    with pytest.raises(UserError, match="no pictures"):
        run_suite(evaluator, Model(), [], validation=None)


def test_a_model_in_training_mode_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="eval"):
        run_suite(Watching(("a",)), nn.Linear(1, 1), [batch([0])], validation=None)


def test_a_row_for_every_picture() -> None:
    class Short(Watching):
        def measure(self, model: Model, batch: Batch) -> Rows:
            return {"value": batch.index[1:]}

    with pytest.raises(AssertionError, match="1 rows of 'value' for 2"):
        run_suite(Short(("a",)), Model(), [batch([0, 1])], validation=None)


def test_joining_rows_of_different_names_is_refused() -> None:
    one, two = {"index": torch.zeros(1), "a": torch.zeros(1)}, {"index": torch.zeros(1)}
    with pytest.raises(ValueError, match="differ in what they measure: a"):
        join([one, two])
    assert join([]) == {} == join([{}])


def test_order_keeps_rows_together() -> None:
    rows = in_order({"index": torch.tensor([4, 2, 4]), "pair": torch.tensor([[1, 1], [2, 2], [9, 9]])})
    assert rows["pair"].tolist() == [[2, 2], [1, 1]]
