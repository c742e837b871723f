"""The alignment block in nnU-Net's networks: closed it changes no bit, open it mixes images."""

import pytest
import torch
from networks.small_networks import KINDS, WIDTHS, images, opened, planned_network
from tiny_study import DATASET, use_home

from graphnn_unet.errors import InputError
from graphnn_unet.networks.hook import AlignedUNet, stage_shapes
from graphnn_unet.storage.safe_load import read_json


def as_list(output):
    return [output] if isinstance(output, torch.Tensor) else output


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_closed_gate_equals_the_plain_network_bit_for_bit(kind, dim, deep, training):
    for stage in range(-1, len(WIDTHS)):
        plain = planned_network(kind, dim, deep)
        aligned = AlignedUNet(planned_network(kind, dim, deep), stage)
        plain.train(training)
        aligned.train(training)
        image = images(3, dim)
        expected, got = as_list(plain(image)), as_list(aligned(image))
        assert len(got) == (2 if deep else 1)
        for a, b in zip(expected, got, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_plain_weights_load_with_only_the_block_missing(kind, dim):
    aligned = AlignedUNet(planned_network(kind, dim))
    weights = planned_network(kind, dim).state_dict()
    missing, unexpected = aligned.load_state_dict(weights, strict=False)
    assert not unexpected
    assert missing
    assert all(name.startswith("align.") for name in missing)


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_in_evaluation_an_image_does_not_depend_on_its_batch(kind, dim, stage):
    aligned = opened(AlignedUNet(planned_network(kind, dim), stage)).eval()
    batch = images(5, dim)
    together = aligned(batch)
    for size in (1, 2):
        apart = torch.cat([aligned(part) for part in batch.split(size)])
        torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)
    mates = torch.cat([batch[:1], images(4, dim, seed=9)])
    torch.testing.assert_close(aligned(mates)[0], together[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("stage", [0, 2])
@pytest.mark.parametrize(("kind", "dim"), KINDS)
def test_in_training_an_image_depends_on_its_batch(kind, dim, stage):
    aligned = opened(AlignedUNet(planned_network(kind, dim), stage)).train()
    batch = images(3, dim)
    changed = batch.clone()
    changed[2] = images(1, dim, seed=9)[0]
    assert (aligned(batch)[0] - aligned(changed)[0]).abs().max() > 1e-3


def test_one_image_in_training_equals_evaluation():
    aligned = opened(AlignedUNet(planned_network("plain", 3)))
    image = images(1, 3)
    assert torch.equal(aligned.train()(image), aligned.eval()(image))


def test_switch_of_deep_supervision_works_as_in_nnunet():
    aligned = AlignedUNet(planned_network("plain", 2, deep=True))
    assert isinstance(aligned(images(1, 2)), list)
    aligned.decoder.deep_supervision = False
    assert isinstance(aligned(images(1, 2)), torch.Tensor)


@pytest.mark.parametrize("stage", [3, -4])
def test_stage_outside_the_network_is_refused(stage):
    with pytest.raises(InputError, match=r"stages 0 to 2.*-1 \(bottleneck\)"):
        AlignedUNet(planned_network("plain", 2), stage)


def test_stage_shapes_are_those_of_the_encoder():
    network = planned_network("plain", 3)  # residual encoders refuse odd sizes
    shapes = stage_shapes((8, 9, 11), network.encoder.strides)
    features = network.encoder(torch.zeros(1, 2, 8, 9, 11))
    assert shapes == [list(feature.shape[2:]) for feature in features]
    assert stage_shapes((8, 6), [1, 2, (1, 3)]) == [[8, 6], [4, 3], [4, 1]]


def test_estimate_of_activations_is_the_plain_networks():
    plain = planned_network("plain", 3)
    size = plain.compute_conv_feature_map_size((8, 8, 8))
    assert AlignedUNet(plain).compute_conv_feature_map_size((8, 8, 8)) == size


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_network_of_a_plan_equals_stock_nnunets(tiny_home, monkeypatch, configuration):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from graphnn_unet.trainers import GraphCLTrainer

    use_home(tiny_home, monkeypatch)
    plans = PlansManager(read_json(tiny_home / "preprocessed" / DATASET / "gnnunetPlans.json"))
    arguments = (plans, plans.get_configuration(configuration), 1, 3, True)
    stock = nnUNetTrainer.build_network_architecture(*arguments)
    aligned = GraphCLTrainer.build_network_architecture(*arguments)
    missing, unexpected = aligned.load_state_dict(stock.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"align"}
    dim = 2 if configuration == "2d" else 3
    image = torch.randn(4, 1, *[16] * dim)
    for training in (True, False):
        ours, theirs = aligned.train(training)(image), stock.train(training)(image)
        assert len(ours) == len(theirs)
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
