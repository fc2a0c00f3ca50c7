"""Encoders from names and from files: what they give, and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from partwise.config import UserError
from partwise.models.encoders import Encoder, build_encoder, load_encoder
from partwise.models.saved import NetworkSpec, build_network, save_networks

GREY = {"mean": (0.5,), "std": (0.25,)}
COLOUR = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}


def pictures(channels: int = 3, size: int = 32) -> torch.Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_embeddings_are_pooled_maps() -> None:
    encoder = build_encoder(backbone="resnet20", **COLOUR).eval()
    x = pictures()
    with torch.no_grad():
        by_hand = torch.stack([(x[:, k] - COLOUR["mean"][k]) / COLOUR["std"][k] for k in range(3)], dim=1)
        expected = encoder.backbone(by_hand)
        assert torch.allclose(encoder.dense(x), expected, atol=1e-3)
        assert torch.allclose(encoder.embed(x), expected.mean((2, 3)), atol=1e-3)
        assert torch.equal(encoder(x), encoder.embed(x))
        assert [tuple(s.shape[1:]) for s in encoder.stage_maps(x)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert encoder.num_features == 64


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224"])
def test_timm_networks(name: str) -> None:
    arguments = {"img_size": 64} if name.startswith("vit") else {}
    encoder = build_encoder(backbone=name, input_size=64, arguments=arguments, **COLOUR).eval()
    with torch.no_grad():
        for size in (64, 40):
            embeddings, maps = encoder.embed(pictures(size=size)), encoder.dense(pictures(size=size))
            assert embeddings.shape == (2, encoder.num_features) == maps.shape[:2]
            assert embeddings.isfinite().all() and maps.shape[2] == maps.shape[3] > 1


def test_pictures_are_resized_where_the_size_is_fixed() -> None:
    encoder = build_encoder(backbone="resnet20", input_size=16, **COLOUR).eval()
    free = Encoder(encoder.backbone, **COLOUR).eval()
    x = pictures(size=48)
    small = F.interpolate(x, size=(16, 16), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.allclose(encoder.embed(x), free.embed(small), atol=1e-6)
        assert encoder.dense(x).shape[-1] == 4 and free.dense(x).shape[-1] == 12
        assert torch.equal(encoder.embed(small), free.embed(small))


def test_grey_pictures_stand_for_all_channels() -> None:
    encoder = build_encoder(backbone="resnet20", **COLOUR).eval()
    grey = pictures(channels=1)
    with torch.no_grad():
        assert torch.allclose(encoder.embed(grey), encoder.embed(grey.repeat(1, 3, 1, 1)))
        own = build_encoder(backbone="resnet10t", arguments={"in_chans": 1}, **GREY).eval()
        assert own.embed(pictures(channels=1, size=64)).isfinite().all()


def test_foreign_weights(tmp_path: Path) -> None:
    source = build_encoder(backbone="resnet20", **COLOUR)
    save_file({f"module.{k}": v for k, v in source.backbone.state_dict().items()}, tmp_path / "w.safetensors")
    copy = build_encoder(backbone="resnet20", weights=str(tmp_path / "w.safetensors"), **COLOUR)
    with torch.no_grad():
        assert torch.equal(copy.eval().embed(pictures()), source.eval().embed(pictures()))
    with pytest.raises(UserError, match="no such file"):
        build_encoder(backbone="resnet20", weights=str(tmp_path / "none.pth"), **COLOUR)
    with pytest.raises(UserError, match="nearest: 'resnet20'"):
        build_encoder(backbone="resnt20", **COLOUR)


def saved(path: Path, names: tuple[str, ...]) -> Path:
    spec = NetworkSpec("classifier", {"backbone": "resnet20", "num_classes": 3, **COLOUR})
    networks = {name: build_network(spec) for name in names}
    save_networks(path, networks, dict.fromkeys(names, spec), {})
    return path


def test_files_of_our_own(tmp_path: Path) -> None:
    encoder = load_encoder(saved(tmp_path / "one.safetensors", ("network",)))
    assert not encoder.training and encoder.mean.flatten().tolist() == pytest.approx(COLOUR["mean"])
    assert encoder.embed(pictures()).shape == (2, 64)
    several = saved(tmp_path / "two.safetensors", ("student", "teacher"))
    assert load_encoder(several, network="teacher", input_size=24).input_size == 24
    with pytest.raises(UserError, match=r"holds 2 networks .*student, teacher"):
        load_encoder(several)
    with pytest.raises(UserError, match=r"no encoder 'techer'.*teacher"):
        load_encoder(several, network="techer")
    with pytest.raises(UserError, match="no such file"):
        load_encoder(tmp_path / "none.safetensors")
