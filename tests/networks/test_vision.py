import subprocess
import sys


def test_architectures_load_beside_any_build_of_torch():
    program = (
        "from graphnn_unet.networks.vision import import_timm, import_torchvision\n"
        "net = import_torchvision().models.resnet18()\n"
        "vit = import_timm().create_model('vit_small_patch8_224', num_classes=0)\n"
        "print(sum(p.numel() for p in net.parameters()), len(vit.state_dict()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["11689512", "150"]
