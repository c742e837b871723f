"""A trained model as a plain nnU-Net model: what stock nnU-Net makes of it without this package."""

import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from models.small_models import (
    GOOD,
    change_checkpoint,
    label_maps,
    opened_model,
    same_maps,
)  # fmt: skip
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from tiny_study import DATASET, model_of, train_in

from graphnn_unet import export, predict
from graphnn_unet.errors import GraphnnError, InputError, MissingFileError, RefusedError
from graphnn_unet.models import export as export_model
from graphnn_unet.models.load import build_network
from graphnn_unet.prediction import sliding_window
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.checkpoints import FINAL, save_checkpoint
from graphnn_unet.storage.safe_load import load_checkpoint, read_json

HALF = 2e-3
"""nnU-Net sums the tiles of a sliding window in float16: where sums are made in another order,
rounding in the seventh digit can move a logit by one step of float16; probabilities move by less
than this."""


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory) -> Path:
    """The plain model. Read only."""
    return export(model, tmp_path_factory.mktemp("exported") / "plain").target


def networks(model: Path, plain: Path, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the trained network and of stock nnU-Net's with the exported weights."""
    logits = []
    for folder in (model, plain):
        state = load_checkpoint(folder / "fold_all" / FINAL)
        plans = PlansManager(read_json(folder / "plans.json"))
        name = state["init_args"]["configuration"]
        if folder is model:
            network = build_network(
                state["trainer_name"], plans, name, read_json(folder / "dataset.json")
            )
        else:
            network = nnUNetTrainer.build_network_architecture(
                plans, plans.get_configuration(name), 1, 3, False
            )
        network.load_state_dict(state["network_weights"])
        with torch.no_grad():
            logits.append(network.eval()(image))
    return logits[0], logits[1]


def assert_same(ours: Path, theirs: Path) -> None:
    """The same label maps, and probabilities within 1e-5."""
    assert same_maps(label_maps(ours), label_maps(theirs))
    for case in label_maps(ours):
        p, q = (np.load(folder / f"{case}.npz")["probabilities"] for folder in (ours, theirs))
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-5)


def assert_same_but_for_half(ours: Path, theirs: Path) -> None:
    """Labels equal wherever two classes are not within rounding of each other."""
    for case, labels in label_maps(ours).items():
        p, q = (np.load(folder / f"{case}.npz")["probabilities"] for folder in (ours, theirs))
        assert p.shape == q.shape
        assert np.abs(p - q).max() < HALF
        assert (np.abs(p - q) > 1e-5).mean() < 0.01
        first, second = np.sort(p, axis=0)[:-3:-1]
        certain = first - second > 2 * HALF
        assert certain.mean() > 0.9
        np.testing.assert_array_equal(label_maps(theirs)[case][certain], labels[certain])


_BLOCKER = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("graphnn_unet", "dataset_conversion", "plans"):
            raise ModuleNotFoundError(f"{name} is not installed here")

sys.meta_path.insert(0, Absent())
"""


_WITHOUT_PRIMUS = """
import sys, types

# nnU-Net's search for a trainer imports all of its own, and one needs torchvision, which is broken
# beside a PyTorch of another build
name = "dynamic_network_architectures.architectures.primus"
sys.modules[name] = types.ModuleType(name)
for kind in ("Primus", "PrimusV2B", "PrimusV2L", "PrimusV2M", "PrimusV2S"):
    setattr(sys.modules[name], kind, object)
"""


def torchvision_works() -> bool:
    """In a process of its own: here another test may have made up for what is missing."""
    given = [sys.executable, "-c", "import torchvision"]
    return subprocess.run(given, capture_output=True, check=False).returncode == 0


def stock(home: Path, first: str, code: str, *arguments: object, **environment: str):
    """Run code of stock nnU-Net in a process that runs ``first`` at its very start."""
    (home / "site").mkdir(exist_ok=True)
    (home / "site" / "sitecustomize.py").write_text(first)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        capture_output=True, encoding="utf-8", check=False,
        env=os.environ | {
            "PYTHONPATH": str(home / "site"), "nnUNet_raw": str(home),
            "nnUNet_preprocessed": str(home), "nnUNet_results": str(home / "results"),
            "nnUNet_def_n_proc": "1", **environment,
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


_INSTALL_AND_PREDICT = """
import sys
try:
    import graphnn_unet
    sys.exit("this package is here")
