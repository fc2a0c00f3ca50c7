"""Sharpening: each way against what it stands for, and none of them where there is nothing to sharpen."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partwise.methods.ppl.sharpening import sharpen_labels, sharpen_probabilities, to_bytes
from partwise.ops.crf import CRF_PRESETS, dense_crf, unary_from_labels, unary_from_probabilities
from partwise.ops.pamr import pamr


def two_halves() -> tuple[Tensor, Tensor]:
    """A picture with a dark and a bright half, and labels whose border is two columns off."""
    image = torch.zeros(3, 12, 16, dtype=torch.uint8)
    image[:, :, 8:] = 200
    labels = torch.zeros(12, 16, dtype=torch.uint8)
    labels[:, 10:] = 1
    return image, labels


@pytest.mark.parametrize("by", ["irn", "pamr"])
def test_labels_move_to_the_edge_of_the_picture(by: str) -> None:
    image, labels = two_halves()
    wanted = (image[0] > 0).to(torch.uint8)
    found = sharpen_labels(image, labels, 1, by)  # type: ignore[arg-type]
    assert found.dtype == torch.uint8
    assert (found != wanted).sum() < (labels != wanted).sum()


def test_nothing_is_done_without_a_sharpener_or_without_classes() -> None:
    image, labels = two_halves()
    assert torch.equal(sharpen_labels(image, labels, 1, "none"), labels)
    assert torch.equal(sharpen_labels(image, torch.zeros_like(labels), 0, "irn"), torch.zeros_like(labels))
    chances = torch.rand(2, 12, 16)
    assert sharpen_probabilities(image, chances, "none") is chances


def test_every_label_takes_part_whether_or_not_it_occurs() -> None:
    image, labels = two_halves()
    unary = unary_from_labels(labels.long(), 4, confidence=0.7)
    expected = dense_crf(image, unary, CRF_PRESETS["irn"]).argmax(0)
    assert torch.equal(sharpen_labels(image, labels, 3, "irn").long(), expected)


def test_probabilities_go_through_the_field_or_through_pamr() -> None:
    image, _ = two_halves()
    chances = torch.rand(3, 12, 16).softmax(0)
    field = dense_crf(image, unary_from_probabilities(chances), CRF_PRESETS["deeplab"])
    assert torch.equal(sharpen_probabilities(image, chances, "deeplab"), field)
    assert torch.equal(sharpen_probabilities(image, chances, "pamr"), pamr(image[None].float() / 255, chances[None])[0])


def test_bytes_are_rounded_and_kept_in_range() -> None:
    assert to_bytes(torch.tensor([-0.1, 0.0, 0.5, 1.0, 1.2])).tolist() == [0, 0, 128, 255, 255]
