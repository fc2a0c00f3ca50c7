"""Trajectory matching against loops written out, finite differences and closed forms; memory; what is drawn."""

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from partwise.ops.trajectory import (
    Match,
    draw_batches,
    draw_start,
    match_trajectory,
    network_loss,
    unaugmented,
    unpaired,
)

CLASSES = 3


class SmallNet(nn.Module):
    """Two blocks of the distillation networks: convolution, instance norm, ReLU, average pool; and a classifier."""

    def __init__(self, width: int = 8, side: int = 8) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(nn.Conv2d(3, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(inplace=True), nn.AvgPool2d(2)),
            *(
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(width, width),
                nn.ReLU(inplace=True),
                nn.AvgPool2d(2),
            ),
        )
        self.fc = nn.Linear(width * (side // 4) ** 2, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.blocks(images).flatten(1))


def tiny() -> nn.Module:
    """A smooth network of double precision: finite differences need no kinks."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4, 6), nn.Tanh(), nn.Linear(6, CLASSES)).double()


def parameters(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.named_parameters()}


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def moved(start: dict[str, Tensor], size: float = 0.1) -> dict[str, Tensor]:
    return {name: v + size * random(*v.shape, seed=i, dtype=v.dtype) for i, (name, v) in enumerate(start.items())}


def warp(images: Tensor, step: int) -> Tensor:
    """A differentiable augmentation that is another one at every step."""
    return images.roll(step, dims=-1) * (1 + 0.1 * step) + 0.05 * images**2


def flip_pair(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([images, images.flip(-1)]), torch.cat([labels, labels])


def given(steps: int = 4) -> dict[str, Any]:
    """Everything that a match needs, on the tiny network."""
    network = tiny()
    start = parameters(network)
    return {
        "start": start,
        "target": moved(start),
        "images": random(5, 2, 3, 4),
        "labels": torch.tensor([0, 1, 2, 0, 1]),
        "batches": draw_batches(5, 0, batch=2, steps=steps),
        "loss": network_loss(network),
        "beta": torch.tensor(0.3, dtype=torch.float64),
    }


def naive_step_loss(theta: dict[str, Tensor], images: list[Tensor], labels: list[int]) -> Tensor:
    """The tiny network's cross-entropy, picture by picture."""
    total = torch.zeros((), dtype=torch.float64)
    for image, label in zip(images, labels, strict=True):
        hidden = torch.tanh(theta["1.weight"] @ image.reshape(-1) + theta["1.bias"])
        logits = theta["3.weight"] @ hidden + theta["3.bias"]
        total = total + logits.exp().sum().log() - logits[label]
    return total / len(images)


def naive_match(case: dict[str, Any], *, flips: bool) -> tuple[Tensor, Tensor, Tensor]:
    """MTT's loop over named parameters, unrolled."""
    images, beta = case["images"].clone().requires_grad_(), case["beta"].clone().requires_grad_()
    theta = {name: value.clone().requires_grad_() for name, value in case["start"].items()}
    for step, batch in enumerate(case["batches"]):
        seen = [images[i] for i in batch.tolist()]
        labels = [int(case["labels"][i]) for i in batch.tolist()]
        if flips:
            seen, labels = seen + [image.flip(-1) for image in seen], labels + labels
        loss = naive_step_loss(theta, [warp(image, step) for image in seen], labels)
        slopes = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        theta = {name: value - beta * slope for (name, value), slope in zip(theta.items(), slopes, strict=True)}
    near = sum(((theta[name] - case["target"][name]) ** 2).sum() for name in theta)
    far = sum(((case["start"][name] - case["target"][name]) ** 2).sum() for name in theta)
    loss = near / far
    loss.backward()
    return loss.detach(), images.grad, beta.grad


@pytest.mark.parametrize("flips", [False, True])
def test_full_gradient_is_that_of_the_loop_written_out(flips: bool) -> None:
    case = given()
    found = match_trajectory(**case, augment=warp, pair=flip_pair if flips else unpaired)
    loss, images, beta = naive_match(case, flips=flips)
    torch.testing.assert_close(found.loss, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(found.images_grad, images, rtol=1e-6, atol=1e-10)
    torch.testing.assert_close(found.beta_grad, beta, rtol=1e-6, atol=1e-10)
    assert found.finite and images.abs().max() > 1e-3 and beta.abs() > 1e-3
    other, _, _ = naive_match(case, flips=not flips)
    assert (other - loss).abs() > 1e-4, "flips change nothing here"


class Matched(torch.autograd.Function):
    """The loss of a match with the gradients that it gives, for gradcheck."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, beta: Tensor, case: dict[str, Any]) -> Tensor:
        found = match_trajectory(**case | {"images": images, "beta": beta}, augment=warp, pair=flip_pair)
        ctx.save_for_backward(found.images_grad, found.beta_grad)
        return found.loss

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        images, beta = ctx.saved_tensors
        return slope * images, slope * beta, None


def test_full_gradient_by_finite_differences() -> None:
    case = given(steps=3)
    inputs = (case["images"].requires_grad_(), case["beta"].requires_grad_())

    def check(**options: bool) -> bool:
        return torch.autograd.gradcheck(
            lambda images, beta: Matched.apply(images, beta, case), inputs, check_undefined_grad=False, **options
        )

    assert check()
    case["grad"] = "tesla"  # an approximation: the check can fail
    assert not check(raise_exception=False, fast_mode=True)


def test_engines_agree_for_one_step() -> None:
    case = given(steps=1)
    full, tesla = (match_trajectory(**case, grad=engine, augment=warp, pair=flip_pair) for engine in ("full", "tesla"))
    for name in ("loss", "images_grad", "beta_grad"):
        torch.testing.assert_close(getattr(tesla, name), getattr(full, name), rtol=1e-10, atol=1e-12)


def naive_tesla(case: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The published expansion, its squares and products written out: (dL/dS, G)."""

    def slope(theta: Tensor, images: Tensor, step: int, graph: bool) -> Tensor:
        named, at = {}, 0
        for name, value in case["start"].items():
            named[name] = theta[at : at + value.numel()].reshape(value.shape)
            at += value.numel()
        batch = case["batches"][step].tolist()
        labels = [int(case["labels"][i]) for i in batch]
        loss = naive_step_loss(named, [warp(images[i], step) for i in batch], labels)
        return torch.autograd.grad(loss, theta, create_graph=graph)[0]

    start, target = (torch.cat([v.reshape(-1) for v in case[end].values()]) for end in ("start", "target"))
    beta, thetas, slopes = case["beta"], [start.clone()], []
    for step in range(len(case["batches"])):
        slopes.append(slope(thetas[-1].requires_grad_(), case["images"], step, False))
        thetas.append(thetas[-1].detach() - beta * slopes[-1])
    total = torch.stack(slopes).sum(dim=0)
    images = case["images"].clone().requires_grad_()
    for step, theta in enumerate(thetas[:-1]):
        own = slope(theta.requires_grad_(), images, step, True)
        others = total - slopes[step]
        part = beta**2 * (own @ own) + 2 * beta * own @ (beta * others - start + target)
        (part / ((start - target) ** 2).sum()).backward()
    return images.grad, total


def test_tesla_is_its_published_expansion() -> None:
    case = given(steps=6)
    found = match_trajectory(**case, grad="tesla", augment=warp)
    images, total = naive_tesla(case)
    torch.testing.assert_close(found.images_grad, images, rtol=1e-6, atol=1e-10)
    start, target = (torch.cat([v.reshape(-1) for v in case[end].values()]) for end in ("start", "target"))

    def loss(beta: Tensor) -> Tensor:
        return ((start - beta * total - target) ** 2).sum() / ((start - target) ** 2).sum()

    beta, width = case["beta"], 1e-6
    torch.testing.assert_close(found.loss, loss(beta), rtol=1e-10, atol=0)
    differences = (loss(beta + width) - loss(beta - width)) / (2 * width)
    torch.testing.assert_close(found.beta_grad, differences, rtol=1e-6, atol=0)


def convnet_case(steps: int, side: int = 8, width: int = 8) -> dict[str, Any]:
    """A ConvNet with an expert that trained on other pictures of the same classes."""
    torch.manual_seed(0)
    network = SmallNet(width, side)
    start = parameters(network)
    labels = torch.arange(CLASSES).repeat(2)
    prototypes = random(CLASSES, 3, side, side, dtype=torch.float32)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02)
    for step in range(20):
        real = prototypes.repeat(10, 1, 1, 1) + random(10 * CLASSES, 3, side, side, seed=step, dtype=torch.float32)
        F.cross_entropy(network(real), torch.arange(CLASSES).repeat(10)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {
        "start": start,
        "target": parameters(network),
        "images": prototypes.repeat(2, 1, 1, 1) + random(2 * CLASSES, 3, side, side, seed=99, dtype=torch.float32),
        "labels": labels,
        "batches": draw_batches(2 * CLASSES, 0, batch=CLASSES, steps=steps),
        "loss": network_loss(network),
        "beta": torch.tensor(0.02),
    }


def test_engines_point_the_same_way_after_twenty_steps() -> None:
    case = convnet_case(steps=20)
    full, tesla = (match_trajectory(**case, grad=engine, pair=flip_pair) for engine in ("full", "tesla"))
    torch.testing.assert_close(tesla.loss, full.loss, rtol=1e-4, atol=0)
    cosine = F.cosine_similarity(tesla.images_grad.flatten(), full.images_grad.flatten(), dim=0)
    assert 0.9 < cosine < 0.99999
    ratio = tesla.images_grad.norm() / full.images_grad.norm()
    assert 0.8 < ratio < 1.25, "a factor of 2 is missing"


class LivingBytes(TorchDispatchMode):
    """Bytes of all tensors that operations made and that still live, and the most there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.living = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            if isinstance(output, Tensor):
                self._count(output.untyped_storage())
        return outputs

    def _count(self, storage: torch.UntypedStorage) -> None:
        place, size = storage._cdata, storage.nbytes()
        if place not in self.known:
            self.known.add(place)
            self.living += size
            self.peak = max(self.peak, self.living)
            weakref.finalize(storage, self._forget, place, size)

    def _forget(self, place: int, size: int) -> None:
        self.known.discard(place)
        self.living -= size


def peak(engine: str, steps: int) -> int:
    case = convnet_case(steps)
    with LivingBytes() as memory:
        match_trajectory(**case, grad=engine, pair=flip_pair)  # type: ignore[arg-type]
    return memory.peak


def test_memory_of_tesla_does_not_depend_on_the_number_of_steps() -> None:
    assert peak("tesla", 50) <= 1.2 * peak("tesla", 5)
    assert peak("full", 15) > 2 * peak("full", 5), "the measure sees nothing"


def test_augmentations_are_replayed_step_by_step() -> None:
    for engine, times in (("full", 1), ("tesla", 2)):
        seen: list[int] = []

        def note(images: Tensor, step: int, seen: list[int] = seen) -> Tensor:
            assert len(images) in (2, 4), "the flips come before the augmentation"
            seen.append(step)
            return warp(images, step)

        match_trajectory(**given(), grad=engine, augment=note, pair=flip_pair)  # type: ignore[arg-type]
        assert seen == list(range(4)) * times


@pytest.mark.parametrize("engine", ["full", "tesla"])
def test_flipping_pictures_changes_no_loss_with_their_flips_beside_them(engine: Any) -> None:
    """Any subset may be stored flipped; its gradient is then the flipped one."""
    case = given()
    plain = match_trajectory(**case, grad=engine, pair=flip_pair)
    turned = case["images"].clone()
    turned[[0, 3]] = turned[[0, 3]].flip(-1)
    other = match_trajectory(**case | {"images": turned}, grad=engine, pair=flip_pair)
    torch.testing.assert_close(other.loss, plain.loss)
    expected = plain.images_grad.clone()
    expected[[0, 3]] = expected[[0, 3]].flip(-1)
    torch.testing.assert_close(other.images_grad, expected)


@pytest.mark.parametrize("engine", ["full", "tesla"])
def test_symmetric_pictures_need_no_flips(engine: Any) -> None:
    case = given()
    case["images"] = case["images"] + case["images"].flip(-1)
    plain, paired = (match_trajectory(**case, grad=engine, pair=pair) for pair in (unpaired, flip_pair))
    torch.testing.assert_close(plain.loss, paired.loss)
    symmetric = (plain.images_grad + plain.images_grad.flip(-1)) / 2
    torch.testing.assert_close(paired.images_grad, symmetric)


@pytest.mark.parametrize("engine", ["full", "tesla"])
def test_what_is_given_stays_as_it_is(engine: Any) -> None:
    case = given()
    before = {name: case[name].clone() for name in ("images", "beta", "labels")}
    ends = {end: {name: value.clone() for name, value in case[end].items()} for end in ("start", "target")}
    case["images"].requires_grad_()
    with torch.no_grad():
        found = match_trajectory(**case, grad=engine)
    assert case["images"].grad is None and case["images"].requires_grad and not case["beta"].requires_grad
    for name, value in before.items():
        assert torch.equal(case[name], value)
    for end, own in ends.items():
        assert all(
            torch.equal(case[end][name], value) and not case[end][name].requires_grad for name, value in own.items()
        )
    assert not any(getattr(found, name).requires_grad for name in Match.__dataclass_fields__)


@pytest.mark.parametrize("engine", ["full", "tesla"])
def test_names_may_come_in_any_order(engine: Any) -> None:
    case = given()
    expected = match_trajectory(**case, grad=engine)
    case["target"] = dict(reversed(list(case["target"].items())))
    found = match_trajectory(**case, grad=engine)
    assert torch.equal(found.images_grad, expected.images_grad) and torch.equal(found.loss, expected.loss)


@pytest.mark.parametrize("engine", ["full", "tesla"])
def test_what_is_not_finite_is_told(engine: Any) -> None:
    case = given()
    assert match_trajectory(**case, grad=engine).finite.dtype == torch.bool
    assert not match_trajectory(**case | {"target": case["start"]}, grad=engine).finite
    assert not match_trajectory(**case | {"beta": torch.tensor(1e308, dtype=torch.float64)}, grad=engine).finite
    spoiled = case["images"].clone()
    spoiled[int(case["batches"][0][0])] = float("nan")
    assert not match_trajectory(**case | {"images": spoiled}, grad=engine).finite


def test_labels_may_be_probabilities() -> None:
    case = given()
    hard = match_trajectory(**case, augment=unaugmented)
    soft = match_trajectory(**case | {"labels": F.one_hot(case["labels"], CLASSES).double()})
    torch.testing.assert_close(soft.images_grad, hard.images_grad)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grad": "half"}, "'full' or 'tesla'"),
        ({"batches": []}, "0 batches"),
        ({"beta": torch.ones(1)}, "a scalar"),
        ({"target": {"1.weight": torch.ones(6, 24)}}, "differ in 1.bias, 3.weight, 3.bias"),
        ({"target": {"more": torch.ones(1)}}, "not of one network"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_trajectory(**given() | change)


def test_batches_are_pieces_of_permutations() -> None:
    drawn = draw_batches(5, 7, "student", batch=2, steps=8)
    assert [len(batch) for batch in drawn] == [2, 2, 1, 2, 2, 1, 2, 2]
    passes = [torch.cat(drawn[i : i + 3]).tolist() for i in (0, 3)]
    assert all(sorted(own) == list(range(5)) for own in passes) and passes[0] != passes[1]
    assert all(torch.equal(a, b) for a, b in zip(drawn, draw_batches(5, 7, "student", batch=2, steps=8), strict=True))
    assert torch.cat(draw_batches(5, 8, "student", batch=2, steps=3)).tolist() != passes[0]
    assert [len(batch) for batch in draw_batches(5, 7, batch=9, steps=2)] == [5, 5]
    with pytest.raises(ValueError, match="at least 1"):
        draw_batches(5, 7, batch=0, steps=2)


def test_starts_take_every_expert_in_turn() -> None:
    drawn = [draw_start(i, 3, num_experts=4, min_start=2, max_start=7) for i in range(400)]
    for first in range(0, 400, 4):
        assert sorted(expert for expert, _ in drawn[first : first + 4]) == [0, 1, 2, 3]
    assert len({tuple(expert for expert, _ in drawn[first : first + 4]) for first in range(0, 400, 4)}) > 10
    counts = [sum(epoch == t for _, epoch in drawn) for t in range(2, 7)]
    assert sum(counts) == 400 and min(counts) > 50
    assert drawn[17] == draw_start(17, 3, num_experts=4, min_start=2, max_start=7)
    for wrong in ({"num_experts": 0, "max_start": 2}, {"num_experts": 1, "max_start": 0}):
        with pytest.raises(ValueError, match="none to draw from"):
            draw_start(0, 0, **wrong)
