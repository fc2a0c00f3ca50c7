"""CutMix in a plain PyTorch loop: a timm network, a torch loader, and `pw.CutMix` as its collate function.

    python examples/plain_loop.py [--pictures 2000] [--epochs 5]

The pictures are generated; put any data set of (picture, class index) in the place of `generated`.
"""

from __future__ import annotations

import argparse

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import partwise as pw


def generated(split: str, count: int) -> tuple[TensorDataset, tuple[str, ...]]:
    """Four kinds of creatures, 48 pixels, as (picture in [0, 1], class index), and the names of the classes."""
    counts = "&".join(f"{name}={count if name == split else 0}" for name in ("train", "val", "test"))
    source = pw.open_source(f"creatures:?size=48&classes=4&{counts}")
    labels = torch.tensor([record.label for record in source.records])
    return TensorDataset(source.images(range(count)).float() / 255, labels), source.classes


@torch.inference_mode()
def accuracy(network: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """The share of pictures named right."""
    network.eval()
    return (network(pictures).argmax(1) == labels).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    torch.manual_seed(0)
    training, classes = generated("train", options.pictures)
    test, _ = generated("test", max(options.pictures // 5, 10))

    mixer = pw.CutMix(num_classes=len(classes), p=0.5)
    loader = DataLoader(training, batch_size=64, shuffle=True, collate_fn=mixer)
    network = timm.create_model("resnet10t", num_classes=len(classes))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps = options.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    for epoch in range(options.epochs):
        network.train()
        for pictures, targets in loader:
            loss = F.cross_entropy(network(pictures), targets)  # targets are rows: the shares of the soft label
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {accuracy(network, *test.tensors):.3f}")

    pictures, _ = test[:4]
    with torch.inference_mode():
        maps = pw.cam(network, pictures)
    print(f"maps of {len(classes)} classes, {tuple(maps.shape)}: where in each picture the network finds each class")


if __name__ == "__main__":
    main()
