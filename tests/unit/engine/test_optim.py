"""Schedules against tables worked out by hand, parameter groups, and optimisers built as asked."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from partwise.config import OptimFields
from partwise.engine.optim import build_optimizer, parameter_groups, schedule, set_rate


def table(fields: OptimFields, steps: int) -> list[float]:
    return [schedule(fields, step / steps) for step in range(steps + 1)]


# -- schedules -----------------------------------------------------------------------------------------------------------

TABLES: dict[str, tuple[dict[str, object], list[float]]] = {
    # eight steps, and the rate at the end
    "constant": ({"schedule": "constant"}, [1] * 9),
    "constant, warmed up": ({"schedule": "constant", "warmup": 0.5}, [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
    "steps": ({"schedule": "steps"}, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01]),
    "steps of the user's": (
        {"schedule": "steps", "milestones": (0.25, 0.3, 1.0), "gamma": 0.5},
        [1, 1, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25, 0.125],
    ),
    "steps, warmed up": (
        {"schedule": "steps", "warmup": 0.25, "milestones": (0.5,)},
        [0, 0.5, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1],
    ),
    "cosine": (
        {"schedule": "cosine"},
        # half a cosine: (1 + cos(k 22.5 degrees)) / 2
        [1, 0.9619397663, 0.8535533906, 0.6913417162, 0.5, 0.3086582838, 0.1464466094, 0.0380602337, 0],
    ),
    "cosine to a tenth, warmed up": (
        {"schedule": "cosine", "warmup": 0.5, "final": 0.1},
        [0, 0.25, 0.5, 0.75, 1, 0.1 + 0.9 * 0.8535533906, 0.1 + 0.9 * 0.5, 0.1 + 0.9 * 0.1464466094, 0.1],
    ),
    "one cycle": ({"schedule": "one_cycle", "peak": 0.25}, [0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0]),
    "one cycle has its own rise": (
        {"schedule": "one_cycle", "peak": 0.5, "final": 0.2, "warmup": 0.9},
        [0, 0.25, 0.5, 0.75, 1, 0.8, 0.6, 0.4, 0.2],
    ),
    "poly, power 1": ({"schedule": "poly", "power": 1.0}, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
    "poly, power 2, final": (
        {"schedule": "poly", "power": 2.0, "final": 0.5},
        [0.5 + 0.5 * left**2 for left in (1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0)],
    ),
    "poly as in segmentation": (
        {"schedule": "poly", "power": 0.9, "warmup": 0.25},
        [0, 0.5, 1, *(math.exp(0.9 * math.log(left / 6)) for left in (5, 4, 3, 2, 1)), 0],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_schedules_agree_with_their_tables(name: str) -> None:
    values, expected = TABLES[name]
    assert table(OptimFields.model_validate(values), 8) == pytest.approx(expected, abs=1e-9)


def test_a_table_for_every_schedule() -> None:
    known = OptimFields.model_fields["schedule"].annotation.__args__  # type: ignore[union-attr]  # a Literal
    assert {str(values["schedule"]) for values, _ in TABLES.values()} == set(known)


@given(
    st.sampled_from(["constant", "steps", "cosine", "one_cycle", "poly"]),
    st.floats(0, 0.9),
    st.floats(0.01, 0.99),
    st.floats(0, 0.9),
    st.floats(0, 1),
)
def test_a_rate_is_a_share_and_never_negative(
    name: str, warmup: float, peak: float, final: float, progress: float
) -> None:
    fields = OptimFields.model_validate({"schedule": name, "warmup": warmup, "peak": peak, "final": final})
    assert 0 <= schedule(fields, progress) <= 1 + 1e-12


@pytest.mark.parametrize("name", ["steps", "cosine", "poly", "one_cycle"])
def test_no_schedule_rises_after_its_peak(name: str) -> None:
    fields = OptimFields.model_validate({"schedule": name, "warmup": 0.2, "peak": 0.2, "final": 0.05})
    rates = table(fields, 200)[40:]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(rates))


def test_one_cycle_is_torchs_linear_one_cycle() -> None:
    """torch's rises from lr / div_factor and counts one step less; with both out of the way they are the same line."""
    fields = OptimFields(schedule="one_cycle", peak=0.25, lr=0.4)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        0.4,
        total_steps=41,
        pct_start=11 / 41,
        anneal_strategy="linear",
        div_factor=1e12,
        final_div_factor=1e3,
    )
    for step in range(40):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.4 * schedule(fields, step / 40), abs=1e-6)
        optimizer.step()
        theirs.step()


# -- parameter groups ----------------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.fc = nn.Linear(4, 2)


def grouped(fields: OptimFields) -> dict[str, tuple[float, float]]:
    """Name of a parameter -> (rate, weight decay) of its group."""
    network = Small()
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = parameter_groups(network, fields, head=network.fc.parameters())
    found: dict[str, tuple[float, float]] = {}
    for group in groups:
        assert group["lr"] == pytest.approx(fields.lr * group["lr_factor"])
        for parameter in group["params"]:
            assert names[id(parameter)] not in found, "in two groups"
            found[names[id(parameter)]] = (group["lr"], group["weight_decay"])
    return found


def test_everything_alike_by_default() -> None:
    fields = OptimFields(lr=0.5, weight_decay=0.01)
    found = grouped(fields)
    assert set(found) == {"conv.weight", "norm.weight", "norm.bias", "fc.weight", "fc.bias"}, "frozen ones are left out"
    assert set(found.values()) == {(0.5, 0.01)}
    assert len(parameter_groups(Small(), fields)) == 1


