"""A distilled set as a module: its spaces, what networks train on, and what a file keeps of it."""

from pathlib import Path

import pytest
import torch

from partwise.models.saved import NetworkSpec, load_networks, save_networks
from partwise.models.synthetic_set import SyntheticSet
from partwise.ops.whitening import fit_whitening, whiten

PICTURES = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_normalised_pictures_come_back() -> None:
    made = SyntheticSet(num_classes=2, per_class=3, size=8, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    seen = made.seen(PICTURES)
    torch.testing.assert_close(seen[:, 1], (PICTURES[:, 1] - 0.2) / 0.6)
    torch.testing.assert_close(made.shown(seen), PICTURES)
    assert made.labels.tolist() == [0, 0, 0, 1, 1, 1] and made.by_class().shape == (2, 3, 3, 8, 8)
    assert made()[0] is made.images and made.rate is None


def test_whitened_pictures_come_back() -> None:
    made = SyntheticSet(num_classes=2, per_class=3, size=8, space="whitened", learned_rate=True)
    whitening = fit_whitening(PICTURES)
    made.take_whitening(whitening)
    torch.testing.assert_close(made.seen(PICTURES), whiten(PICTURES, whitening))
    torch.testing.assert_close(made.shown(made.seen(PICTURES)), PICTURES, rtol=1e-4, atol=1e-4)
    assert made.rate is not None


def test_packed_pictures_are_unpacked_then_normalised() -> None:
    made = SyntheticSet(num_classes=2, per_class=1, size=8, space="packed", factor=2, mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.no_grad():
        made.images.copy_(PICTURES[:2])
    images, labels = made()
    assert images.shape == (8, 3, 8, 8) and labels.tolist() == [0, 1] * 4
    torch.testing.assert_close(images[0, :, 0, 0] * 0.5 + 0.5, PICTURES[0, :, 0, 0])
    assert torch.equal(made.shown(made.images.detach()), PICTURES[:2])


def test_grey_pictures_have_one_channel() -> None:
    made = SyntheticSet(num_classes=2, per_class=1, size=8, channels=1, mean=(0.5,), std=(0.5,))
    assert made.seen(PICTURES[:, :1]).shape == (12, 1, 8, 8)


@pytest.mark.parametrize("wrong", [{"factor": 2}, {"space": "frequency"}, {"mean": (0.5, 0.5)}, {"per_class": 0}])
def test_what_does_not_go_together_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        SyntheticSet(**({"num_classes": 2, "per_class": 1, "size": 8} | wrong))  # type: ignore[arg-type]


def test_a_file_keeps_all_of_it(tmp_path: Path) -> None:
    arguments = {"num_classes": 2, "per_class": 3, "size": 8, "space": "whitened", "learned_rate": True}
    made = SyntheticSet(**arguments)  # type: ignore[arg-type]
    made.take_whitening(fit_whitening(PICTURES))
    save_networks(tmp_path / "set.safetensors", {"set": made}, {"set": NetworkSpec("synthetic_set", arguments)}, {})
    back = load_networks(tmp_path / "set.safetensors").networks["set"]
    assert isinstance(back, SyntheticSet)
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in made.state_dict().items())
