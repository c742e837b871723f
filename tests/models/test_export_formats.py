"""A trained model for other programs: the same logits, and all that surrounds the network."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from models.small_models import label_maps
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.preprocessing.cropping.cropping import create_nonzero_mask
from nnunetv2.preprocessing.normalization.default_normalization_schemes import (
    ZScoreNormalization,
)
from tiny_study import ball_case, write_image

from graphnn_unet import export, predict
from graphnn_unet.errors import InputError
from graphnn_unet.models import export_formats, monai_bundle
from graphnn_unet.models.load import load_predictor
from graphnn_unet.storage.safe_load import read_json


@pytest.fixture(scope="module")
def predictor(model):
    """Read only."""
    return load_predictor(model, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    """By PyTorch's export. Read only."""
    result = export(model, tmp_path_factory.mktemp("exported") / "out", format="torch-export")
    assert result.difference < 1e-4
    return result.target


@pytest.fixture(scope="module")
def bundle(model, tmp_path_factory) -> Path:
    """Read only."""
    return export(model, tmp_path_factory.mktemp("bundle") / "out", format="monai-bundle").target


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def test_torch_export_has_the_networks_logits_for_any_batch(exported, predictor):
    program = torch.export.load(exported / "fold_all.pt2").module()
    (network,) = predictor.networks()
    for n_images in (1, 3):
        image = noise(n_images, 1, 16, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(program(image), network(image), rtol=1e-4, atol=1e-5)


def test_description_says_what_surrounds_the_network(exported, predictor):
    told = read_json(exported / "inference.json")
    plans = predictor.plans.plans
    assert told["networks"] == ["fold_all.pt2"]
    assert told["input"]["patch_size"] == [16, 16, 16]
    assert [step["step"] for step in told["before"]] == [
        "turn", "transpose", "crop", "normalize", "resample",
    ]  # fmt: skip
    (channel,) = told["before"][3]["channels"]
    assert channel["scheme"] == predictor.configuration.normalization_schemes[0]
    known = plans["foreground_intensity_properties_per_channel"]["0"]
    assert channel["mean"] == known["mean"]
    assert told["windows"]["mirrored_along"] == [2]
    assert told["output"]["labels"] == {"background": 0, "shell": 1, "core": 2}


@pytest.mark.slow
def test_onnx_has_the_networks_logits_for_any_batch(model, predictor, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result = export(model, tmp_path / "out", format="onnx")
    written = onnxruntime.InferenceSession(
        str(result.target / "fold_all.onnx"), providers=["CPUExecutionProvider"]
    )
    (network,) = predictor.networks()
    for n_images in (1, 3):
        image = noise(n_images, 1, 16, 16, 16)
        (logits,) = written.run(None, {"image": image.numpy()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, network(image).numpy(), rtol=1e-3, atol=1e-4)


def test_bundle_network_is_the_mean_of_mirrored_copies_along_x_y_z(bundle, predictor):
    """nnU-Net's own mirroring is the oracle."""
    network = torch.jit.load(str(bundle / "models" / "model.ts"))
    image = noise(1, 1, 16, 16, 16)
    oracle = nnUNetPredictor(device=torch.device("cpu"))
    oracle.network = predictor.networks()[0]
    oracle.allowed_mirroring_axes = predictor.mirroring_axes
    with torch.no_grad():
        expected = oracle._internal_maybe_mirror_and_predict(image)
        logits = network(image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    config = read_json(bundle / "configs" / "inference.json")
    assert [step["_target_"] for step in config["preprocessing"]["transforms"]] == [
        "LoadImaged", "EnsureChannelFirstd", "Orientationd", "CropForegroundd",
        "NormalizeIntensityd", "Spacingd", "EnsureTyped",
    ]  # fmt: skip
    outputs = read_json(bundle / "configs" / "metadata.json")["network_data_format"]["outputs"]
    assert outputs["pred"]["channel_def"] == {"0": "background", "1": "shell", "2": "core"}


def test_axes_of_the_network_are_found_among_x_y_z():
    networks = [torch.nn.Identity()]
    for order in ([2, 1, 0], [0, 2, 1], [1, 0, 2]):
        whole = export_formats.WholeModel(networks, order, ())
        image = noise(1, 2, 3, 4, 5)
        np.testing.assert_array_equal(whole(image), image)
        assert whole.order[2:] == [2 + axis for axis in order]


def test_bundle_normalizes_inside_the_mask_of_all_channels(predictor, monkeypatch):
    """A voxel that is 0 in one channel alone lies in the head, and counts."""
    image = torch.randn(2, 9, 10, 11, generator=torch.Generator().manual_seed(0)) * 5 + 20
    image[:, 0] = image[:, :, :2] = 0
    image[0, 4:6, 5:7, 3:5] = 0
    image[:, 7, 7, 7] = 0  # a hole
    configuration = predictor.configuration.configuration
    z_score, none = "ZScoreNormalization", "NoNormalization"
    for schemes, masks in (([z_score] * 2, [True] * 2), ([none, z_score], [False, True])):
        monkeypatch.setitem(configuration, "normalization_schemes", schemes)
        monkeypatch.setitem(configuration, "use_mask_for_norm", masks)
        step, *others = monai_bundle._normalized(predictor)
        assert not [s for s in others if s["_target_"] == "NormalizeIntensityd"]
        got = eval(step["func"].removeprefix("$"))(image)
        inside = create_nonzero_mask(image.numpy())
        seg = np.where(inside, 0, -1)
        for channel, scheme in enumerate(schemes):
            expected = image[channel].numpy().copy()
            if scheme == z_score:
                expected = ZScoreNormalization(True, {}).run(expected, seg)
            np.testing.assert_allclose(got[channel], expected, atol=1e-5)


def test_what_a_format_cannot_have_is_refused(model, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="no format 'tflite'"):
        export(model, tmp_path / "out", format="tflite")
    with pytest.raises(InputError, match="labeled scans cannot go with format onnx"):
        export(model, tmp_path / "out", format="onnx", scan_graph=True)
    monkeypatch.setattr("graphnn_unet.errors.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'graphnn-unet\[onnx\]'"):
        export(model, tmp_path / "out", format="onnx")
    assert not (tmp_path / "out").exists()


def test_a_network_that_differs_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(export_formats, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(Exception, match="differs from the trained one"):
        export(model, tmp_path / "out", format="monai-bundle")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_monais_runner_predicts_what_this_program_predicts(bundle, model, images, tmp_path):
    """In an environment without this package and nnU-Net, where one is named."""
    python = os.environ.get("GNNUNET_MONAI_PYTHON")
    if not python:
        pytest.skip("GNNUNET_MONAI_PYTHON names no Python with MONAI")
    images = Path(shutil.copytree(images, tmp_path / "images"))
    write_image(images / "as_planned_0000.nii.gz", ball_case(7)[0][0])
    (tmp_path / "site").mkdir()
    blocked = "('graphnn_unet', 'nnunetv2', 'dynamic_network_architectures')"
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {blocked}:\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    given = [
        python, "-m", "monai.bundle", "run", "--bundle_root", str(bundle), "--config_file",
        str(bundle / "configs" / "inference.json"), "--dataset_dir", str(images),
        "--output_dir", str(tmp_path / "theirs"),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(given, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    predict(images, tmp_path / "ours", model=model, device="cpu")
    ours, theirs = label_maps(tmp_path / "ours"), label_maps(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    for case in ours:
        # a network of six steps is torn between classes nearly everywhere, and MONAI's Gaussian
        # is centered half a voxel elsewhere; nnU-Net also stretches a resampled image to a rounded
        # size, half a voxel at its ends
        least = 0.95 if case == "as_planned" else 0.9
        share = (ours[case] == theirs[case]).mean()
        print(f"{case}: {share:.4f} of the voxels have the same label")
        assert share > least, case


def test_files_of_a_bundle_need_nothing_of_this_package(bundle):
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names == {
        "configs/inference.json", "configs/metadata.json", "docs/inference.json",
        "gnnunet_export.json", "models/model.ts",
    }  # fmt: skip
    text = (bundle / "configs" / "inference.json").read_text(encoding="utf-8")
    assert "graphnn_unet" not in text
    assert "nnunetv2" not in text
