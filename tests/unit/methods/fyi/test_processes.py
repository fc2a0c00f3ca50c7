"""Classes shared out over two processes: the same set as one process makes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import partwise

IDC = (
    "method.matching=idc",
    "method.factor=2",
    "method.images_per_class=1",
    "method.strategy=color_crop_cutout",
    "method.inner=2",
    "method.network_pictures=8",
    "optim.lr=0.01",
)
DC = ("method.matching=dc", "method.outer=2", "method.inner=1", "optim.lr=0.1")
MTT = (
    "method.matching=mtt",
    "method.whiten=true",
    "method.student_steps=2",
    "method.expert_epochs=1",
    "method.max_start=1",
    "method.experts.count=3",
    "method.experts.epochs=1",
    "method.trial.lr=null",
    "data.size=8",
)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [(), DC, IDC, MTT], ids=["dm", "dc", "idc", "mtt"])
def test_two_processes_make_what_one_makes(changes: tuple[str, ...], tmp_path: Path) -> None:
    settings = (
        "train.threads=1",
        "method.iterations=3",
        "method.trial.epochs=1",
        "method.symmetry_networks=0",
        *changes,
    )
    settings += ("evaluate.suites=[]", "evaluate.during=[]")
    runs = [
        partwise.train("fyi/smoke", out=tmp_path / str(count), settings=settings, devices=count, quiet=True)
        for count in (1, 2)
    ]
    one, two = (load_file(run / "model.safetensors") for run in runs)
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-5, atol=1e-6, msg=name)
