"""GSAM against the steps of the paper written out, and against plain descent where it is one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.ops.sharpness import gsam_gradient, gsam_step, perturbation, surrogate


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(11, 5, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(3, (11,), generator=generator)


def loss_of(model: nn.Module, seed: int = 0) -> Tensor:
    inputs, labels = batch(seed)
    return F.cross_entropy(model(inputs), labels)


def flat(tensors: object) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])  # type: ignore[attr-defined]


def slope_at(weights: Tensor) -> Tensor:
    """The gradient of the loss of a network whose weights are one vector."""
    model = network()
    nn.utils.vector_to_parameters(weights, model.parameters())
    loss_of(model).backward()
    return flat(parameter.grad for parameter in model.parameters())


def naive_gsam(weights: Tensor, rho: float, alpha: float, adaptive: bool) -> Tensor:
    """g'' in terms of vectors; the projection by a solved least-squares problem."""
    g = slope_at(weights)
    if adaptive:
        metric = torch.diag(weights.abs())
        e = rho * metric @ metric @ g / (metric @ g).norm()
    else:
        e = rho * g / g.norm()
    sharp = slope_at(weights + e)
    share = torch.linalg.lstsq(sharp[:, None], g[:, None]).solution
    vertical = g - sharp * share[0, 0]
    assert abs(vertical @ sharp) < 1e-10
    return sharp - alpha * vertical


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(("rho", "alpha"), [(0.01, 0.3), (0.5, 1.0), (0.5, 0.0)])
def test_step_is_the_paper_written_out(rho: float, alpha: float, adaptive: bool) -> None:
    model = network()
    before = flat(model.parameters())
    value = gsam_step(
        torch.optim.SGD(model.parameters(), lr=0.1), lambda: loss_of(model), rho=rho, alpha=alpha, adaptive=adaptive
    )
    moved = (before - flat(model.parameters())) / 0.1
    torch.testing.assert_close(moved, naive_gsam(before, rho, alpha, adaptive), rtol=1e-8, atol=1e-9)
    assert (moved - slope_at(before)).norm() > 1e-4, "the same as plain descent"
    torch.testing.assert_close(value, loss_of(network()).detach(), rtol=0, atol=0)
    assert not value.requires_grad and all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_pure_form_is_the_step(adaptive: bool) -> None:
    model = network()
    inputs, labels = batch()

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, parameters, (inputs,)), labels)

    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    found = gsam_gradient(weights, torch.func.grad(loss), rho=0.2, alpha=0.7, adaptive=adaptive)
    expected = naive_gsam(flat(weights.values()), 0.2, 0.7, adaptive)
    assert list(found) == list(weights)
    torch.testing.assert_close(flat(found.values()), expected, rtol=1e-8, atol=1e-9)


def test_many_networks_at_once_have_norms_of_their_own() -> None:
    model = network()
    inputs, labels = batch()

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, parameters, (inputs,)), labels)

    def step(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        return gsam_gradient(parameters, torch.func.grad(loss), rho=0.2, alpha=0.7)

    own = [{name: value.detach() for name, value in network(seed).named_parameters()} for seed in range(3)]
    together = torch.vmap(step)({name: torch.stack([each[name] for each in own]) for name in own[0]})
    for place, each in enumerate(own):
        for name, value in step(each).items():
            torch.testing.assert_close(together[name][place], value, rtol=1e-8, atol=1e-10)


def test_without_rho_and_alpha_it_is_plain_descent_to_the_last_bit() -> None:
    ours, plain = network().float(), network().float()
    steps = {
        model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3) for model in (ours, plain)
    }
    inputs, labels = batch()
    for _ in range(5):
        gsam_step(steps[ours], lambda: F.cross_entropy(ours(inputs.float()), labels), rho=0, alpha=0)
        steps[plain].zero_grad()
        F.cross_entropy(plain(inputs.float()), labels).backward()
        steps[plain].step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), plain.parameters(), strict=True))


def test_a_loss_that_fails_leaves_the_weights() -> None:
    model = network()
    before = [parameter.clone() for parameter in model.parameters()]
    calls = []

    def loss() -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return loss_of(model)

    with pytest.raises(RuntimeError, match="out of memory"):
        gsam_step(torch.optim.SGD(model.parameters(), lr=0.1), loss, rho=50, alpha=1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))


def test_frozen_parameters_stay() -> None:
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    gsam_step(torch.optim.SGD(model.parameters(), lr=0.1), lambda: loss_of(model), rho=0.1, alpha=1)
    assert torch.equal(model[0].weight, before) and not torch.equal(model[2].weight, network()[2].weight)


def test_perturbation_has_length_rho_and_rises_most() -> None:
    weights, g = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([0.5])}, {"a": torch.ones(2), "b": torch.ones(1)}
    plain = perturbation(weights, g, rho=0.3, adaptive=False)
    torch.testing.assert_close(flat(plain.values()), torch.full((3,), 0.3 / 3**0.5))
    adaptive = flat(perturbation(weights, g, rho=0.3).values())
    torch.testing.assert_close((adaptive / flat(weights.values())).norm(), torch.tensor(0.3))
    assert adaptive[1] > adaptive[0] > adaptive[2]


def test_a_gradient_of_zero_gives_zeros() -> None:
    zeros = {"a": torch.zeros(3)}
    assert perturbation({"a": torch.ones(3)}, zeros, rho=0.1)["a"].eq(0).all()
    assert surrogate(zeros, zeros, alpha=1.0)["a"].eq(0).all()
