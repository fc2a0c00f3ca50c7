import math

from hypothesis import given
from hypothesis import strategies as st

from partwise.report import trajectory


def step(number: int, **values: object) -> dict:
    return {"kind": "step", "stage": "train", "step": number, **values}


def test_a_loss_shares_a_chart_with_its_parts_and_other_numbers_have_their_own() -> None:
    values = {"epoch": 0.5, "loss": 1.0, "type": 0.7, "polarity": 0.3, "top1": 0.3, "lr": 0.1, "images_per_second": 9.5}
    found = trajectory.charts([step(n, **values) for n in range(3)])
    assert [(chart.title, list(chart.lines)) for chart in found] == [
        ("Loss, train", ["loss", "type", "polarity"]),
        ("Top1, train", ["top1"]),
        ("Learning rate", ["lr"]),
    ]
    assert found[0].lines["type"] == ([0, 1, 2], [0.7, 0.7, 0.7])
    alone = trajectory.charts([step(n, loss=1.0, cross_entropy=1.0, loss_ema=2.0) for n in range(3)])
    assert [(chart.title, list(chart.lines)) for chart in alone] == [("Loss, train", ["loss", "loss_ema"])]


def test_stages_share_an_axis_and_measures_that_fall_stand_alone() -> None:
    metrics = {"classification/top1": 0.5, "classification/top5": 0.9, "classification/nll": 2.5}
    lines: list[dict] = []
    for stage in ("teacher", "student"):
        lines.append({"kind": "step", "stage": stage, "step": 4, "lr": 0.1, "lr_head": 0.2})
        lines.append({"kind": "evaluation", "stage": stage, "step": 5, "split": "val", "metrics": metrics})
    shares, nll, rates = trajectory.charts(lines)
    assert (shares.title, nll.title, rates.title) == ("Classification, val", "Classification nll, val", "Learning rate")
    assert shares.lines == {"top1": ([5, 10], [0.5, 0.5]), "top5": ([5, 10], [0.9, 0.9])} and list(nll.lines) == ["nll"]
    assert shares.marks == rates.marks == {"teacher": 0, "student": 5}
    assert rates.lines["student head"] == ([9], [0.2]) and next(iter(rates.lines)) == "teacher"


def test_of_a_suite_with_many_numbers_the_telling_ones_are_drawn() -> None:
    metrics = {f"karyotype/{group}type_top1": 0.5 for group in ("", "healthy/", "aneuploid/")}
    metrics |= {"karyotype/warning_rate_healthy": 0.1, "karyotype/polarity_top1": 0.9}
    line = {"kind": "evaluation", "stage": "whole", "step": 5, "split": "val", "metrics": metrics}
    assert [list(chart.lines) for chart in trajectory.charts([line])] == [["type_top1", "polarity_top1"]]


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


def test_a_chart_has_at_most_seven_lines() -> None:
    found = trajectory.charts([step(0, **{f"loss_{n}": 1.0 for n in range(10)})])
    assert [len(chart.lines) for chart in found] == [7]


@given(st.lists(st.floats(-1e3, 1e3), max_size=80), st.integers(1, 30))
def test_thinning_averages_equal_runs(values: list[float], most: int) -> None:
    steps = [float(number) for number in range(len(values))]
    thin_steps, thin_values = trajectory.thin(steps, values, most)
    assert len(thin_steps) == len(thin_values) <= most
    size = max(1, math.ceil(len(values) / most))
    groups = [values[start : start + size] for start in range(0, len(values), size)]
    for group, value in zip(groups, thin_values, strict=True):
        assert math.isclose(sum(group) / len(group), value, abs_tol=1e-9)
