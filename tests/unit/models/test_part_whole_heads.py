"""Heads of Adam-v2 and Adam-v1 against plain NumPy and torch's own weight norm, their sizes, starts and gradients."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from partwise.models.part_whole_heads import ComposeHead, ContrastHead, DecomposeHead, DinoHead
from partwise.ops.part_whole import composition_loss, decomposition_loss, self_distillation, update_centre

SMALL: dict[str, Any] = {"num_features": 6, "num_prototypes": 11, "hidden": 9, "bottleneck": 5}


def dino(**options: Any) -> DinoHead:
    torch.manual_seed(0)
    return DinoHead(**SMALL | options)


def shapes(network: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in network.parameters()]


def layer(x: np.ndarray, linear: nn.Module) -> np.ndarray:
    assert isinstance(linear, nn.Linear)
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    return np.array([[bias[o] + sum(weight[o] * row) for o in range(len(bias))] for row in x])


def gelu(x: np.ndarray) -> np.ndarray:
    return np.vectorize(lambda value: value * 0.5 * (1 + math.erf(value / math.sqrt(2))))(x)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).sum(axis=-1, keepdims=True))


def numbers(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def embed(array: np.ndarray) -> Tensor:
    return torch.tensor(array, dtype=torch.float32)


# -- the localizability head ---------------------------------------------------------------------------------------------


def loud(head: DinoHead) -> DinoHead:
    """Weights large enough that every layer matters."""
    for parameter in head.mlp.parameters():
        nn.init.normal_(parameter)
    return head


@pytest.mark.parametrize("batch", [1, 3])
def test_dino_head_is_the_naive_one(batch: int) -> None:
    head, x = loud(dino()), numbers(batch, 6)
    y = layer(gelu(layer(gelu(layer(x, head.mlp[0])), head.mlp[2])), head.mlp[4])
    expected = unit(y) @ unit(head.prototypes.detach().double().numpy()).T
    np.testing.assert_allclose(head(embed(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_prototypes_are_a_weight_normalised_layer_with_a_gain_of_one() -> None:
    head = loud(dino()).double()
    layer = weight_norm(nn.Linear(5, 11, bias=False).double())
    gain, direction = layer.parametrizations["weight"].original0, layer.parametrizations["weight"].original1
    with torch.no_grad():
        gain.fill_(1)
        direction.copy_(head.prototypes)
    gain.requires_grad_(False)
    x = torch.randn(4, 6, dtype=torch.float64)
    ours, theirs = head(x), layer(F.normalize(head.mlp(x), dim=-1))
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    for parameter, other in [(head.prototypes, direction), (head.mlp[0].weight, head.mlp[0].weight)]:
        first = torch.autograd.grad((ours * weight).sum(), parameter, retain_graph=True)[0]
        torch.testing.assert_close(first, torch.autograd.grad((theirs * weight).sum(), other, retain_graph=True)[0])
        assert first.abs().sum() > 0


def test_answers_stay_cosines_while_learning() -> None:
    head = loud(dino())
    assert set(dict(head.named_parameters())) == {
        "prototypes",
        *(f"mlp.{i}.{n}" for i in (0, 2, 4) for n in ("weight", "bias")),
    }
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=0.4)
    x = torch.randn(16, 6)
    for _ in range(5):
        optimizer.zero_grad()
        head(x).square().mean().neg().backward()
        optimizer.step()
    assert head(x).abs().max() <= 1 + 1e-6
    with torch.no_grad():
        before = head(x)
        head.prototypes *= torch.rand(11, 1) + 0.5
    torch.testing.assert_close(head(x), before)


def test_the_published_size() -> None:
    with torch.device("meta"):
        head = DinoHead(num_features=2048)
    expected = [(2048, 2048), (2048,), (2048, 2048), (2048,), (256, 2048), (256,)]
    assert shapes(head.mlp) == expected and tuple(head.prototypes.shape) == (65_536, 256)
    assert not [module for module in head.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def test_how_a_dino_head_starts() -> None:
    head = dino(num_features=64, hidden=256, bottleneck=64, num_prototypes=512)
    for linear in (head.mlp[0], head.mlp[2], head.mlp[4]):
        assert linear.bias.eq(0).all()
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
    bound = 1 / math.sqrt(64)
    assert bound * 0.99 < head.prototypes.abs().max() <= bound
    assert head.prototypes.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_a_fresh_student_that_equals_its_teacher() -> None:
    """ln K + .2 - .96 cos on pictures whose features have that cosine: 10.33 on the same, more on others."""
    head = dino(num_features=32, hidden=64, bottleneck=256, num_prototypes=65_536)
    embeddings = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, features = head(embeddings), F.normalize(head.mlp(embeddings), dim=1)
    found = []
    for shift in (0, 1, 3):
        loss = self_distillation(logits[None], logits.roll(shift, 0)[None], torch.zeros(65_536), skip_same=False)
        cosine = (features * features.roll(shift, 0)).sum(1).mean().item()
        found.append(loss.item())
        assert loss.item() == pytest.approx(math.log(65_536) + 0.2 - 0.96 * cosine, abs=0.08)
    assert found[0] == pytest.approx(10.33, abs=0.08) and found[0] < min(found[1:]) - 0.3


def test_views_of_any_shape() -> None:
    head, views = dino(), torch.randn(3, 2, 6)
    together = head(views)
    assert together.shape == (3, 2, 11)
    torch.testing.assert_close(together.flatten(0, 1), head(views.flatten(0, 1)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cosines_are_float32_whatever_the_layers_compute_in(dtype: torch.dtype) -> None:
    head, x = loud(dino()), torch.randn(4, 6)
    with torch.autocast("cpu", dtype):
        inner, logits = head.mlp(x), head(x)
    assert inner.dtype == dtype and logits.dtype == torch.float32
    directions, prototypes = F.normalize(inner.float(), dim=-1), F.normalize(head.prototypes, dim=-1)
    torch.testing.assert_close(logits, directions @ prototypes.T)
    contrast = ContrastHead(num_features=6, hidden=8, out=4)
    with torch.autocast("cpu", dtype):
        vectors = contrast(x)
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    assert head.to(dtype)(x.to(dtype)).dtype == torch.float32


# -- heads for parts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("num_parts", [4, 1])
def test_compose_head_is_the_naive_one(num_parts: int, batch: int) -> None:
    torch.manual_seed(0)
    head, parts = ComposeHead(num_features=6, num_parts=num_parts), numbers(batch, num_parts, 6)
    side_by_side = np.stack([np.concatenate(list(sample)) for sample in parts])
    expected = layer(np.maximum(layer(side_by_side, head.mlp[0]), 0), head.mlp[2])
    found = head(embed(parts))
    assert found.shape == (batch, 6)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("num_parts", [4, 1])
def test_decompose_head_is_the_naive_one(num_parts: int, batch: int) -> None:
    torch.manual_seed(0)
    head, whole = DecomposeHead(num_features=6, num_parts=num_parts), numbers(batch, 6)
    expected = layer(np.maximum(layer(whole, head.mlp[0]), 0), head.mlp[2])
    found = head(embed(whole)).detach().numpy()
    assert found.shape == (batch, num_parts, 6)
    for part in range(num_parts):
        np.testing.assert_allclose(found[:, part], expected[:, part * 6 : part * 6 + 6], rtol=1e-4, atol=1e-6)


def test_sizes_of_the_heads_for_parts() -> None:
    with torch.device("meta"):
        compose, decompose = ComposeHead(num_features=2048), DecomposeHead(num_features=2048)
        contrast = ContrastHead(num_features=2048)
    assert shapes(compose) == [(2048, 8192), (2048,), (2048, 2048), (2048,)]
    assert shapes(decompose) == [(2048, 2048), (2048,), (8192, 2048), (8192,)]
    assert shapes(contrast) == [(2048, 2048), (2048,), (128, 2048), (128,)]


def test_heads_for_parts_start_as_torchs_layers() -> None:
    torch.manual_seed(3)
    head = DecomposeHead(num_features=6)
    torch.manual_seed(3)
    for ours, theirs in ((head.mlp[0], nn.Linear(6, 6)), (head.mlp[2], nn.Linear(6, 24))):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_parts_in_another_order_compose_another_whole() -> None:
    torch.manual_seed(0)
    head, parts = ComposeHead(num_features=6), torch.randn(2, 4, 6)
    target = head(parts).detach()
    for order in ([1, 0, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3]):
        assert composition_loss(head(parts[:, order]), target) > 1e-3
    assert composition_loss(head(parts), target) < 1e-12


@pytest.mark.parametrize("shape", [(2, 3, 6), (2, 24), (2, 6, 4), (4, 6)])
def test_another_number_of_parts_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 4, 6\)"):
        ComposeHead(num_features=6)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        (DinoHead, {"num_features": 0}, "num_features"),
        (DinoHead, {"num_features": 6, "num_prototypes": -1}, "num_prototypes"),
        (ComposeHead, {"num_features": 6, "num_parts": 0}, "num_parts"),
        (DecomposeHead, {"num_features": 10**9}, "num_features"),
        (ContrastHead, {"num_features": 6, "out": "many"}, "out"),
    ],
)
def test_sizes_that_mean_nothing_are_refused(head: type[nn.Module], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        head(**options)


def test_contrast_head_is_the_naive_one() -> None:
    torch.manual_seed(0)
    head, x = ContrastHead(num_features=6, hidden=8, out=4), numbers(3, 6)
    expected = unit(layer(np.maximum(layer(x, head.mlp[0]), 0), head.mlp[2]))
    np.testing.assert_allclose(head(embed(x)).detach().numpy(), expected, rtol=1e-4, atol=1e-6)


# -- a step of the second phase ------------------------------------------------------------------------------------------


class Student(nn.Module):
    """All that learns, on embeddings of 8 numbers in place of pictures."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(8, 6)
        self.local = loud(dino())
        self.compose, self.decompose = ComposeHead(num_features=6), DecomposeHead(num_features=6)