except ModuleNotFoundError:
    pass
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
from nnunetv2.model_sharing.entry_points import install_from_zip_entry_point

if __name__ == "__main__":
    archive, *rest = sys.argv[1:]
    sys.argv[1:] = [archive]
    install_from_zip_entry_point()
    sys.argv[1:] = rest
    predict_entry_point_modelfolder()
"""


def as_trained(images: Path, target: Path) -> Path:
    """The images along the axes of the training scans, to which stock nnU-Net does not turn."""
    target.mkdir()
    for path in images.glob("*.nii.gz"):
        image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
        sitk.WriteImage(image, str(target / path.name), True)
    return target


def test_stock_nnunet_installs_and_predicts_the_same_without_this_package(
    model, images, tmp_path, monkeypatch
):
    archive = export(model, tmp_path / "plain.zip").target
    name = f"{DATASET}/nnUNetTrainer__gnnunetPlans__3d_fullres"
    (tmp_path / "results").mkdir()
    stock(
        tmp_path, _BLOCKER, _INSTALL_AND_PREDICT, archive,
        "-i", as_trained(images, tmp_path / "in"), "-o", tmp_path / "theirs",
        "-m", tmp_path / "results" / name, "-f", "all", "-device", "cpu", "-npp", 1, "-nps", 1,
        "--save_probabilities",
    )  # fmt: skip
    common = {"model": model, "device": "cpu", "save_probabilities": True}
    predict(tmp_path / "in", tmp_path / "ours", **common)
    assert list(label_maps(tmp_path / "theirs")) == list(GOOD)
    assert_same_but_for_half(tmp_path / "ours", tmp_path / "theirs")  # oneDNN sums in its order
    monkeypatch.setattr(sliding_window, "OneDnnConvolutions", nullcontext)
    predict(tmp_path / "in", tmp_path / "native", **common)
    assert_same(tmp_path / "native", tmp_path / "theirs")


_PREDICT = """
import sys
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
if __name__ == "__main__":
    predict_entry_point()
