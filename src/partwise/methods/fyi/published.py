"""The paper's rows as recipes: every method that FYI joins, at 1, 10 and 50 pictures a class. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from partwise.config import AugmentFields, Claim, DataFields, EvaluateFields, ModelFields, OptimFields, TrainFields
from partwise.evaluate.trials import TrialFields
from partwise.methods.fyi.fields import PIXEL_OPTIM, ExpertFields, FyiFields, FyiRecipe

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
"""Mean and standard deviation as the code of DC, DSA and DM has them; that of MTT, FTD and IDC uses CIFAR-10's for both."""
ROWS: Mapping[str, Mapping[str, tuple[float | None, ...]]] = {
    "cifar10": {
        "dc": (0.300, 0.495, 0.546),
        "dsa": (0.306, 0.547, 0.637),
        "idc": (0.525, 0.681, 0.752),
        "dm": (0.287, 0.531, 0.642),
        "mtt": (0.472, 0.682, 0.740),
        "ftd": (0.495, 0.681, 0.745),
    },
    "cifar100": {
        "dc": (0.144, 0.292),
        "dsa": (0.160, 0.350, 0.454),
        "idc": (0.289, 0.458),
        "dm": (0.133, 0.323, 0.456),
        "mtt": (0.282, 0.416, 0.482),
        "ftd": (0.287, 0.447, 0.508),
    },
    "tinyimagenet": {"dm": (0.046, 0.166, 0.256), "mtt": (0.104, 0.252, 0.301), "ftd": (0.116, 0.268)},
}
"""Main table of the paper: with FYI, at 1, 10 and 50 pictures a class."""
BASES: Mapping[str, Mapping[str, tuple[float | None, ...]]] = {
    "cifar10": {
        "dc": (0.283, 0.449, 0.539),
        "dsa": (0.288, 0.521, 0.606),
        "idc": (0.501, 0.675, 0.745),
        "dm": (0.260, 0.489, 0.630),
        "mtt": (0.463, 0.653, 0.716),
        "ftd": (0.468, 0.666, 0.738),
    },
    "cifar100": {
        "dc": (0.128, 0.252),
        "dsa": (0.139, 0.323, 0.428),
        "idc": (0.281, 0.450),
        "dm": (0.114, 0.297, 0.436),
        "mtt": (0.243, 0.401, 0.477),
        "ftd": (0.252, 0.434, 0.507),
    },
    "tinyimagenet": {"dm": (0.039, 0.129, 0.241), "mtt": (0.090, 0.245, 0.297), "ftd": (0.104, 0.264)},
}
"""The same table without FYI; those of the base methods on CIFAR are, for the most part, copied from their own papers."""
COUNTS = (1, 10, 50)
SHOWN = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tinyimagenet": "Tiny ImageNet"}
SUBSETS = ("nette", "woof", "meow", "yellow", "fruit", "squawk")
# student_steps, expert_epochs, max_start, lr of the pictures, lr of the step size, its beginning, whitened, synthetic_batch
MTT: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "cifar10": (
        (50, 2, 2, 100, 1e-7, 0.01, 1, 0),
        (30, 2, 20, 100, 1e-5, 0.001, 1, 0),
        (30, 2, 40, 1000, 1e-5, 0.001, 0, 0),
    ),
    "cifar100": (
        (20, 3, 20, 1000, 1e-5, 0.01, 1, 0),
        (20, 2, 20, 1000, 1e-5, 0.01, 0, 0),
        (80, 2, 40, 1000, 1e-5, 0.01, 1, 125),
    ),
    "tinyimagenet": (
        (10, 2, 10, 1e4, 1e-4, 0.01, 0, 0),
        (20, 2, 40, 1e4, 1e-4, 0.01, 0, 200),
        (20, 2, 40, 1e4, 1e-4, 0.01, 0, 300),
    ),
}
FTD: Mapping[str, tuple[tuple[float, ...], ...]] = {
    "cifar10": (
        (50, 2, 2, 100, 1e-7, 0.01, 1, 0),
        (30, 2, 20, 100, 1e-5, 0.001, 1, 0),
        (30, 2, 40, 1000, 1e-5, 0.01, 0, 0),
    ),
    "cifar100": (
        (40, 3, 20, 1000, 1e-5, 0.01, 1, 0),
        (20, 2, 40, 1000, 1e-5, 0.01, 0, 0),
        (80, 2, 40, 1000, 1e-5, 0.01, 1, 1000),
    ),
    "tinyimagenet": ((30, 2, 10, 1e4, 1e-4, 0.01, 0, 0), (20, 2, 40, 1e4, 1e-4, 0.01, 0, 500)),
}
"""FTD's own table; whether it whitens is not in it, and is taken from MTT's."""
ALPHA = {"cifar10": (0.3, 0.3, 1.0), "cifar100": (1.0, 1.0, 1.0), "tinyimagenet": (1.0, 1.0)}
EMA = {
    "cifar10": (0.9999, 0.9995, 0.999),
    "cifar100": (0.9995, 0.9995, 0.999),
    "tinyimagenet": (0.999, 0.999),
}

EVALUATE = EvaluateFields(suites=("distilled",), during=("distilled",), best_by="distilled/fyi-flip/convnet_top1")
AS_THEY_ARE = AugmentFields(crop="none", flip=False)
"""What is done to pictures is drawn by the method, for real and synthetic ones alike."""
TRIED_LRS = (0.001, 0.005, 0.01, 0.05, 0.1)
OTHERS = ("alexnet", "vgg11", "resnet18")


