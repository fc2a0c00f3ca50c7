"""Confident labels, the pair loss and the walk of a picture, against their rules written out."""

from __future__ import annotations

import torch
from torch import Tensor

from partwise.data.sample import Batch
from partwise.methods.ppl.config import AffinityFields
from partwise.methods.ppl.growing import PairLoss, confident_labels, named, thresholded, walked
from partwise.models.affinity import AffinityNet, IrnNetwork
from partwise.models.backbones import build_backbone
from partwise.ops.affinity import affinity_loss, displacement_loss, feature_affinity, pair_labels, path_affinity
from partwise.ops.random_walk import affinity_walk, random_walk, with_background
from partwise.ops.segmentation_losses import resize_labels

STATISTICS = {"mean": (0.5,) * 3, "std": (0.2,) * 3}


def irn(*, displacement: bool = False) -> IrnNetwork:
    torch.manual_seed(0)
    return IrnNetwork(build_backbone("cifar-resnet", depth=8), stride=2, displacement=displacement, **STATISTICS).eval()


def affinity_net() -> AffinityNet:
    torch.manual_seed(0)
    return AffinityNet(build_backbone("cifar-resnet", depth=8), **STATISTICS).eval()


def test_thresholds_name_places_and_places_name_classes() -> None:
    maps = torch.tensor([[[0.2, 0.5, 0.9]], [[0.3, 0.5, 0.1]]])
    assert thresholded(maps, 0.3).tolist() == [[0, 1, 1]]  # a score equal to the threshold is ground
    assert thresholded(maps, 0.1).tolist() == [[2, 1, 1]]
    assert thresholded(torch.zeros(0, 2, 3), 0.1).tolist() == [[0, 0, 0]] * 2
    assert named(torch.tensor([[0, 1, 2, 255]]), torch.tensor([4, 19])).tolist() == [[0, 5, 20, 255]]


def test_irn_is_sure_of_objects_and_of_ground_and_of_nothing_between() -> None:
    fields = AffinityFields(crf="none", foreground=0.6, background=0.2)
    maps = torch.tensor([[[0.1, 0.4, 0.7, 0.9]], [[0.0, 0.5, 0.1, 0.95]]])
    image = torch.zeros(3, 1, 4, dtype=torch.uint8)
    assert confident_labels(image, maps, torch.tensor([0, 2]), fields).tolist() == [[0, 255, 1, 3]]
    assert confident_labels(image, maps[:0], torch.tensor([]).long(), fields).tolist() == [[0, 0, 0, 0]]


def test_affinitynet_is_sure_by_two_powers_of_the_ground() -> None:
    fields = AffinityFields(kind="affinitynet", crf="none")
    maps = torch.tensor([[[0.01, 0.1, 0.35, 0.9]]])
    expected = []
    for value in maps[0, 0].tolist():
        sure, ground = value > (1 - value) ** 4, (1 - value) ** 32 >= value
        expected.append(1 if sure else (0 if ground else 255))
    assert expected == [0, 255, 1, 1]
    image = torch.zeros(3, 1, 4, dtype=torch.uint8)
    assert confident_labels(image, maps, torch.tensor([0]), fields).tolist() == [expected]


def labelled_batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, 24, 24), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 3, (2, 24, 24), dtype=torch.uint8, generator=generator)
    masks[:, :4] = 255
    return Batch(["a", "b"], torch.arange(2), images, None, masks)


def labels_at(batch: Batch, cells: Tensor) -> Tensor:
    assert batch.masks is not None
    return resize_labels(batch.masks, (cells.shape[-2], cells.shape[-1]))


def test_the_loss_of_boundaries_is_that_of_their_paths() -> None:
    network, batch = irn(displacement=True), labelled_batch()
    fields = AffinityFields(radius=4)
    losses, logs = PairLoss(network, fields)(batch)
    output = network(batch.images.float() / 255)
    edge = output.boundary.sigmoid()
    pairs = pair_labels(labels_at(batch, edge), 4)
    assert logs == {} and set(losses) == {"boundary", "displacement"}
    torch.testing.assert_close(losses["boundary"], affinity_loss(path_affinity(edge, 4), pairs))
    assert output.displacement is not None
    torch.testing.assert_close(losses["displacement"], displacement_loss(output.displacement, pairs, 4))
    assert set(PairLoss(irn(), fields)(batch)[0]) == {"boundary"}


def test_the_loss_of_features_is_that_of_their_distances() -> None:
    network, batch = affinity_net(), labelled_batch()
    losses, _ = PairLoss(network, AffinityFields(kind="affinitynet", radius=3))(batch)
    features = network(batch.images.float() / 255)
    expected = affinity_loss(feature_affinity(features, 3), pair_labels(labels_at(batch, features), 3))
    torch.testing.assert_close(losses["affinity"], expected)


def test_irns_walk_is_divided_by_the_greatest_value_of_all_classes() -> None:
    network, image = irn(), torch.rand(1, 3, 24, 32)
    fields = AffinityFields(walk_radius=3, steps=8, beta=4)
    maps = torch.rand(2, 12, 16)
    found = walked(network, image, maps, fields)
    plain = random_walk(maps, network.edges(image)[0, 0], radius=3, beta=4, steps=8)
    torch.testing.assert_close(found, plain / plain.max())
    assert found.max() == 1 and found.amin((1, 2)).min() >= 0


def test_affinitynets_walk_has_the_ground_as_its_first_row() -> None:
    network, image = affinity_net(), torch.rand(1, 3, 24, 32)
    fields = AffinityFields(kind="affinitynet", walk_radius=3, steps=8, beta=4)
    with torch.no_grad():
        features = network(image)[0]
    maps = torch.rand(2, *features.shape[1:])
    found = walked(network, image, maps, fields)
    torch.testing.assert_close(found, affinity_walk(with_background(maps), features, radius=3, beta=4, steps=8))
    assert len(found) == 3
