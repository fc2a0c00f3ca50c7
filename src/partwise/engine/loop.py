"""The shared loop: runs stages in turn, each resumed where it was, and leaves their products.

Every random number is a function of counters, so the state of a stage is its tensors and a step; a run that was killed and
started again computes what an undisturbed one does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.sample import Batch
from partwise.engine.checkpoint import State, read_state, write_state
from partwise.engine.optim import set_rate
from partwise.engine.runtime import Runtime
from partwise.engine.stages import ComputeStage, Plan, Products, Stage, TrainStage
from partwise.engine.tracking import Progress, Tracker
from partwise.models.averaging import ModuleAverage, exchange
from partwise.models.batchnorm import synchronise_batchnorm
from partwise.ops import draws
from partwise.report.wording import lower_is_better
from partwise.run import RunFolder, write_atomically

Evaluate = Callable[[], dict[str, float]]
"""Measures the networks as they are on the validation split: `suite/metric` -> value."""


class Interrupted(Exception):
    """SIGINT or SIGTERM: the state was saved, the same command continues."""


class NonFiniteLoss(Exception):
    """A loss was NaN or infinite; the message names step and file, for the person who looks for the reason."""


@dataclass
class Job:
    """What the loop and the stages of one run share."""

    recipe: Recipe
    folder: RunFolder
    runtime: Runtime
    progress: Progress
    tracker: Tracker
    evaluate: Evaluate | None = None
    reports: list[dict[str, Any]] = field(default_factory=list)

    @property
    def products(self) -> Products:
        return Products(self.folder.products)


def run_stages(stages: Sequence[Stage], job: Job) -> list[dict[str, Any]]:
    """Run, continue or restore each stage; returns what `summary.json` says of them."""
    for stage in stages:
        if job.products.complete(stage.name):
            stage.restore(job.products)
            if isinstance(stage, TrainStage):
                _place_networks(stage, job)  # measured in the layout it was trained in: the same sums in the same order
            facts = job.products.facts(stage.name)
            # Only behind the last one: what a later stage has logged so far is cut back to its own checkpoint.
            if job.runtime.leads and stage is stages[-1]:
                job.folder.cut_metrics(facts["metrics_size"])
        elif isinstance(stage, TrainStage):
            facts = _Training(stage, job).run()
        else:
            assert isinstance(stage, ComputeStage)
            facts = _compute(stage, job)
        job.reports.append({name: facts[name] for name in ("name", "steps", "seconds", "images_per_second")})
    return job.reports


def _place_networks(stage: TrainStage, job: Job) -> None:
    """Bring the networks of a stage to the device, in the layout of the recipe."""
    for network in stage.networks().values():
        network.to(job.runtime.device)
        if job.runtime.share.world > 1:
            synchronise_batchnorm(network)
        if job.recipe.train.channels_last:
            network.to(memory_format=torch.channels_last)


def first_steps(stage: TrainStage, job: Job, count: int) -> Iterator[int]:
    """Set a stage up and yield after each of its first steps, leaving nothing behind: for estimates and benchmarks."""
    training = _Training(stage, job)
    training.set_up()
    for step in range(count):
        training.advance()
        yield step


def _compute(stage: ComputeStage, job: Job) -> dict[str, Any]:
    """Make what is not there yet; with several processes each its share."""
    products, share = job.products, job.runtime.share
    stage.prepare(products)
    items = list(stage.items())
    begun = time.monotonic()
    made = 0
    own = items[share.rank :: share.world]
    missing = [item for item in own if not products.path(stage.name, item, stage.suffix).exists()]
    for start in range(0, len(missing), stage.chunk):
        chunk = missing[start : start + stage.chunk]
        for item, result in zip(chunk, stage.compute_all(chunk), strict=True):
            if isinstance(result, bytes):
                products.write_file(stage.name, item, stage.suffix, result)
            else:
                products.write(stage.name, item, result)
        made += len(chunk)
        seconds = time.monotonic() - begun
        left = seconds / made * (len(missing) - made)
        job.progress.update(stage.name, len(own) - len(missing) + made, len(own), left=left)
        if job.runtime.interruption.requested:
            raise Interrupted
    if share.world > 1:
        job.runtime.fabric.barrier()
    seconds = time.monotonic() - begun
    facts = {
        "name": stage.name,
        "steps": len(items),
        "seconds": seconds,
        "images_per_second": made / max(seconds, 1e-9),
    }
    if job.runtime.leads:
        products.finish(stage.name, dict(stage.facts()) | facts | {"metrics_size": job.folder.metrics_size()})
    return facts


@dataclass
class Counters:
    """Everything of a stage's state that is not a tensor."""

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    window: dict[str, float] = field(default_factory=dict)
    window_steps: int = 0


