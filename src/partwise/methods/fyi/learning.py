"""What every matching shares: the pictures as what is trained, fresh networks, and classes shared out over processes."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from partwise.data.loading import PictureData
from partwise.data.siamese import AugmentDraws, draw_per_class
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer
from partwise.engine.stages import Losses, Plan, Products, TrainStage
from partwise.evaluate.fresh_networks import flip_rule, fresh_network
from partwise.methods.fyi.real import RealClasses
from partwise.models.distillation import FlatClassifier
from partwise.ops import draws
from partwise.ops.flips import flip_pairs

if TYPE_CHECKING:
    from partwise.methods.fyi.method import FyiMethod


AT_ONCE = 32
"""Pictures that pass a network together on a CPU: the maps of so few stay in its caches."""
Function = TypeVar("Function", bound=Callable[..., Any])


@lru_cache(maxsize=1)
def compiler_works() -> bool:
    """Whether torch.compile can build something on this machine."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2))
    except Exception:  # whatever a missing or broken compiler makes of it
        return False
    return True


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a network's answer to one picture depends on others."""
    return any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


class Distil(TrainStage):
    """The pictures learn, step by step; a matching says by what loss.

    A step of several processes: each matches its own classes, and the gradients of the pictures are added up.
    """

    name = "distil"
    strategy = "manual"
    convention: ClassVar[str] = "dsa"

    def __init__(self, method: FyiMethod, data: PictureData, job: Job) -> None:
        self.method, self.data, self.job = method, data, job
        self.recipe, self.fields = method.recipe, method.fields
        self.set = method.set
        self.seed = self.recipe.train.seed
        self.num_classes = len(method.classes)
        self.real = RealClasses(data, self.set)
        self._network: FlatClassifier | None = None
        share = job.runtime.share
        first, last = (self.num_classes * rank // share.world for rank in (share.rank, share.rank + 1))
        self.own = range(first, last)
        # FYI's code draws a flip wherever it augments; DC does not augment.
        augments = self.fields.strategy not in ("", "none")
        flip = self.fields.distil == "flip" or (self.fields.distil == "fyi" and augments and self.convention == "dsa")
        self.rule = flip_rule(self.convention, self.fields.strategy, flip=flip)
        self.steps, self.ema = self.fields.iterations, self.recipe.train.ema
        self.batch_size = self.fields.real_batch * self.num_classes
        self.steps_per_epoch = max(1, round(sum(map(len, self.real.places)) / self.batch_size))

    def prepare(self, products: Products) -> None:
        self.method.in_progress = True
        self.method.begin(self.data)

    def restore(self, products: Products) -> None:
        super().restore(products)
        self.method.in_progress = False

    def networks(self) -> dict[str, nn.Module]:
        return {"set": self.set}

    def plans(self) -> dict[str, Plan]:
        optim = self.recipe.optim
        groups = [{"params": [self.set.images], "lr": optim.lr, "weight_decay": optim.weight_decay}]
        return {"pictures": Plan(build_optimizer(groups, optim), optim)}

    def step(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        losses = self.match(step, optimizers)
        return losses

    @abstractmethod
    def match(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        """One iteration: gradients of the pictures, and their steps by `apply`."""

    # -- parts of an iteration -------------------------------------------------------------------------------------------

    def fresh(self, step: int) -> FlatClassifier:
        """The network of an iteration, with the random weights that belong to it: always one module, which is filled anew."""
        drawn = fresh_network(
            self.recipe.model.backbone,
            self.recipe.model.arguments,
            num_classes=self.num_classes,
            size=self.recipe.data.size,
            channels=self.method.facts.channels,
            seed=draws.derive(self.seed, self.name, "network", step),
        )
        if self._network is None:
            self._network = copy.deepcopy(drawn).to(self.job.runtime.device).to(memory_format=self.layout)
        self._network.load_state_dict(drawn.state_dict())
        return self._network

    @property
    def layout(self) -> torch.memory_format:
        """How pictures and weights lie in memory while they are matched."""
        return torch.channels_last if self.recipe.train.channels_last else torch.contiguous_format

    def pieces(self, images: Tensor) -> list[Tensor]:
        """Pictures `(B, ch, S, S)` in the layout of the network, and on a CPU a few at a time."""
        laid_out = images.contiguous(memory_format=self.layout)
        return list(laid_out.split(AT_ONCE)) if laid_out.device.type == "cpu" else [laid_out]

    def compiled(self, function: Function) -> Function:
        """`function`, compiled where `train.compile` asks for it and there is a compiler; said once where there is none."""
        if not self.recipe.train.compile:
            return function
        if not compiler_works():
            self.job.progress.say(
                "train.compile: there is no working compiler here; the same is computed without, slower"
            )
            return function
        return cast(Function, torch.compile(function, dynamic=False))

    def synthetic(self, rows: slice = slice(None)) -> Tensor:
        """The pictures of (some of) this process's classes `(C, n, ch, S, S)`, with FYI followed by their mirror images."""
        images = self.set.by_class()[self.own.start : self.own.stop][rows]
        return flip_pairs(images, dim=1) if self.fields.distil == "fyi" else images

    def draw(self, *key: str | int) -> AugmentDraws:
        """The siamese augmentation of this process's classes: one row a class, drawn for all classes."""
        every = draw_per_class(self.rule, self.num_classes, draws.generator(self.seed, self.name, "augment", *key))
        return every.slice(self.own.start, self.own.stop)

    def drawn_real(self, *key: str | int) -> Tensor:
        """Real pictures `(C, n, ch, S, S)` of this process's classes, as networks see them."""
        return self.real.seen(self.real.draw(self.fields.real_batch, self.own, self.seed, self.name, "real", *key))

    def apply(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        """Add the gradients of all processes and move the pictures; the loss of all classes."""
        loss = loss.detach()
        if self.job.runtime.share.world > 1:
            loss = loss.clone()
            assert self.set.images.grad is not None
            dist.all_reduce(self.set.images.grad)
            dist.all_reduce(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss
