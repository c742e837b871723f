import subprocess
import sys

import pytest

from graphnn_unet.errors import InputError
from graphnn_unet.networks.vision import import_timm


def test_backbones_load_beside_any_build_of_torch():
    program = (
        "from graphnn_unet.networks.vision import import_timm\n"
        "timm = import_timm()\n"
        "net = timm.create_model('resnet18', in_chans=1, num_classes=0)\n"
        "vit = import_timm().create_model('vit_small_patch8_224', num_classes=0)\n"
        "print(sum(p.numel() for p in net.parameters()), len(vit.state_dict()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["11170240", "150"]


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_what_is_missing_and_how_to_install_it_is_said(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"DINO needs a package .*pip install .*\[vision\]"):
        import_timm("DINO")