def second_phase(student: Student, teacher: Student, weights: tuple[float, float, float]) -> Tensor:
    """The loss of three pictures: an anchor, nine views of it and its four parts."""
    generator = torch.Generator().manual_seed(7)
    whole, views, parts = (torch.randn(*shape, 8, generator=generator) for shape in ((3,), (9, 3), (3, 4)))
    target = teacher.encoder(whole)
    logits = teacher.local(target)[None]
    centre = update_centre(torch.zeros(11), logits)
    local = self_distillation(student.local(student.encoder(views)), logits, centre, skip_same=False)
    composed = composition_loss(student.compose(student.encoder(parts)), target)
    decomposed = decomposition_loss(student.decompose(student.encoder(whole)), teacher.encoder(parts))
    return weights[0] * local + weights[1] * composed + weights[2] * decomposed


def test_gradients_of_the_second_phase() -> None:
    student = Student()
    teacher = copy.deepcopy(student)
    second_phase(student, teacher, (1, 1, 1)).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(("left_out", "branch"), [(0, "local"), (1, "compose"), (2, "decompose")])
def test_a_weight_of_zero_takes_its_branch_out(left_out: int, branch: str) -> None:
    student = Student()
    weights = [1.0, 1.0, 1.0]
    weights[left_out] = 0.0
    second_phase(student, copy.deepcopy(student), (weights[0], weights[1], weights[2])).backward()
    for name, parameter in student.named_parameters():
        silent = parameter.grad is None or bool(parameter.grad.eq(0).all())
        assert silent == name.startswith(f"{branch}."), name


def test_the_loss_falls_along_its_gradient() -> None:
    student = Student()
    teacher = copy.deepcopy(student)
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = second_phase(student, teacher, (1, 1, 1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
