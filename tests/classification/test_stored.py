import shutil

import pytest
import torch
from torch import nn

from graphnn_unet import classify
from graphnn_unet.classification.stored import load_model
from graphnn_unet.errors import InputError, MissingFileError, RefusedError, UnsafeFileError


@pytest.fixture
def model(finished, tmp_path):
    """A copy of a finished run's model that may be changed."""
    _, result = finished
    shutil.copy(result.output / "model.pth", tmp_path / "model.pth")
    return tmp_path


def change(folder, edit) -> None:
    content = torch.load(folder / "model.pth", weights_only=True)
    edit(content)
    torch.save(content, folder / "model.pth")


def test_model_comes_back_as_it_was(finished, model):
    study, result = finished
    stored = load_model(model)
    assert stored.cases == result.predictions.cases
    assert stored.findings == result.predictions.findings
    torch.testing.assert_close(stored.feature, result.feature)
    torch.testing.assert_close(stored.score.sum(1), torch.ones(36).double())
    assert stored.settings.rounds == 3
    assert int((stored.targets >= 0).sum()) == len(study.given)


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["gnnunet_classify"].pop("feature"),
        lambda c: c["gnnunet_classify"]["settings"].update(alpha="high"),
        lambda c: c["gnnunet_classify"]["settings"].update(speed=3),
        lambda c: c["network_weights"].pop("classifier.weight"),
        lambda c: c["gnnunet_classify"]["findings"].append(["more", ["a", "b"]]),
    ],
)
def test_damaged_models_are_refused(model, edit):
    change(model, edit)
    with pytest.raises(InputError, match="damaged"):
        load_model(model)


def test_models_of_older_versions_are_read(finished, model):
    """They hold settings and an encoder that are gone."""

    def age(content):
        saved = content["gnnunet_classify"]
        saved["settings"] |= {"trust": "all", "reconstruction_epochs": 20}
        saved["encoder"]["kind"] = "autoencoder"

    change(model, age)
    stored = load_model(model)
    assert stored.settings.rounds == 3
    torch.testing.assert_close(stored.score, load_model(finished[1].output).score)


def test_models_with_backbones_of_torchvision_are_read(study, quick):
    quick |= {"mode": "one-pass", "max_epochs": 1, "image_size": 32}
    out = study.root / "out"
    first = classify(study.images, study.labels, out, encoder="resnet18", device="cpu", **quick)

    def age(content):
        weights = content["network_weights"]
        old = {k.replace("encoder.", "encoder.network."): v for k, v in weights.items()}
        # gray was given three times to a network for colored pictures
        kernel = old["encoder.network.conv1.weight"]
        share = torch.tensor([0.5, 0.2, 0.3]).view(1, 3, 1, 1)
        content["network_weights"] = {**old, "encoder.network.conv1.weight": kernel * share}

    change(out, age)
    again = classify(study.images, None, study.root / "again", model=out, device="cpu")
    torch.testing.assert_close(again.feature, first.feature, atol=1e-4, rtol=1e-4)


def test_other_files_are_refused(model):
    change(model, lambda c: c.pop("gnnunet_classify"))
    with pytest.raises(InputError, match="not a model of gnnunet_classify"):
        load_model(model)
    (model / "model.pth").write_bytes(b"nothing")
    with pytest.raises(InputError):
        load_model(model)
    with pytest.raises(MissingFileError):
        load_model(model / "none")


def test_code_in_a_model_is_refused(model):
    content = torch.load(model / "model.pth", weights_only=True)
    content["network_weights"]["more"] = nn.Linear(1, 1)
    torch.save(content, model / "model.pth")
    with pytest.raises(UnsafeFileError):
        load_model(model)


def test_model_never_names_a_class_to_import(model):
    def edit(content):
        content["gnnunet_classify"]["encoder"]["kind"] = "os:system"

    change(model, edit)
    with pytest.raises(InputError, match="encoder of its own"):
        load_model(model)


def test_own_encoder_is_given_again(study, quick):
    def mine(n_channels: int, n_dims: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(n_channels, 6, 5, 4), nn.ReLU())

    quick |= {"mode": "one-pass", "max_epochs": 1}
    out = study.root / "out"
    classify(study.images, study.labels, out, encoder=mine, device="cpu", **quick)
    with pytest.raises(InputError, match="encoder of its own"):
        load_model(out)
    later = classify(
        study.images, None, study.root / "later", model=out, encoder=mine, device="cpu"
    )
    assert later.feature.shape[1] > 6  # descriptors beside


def test_checkpoints_of_older_versions_are_refused_with_the_reason(study, quick):
    out = study.root / "out"
    classify(study.images, study.labels, out, device="cpu", **quick)
    content = torch.load(out / "checkpoint_latest.pth", weights_only=True)
    content["gnnunet_classify"]["version"] = 2
    torch.save(content, out / "checkpoint_latest.pth")
    with pytest.raises(RefusedError, match="another version of the program began it"):
        classify(study.images, study.labels, out, device="cpu", resume=True, **quick)