def test_norms_and_biases_are_spared_and_the_head_is_faster() -> None:
    found = grouped(OptimFields(lr=0.5, weight_decay=0.01, decay_norm_and_bias=False, head_lr=10))
    assert found == {
        "conv.weight": (0.5, 0.01),
        "norm.weight": (0.5, 0.0),
        "norm.bias": (0.5, 0.0),
        "fc.weight": (5.0, 0.01),
        "fc.bias": (5.0, 0.0),
    }


def test_set_rate_follows_the_schedule_in_every_group() -> None:
    fields = OptimFields(lr=0.5, head_lr=10, schedule="steps", milestones=(0.5,), weight_decay=0.25)
    network = Small()
    optimizer = build_optimizer(parameter_groups(network, fields, head=network.fc.parameters()), fields)
    assert set_rate(optimizer, fields, 0.25) == 0.5
    assert sorted(group["lr"] for group in optimizer.param_groups) == [0.5, 5.0]
    assert set_rate(optimizer, fields, 0.75) == pytest.approx(0.05)
    assert sorted(group["lr"] for group in optimizer.param_groups) == pytest.approx([0.05, 0.5])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.25}, "decay is no part of the rate"


def test_groups_without_a_factor_take_the_base_rate() -> None:
    """A stage may hand over bare parameters, as one that learns pictures does."""
    fields = OptimFields(lr=0.5, schedule="constant")
    optimizer = build_optimizer([{"params": [nn.Parameter(torch.zeros(2))]}], fields)
    optimizer.param_groups[0]["lr"] = 7.0
    set_rate(optimizer, fields, 0.3)
    assert optimizer.param_groups[0]["lr"] == 0.5


# -- optimisers ----------------------------------------------------------------------------------------------------------


def one_parameter() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))


GRADIENTS = [torch.tensor([0.3, -0.1], dtype=torch.float64) * (step + 1) for step in range(4)]


def stepped(fields: OptimFields) -> list[float]:
    parameter = one_parameter()
    optimizer = build_optimizer(
        [{"params": [parameter], "lr_factor": 1.0, "weight_decay": fields.weight_decay}], fields
    )
    for gradient in GRADIENTS:
        parameter.grad = gradient.clone()
        optimizer.step()
    return list(parameter.tolist())


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_against_its_formula(nesterov: bool, momentum: float) -> None:
    fields = OptimFields(name="sgd", lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    weight, velocity = one_parameter().detach(), torch.zeros(2, dtype=torch.float64)
    for gradient in GRADIENTS:
        slope = gradient + 0.01 * weight
        velocity = momentum * velocity + slope
        weight = weight - 0.1 * (slope + momentum * velocity if nesterov else velocity)
    assert stepped(fields) == pytest.approx(weight.tolist(), rel=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw_against_their_formulas(name: str) -> None:
    fields = OptimFields.model_validate(
        {"name": name, "lr": 0.1, "momentum": 0.8, "beta2": 0.95, "weight_decay": 0.02, "nesterov": False}
    )
    weight = one_parameter().detach()
    first, second = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for number, gradient in enumerate(GRADIENTS, 1):
        slope = gradient
        if name == "adamw":
            weight = weight * (1 - 0.1 * 0.02)  # decoupled
        else:
            slope = gradient + 0.02 * weight
        first = 0.8 * first + 0.2 * slope
        second = 0.95 * second + 0.05 * slope**2
        weight = weight - 0.1 * (first / (1 - 0.8**number)) / ((second / (1 - 0.95**number)).sqrt() + 1e-8)
    assert stepped(fields) == pytest.approx(weight.tolist(), rel=1e-9)


def test_optimisers_are_what_was_asked_for() -> None:
    for name, kind in (("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)):
        fields = OptimFields.model_validate({"name": name, "momentum": 0.7, "beta2": 0.98})
        optimizer = build_optimizer(parameter_groups(Small(), fields), fields)
        assert type(optimizer) is kind
        (group,) = optimizer.param_groups
        assert group["foreach"] is True
        if name == "sgd":
            assert (group["momentum"], group["nesterov"]) == (0.7, True)
        else:
            assert group["betas"] == (0.7, 0.98)


def test_weight_decay_moves_by_half_a_cosine_and_spared_groups_stay_without() -> None:
    network = torch.nn.Linear(3, 2)
    fields = OptimFields(name="adamw", weight_decay=0.04, final_weight_decay=0.4, decay_norm_and_bias=False)
    optimizer = build_optimizer(parameter_groups(network, fields), fields)
    for progress in (0.0, 0.25, 0.5, 1.0, 1.5):
        set_rate(optimizer, fields, progress)
        expected = 0.4 + 0.5 * (0.04 - 0.4) * (1 + math.cos(math.pi * min(progress, 1.0)))
        found = sorted(group["weight_decay"] for group in optimizer.param_groups)
        assert found == [0.0, pytest.approx(expected)]


def test_weight_decay_without_an_end_is_left_alone() -> None:
    network = torch.nn.Linear(3, 2)
    fields = OptimFields(weight_decay=0.1)
    optimizer = build_optimizer(parameter_groups(network, fields), fields)
    set_rate(optimizer, fields, 0.7)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.1}
