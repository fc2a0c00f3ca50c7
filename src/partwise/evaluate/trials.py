"""How a distilled set is put to the trial: which fresh networks are trained on it, for how long and how. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from partwise.config import Section

Control = Literal["random", "kcentre", "whole"]


class TrialFields(Section):
    """Fresh networks that are trained on the set alone, and on real pictures for comparison."""

    networks: int = Field(5, ge=1, description="fresh networks of each kind; mean and spread are over them")
    others: tuple[str, ...] = Field(
        (), description="further architectures of models/distillation.py that are trained on the set"
    )
    epochs: int = Field(1000, ge=1, description="passes over the set")
    lr: float | None = Field(0.01, gt=0, description="step size; null: the one that the set has learned")
    batch_size: int = Field(256, ge=1, description="pictures a step")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["half", "idc"] = Field(
        "half",
        description="half: a tenth from the middle on, where the optimiser begins anew, and one pass more, as the code of DC "
        "does; idc: a fifth after 2/3 and again after 5/6",
    )
    convention: Literal["dsa", "idc"] = Field(
        "dsa",
        description="how operations of `strategy` are combined: dsa: one a step; idc: colour always, one of the rest",
    )
    strategy: str = Field(
        "color_crop_cutout_flip_scale_rotate",
        description="operations of the augmentation; none: none (DC on colour pictures)",
    )
    cutmix: float = Field(
        0.0, ge=0, le=1, description="share of steps whose pictures are mixed by CutMix, alpha 1 (IDC: 0.5)"
    )
    controls: tuple[Control, ...] = Field(
        ("random", "kcentre", "whole"),
        description="the same network on as many random and k-centre real pictures, and on all of them",
    )
    control_lrs: tuple[float, ...] = Field(
        (),
        description="step sizes tried for the random pictures, the best by other training pictures; empty: `lr`, or 0.01",
    )
    whole_epochs: int = Field(50, ge=1, description="passes of the network on all real pictures")
