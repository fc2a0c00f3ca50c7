import math

from hypothesis import given
from hypothesis import strategies as st

from partwise.report import trajectory


def step(number: int, **values: object) -> dict:
    return {"kind": "step", "stage": "train", "step": number, **values}


def test_losses_share_a_chart_and_rates_have_their_own() -> None:
    lines = [step(n, epoch=n / 2, loss=1.0, loss_aux=2.0, lr=0.1, images_per_second=9.5) for n in range(3)]
    found = trajectory.charts(lines)
    assert [chart.title for chart in found] == ["Loss, train", "Learning rate, train", "Images per second, train"]
    assert found[0].lines == {"loss": ([0, 1, 2], [1, 1, 1]), "loss_aux": ([0, 1, 2], [2, 2, 2])}


def test_stages_and_splits_stay_apart_and_measures_that_fall_stand_alone() -> None:
    metrics = {"classification/top1": 0.5, "classification/top5": 0.9, "classification/nll": 2.5}
    lines = [
        {"kind": "evaluation", "stage": stage, "step": 5, "split": split, "metrics": metrics}
        for stage, split in (("teacher", "val"), ("student", "val"))
    ]
    titles = [(chart.title, list(chart.lines)) for chart in trajectory.charts(lines)]
    assert titles == [("Classification, val", ["top1", "top5"]), ("Classification nll, val", ["nll"])] * 2


def test_lines_that_are_odd_are_passed_over() -> None:
    odd = [
        {},
        {"kind": "step"},
        {"kind": "step", "step": "x"},
        step(1, loss=math.nan),
        step(2, loss="high"),
        step(3, ok=True),
    ]
    evaluation = {"kind": "evaluation", "step": 1, "metrics": [1, 2]}
    assert trajectory.charts([*odd, evaluation, {"kind": "note", "step": 1, "loss": 2.0}]) == []


def test_many_lines_are_split_over_charts() -> None:
    found = trajectory.charts([step(0, **{f"loss_{n}": 1.0 for n in range(10)})])
    assert [len(chart.lines) for chart in found] == [7, 3]


@given(st.lists(st.floats(-1e3, 1e3), max_size=80), st.integers(1, 30))
def test_thinning_averages_equal_runs(values: list[float], most: int) -> None:
    steps = [float(number) for number in range(len(values))]
    thin_steps, thin_values = trajectory.thin(steps, values, most)
    assert len(thin_steps) == len(thin_values) <= most
    size = max(1, math.ceil(len(values) / most))
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    for group, value in zip(groups, thin_values, strict=True):
        assert math.isclose(sum(group) / len(group), value, abs_tol=1e-9)