"""


def test_stock_nnunet_finds_our_trainers_in_a_folder(model, images, tmp_path):
    import graphnn_unet.nnunet_trainers as folder

    installed = tmp_path / "results" / DATASET / model.name
    shutil.copytree(model, installed)
    first = "" if torchvision_works() else _WITHOUT_PRIMUS
    done = stock(
        tmp_path, first, _PREDICT, "-i", as_trained(images, tmp_path / "in"),
        "-o", tmp_path / "theirs", "-d", "801", "-tr", "GraphCLTrainer", "-c", "3d_fullres",
        "-p", "gnnunetPlans", "-f", "all",
        "-device", "cpu", "-npp", 0, "-nps", 0, "--save_probabilities",
        nnUNet_extTrainer=str(Path(folder.__file__).parent),
    )  # fmt: skip
    assert "Using trainer 'GraphCLTrainer'" in done.stdout
    predict(tmp_path / "in", tmp_path / "ours", model=model, device="cpu", save_probabilities=True)
    assert_same_but_for_half(tmp_path / "ours", tmp_path / "theirs")  # theirs has the block itself


def test_exported_network_equals_the_trained_one(model, exported):
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    expected, got = networks(model, exported, image)
    assert float((expected - got).abs().max() / expected.std()) < 1e-5
    p, q = torch.softmax(expected, 1), torch.softmax(got, 1)
    torch.testing.assert_close(p, q, atol=1e-5, rtol=0)


def test_export_predicts_the_same_with_this_program_too(model, exported, images, tmp_path):
    for name, folder in (("trained", model), ("plain", exported)):
        predict(images, tmp_path / name, model=folder, device="cpu", save_probabilities=True)
    assert_same(tmp_path / "trained", tmp_path / "plain")
    facts = read_json(tmp_path / "plain" / "prediction.json")
    assert facts["trainer"] == "nnUNetTrainer"


@pytest.mark.parametrize("trainer", ["SupervisedTrainer", "BCPTrainer"])
def test_models_without_the_block_export_their_own_weights(trained_home, tmp_path, trainer):
    trained = model_of(trained_home, trainer)
    result = export(trained, tmp_path / "plain")
    assert result.difference == 0
    ours, theirs = (
        load_checkpoint(folder / "fold_all" / FINAL)["network_weights"]
        for folder in (trained, result.target)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_export_holds_what_stock_nnunet_reads_and_nothing_of_ours(model, exported):
    assert {str(p.relative_to(exported)) for p in exported.rglob("*") if p.is_file()} == {
        "plans.json", "dataset.json", "dataset_fingerprint.json", "gnnunet_export.json",
        f"fold_all/{FINAL}",
    }  # fmt: skip
    assert "gnnunet" not in read_json(exported / "plans.json")
    state = load_checkpoint(exported / "fold_all" / FINAL)
    assert state["trainer_name"] == "nnUNetTrainer"
    assert "gnnunet" not in state
    assert "gnnunet" not in state["init_args"]["plans"]
    assert tuple(state["inference_allowed_mirroring_axes"]) == (2,)
    facts = read_json(exported / "gnnunet_export.json")
    assert facts["trainer"] == "GraphCLTrainer"
    assert 0 < facts["largest_logit_difference"] < 1e-4


def test_models_that_mirror_nothing_predict_in_stock_nnunet(model, tmp_path):
    """nnU-Net's predictor takes the largest of the mirrored axes, if it is told any."""
    copy = shutil.copytree(model, tmp_path / "model")
    change_checkpoint(
        copy / "fold_all" / FINAL,
        lambda content: content.update(inference_allowed_mirroring_axes=()),
    )
    plain = export(copy, tmp_path / "plain").target
    predictor = nnUNetPredictor(device=torch.device("cpu"), verbose=False, allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(plain), ("all",), FINAL)
    patch = predictor.configuration_manager.patch_size
    logits = predictor.predict_sliding_window_return_logits(torch.zeros(1, *patch))
    assert logits.shape[1:] == tuple(patch)


def test_zip_holds_the_same_files_as_the_folder(model, exported, tmp_path):
    archive = export(model, tmp_path / "deep" / "plain.zip").target
    root = f"{DATASET}/nnUNetTrainer__gnnunetPlans__3d_fullres"
    with zipfile.ZipFile(archive) as opened:
        assert sorted(opened.namelist()) == sorted(
            f"{root}/{p.relative_to(exported)}" for p in exported.rglob("*") if p.is_file()
        )
        for name in ("plans.json", "dataset.json", "gnnunet_export.json"):
            assert opened.read(f"{root}/{name}") == (exported / name).read_bytes()
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"]  # nothing temporary is left
    assert list((tmp_path / "deep").iterdir()) == [archive]


