"""Maps against explicit sums and gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.ops.cam import cam as cam_of
from partwise.ops.cam import class_maps, grad_cam, multi_scale, normalise, upsample


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


def test_mean_of_a_map_and_bias_is_the_logit(model: Small) -> None:
    maps = class_maps(model.features(images()), model.head.weight)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + model.head.bias, model(images()))


def test_class_maps_cell_by_cell() -> None:
    features, weight = torch.randn(2, 3, 2, 4), torch.randn(5, 3)
    maps = class_maps(features, weight)
    for b in range(2):
        for k in range(5):
            expected = sum(weight[k, d] * features[b, d] for d in range(3))
            torch.testing.assert_close(maps[b, k], expected)


def explicit_grad_cam(model: Small, pictures: Tensor, layer: str, label: int) -> Tensor:
    """One picture, one class: run the network by hand from the layer's output."""
    maps = []
    for picture in pictures[:, None]:
        first = model.first(picture)
        kept = first if layer == "first" else model.second(F.relu(model.norm(first)))
        kept = kept.detach().requires_grad_()
        rest = model.second(F.relu(model.norm(kept))) if layer == "first" else kept
        logit = model.head(rest.relu().mean(dim=(2, 3)))[0, label]
        (gradient,) = torch.autograd.grad(logit, kept)
        total = torch.zeros(kept.shape[2:])
        for d in range(kept.shape[1]):
            total += gradient[0, d].mean() * kept[0, d].detach()
        maps.append(total.clamp(min=0))
    return torch.stack(maps)


@pytest.mark.parametrize("layer", ["first", "second"])
def test_grad_cam_class_by_class(model: Small, layer: str) -> None:
    """Also behind an activation that overwrites the layer's output."""
    found = grad_cam(model, images(), layer=getattr(model, layer))
    for label in range(4):
        torch.testing.assert_close(found[:, label], explicit_grad_cam(model, images(), layer, label))


def test_grad_cam_of_the_last_map_is_cam(model: Small) -> None:
    """Behind the activation lie only pooling and weights: the same map, over the number of cells, negatives cut."""
    features = model.features(images())
    expected = class_maps(features, model.head.weight).relu() / features[0, 0].numel()
    torch.testing.assert_close(grad_cam(model, images(), layer=model.activation), expected.detach())


def test_grad_cam_of_chosen_classes(model: Small) -> None:
    every = grad_cam(model, images(), layer=model.second)
    chosen = torch.tensor([[2, 0], [1, 1], [3, 2]])
    some = grad_cam(model, images(), layer=model.second, classes=chosen)
    for row, own in enumerate(chosen.tolist()):
        torch.testing.assert_close(some[row], every[row, own])


def test_grad_cam_leaves_nothing_behind(model: Small) -> None:
    before = copy.deepcopy(model.state_dict())
    found = grad_cam(model, images(), layer=model.second)
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError):
        grad_cam(model, torch.rand(1, 7, 5, 5), layer=model.second)
    assert not any(module._forward_hooks for module in model.modules())


def test_grad_cam_under_inference_mode_and_with_frozen_weights(model: Small) -> None:
    expected = grad_cam(model, images(), layer=model.second)
    with torch.inference_mode():
        torch.testing.assert_close(grad_cam(model, images().clone(), layer=model.second), expected)
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(model, images(), layer=model.second), expected)
    model.requires_grad_(False)
    torch.testing.assert_close(grad_cam(model, images(), layer=model.second), expected)


def test_differentiable_grad_cam(model: Small) -> None:
    """Its gradient by the weights of an earlier layer, against differences; it passes through gradients."""
    model.double()
    model.activation = nn.Softplus()
    pictures = images(1).double()

    def total() -> Tensor:
        return grad_cam(model, pictures, layer=model.second, differentiable=True).square().sum()

    value = total()
    (gradient,) = torch.autograd.grad(value, model.second.weight)
    step = 1e-5 * torch.randn(model.second.weight.shape, generator=torch.Generator().manual_seed(2)).double()
    with torch.no_grad():
        model.second.weight += step
        up = total()
        model.second.weight -= 2 * step
        down = total()
    torch.testing.assert_close((up - down) / 2, (gradient * step).sum(), rtol=1e-4, atol=0)


def test_layers_that_give_no_map_are_refused(model: Small) -> None:
    with pytest.raises(ValueError, match="one map"):
        grad_cam(model, images(), layer=model.head)
    with pytest.raises(ValueError, match="0 outputs"):
        grad_cam(model, images(), layer=nn.Conv2d(3, 3, 1))

    class Detour(Small):
        def forward(self, images: Tensor) -> Tensor:
            self.second(F.relu(self.first(images)))
            return self.head(images[:, :1, 0, :5].flatten(1))

    detour = Detour().eval()
    with pytest.raises(ValueError, match="does not reach"):
        grad_cam(detour, images(), layer=detour.second)


