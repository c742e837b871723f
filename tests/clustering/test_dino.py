import argparse
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from pictures import as_image, blob

from graphnn_unet.clustering.dino import (
    DinoFeatures,
    last_keys,
    read_backbone,
    square,
)
from graphnn_unet.errors import InputError, MissingFileError, UnsafeFileError
from graphnn_unet.networks.vision import import_timm

pytestmark = pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Random weights under the official names; three blocks of twelve would not be DINO."""
    torch.manual_seed(0)
    model = import_timm().create_model("vit_small_patch8_224", pretrained=False, num_classes=0)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["pos_embed"] = 0.1 * torch.randn_like(state["pos_embed"])
    return state


@pytest.fixture(scope="module")
def weights(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("dino") / "backbone.pth"
    torch.save(tensors, path)
    return path


def test_backbone_file_holds_150_tensors_and_all_are_read(tensors, weights):
    assert len(tensors) == 150
    backbone = read_backbone(weights, "student")[0]
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, tensors[key])


def test_training_checkpoint_is_stripped_and_the_branch_chosen(tensors, tmp_path):
    student = {f"module.backbone.{key}": value for key, value in tensors.items()}
    student["module.head.mlp.0.weight"] = torch.zeros(3)
    teacher = {f"backbone.{key}": value + 1 for key, value in tensors.items()}
    path = tmp_path / "full.pth"
    content = {"student": student, "teacher": teacher, "args": argparse.Namespace(lr=1), "epoch": 3}
    torch.save(content, path)
    for branch, shift in (("student", 0), ("teacher", 1)):
        bias = read_backbone(path, branch)[0].norm.bias
        assert torch.equal(bias, tensors["norm.bias"] + shift)


def test_missing_unknown_and_misshaped_tensors_are_named(tensors, tmp_path):
    path = tmp_path / "wrong.pth"
    wrong = {key: value for key, value in tensors.items() if key != "norm.bias"}
    wrong["extra"] = torch.zeros(1)
    wrong["norm.weight"] = torch.zeros(5)
    torch.save(wrong, path)
    with pytest.raises(
        InputError, match=r"Missing.*norm\.bias.*Unexpected.*extra.*size mismatch for norm\.weight"
    ):
        read_backbone(path, "student")
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"no DINO ViT-S/8.*facebookresearch/dino"):
        read_backbone(path, "student")
    path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="facebookresearch"):
        read_backbone(path, "student")
    with pytest.raises(MissingFileError, match="dino_deitsmall8_pretrain"):
        read_backbone(tmp_path / "none.pth", "student")


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_files_that_ask_for_code_are_refused(tmp_path, capsys):
    path = tmp_path / "evil.pth"
    torch.save({"student": {}, "x": Evil()}, path)
    with pytest.raises(UnsafeFileError):
        read_backbone(path, "student")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("side", "stride", "grid"), [(280, 8, 35), (224, 4, 55), (224, 8, 28), (40, 5, 7)]
)
def test_grids_have_the_sizes_of_the_programs(weights, side, stride, grid):
    backbone = read_backbone(weights, "student")[0]
    kernel = backbone.patch_embed.proj
    tokens = torch.nn.functional.conv2d(torch.zeros(1, 3, side, side), kernel.weight, stride=stride)
    assert tokens.shape[2:] == (grid, grid)
    if side == 40:
        keys, size = last_keys(backbone, torch.zeros(1, 3, side, side), stride)
        assert (size, keys.shape) == ((grid, grid), (grid * grid, 384))


def test_keys_are_those_of_the_last_block(weights):
    source = DinoFeatures(weights, side=40)
    image = as_image(blob()[0])
    nodes = source(image)
    assert nodes.grid.size == (5, 5)
    backbone = read_backbone(weights, "student")[0]
    seen = {}
    last = backbone.blocks[11]
    handle = last.norm1.register_forward_hook(lambda *call: seen.update(tokens=call[2]))
    with torch.no_grad():
        last_keys(backbone, square(image.array, 40), 8)
    handle.remove()
    rows = slice(384, 768)
    by_hand = seen["tokens"][0, 1:] @ last.attn.qkv.weight[rows].T + last.attn.qkv.bias[rows]
    torch.testing.assert_close(nodes.values, by_hand.detach(), atol=1e-5, rtol=1e-4)


def test_the_file_is_told_by_its_digest(weights):
    import hashlib

    source = DinoFeatures(weights, side=40)
    assert source.facts["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert "ViT-S/8" in source.name


def test_wrong_strides_and_volumes_are_refused(weights):
    image = as_image(blob()[0])
    with pytest.raises(InputError, match="stride 9"):
        DinoFeatures(weights, stride=9, side=40)(image)
    with pytest.raises(InputError, match="one plane"):
        square(np.zeros((1, 4, 8, 8), np.float32), 40)
