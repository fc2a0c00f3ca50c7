"""Gradients of classes at once: three ways against plain training steps, class by class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.models.distillation import FlatClassifier, build_flat_classifier
from partwise.ops.matching import gradient_distance
from partwise.ops.per_class import LayerChain, class_features, class_gradients

CHAINS: dict[str, tuple[str, dict[str, Any]]] = {
    "instance": ("convnet", {"depth": 2, "width": 8}),
    "no norm, max": ("convnet", {"depth": 2, "width": 8, "norm": "none", "pooling": "max"}),
    "group, leaky": ("convnet", {"depth": 2, "width": 8, "norm": "group", "activation": "leaky_relu"}),
    "layer, swish": ("convnet", {"depth": 1, "width": 6, "norm": "layer", "activation": "swish", "pooling": "none"}),
    "mlp": ("mlp", {"width": 7}),
    "lenet": ("lenet", {}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet10", {}),
    "batch norm": ("convnet", {"depth": 1, "width": 4, "norm": "batch"}),
}
WAYS = [(name, how) for name in CHAINS for how in ("loop", "grouped", "vmap")]
WAYS += [(name, how) for name in OTHERS for how in ("loop", "vmap")]


def build(name: str, *, size: int = 16, dtype: torch.dtype = torch.float32) -> FlatClassifier:
    architecture, arguments = {**CHAINS, **OTHERS}[name]
    torch.manual_seed(0)
    network = build_flat_classifier(architecture=architecture, num_classes=4, size=size, arguments=arguments)
    return network.to(dtype).eval()


def batch(*, size: int = 16, soft: bool = False, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(3, 5, 3, size, size, generator=generator, dtype=dtype)
    if soft:
        return images, torch.randn(3, 5, 4, generator=generator, dtype=dtype).softmax(-1)
    return images, torch.randint(4, (3, 5), generator=generator)


def naive_gradients(network: nn.Module, images: Tensor, targets: Tensor) -> list[list[Tensor]]:
    """One ordinary backward pass a class, through torch's own loss; parameter by parameter."""
    found = []
    for own, truth in zip(images, targets, strict=True):
        network.zero_grad()
        F.cross_entropy(network(own), truth).backward()
        found.append([parameter.grad.clone() for parameter in network.parameters()])
    network.zero_grad()
    return found


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(("name", "how"), WAYS)
def test_gradients_are_those_of_plain_backward_passes(name: str, how: str, soft: bool) -> None:
    network, (images, targets) = build(name), batch(soft=soft)
    found = class_gradients(network, images, targets, how=how, create_graph=False)
    expected = naive_gradients(network, images, targets)
    assert len(found) == len(list(network.parameters()))
    for place, gradient in enumerate(found):
        assert not gradient.requires_grad
        for number in range(3):
            torch.testing.assert_close(gradient[number], expected[number][place], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "how"), WAYS)
def test_differentiating_through_them_agrees(name: str, how: str) -> None:
    """The gradient of DC's distance with respect to the pictures, in float64, against one graph a class."""
    network = build(name, dtype=torch.float64)
    images, targets = batch(dtype=torch.float64)
    real = class_gradients(network, images.flip(0) + 0.3, targets, how="loop", create_graph=False)
    images.requires_grad_()
    distances = gradient_distance(class_gradients(network, images, targets, how=how), real, classes=True)
    (found,) = torch.autograd.grad(distances.sum(), images)
    for number in range(3):
        own = images[number].detach().requires_grad_()
        loss = F.cross_entropy(network(own), targets[number])
        gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
        distance = gradient_distance(gradients, [g[number] for g in real])
        torch.testing.assert_close(distances[number], distance)
        torch.testing.assert_close(found[number], torch.autograd.grad(distance, own)[0])
    assert found.abs().sum() > 0


@pytest.mark.parametrize("how", ["loop", "grouped", "vmap"])
def test_second_derivatives_are_those_of_finite_differences(how: str) -> None:
    torch.manual_seed(0)
    arguments = {"depth": 1, "width": 2, "activation": "swish"}
    network = build_flat_classifier(architecture="convnet", num_classes=3, size=4, arguments=arguments).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(2, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)

    def of(images: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
        return tuple(class_gradients(network, images, shares, how=how))

    assert torch.autograd.gradcheck(of, (images, shares))


@pytest.mark.parametrize("how", ["loop", "grouped", "vmap"])
def test_the_network_is_left_alone(how: str) -> None:
    network, (images, targets) = build("instance"), batch()
    network.requires_grad_(False)  # frozen networks have gradients all the same
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images.requires_grad_()
    with torch.no_grad():
        plain = class_gradients(network, images, targets, how=how, create_graph=False)
    assert not any(gradient.requires_grad for gradient in plain)
    kept = class_gradients(network, images, targets, how=how)
    sum(gradient.square().sum() for gradient in kept).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is None and not parameter.requires_grad and torch.equal(parameter, before[name])
    for one, other in zip(plain, kept, strict=True):
        torch.testing.assert_close(one, other)


def test_batch_norm_in_training_mode_is_the_loops() -> None:
    network, (images, targets) = build("batch norm").train(), batch()
    found = class_gradients(network, images, targets, how="loop", create_graph=False)
    other = build("batch norm").train()
    expected = naive_gradients(other, images, targets)
    for place, gradient in enumerate(found):
        for number in range(3):
            torch.testing.assert_close(gradient[number], expected[number][place], rtol=1e-5, atol=1e-5)
    for one, two in zip(network.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, two)


def test_features_class_by_class() -> None:
    network, (images, _) = build("instance"), batch()
    found = class_features(network.embed, images)
    assert found.shape == (3, 5, network.num_features)
    for number in range(3):
        torch.testing.assert_close(found[number], network.embed(images[number]), rtol=1e-5, atol=1e-5)


def test_the_chain_runs_in_its_order() -> None:
    for name in CHAINS:
        network = build(name)
        assert isinstance(network, LayerChain)
        x = images = batch()[0][0]
        for _, layer in network.chain():
            x = layer(x.flatten(1) if layer is network.fc else x)
        torch.testing.assert_close(x, network(images))
        held = {f"{prefix}.{key}" for prefix, layer in network.chain() for key, _ in layer.named_parameters()}
        assert held == {key for key, _ in network.named_parameters()}


def mistake(name: str, how: str, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> str:
    images, targets = batch()
    with pytest.raises(ValueError) as caught:
        class_gradients(build(name), *(change(images, targets) if change else (images, targets)), how=how)
    return str(caught.value)


def test_mistakes_are_answered() -> None:
    assert "how 'groups': expected one of loop, grouped, vmap" in mistake("instance", "groups")
    assert "SmallResNet is no chain of layers" in mistake("resnet", "grouped")
    assert "layer body.stages.0.1 is a BatchNorm2d" in mistake("batch norm", "grouped")
    assert "expected (C, n, ch, h, w)" in mistake("instance", "loop", lambda x, y: (x[0], y[0]))
    assert "expected (C, n, ch, h, w)" in mistake("instance", "loop", lambda x, y: (x, y[:, :4]))
    with pytest.raises(ValueError, match="Linear is no chain of layers"):
        class_gradients(nn.Linear(2, 2), *batch(), how="grouped")
