"""Exported tensors in the networks of timm and torchvision: the same embeddings."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from partwise.config import UserError
from partwise.models.backbones import build_backbone
from partwise.models.exports import CONVNEXTS, RESNETS, export_tensors

PICTURES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def expected(name: str) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():  # norms and layer scales that do something
            parameter.add_(0.05 * torch.randn_like(parameter))
        return backbone, backbone.pooled(PICTURES)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0"])
def test_timm_computes_the_same(name: str) -> None:
    backbone, embeddings = expected(name)
    network = timm.create_model(name, num_classes=0).eval()
    network.load_state_dict(export_tensors(backbone, "timm"))  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(network(PICTURES), embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "head"), [("resnet18", "fc"), ("resnet50", "fc"), ("convnext_tiny", "classifier.2")])
def test_torchvision_computes_the_same(name: str, head: str) -> None:
    backbone, embeddings = expected(name)
    network = torchvision.models.get_model(name, weights=None).eval()
    missing, unknown = network.load_state_dict(export_tensors(backbone, "torchvision"), strict=False)  # type: ignore[arg-type]
    assert set(missing) == {f"{head}.weight", f"{head}.bias"} and not unknown
    place = network if head == "fc" else network.classifier
    setattr(place, head.removeprefix("classifier."), torch.nn.Identity())
    with torch.no_grad():
        torch.testing.assert_close(network(PICTURES).flatten(1), embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
def test_smp_computes_the_same() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    backbone, _ = expected("resnet18")
    encoder = smp.encoders.get_encoder("resnet18", weights=None).eval()
    encoder.load_state_dict(export_tensors(backbone, "smp"))  # type: ignore[arg-type]
    with torch.no_grad():
        torch.testing.assert_close(encoder(PICTURES)[-1], backbone(PICTURES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("resnet20", "timm", "CifarResNet is Partwise's own network"),
        ("convnext_atto", "torchvision", "convnext_atto is none of its networks"),
        ("convnext_tiny", "smp", "has another layout there"),
        ("resnet26", "torchvision", "resnet26 is none of its networks"),
        ("resnet18", "tim", "export to 'tim': expected one of timm, torchvision, smp; did you mean 'timm'"),
    ],
)
def test_what_has_no_place_is_refused(name: str, to: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        export_tensors(build_backbone(name), to)


def test_networks_that_compute_something_else_are_refused() -> None:
    with pytest.raises(UserError, match="resnet18 was made with last_stride"):
        export_tensors(build_backbone("resnet18", last_stride=1), "timm")


def test_the_names_are_those_of_the_library() -> None:
    assert set(torchvision.models.list_models()) >= RESNETS | CONVNEXTS
