"""ImageClassifier: normalisation in one pass, maps that explain the logits, and its building from plain values."""

import pytest
import torch
from torch import Tensor

from partwise.models.backbones import build_backbone
from partwise.models.heads import ImageClassifier, build_classifier

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


@pytest.fixture
def classifier() -> ImageClassifier:
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])
    return ImageClassifier(backbone, 5, mean=MEAN, std=STD).eval()


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_normalisation(classifier: ImageClassifier, memory: torch.memory_format) -> None:
    images = torch.rand(2, 3, 6, 7).contiguous(memory_format=memory)
    found = classifier.normalise(images)
    expected = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=memory)


def test_maps_are_weighted_feature_maps(classifier: ImageClassifier) -> None:
    images = torch.rand(2, 3, 8, 8)
    features = classifier.features(images)
    expected = torch.zeros(2, 5, 2, 2)
    for sample in range(2):
        for label in range(5):
            for channel in range(8):
                expected[sample, label] += classifier.fc.weight[label, channel] * features[sample, channel]
    logits, maps = classifier.maps(images)
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(logits, expected.mean((2, 3)) + classifier.fc.bias)
    torch.testing.assert_close(logits, classifier(images))


def test_maps_differentiate(classifier: ImageClassifier) -> None:
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    classifier.maps(images)[1][0, 2].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_autocast_keeps_maps_in_float32(classifier: ImageClassifier) -> None:
    images = torch.rand(2, 3, 8, 8)
    expected = classifier.maps(images)[1].detach()
    with torch.autocast("cpu", torch.bfloat16):
        logits, maps = classifier.maps(images)
        assert classifier(images).dtype == logits.dtype == torch.bfloat16
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


def test_dropout_stands_before_the_linear_layer() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])
    classifier = ImageClassifier(backbone, 5, mean=MEAN, std=STD, dropout=0.9)
    features = torch.rand(64, 8, 2, 2)
    assert not torch.equal(classifier.classify(features), classifier.classify(features))
    classifier.eval()
    assert torch.equal(classifier.classify(features), classifier.fc(features.mean((2, 3))))


def test_state_holds_mean_and_std(classifier: ImageClassifier) -> None:
    state: dict[str, Tensor] = classifier.state_dict()
    torch.testing.assert_close(state["mean"].flatten(), torch.tensor(MEAN))
    torch.testing.assert_close(state["std"].flatten(), torch.tensor(STD))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), STD), (MEAN, (0.1, 0.0, 0.1))])
def test_wrong_statistics_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    backbone = build_backbone("cifar-resnet", depth=8)
    with pytest.raises(ValueError, match="as many of each, and every std above zero"):
        ImageClassifier(backbone, 5, mean=mean, std=std)


def test_building_from_plain_values() -> None:
    values = {"mean": list(MEAN), "std": list(STD), "arguments": {"depth": 8, "widths": [4, 6, 8]}}
    classifier = build_classifier(backbone="cifar-resnet", num_classes=3, dropout=0.1, **values)  # type: ignore[arg-type]
    assert classifier(torch.rand(1, 3, 8, 8)).shape == (1, 3)
    with pytest.raises(ValueError, match="num_classes"):
        build_classifier(backbone="resnet20", num_classes=0, mean=MEAN, std=STD)