class _Training:
    """One training stage under way."""

    def __init__(self, stage: TrainStage, job: Job) -> None:
        self.stage = stage
        self.job = job
        self.fields = job.recipe.train
        self.counters = Counters()
        self.window: dict[str, Tensor] = {}
        self.first_bad: Tensor | None = None
        self.pictures_per_step = stage.batch_size or job.recipe.train.batch_size
        self.last_checkpoint = time.monotonic()

    # -- set-up --------------------------------------------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        self.set_up()
        self._loop()
        self._leave()
        return self._facts()

    def set_up(self) -> None:
        """Prepare the stage, take up its checkpoint where there is one, and hand its modules to the strategy."""
        stage = self.stage
        torch.manual_seed(draws.derive(self.fields.seed, stage.name, "prepare"))
        stage.prepare(self.job.products)
        _place_networks(stage, self.job)
        self.plans = stage.plans()
        self.networks = nn.ModuleDict(stage.networks())
        self.average = ModuleAverage(self.networks) if stage.ema is not None else None
        self._resume()
        self._wrap()

    def _wrap(self) -> None:
        """Hand the loss module to Fabric's strategy; a manual stage keeps its plain networks and optimisers."""
        fabric = self.job.runtime.fabric
        self.module: Any = None
        self.optimizers: dict[str, Any] = {name: plan.optimizer for name, plan in self.plans.items()}
        self.batches: Iterator[Batch] = iter(())
        if self.stage.strategy == "manual":
            return
        module = self.stage.loss_module()
        module.train()
        if self.plans:
            self.module, *wrapped = fabric.setup(module, *self.optimizers.values())
            self.optimizers = dict(zip(self.plans, wrapped, strict=True))
        self.batches = self.stage.batches(self.counters.step)

    # -- state ---------------------------------------------------------------------------------------------------------

    @property
    def last(self) -> Any:
        return self.job.folder.checkpoints / "last.safetensors"

    def _resume(self) -> None:
        state = read_state(self.last)
        folder = self.job.folder
        if state is None or state.facts["stage"] != self.stage.name:
            if self.job.runtime.leads:
                earlier = [r["name"] for r in self.job.reports]
                size = self.job.products.facts(earlier[-1])["metrics_size"] if earlier else 0
                folder.cut_metrics(size)
            return
        try:
            self._take_up(state)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"{self.last}: does not fit the networks of this run; the folder was changed by hand: --fresh starts anew"
            ) from error
        if self.job.runtime.leads:
            folder.cut_metrics(state.facts["metrics_size"])
        self.job.progress.say(f"{self.stage.name}: continuing from step {self.counters.step:,}")

    def _take_up(self, state: State) -> None:
        """Everything that `save` noted, back into its place."""
        for prefix, network in self.stage.networks().items():
            network.load_state_dict(state.under(f"network.{prefix}"))
        for name, plan in self.plans.items():
            state.load_optimizer(name, plan.optimizer)
        if self.average is not None:
            self.average.load_state_dict(state.under("average"))
        if extra := state.under("extra"):
            self.stage.load_extra_state(extra)
        self.counters = Counters(**state.facts["counters"])
        if scaler := state.facts.get("scaler"):
            self.job.runtime.fabric.strategy.precision.load_state_dict(scaler)
        device = self.job.runtime.device
        self.window = {name: torch.tensor(v, device=device) for name, v in self.counters.window.items()}

    def save(self) -> None:
        """Write the checkpoint that `_resume` reads; never one with weights that are not finite."""
        self._check_finite()
        self.last_checkpoint = time.monotonic()
        self.counters.window = {name: float(value) for name, value in self.window.items()}
        if not self.job.runtime.leads:
            return
        state = State()
        for prefix, network in self.stage.networks().items():
            state.add(f"network.{prefix}", network.state_dict())
        for name, plan in self.plans.items():
            state.add_optimizer(name, plan.optimizer)
        if self.average is not None:
            state.add("average", self.average.state_dict())
        state.add("extra", self.stage.extra_state())
        state.facts |= {
            "stage": self.stage.name,
            "counters": vars(self.counters),
            "metrics_size": self.job.folder.metrics_size(),
            "scaler": self.job.runtime.fabric.strategy.precision.state_dict(),
        }
        write_state(self.last, state)

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        stage, counters = self.stage, self.counters
        every = self.job.recipe.evaluate.every
        gap = max(1, round(every * stage.steps_per_epoch)) if every else 0
        while counters.step < stage.steps:
            begun = time.monotonic()
            rates = self.advance()
            log_due = counters.step % self.fields.log_every == 0 or counters.step == stage.steps
            if log_due:
                self._check_finite()
            counters.seconds += time.monotonic() - begun
            self._say()
            if log_due:
                self._log(rates)
            evaluated = bool(gap) and (counters.step % gap == 0 or counters.step == stage.steps)
            if evaluated:
                self._evaluate()
            # Clocks differ between processes, and saving is done together: none may save alone.
            due = time.monotonic() - self.last_checkpoint >= self.fields.checkpoint_seconds
            stop, due = self.job.runtime.agree_on(self.job.runtime.interruption.requested, due)
            if stop or evaluated or due:
                self.save()
            if stop:
                raise Interrupted

    def advance(self) -> dict[str, float]:
        """One step: rates, gradients, weights, average; returns the rate of each optimiser."""
        stage, counters = self.stage, self.counters
        progress = counters.step / stage.steps
        rates = {name: set_rate(plan.optimizer, plan.fields, progress) for name, plan in self.plans.items()}
        logs = self._manual_step() if stage.strategy == "manual" else self._wrapped_step()
        if self.average is not None and stage.ema is not None:
            self.average.update(self.networks, decay=stage.ema)
        self._collect(logs)
        counters.step += 1
        counters.window_steps += 1
        return rates

    def _seed(self, part: int) -> None:
        """Noise layers draw from the device's global generator; seeded a part, they resume exactly too."""
        runtime = self.job.runtime
        seed = draws.derive(self.fields.seed, self.stage.name, "noise", self.counters.step, part, runtime.share.rank)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would note a stack trace for GPUs not in use
        if runtime.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _manual_step(self) -> dict[str, Tensor]:
        self._seed(0)
        logs = self.stage.step(self.counters.step, self.optimizers)
        self.stage.after_step(self.counters.step)
        return logs

    def _wrapped_step(self) -> dict[str, Tensor]:
        stage, fabric, parts = self.stage, self.job.runtime.fabric, self.stage.parts
        logs: dict[str, Tensor] = {}
        for part in range(parts):
            self._seed(part)
            batch = self._laid_out(next(self.batches))
            if self.counters.step == 0 and part == 0:
                stage.first_pictures(batch)
            with fabric.no_backward_sync(self.module, enabled=part < parts - 1):
                losses, extra = self.module(replace(batch, ids=[]))  # the wrapper would walk through every name
                total = torch.stack(list(losses.values())).sum()
                fabric.backward(total / parts)
            self._watch(total.detach())
            for name, value in ({"loss": total} | losses | extra).items():
                logs[name] = logs.get(name, 0) + value.detach() / parts
        stage.after_backward(self.counters.step)
        for name, optimizer in self.optimizers.items():
            norm = self.plans[name].fields.clip_norm
            if norm is not None:
                logs["gradient_norm"] = fabric.clip_gradients(
                    self.module, optimizer, max_norm=norm, error_if_nonfinite=False
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        stage.after_step(self.counters.step)
        return logs

    def _laid_out(self, batch: Batch) -> Batch:
        """The pictures in the layout of the networks, turned while they are bytes and not once they are floats."""
        if batch.images.ndim == 4:
            wanted = torch.channels_last if self.fields.channels_last else torch.contiguous_format
            batch.images = batch.images.contiguous(memory_format=wanted)
        return batch

    def _collect(self, logs: dict[str, Tensor]) -> None:
        """Add to the sums of the current log window, on the device."""
        for name, value in logs.items():
            amount = value.detach().float()
            self.window[name] = self.window[name] + amount if name in self.window else amount
        if self.stage.strategy == "manual" and logs:
            self._watch(torch.stack([value.detach().float() for value in logs.values()]).sum())

    def _watch(self, total: Tensor) -> None:
        """Remember the first step whose loss is not finite, without waiting for the device."""
        step = torch.full_like(total, self.counters.step, dtype=torch.float64)
        here = torch.where(torch.isfinite(total), torch.inf, step)
        self.first_bad = here if self.first_bad is None else torch.minimum(self.first_bad, here)

    def _check_finite(self) -> None:
        if self.first_bad is None or not self.job.runtime.agree(bool(torch.isfinite(self.first_bad).item())):
            return
        bad = float(self.first_bad)
        step = int(bad) if bad != float("inf") else self.counters.step
        ids: list[str] = []
        path = self.job.folder.path / "batch.safetensors"
        if self.stage.strategy == "wrapped":
            batches = self.stage.batches(step)
            parts = [next(batches) for _ in range(self.stage.parts)]
            ids = [name for batch in parts for name in batch.ids]
            tensors = {"images": torch.cat([b.images for b in parts]), "index": torch.cat([b.index for b in parts])}
            if parts[0].targets is not None:
                tensors["targets"] = torch.cat([b.targets for b in parts if b.targets is not None])
            if self.job.runtime.leads:
                write_atomically(
                    path, save({n: t.cpu().contiguous() for n, t in tensors.items()}, {"ids": "\n".join(ids)})
                )
        shown = ", ".join(ids[:3]) + (", ..." if len(ids) > 3 else "")
        raise NonFiniteLoss(
            f"{self.stage.name}: the loss of step {step:,} is not a finite number; its batch ({shown}) is in {path}; "
            f"try a lower optim.lr, optim.clip_norm=1 or train.precision=fp32"
        )

    # -- what the world sees ---------------------------------------------------------------------------------------------

    def _rate(self) -> float:
        return self.counters.step * self.pictures_per_step / max(self.counters.seconds, 1e-9)

    def _say(self) -> None:
        counters, stage = self.counters, self.stage
        left = counters.seconds / max(counters.step, 1) * (stage.steps - counters.step)
        self.job.progress.update(
            stage.name,
            counters.step,
            stage.steps,
            rate=f"{self._rate():,.0f} pictures/s",
            left=left,
            facts=self._facts_line(),
        )

    def _facts_line(self) -> str:
        epoch = self.counters.step / self.stage.steps_per_epoch
        return f"epoch {epoch:.1f}" + (f"  {self.shown}" if self.shown else "")

    shown: str = ""

    def _log(self, rates: dict[str, float]) -> None:
        counters = self.counters
        sums = self.job.runtime.mean(self.window)
        means = {name: float(value) / counters.window_steps for name, value in sums.items()}
        single = len(rates) == 1
        lr = {("lr" if single else f"lr_{name}"): rate for name, rate in rates.items()}
        values = {"epoch": round(counters.step / self.stage.steps_per_epoch, 4), **means, **lr}
        self.job.tracker.line(
            "step", self.stage.name, counters.step, values | {"images_per_second": round(self._rate(), 1)}
        )
        self.shown = f"loss {means['loss']:.3f}" if "loss" in means else ""
        self.window, counters.window, counters.window_steps = {}, {}, 0

    def _evaluate(self) -> None:
        """Measure (the averaged weights where there are some), log, and keep the best by the validation split."""
        if self.job.evaluate is None or not self.stage.measured:
            return
        networks = self.stage.networks()
        training = {name: network.training for name, network in networks.items()}
        if self.average is not None:
            exchange(self.average.module, self.networks)
        for network in networks.values():
            network.eval()
        metrics = self.job.evaluate()
        if metrics:
            self.job.tracker.line(
                "evaluation", self.stage.name, self.counters.step, {"split": "val", "metrics": metrics}
            )
        best_by = self.job.recipe.evaluate.best_by
        value = metrics.get(best_by)
        if value is not None and self._improves(value):
            self.counters.best = value
            if self.job.runtime.leads:
                state = State(facts={"stage": self.stage.name, "step": self.counters.step, best_by: value})
                for prefix, network in networks.items():
                    state.add(prefix, network.state_dict())
                write_state(self.job.folder.checkpoints / "best.safetensors", state)
        if self.average is not None:
            exchange(self.average.module, self.networks)
        for name, network in networks.items():
            network.train(training[name])
        if value is not None:
            epoch = self.counters.step / self.stage.steps_per_epoch
            self.job.progress.say(
                f"{self.stage.name}: epoch {epoch:.1f}  val {best_by} {value:.4f}  best {self.counters.best:.4f}"
            )

    def _improves(self, value: float) -> bool:
        """Whether a value of `best_by` is better than the best so far, in the direction of that metric."""
        best = self.counters.best
        return best is None or (value < best if lower_is_better(self.job.recipe.evaluate.best_by) else value > best)

    def _facts(self) -> dict[str, Any]:
        return {
            "name": self.stage.name,
            "steps": self.stage.steps,
            "seconds": round(self.counters.seconds, 3),
            "images_per_second": round(self._rate(), 1),
        }

    def _leave(self) -> None:
        """Make the averaged weights the networks' own, and leave them as the stage's product."""
        runtime, products = self.job.runtime, self.job.products
        if self.average is not None:
            exchange(self.average.module, self.networks)
        for network in self.stage.networks().values():
            network.float().eval()  # after fp64 too: files and evaluations are float32
        if runtime.leads:
            products.write(self.stage.name, "networks", self.stage.leave())
            products.finish(self.stage.name, self._facts() | {"metrics_size": self.job.folder.metrics_size()})
        if runtime.share.world > 1:
            runtime.fabric.barrier()


__all__ = ["Evaluate", "Interrupted", "Job", "NonFiniteLoss", "Plan", "run_stages"]