def published(base: str, data: str, place: int) -> FyiRecipe:
    """The recipe of a cell of the main table: base method, data and the place of the number of pictures in COUNTS."""
    count = COUNTS[place]
    fields: dict[str, Any] = {"images_per_class": count}
    optim, ema = PIXEL_OPTIM, None
    trial = TrialFields(others=OTHERS if data == "cifar10" else (), control_lrs=TRIED_LRS)
    if base == "dm":
        fields |= {"matching": "dm", "iterations": 20000}
    elif base in ("dc", "dsa"):
        optim = _rate(0.1)
        fields |= {"matching": "dc", "iterations": 1000}
        trial = trial.model_copy(update={"networks": 20})
        if base == "dc":
            fields |= {"start": "noise", "strategy": "none"}
            trial = trial.model_copy(update={"epochs": 300, "strategy": "none"})
        if (data, count) == ("cifar100", 50):
            fields |= {"outer": 10, "inner": 10}  # FYI's code, against 50 and 10 of DSA's
    elif base == "idc":
        optim = _rate(5e-3 * count / 10)
        fields |= IDC
        trial = trial.model_copy(update=IDC_TRIAL)
    else:
        row = (MTT if base == "mtt" else FTD)[data][place]
        optim = _rate(row[3])
        fields |= _followed(row, alpha=ALPHA[data][place] if base == "ftd" else 0.0)
        ema = EMA[data][place] if base == "ftd" else None
        trial = trial.model_copy(update={"lr": None})
    return FyiRecipe(
        recipe=recipe_name(base, data, place),
        data=_data(data),
        model=_model(base, data),
        optim=optim,
        train=TrainFields(precision="fp32", compile=base in ("dm", "dc", "dsa"), ema=ema),
        evaluate=EVALUATE.model_copy(update={"every": 100.0 if base in ("dm", "dc", "dsa") else 10.0}),
        method=FyiFields(**fields, symmetry_networks=50, trial=trial),
    )


IDC: Mapping[str, Any] = {
    "matching": "idc",
    "iterations": 2000,
    "inner": 100,
    "factor": 2,
    "real_batch": 64,
    "strategy": "color_crop_cutout",
}
IDC_TRIAL: Mapping[str, Any] = {
    "batch_size": 64,
    "schedule": "idc",
    "convention": "idc",
    "strategy": "flip_color_crop_scale_rotate",
    "cutmix": 0.5,
}


def subset(name: str, place: int) -> FyiRecipe:
    """Trajectory matching on ten classes of ImageNet at 128 px: the paper's numbers for these are not public."""
    count = COUNTS[place]
    row = (20, 2, 10, 1e4 if count == 1 else 1e3, 1e-6, 0.01, 0, 0 if count == 1 else 20)
    return FyiRecipe(
        recipe=f"fyi/imagenet-{name}-mtt-ipc{count}",
        data=DataFields(
            source=f"imagenet:data/imagenet?subset={name}",
            size=128,
            keep_aspect=True,
            validation=0.0,
            augment=AS_THEY_ARE,
        ),
        model=ModelFields(backbone="convnet-d5"),
        optim=_rate(row[3]),
        train=TrainFields(precision="fp32"),
        evaluate=EVALUATE.model_copy(update={"every": 10.0}),
        method=FyiFields(
            images_per_class=count, **_followed(row, alpha=0.0), symmetry_networks=50, trial=TrialFields(lr=None)
        ),
    )


def recipe_name(base: str, data: str, place: int) -> str:
    """`fyi/cifar10-dm-ipc10` and its likes."""
    return f"fyi/{data}-{base}-ipc{COUNTS[place]}"


def claims() -> tuple[Claim, ...]:
    """Every cell of the main table that a recipe stands for."""
    found = []
    for data, rows in ROWS.items():
        for base, values in rows.items():
            for place, value in enumerate(values):
                alone = BASES[data][base][place]
                assert value is not None and alone is not None
                note = f"{base.upper()}+FYI; {base.upper()} alone, under another evaluation, {alone:.3f}"
                metric, where = "distilled/fyi-flip/convnet_top1", f"{SHOWN[data]}, {COUNTS[place]} a class"
                found.append(Claim(metric, where, value, "main table", recipe_name(base, data, place), note))
    return tuple(found)


def _rate(lr: float) -> OptimFields:
    return PIXEL_OPTIM.model_copy(update={"lr": float(lr)})


def _followed(row: tuple[float, ...], *, alpha: float) -> dict[str, Any]:
    """Fields of trajectory matching from a row of a table."""
    return {
        "matching": "mtt",
        "iterations": 10000,
        "student_steps": int(row[0]),
        "expert_epochs": int(row[1]),
        "max_start": int(row[2]),
        "rate_optim": _rate(row[4]),
        "student_lr": row[5],
        "whiten": bool(row[6]),
        "synthetic_batch": int(row[7]),
        "grad": "tesla",
        "experts": ExpertFields(rho=0.01 if alpha else 0.0, alpha=alpha),
    }


def _data(data: str) -> DataFields:
    side = 64 if data == "tinyimagenet" else 32
    return DataFields(source=f"{data}:data/{data}", size=side, validation=0.0, augment=AS_THEY_ARE)


def _model(base: str, data: str) -> ModelFields:
    if data == "tinyimagenet":
        return ModelFields(backbone="convnet-d4")
    mean, std = CIFAR100 if data == "cifar100" and base in ("dc", "dsa", "dm") else CIFAR
    return ModelFields(backbone="convnet-d3", mean=mean, std=std)