def test_chosen_folds_are_exported(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    for number in range(2):
        shutil.copytree(copy / "fold_all", copy / f"fold_{number}")
    assert export(copy, tmp_path / "all").folds == [0, 1]
    result = export(copy, tmp_path / "one", folds=[1])
    assert result.folds == [1]
    assert [p.name for p in result.target.glob("fold_*")] == ["fold_1"]
    with pytest.raises(MissingFileError, match=r"fold 2 of .*folds that have it: 0, 1, all"):
        export(copy, tmp_path / "none", folds=[2])
    with pytest.raises(MissingFileError, match=r"is no model folder: it has no plans\.json"):
        export(tmp_path, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_only_an_older_export_is_replaced_and_only_when_told(model, tmp_path):
    target = export(model, tmp_path / "plain").target
    with pytest.raises(RefusedError, match=r"exists\. Use --overwrite"):
        export(model, target)
    (target / "mark").touch()
    export(model, target, overwrite=True)
    assert not (target / "mark").exists()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").touch()
    copy = shutil.copytree(model, tmp_path / "model")
    for other in (tmp_path / "precious", copy):  # the trained model itself above all
        with pytest.raises(RefusedError, match="was not written by gnnunet_export"):
            export(copy, other, overwrite=True)
    assert (tmp_path / "precious" / "thesis.txt").exists()
    scans = tmp_path / "scans.zip"
    with zipfile.ZipFile(scans, "w") as archive:
        archive.writestr("thesis.txt", "")
    with pytest.raises(RefusedError, match="was not written by gnnunet_export"):
        export(copy, scans, overwrite=True)
    packed = export(copy, tmp_path / "packed.zip").target
    assert export(copy, packed, overwrite=True).target == packed
    assert load_checkpoint(copy / "fold_all" / FINAL)["trainer_name"] == "GraphCLTrainer"


def test_wrong_folding_is_found_before_anything_is_written(model, tmp_path, monkeypatch):
    def unfolded(network):
        weights = network.state_dict()
        return {k: v for k, v in weights.items() if not k.startswith("align.")}

    monkeypatch.setattr(export_model, "fold_alignment", unfolded)
    with pytest.raises(GraphnnError, match=r"differs from the trained one: .*nothing was written"):
        export(model, tmp_path / "plain")
    assert not list(tmp_path.iterdir())


def test_weights_that_are_not_finite_are_not_exported(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")

    def spoil(content):
        content["network_weights"]["align.weight"][0, 0] = float("nan")

    change_checkpoint(copy / "fold_all" / FINAL, spoil)
    with pytest.raises(InputError, match=r"not finite: first in align\.weight"):
        export(copy, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_network_that_is_not_the_planned_one_cannot_be_exported(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    file = tmp_path / "wide.py"
    file.write_text(
        "from torch import nn\n"
        "from graphnn_unet.trainers import SupervisedTrainer\n"
        "class Wide(SupervisedTrainer):\n"
        "    @staticmethod\n"
        "    def build_network_architecture(*arguments, **options):\n"
        "        made = SupervisedTrainer.build_network_architecture(*arguments, **options)\n"
        "        made.more = nn.Linear(2, 2)\n"
        "        return made\n"
    )

    def as_wide(content):
        weights = {k: v for k, v in content["network_weights"].items() if k[:6] != "align."}
        weights |= {"more.weight": torch.zeros(2, 2), "more.bias": torch.zeros(2)}
        content |= {"network_weights": weights, "trainer_name": "Wide"}
        content["gnnunet"]["network"] = ""

    change_checkpoint(copy / "fold_all" / FINAL, as_wide)
    with pytest.raises(InputError, match="a model of Wide cannot be exported"):
        export(copy, tmp_path / "plain", trainer=f"{file}:Wide")
    assert not (tmp_path / "plain").exists()


def test_models_that_say_modality_are_exported(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "model")
    description = read_json(copy / "dataset.json")
    description["modality"] = description.pop("channel_names")
    write_json(copy / "dataset.json", description)
    plain = export(copy, tmp_path / "plain").target
    assert read_json(plain / "dataset.json")["channel_names"] == description["modality"]


def test_second_stage_of_a_cascade_is_exported(model, tmp_path):
    """Its network also takes the label map of the first stage, a channel a class."""
    plans, description = (read_json(model / f"{name}.json") for name in ("plans", "dataset"))
    second = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    plans["configurations"]["3d_cascade_fullres"] = second
    stage = tmp_path / "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres"
    write_json(stage / "plans.json", plans)
    write_json(stage / "dataset.json", description)
    manager = PlansManager(plans).get_configuration("3d_cascade_fullres")
    network = nnUNetTrainer.build_network_architecture(plans, manager, 3, 3, False)
    content = {
        "network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_cascade_fullres", "fold": 0},
    }  # fmt: skip
    save_checkpoint(stage / "fold_0" / FINAL, content)
    result = export(stage, tmp_path / "plain")
    assert result.folds == [0]
    assert result.difference == 0


def test_2d_model_exports(tiny_home, tmp_path):
    home = shutil.copytree(tiny_home, tmp_path / "home")
    train_in(home, "GraphCLTrainer", configuration="2d")
    trained = opened_model(home, tmp_path, "2d")
    plain = export(trained, tmp_path / "plain").target
    expected, got = networks(trained, plain, torch.randn(2, 1, 16, 16))
    assert float((expected - got).abs().max() / expected.std()) < 1e-5
