import hashlib
import sys

import pytest
import torch
from tiny_study import model_of
from torch import nn

from graphnn_unet.classification.encoders import (
    EmbeddingNetwork,
    EncoderPlan,
    SmallEncoder,
    build,
    feature_count,
    make_encoder,
)
from graphnn_unet.errors import InputError, MissingFileError, UnsafeFileError
from graphnn_unet.networks.vision import import_timm

OWN = """
from torch import nn

class Mine(nn.Module):
    def __init__(self, n_channels, n_dims):
        super().__init__()
        self.layer = nn.Conv2d(n_channels, 5, 3)

    def forward(self, image):
        return self.layer(image)

def number(n_channels, n_dims):
    return 5
"""


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("size", [16, 17, 32])
def test_small_encoder_takes_any_size(n_dims, size):
    features = SmallEncoder(2, n_dims).eval()(torch.rand(2, 2, *[size] * n_dims))
    assert features.shape == (2, 128)


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize(("name", "n_features"), [("resnet18", 512), ("resnet50", 2048)])
def test_backbones_take_gray_and_colored_pictures(name, n_features, n_channels):
    encoder, plan = make_encoder(name, n_channels, 2)
    assert feature_count(encoder, torch.rand(2, n_channels, 64, 64)) == n_features
    assert plan == EncoderPlan(name, n_channels, 2)


def test_backbones_refuse_volumes():
    with pytest.raises(InputError, match="takes pictures"):
        make_encoder("resnet18", 1, 3)


def test_missing_timm_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"--encoder resnet18 needs .*graphnn-unet\[vision\]") as e:
        make_encoder("resnet18", 3, 2)
    assert e.value.exit_status == 2


def of_torchvision(name: str) -> nn.Module:
    """A network whose files people have, in evaluation mode, with random statistics."""
    import_timm()  # torchvision loads after it beside any build of torch
    import torchvision.models

    torch.manual_seed(0)
    network = getattr(torchvision.models, name)(weights=None).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


@pytest.mark.parametrize("n_channels", [1, 3])
@pytest.mark.parametrize(
    "name", ["resnet18", "resnet50", pytest.param("vgg16", marks=pytest.mark.slow)]
)
def test_files_of_torchvision_give_its_features(tmp_path, capsys, name, n_channels):
    theirs = of_torchvision(name)
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)  # with its classifier, as published files have it
    encoder, _ = make_encoder(f"{name}:{path}", n_channels, 2)
    assert hashlib.sha256(path.read_bytes()).hexdigest() in capsys.readouterr().err
    if name == "vgg16":
        theirs.classifier = theirs.classifier[:-1]
    else:
        theirs.fc = nn.Identity()
    images = torch.rand(2, n_channels, 64, 64)
    with torch.no_grad():
        expected = theirs(images.expand(-1, 3, -1, -1))
        torch.testing.assert_close(encoder.eval()(images), expected, rtol=1e-3, atol=1e-4)
    assert float(expected.std()) > 1e-3  # the comparison says something


def test_weights_of_another_net_are_refused(tmp_path):
    path = tmp_path / "small.pth"
    torch.save(SmallEncoder(1, 2).state_dict(), path)
    with pytest.raises(InputError, match="are not those of resnet18"):
        make_encoder(f"resnet18:{path}", 3, 2)


def test_weights_with_code_damage_or_nan_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"a": SmallEncoder(1, 2)}, path)
    with pytest.raises(UnsafeFileError):
        make_encoder(f"small:{path}", 1, 2)
    state = SmallEncoder(1, 2).state_dict()
    torch.save(state, path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises((InputError, UnsafeFileError)):
        make_encoder(f"small:{path}", 1, 2)
    state["maps.0.weight"][0] = float("nan")
    torch.save(state, path)
    with pytest.raises(InputError, match="not finite"):
        make_encoder(f"small:{path}", 1, 2)
    with pytest.raises(MissingFileError):
        make_encoder("small:nowhere.pth", 1, 2)


def test_module_from_a_file_of_the_user(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    encoder, plan = make_encoder(f"{path}:Mine", 3, 2)
    assert plan.kind == "own"
    assert feature_count(encoder, torch.rand(2, 3, 9, 9)) == 5
    network = EmbeddingNetwork(encoder, 5, 2, 0.0)
    maps = encoder(torch.rand(2, 3, 9, 9))
    assert network.features(torch.rand(2, 3, 9, 9)).shape == (2, 5)
    assert maps.dim() == 4
    with pytest.raises(InputError, match=r"not a torch\.nn\.Module"):
        make_encoder(f"{path}:number", 3, 2)
    with pytest.raises(InputError, match="no class Other"):
        make_encoder(f"{path}:Other", 3, 2)
    with pytest.raises(InputError, match="encoder of its own"):
        build(plan)


def test_modules_and_functions_of_python_are_taken():
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    assert make_encoder(module, 1, 2)[0] is module
    encoder, _ = make_encoder(lambda channels, dims: SmallEncoder(channels, dims, width=2), 1, 2)
    assert feature_count(encoder, torch.rand(2, 1, 16, 16)) == 16
    encoder, _ = make_encoder("torch.nn:AvgPool2d", 2, 2)
    assert isinstance(encoder, nn.AvgPool2d)


def test_unknown_words_list_what_there_is():
    with pytest.raises(InputError, match="resnet18, resnet50"):
        make_encoder("resnet19", 3, 2)
    with pytest.raises(InputError, match="cannot be imported"):
        make_encoder("no_such_module:Thing", 3, 2)


def test_encoder_that_fails_on_the_images_is_refused():
    with pytest.raises(InputError, match="does not take images of shape"):
        feature_count(nn.Linear(3, 2), torch.rand(2, 1, 8, 8))
    with pytest.raises(InputError, match="one row of features"):
        feature_count(nn.Flatten(0), torch.rand(2, 1, 8, 8))


def test_encoder_of_a_segmentation_model(trained_home, tmp_path):
    folder = model_of(trained_home, "SupervisedTrainer")
    encoder, plan = make_encoder(f"unet:{folder}", 1, 3)
    assert plan.kind == "unet"
    features = encoder(torch.rand(2, 1, 16, 16, 16))
    assert features.dim() == 5
    again = build(plan)
    again.load_state_dict(encoder.state_dict())
    again.eval()
    torch.testing.assert_close(
        again(torch.ones(1, 1, 16, 16, 16)), encoder.eval()(torch.ones(1, 1, 16, 16, 16))
    )
    with pytest.raises(InputError, match="takes 3D images"):
        make_encoder(f"unet:{folder}", 1, 2)
    with pytest.raises(MissingFileError):
        make_encoder(f"unet:{tmp_path / 'none'}", 1, 3)
