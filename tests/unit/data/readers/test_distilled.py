"""`distilled:`: whose pictures stand where, and what is said where the real ones are missing or others."""

from pathlib import Path

import pytest
import torch
from tests.miniatures_distilled import write_set

from partwise.config import UserError
from partwise.data.sources import open_source
from partwise.models.saved import load_networks
from partwise.models.synthetic_set import SyntheticSet

WORLD = "creatures:?size=32&classes=3&train=5&val=4&test=3"


def test_training_pictures_are_the_sets_and_the_others_real(tmp_path: Path) -> None:
    file = write_set(tmp_path / "set.safetensors", source=WORLD)
    source, real = open_source(f"distilled:{file}"), open_source(WORLD)
    made = load_networks(file).networks["set"]
    assert isinstance(made, SyntheticSet)
    with torch.no_grad():
        wanted = (made.pictures()[0] * 255).round().to(torch.uint8)
    assert torch.equal(source.images(range(6)), wanted) and source.image_size is None
    assert [record.label for record in source.records[:6]] == [0, 0, 1, 1, 2, 2]
    tested = [i for i, record in enumerate(source.records) if record.split == "test"]
    theirs = [i for i, record in enumerate(real.records) if record.split == "test"]
    for own, other in zip(tested, theirs, strict=True):
        assert torch.equal(source.load_image(own), real.load_image(other))
        assert source.records[own].label == real.records[other].label


def test_a_source_without_splits_is_split_as_the_run_split_it(tmp_path: Path) -> None:
    from tests.miniatures import write_picture

    from partwise.data.splits import split_indices

    for k, name in enumerate(("a", "b")):
        for i in range(10):
            write_picture(tmp_path / "data" / name / f"{i}.png", 10 * i + k)
    text = f"imagefolder:{tmp_path / 'data'}"
    source = open_source(f"distilled:{write_set(tmp_path / 'set.safetensors', source=text, classes=('a', 'b'))}")
    splits = split_indices(open_source(text))
    counts = {split: sum(record.split == split for record in source.records) for split in ("train", "val", "test")}
    assert counts == {"train": 4, "val": len(splits["val"]), "test": len(splits["test"])}


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("imagefolder:nowhere", r"the real pictures to measure on: .*\?real=SOURCE"),
        ("creatures:?size=32&classes=4&train=5&val=4&test=3", "has 4 classes .* the set 3"),
    ],
)
def test_missing_or_other_real_pictures_are_named(source: str, told: str, tmp_path: Path) -> None:
    write_set(tmp_path / "set.safetensors", source=source)
    with pytest.raises(UserError, match=told):
        open_source(f"distilled:{tmp_path}")
    assert len(open_source(f"distilled:{tmp_path}?real=none")) == 6


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    from torch import nn

    from partwise.models.saved import NetworkSpec, save_networks

    network: dict[str, nn.Module] = {}
    specs: dict[str, NetworkSpec] = {}
    save_networks(tmp_path / "set.safetensors", network, specs, {})
    with pytest.raises(UserError, match="no distilled set"):
        open_source(f"distilled:{tmp_path}")
