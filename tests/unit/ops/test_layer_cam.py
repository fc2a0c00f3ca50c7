"""Maps against gradients taken class by class and sums taken cell by cell."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.ops.cam import grad_cam, normalise, upsample
from partwise.ops.layer_cam import layer_cam


class Small(nn.Module):
    """Two convolutions, an activation that works in place, pooling, one linear layer."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.activation = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, num_classes)

    def features(self, images: Tensor) -> Tensor:
        return self.activation(self.second(F.relu(self.norm(self.first(images)))))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean(dim=(2, 3)))


@pytest.fixture
def model() -> Small:
    return Small().eval()


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 13, 11, generator=torch.Generator().manual_seed(1))


def cell_by_cell(model: Small, picture: Tensor, layer: str, label: int) -> Tensor:
    """One picture, one class: the rest of the network by hand, every product and every sum on its own."""
    first = model.first(picture[None])
    kept = first if layer == "first" else model.second(F.relu(model.norm(first)))
    kept = kept.detach().requires_grad_()
    rest = model.second(F.relu(model.norm(kept))) if layer == "first" else kept
    (gradient,) = torch.autograd.grad(model.head(rest.relu().mean(dim=(2, 3)))[0, label], kept)
    kept = kept.detach()
    _, depth, height, width = kept.shape
    found = torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            total = sum(max(float(gradient[0, d, y, x]), 0.0) * float(kept[0, d, y, x]) for d in range(depth))
            found[y, x] = max(total, 0.0)
    return found


@pytest.mark.parametrize("layer", ["first", "second"])
def test_cell_by_cell(model: Small, layer: str) -> None:
    """Also in front of an activation that overwrites the layer's output, and with negative features."""
    found = layer_cam(model, images(), layer=getattr(model, layer))
    assert found.shape[:2] == (3, 4) and (found > 0).any()
    for row, picture in enumerate(images()):
        for label in range(4):
            torch.testing.assert_close(found[row, label], cell_by_cell(model, picture, layer, label))


def test_last_map_is_cam_without_negative_weights(model: Small) -> None:
    """There every cell of a channel has one gradient, the class's weight over the number of cells."""
    features = model.features(images()).detach()
    expected = torch.einsum("kd,bdhw->bkhw", model.head.weight.detach().relu(), features) / features[0, 0].numel()
    torch.testing.assert_close(layer_cam(model, images(), layer=model.activation), expected)


def test_last_map_of_positive_weights_is_grad_cam(model: Small) -> None:
    with torch.no_grad():
        model.head.weight.abs_()
    expected = grad_cam(model, images(), layer=model.activation)
    torch.testing.assert_close(layer_cam(model, images(), layer=model.activation), expected)


def test_chosen_classes(model: Small) -> None:
    every = layer_cam(model, images(), layer=model.second)
    chosen = torch.tensor([[2, 0], [1, 1], [3, 2]])
    some = layer_cam(model, images(), layer=model.second, classes=chosen)
    for row, own in enumerate(chosen.tolist()):
        torch.testing.assert_close(some[row], every[row, own])


def test_a_picture_does_not_depend_on_its_batch(model: Small) -> None:
    together = layer_cam(model, images(), layer=model.first)
    for row in range(3):
        torch.testing.assert_close(layer_cam(model, images()[row : row + 1], layer=model.first)[0], together[row])


def test_nothing_is_left_behind(model: Small) -> None:
    before = copy.deepcopy(model.state_dict())
    found = layer_cam(model, images(), layer=model.second)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_under_inference_mode_and_with_frozen_weights(model: Small) -> None:
    expected = layer_cam(model, images(), layer=model.second)
    with torch.inference_mode():
        torch.testing.assert_close(layer_cam(model, images().clone(), layer=model.second), expected)
    model.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(layer_cam(model, images(), layer=model.second), expected)


def test_layers_that_give_no_map_are_refused(model: Small) -> None:
    with pytest.raises(ValueError, match="one map"):
        layer_cam(model, images(), layer=model.head)

    class Detour(Small):
        def forward(self, images: Tensor) -> Tensor:
            self.second(F.relu(self.first(images)))
            return self.head(images[:, :1, 0, :5].flatten(1))

    detour = Detour().eval()
    with pytest.raises(ValueError, match=r"layer_cam: .* does not reach"):
        layer_cam(detour, images(), layer=detour.second)


@pytest.mark.oracle
@pytest.mark.parametrize("layer", ["first", "second"])
def test_another_library(model: Small, layer: str) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model.activation = nn.ReLU()
    with library.LayerCAM(model=model, target_layers=[getattr(model, layer)]) as theirs:
        expected = theirs(images(), targets=[targets.ClassifierOutputTarget(2)] * 3)
    own = layer_cam(model, images(), layer=getattr(model, layer), classes=torch.full((3, 1), 2))
    own = normalise(upsample(normalise(own), (13, 11)))[:, 0]
    torch.testing.assert_close(own, torch.from_numpy(expected).float(), atol=1e-4, rtol=0)