@pytest.mark.oracle
@pytest.mark.parametrize("layer", ["first", "second"])
def test_grad_cam_of_another_library(model: Small, layer: str) -> None:
    library = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    model.activation = nn.ReLU()
    pictures = images()
    with library.GradCAM(model=model, target_layers=[getattr(model, layer)]) as theirs:
        expected = theirs(pictures, targets=[targets.ClassifierOutputTarget(2)] * 3)
    chosen = torch.full((3, 1), 2)
    own = normalise(grad_cam(model, pictures, layer=getattr(model, layer), classes=chosen))
    own = normalise(upsample(own, (13, 11)))[:, 0]
    torch.testing.assert_close(own, torch.from_numpy(expected).float(), atol=1e-4, rtol=0)


def test_normalise() -> None:
    maps = torch.stack([torch.arange(6.0).reshape(2, 3) - 2, torch.full((2, 3), 7.0)])
    expected = torch.stack([torch.arange(6.0).reshape(2, 3) / 5, torch.zeros(2, 3)])
    torch.testing.assert_close(normalise(maps), expected)
    assert normalise(torch.tensor([[0.0, float("nan")]])).isnan().any()


def naive_bilinear(map: Tensor, height: int, width: int) -> Tensor:
    """Cells are squares with their value at the centre; outside the outer centres the border's value holds."""
    rows, columns = map.shape
    out = torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            down, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = map[top, left] * (1 - (u - left)) + map[top, right] * (u - left)
            lower = map[down, left] * (1 - (u - left)) + map[down, right] * (u - left)
            out[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return out


def test_upsample_pixel_by_pixel() -> None:
    maps = torch.randn(1, 1, 3, 4)
    torch.testing.assert_close(upsample(maps, (7, 8))[0, 0], naive_bilinear(maps[0, 0], 7, 8))
    assert upsample(maps, (3, 4), mode="bicubic") is maps


def test_multi_scale_is_the_mean_of_its_views(model: Small) -> None:
    def maps(pictures: Tensor) -> Tensor:
        return class_maps(model.features(pictures), model.head.weight)

    pictures, views = images(), []
    for sides in ((13, 11), (20, 16)):
        view = F.interpolate(pictures, size=sides, mode="bilinear") if sides != (13, 11) else pictures
        views.append(F.interpolate(maps(view), size=(13, 11), mode="bilinear"))
        views.append(F.interpolate(maps(view.flip(3)).flip(3), size=(13, 11), mode="bilinear"))
    found = multi_scale(maps, pictures, scales=(1.0, 1.5))
    torch.testing.assert_close(found, torch.stack(views).mean(dim=0))
    torch.testing.assert_close(multi_scale(maps, pictures, scales=(1.0,), flip=False), views[0])


def test_flipped_average_is_blind_to_mirroring(model: Small) -> None:
    def maps(pictures: Tensor) -> Tensor:
        return class_maps(model.features(pictures), model.head.weight)

    pictures = images()
    there = multi_scale(maps, pictures, scales=(1.0, 0.8), size=(6, 6))
    back = multi_scale(maps, pictures.flip(3), scales=(1.0, 0.8), size=(6, 6)).flip(3)
    torch.testing.assert_close(there, back)
    with pytest.raises(ValueError, match="at least one scale"):
        multi_scale(maps, pictures, scales=())


def test_gradients_reach_the_pictures(model: Small) -> None:
    pictures = images().requires_grad_()
    maps = multi_scale(lambda x: class_maps(model.features(x), model.head.weight), pictures, scales=(1.0, 1.5))
    normalise(maps)[:, 1].sum().backward()
    assert pictures.grad is not None and pictures.grad.abs().sum() > 0


def test_plain_maps_of_a_timm_network_average_to_its_logits() -> None:
    import timm

    model = timm.create_model("resnet10t", num_classes=5).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = cam_of(model, images)
        assert maps.shape == (2, 5, 2, 2)
        torch.testing.assert_close(maps.mean((2, 3)) + model.get_classifier().bias, model(images))


def test_plain_maps_refuse_a_network_without_parts() -> None:
    with pytest.raises(ValueError, match="use grad_cam"):
        cam_of(nn.Conv2d(3, 4, 1), torch.rand(1, 3, 8, 8))
