"""A file names no code: no checkpoint, zip or stored encoder makes a file run."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from models.small_models import change_checkpoint, label_maps, same_maps
from PIL import Image
from tiny_study import DATASET, use_home

from graphnn_unet import export, predict
from graphnn_unet.commands import classify as classify_command
from graphnn_unet.commands import cluster as cluster_command
from graphnn_unet.commands import export as export_command
from graphnn_unet.commands import install_model as install_command
from graphnn_unet.commands import predict as predict_command
from graphnn_unet.storage.checkpoints import FINAL, save_checkpoint
from graphnn_unet.storage.safe_load import load_checkpoint

EVIL = ("evil.py:Evil", "./evil.py:Evil", "evil:Evil", "evil.Evil", "//host/share/evil.py:Evil")


def refused(main, capsys, *arguments: object, words: str = "is refused") -> None:
    """The command ends with 2 and one line that says why."""
    assert main([str(a) for a in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert words in lines[0]


def model_that_names(model: Path, target: Path, **names: str) -> Path:
    copy = shutil.copytree(model, target)
    change_checkpoint(copy / "fold_all" / FINAL, lambda content: content.update(names))
    return copy


def test_the_canary_would_leave_its_mark(model: Path, images: Path, canary: Path, tmp_path: Path):
    named = model_that_names(model, tmp_path / "named", trainer_name="Evil")
    predict(images, tmp_path / "out", model=named, device="cpu", trainer="evil.py:Evil")
    assert canary.exists()


@pytest.mark.parametrize("name", EVIL)
def test_predict_and_export_refuse_a_checkpoint_that_names_a_file(
    model, images, canary, tmp_path, capsys, name
):
    evil = model_that_names(model, tmp_path / "evil", trainer_name=name)
    words = "which is no name of a class. A file that is to be run can only be given with -tr"
    refused(
        predict_command.main, capsys, "-i", images, "-o", tmp_path / "out", "-m", evil, "-device",
        "cpu", words=words,
    )  # fmt: skip
    refused(export_command.main, capsys, evil, "-o", tmp_path / "out.zip", words=words)
    assert not canary.exists()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.zip").exists()


def test_the_name_of_the_network_is_no_way_round(model, images, canary, tmp_path, capsys):
    def change(content):
        content["trainer_name"] = "Nobody"
        content["gnnunet"]["network"] = "evil.py:Evil"

    copy = shutil.copytree(model, tmp_path / "evil")
    change_checkpoint(copy / "fold_all" / FINAL, change)
    refused(predict_command.main, capsys, "-i", images, "-o", "out", "-m", copy, "-device", "cpu")
    refused(export_command.main, capsys, copy, "-o", "out.zip")
    assert not canary.exists()


def test_install_places_no_model_that_names_a_file(model, canary, tmp_path, monkeypatch, capsys):
    home = use_home(tmp_path / "home", monkeypatch)
    plain = export(model, tmp_path / "plain").target
    evil = model_that_names(plain, tmp_path / "evil", trainer_name="evil.py:Evil")
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        for path in (p for p in evil.rglob("*") if p.is_file()):
            root = f"{DATASET}/nnUNetTrainer__gnnunetPlans__3d_fullres"
            opened.write(path, f"{root}/{path.relative_to(evil)}")
    refused(install_command.main, capsys, archive, words="checkpoint_final.pth in")
    assert not canary.exists()
    assert not [path for path in (home / "results").rglob("*") if path.is_file()]


def pictures(folder: Path, n: int = 12) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(n):
        array = rng.integers(0, 60, (24, 24)) + 150 * (np.arange(24) < 8 + 8 * (number % 2))
        Image.fromarray(array.astype(np.uint8)).save(folder / f"p{number:02d}.png")
    return folder


def test_classify_refuses_encoders_that_name_a_file(trained_home, canary, tmp_path, capsys):
    """Both where the encoder is taken from a model, and where it stands in ``model.pth``."""
    import graphnn_unet

    folder, table, out = pictures(tmp_path / "in"), tmp_path / "labels.csv", tmp_path / "out"
    rows = [f"p{n:02d},{'ab'[n % 2]}" for n in range(6)]
    table.write_text("\n".join(["case,class", *rows]))
    graphnn_unet.classify(
        folder, table, out, encoder="small", max_epochs=1, rounds=1, image_size=16, batch_size=4,
        device="cpu",
    )  # fmt: skip
    stored = load_checkpoint(out / "model.pth")
    source = trained_home / "results" / DATASET / "GraphCLTrainer__gnnunetPlans__3d_fullres"
    state = load_checkpoint(source / "fold_all" / FINAL)
    stored["gnnunet_classify"]["encoder"] |= {
        "kind": "unet",
        "details": {
            "plans": state["init_args"]["plans"],
            "description": state["init_args"]["dataset_json"],
            "configuration": "3d_fullres",
            "trainer": "evil.py:Evil",
        },
    }
    save_checkpoint(out / "model.pth", stored)
    refused(
        classify_command.main, capsys, "--model", out, "-i", folder, "-o", "new", "-device", "cpu",
        words="the stored encoder is refused",
    )  # fmt: skip
    evil = model_that_names(source, tmp_path / "evil", trainer_name="evil.py:Evil")
    refused(
        classify_command.main, capsys, "-i", folder, "--labels", table, "-o", "other", "--encoder",
        f"unet:{evil}", "-device", "cpu",
    )  # fmt: skip
    assert not canary.exists()


class _RunsCode:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mknod, (str(self.mark),)


def test_cluster_reads_weights_without_running_them(tmp_path, capsys):
    mark, weights = tmp_path / "canary", tmp_path / "dino.pth"
    torch.save({"x": _RunsCode(mark)}, weights)
    folder = pictures(tmp_path / "in", 2)
    status = cluster_command.main(
        ["-i", str(folder), "-o", "out", "--features", "dino", "--dino", str(weights), "-np", "1"]
    )
    assert status == 2
    assert not mark.exists()
    torch.load(weights, weights_only=False)
    assert mark.exists()  # it would have run
    mark.unlink()
    weights.write_bytes(pickle.dumps(_RunsCode(mark)))
    cluster_command.main(
        ["-i", str(folder), "-o", "out", "--features", "dino", "--dino", str(weights), "-np", "1"]
    )
    assert not mark.exists()


def test_a_users_own_trainer_predicts_without_its_file_through_the_network_it_shares(
    model, images, tmp_path
):
    named = model_that_names(model, tmp_path / "named", trainer_name="TheirTrainer")
    predict(images, tmp_path / "ours", model=model, device="cpu")
    predict(images, tmp_path / "theirs", model=named, device="cpu")
    assert same_maps(label_maps(tmp_path / "ours"), label_maps(tmp_path / "theirs"))
    assert export(named, tmp_path / "plain").difference < 1e-4
