"""``gnnunet_install_model``: good zips are placed, all else is refused and leaves nothing."""

import io
import json
import pickle
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from models.small_models import label_maps, opened_model, write_good_images
from tiny_study import DATASET, use_home

from graphnn_unet import export, install_model, predict
from graphnn_unet.commands.install_model import main
from graphnn_unet.errors import RefusedError
from graphnn_unet.storage.safe_load import load_checkpoint

MODEL = f"{DATASET}/nnUNetTrainer__gnnunetPlans__3d_fullres"


@pytest.fixture(scope="module")
def trained(trained_home, tmp_path_factory) -> Path:
    """GraphCL with an open gate. Read only."""
    return opened_model(trained_home, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def good(trained, tmp_path_factory) -> Path:
    """A zip of ``gnnunet_export``. Read only."""
    return export(trained, tmp_path_factory.mktemp("zip") / "good.zip").target


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """An empty home of this test."""
    home = use_home(tmp_path / "home", monkeypatch)
    home.mkdir()
    return home


def repacked(good: Path, target: Path, change) -> Path:
    """A copy of a zip; ``change(files)`` edits a table from names to contents."""
    with zipfile.ZipFile(good) as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    change(files)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as changed:
        for name, content in files.items():
            changed.writestr(name, content)
    return target


def placed(home: Path) -> list[str]:
    """All files below ``nnUNet_results``."""
    results = home / "results"
    return sorted(str(p.relative_to(results)) for p in results.rglob("*") if p.is_file())


def assert_refused(archive: Path, home: Path, capsys, words: str, *options: str) -> None:
    before = sorted(p for p in home.parent.rglob("*") if p.is_file())
    assert main([str(archive), *options]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert sorted(p for p in home.parent.rglob("*") if p.is_file()) == before


def test_exported_zip_is_installed_and_predicts(trained, good, home, tmp_path, capsys):
    assert main([str(good)]) == 0
    out = capsys.readouterr()
    folder = home / "results" / MODEL
    assert out.out.splitlines()[0] == f"installed: {folder}"
    assert "folders: " in out.err
    assert placed(home) == sorted(zipfile.ZipFile(good).namelist())
    assert [p.name for p in (home / "results").iterdir()] == [DATASET]
    images = write_good_images(tmp_path / "in", ("a",))
    predict(images, tmp_path / "installed", model=folder, device="cpu")
    predict(images, tmp_path / "trained", model=trained, device="cpu")
    # the folded weights are the trained ones up to rounding
    a, b = label_maps(tmp_path / "installed")["a"], label_maps(tmp_path / "trained")["a"]
    assert (a != b).mean() < 0.01


def test_zip_of_stock_nnunet_is_installed_without_its_pickles(good, home, tmp_path, capsys):
    def as_nnunet_packs(files):
        files[f"{MODEL}/fold_all/network_architecture.pdf"] = b"%PDF"
        files[f"{MODEL}/fold_all/progress.png"] = b"png"
        files[f"{MODEL}/fold_all/validation/summary.json"] = b"{}"
        files[f"{MODEL}/fold_all/validation/case_1.nii.gz"] = b"x"
        files[f"{MODEL}/crossval_results_folds_0_1/postprocessing.pkl"] = b"x"
        files[f"{DATASET}/ensembles/x/postprocessing.pkl"] = b"x"
        files[f"{DATASET}/inference_information.json"] = b"{}"
        del files[f"{MODEL}/gnnunet_export.json"]

    archive = repacked(good, tmp_path / "stock.zip", as_nnunet_packs)
    assert main([str(archive)]) == 0
    names = placed(home)
    assert f"{MODEL}/fold_all/validation/summary.json" in names
    assert not [n for n in names if n.endswith((".pkl", ".pdf", ".nii.gz"))]
    assert capsys.readouterr().err.count("left out: ") == 5


def add(name: str, content: bytes = b"x"):
    return lambda files: files.update({name: content})


@pytest.mark.parametrize(
    "name",
    [
        f"{MODEL}/../../../escaped.txt",
        "../escaped.txt",
        "/tmp/escaped.txt",
        f"{MODEL}/fold_all/../../plans.json",
        f"{MODEL}/notes.txt",
        f"{MODEL}/fold_all/checkpoint_final.pth/x",
        f"{MODEL}/fold_all/run.py",
        f"{MODEL}\\fold_all\\x.pth",
        "C:/escaped.txt",
        "plans.json",
        f"{DATASET}/.hidden/plans.json",
        f"{DATASET}/ensembles/../../../escaped.txt",
    ],
)
def test_names_that_are_no_files_of_a_model_are_refused(good, home, tmp_path, capsys, name):
    archive = repacked(good, tmp_path / "bad.zip", add(name))
    assert_refused(archive, home, capsys, "is not a file of a model")


def test_link_is_refused(good, home, tmp_path, capsys):
    archive = shutil.copy(good, tmp_path / "link.zip")
    entry = zipfile.ZipInfo(f"{MODEL}/fold_all/progress.png")
    entry.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as changed:
        changed.writestr(entry, "/etc/passwd")
    assert_refused(Path(archive), home, capsys, "progress.png' is not a file of a model")


@pytest.mark.parametrize("name", ["fold_all/progress.png", "fold_1/checkpoint_final.pth"])
def test_bomb_is_refused_while_it_is_unpacked(good, home, tmp_path, capsys, name):
    archive = repacked(good, tmp_path / "bomb.zip", add(f"{MODEL}/{name}", bytes(60 * 2**20)))
    assert archive.stat().st_size < 2**19
    assert_refused(archive, home, capsys, "it unpacks to more than")


def test_bomb_that_lies_about_its_size_is_refused(good, home, tmp_path, capsys):
    name = f"{MODEL}/fold_all/progress.png"
    archive = repacked(good, tmp_path / "bomb.zip", add(name, bytes(60 * 2**20)))
    content = bytearray(archive.read_bytes())
    size = (60 * 2**20).to_bytes(4, "little")
    while (at := content.find(size)) >= 0:
        content[at : at + 4] = (100).to_bytes(4, "little")
    archive.write_bytes(content)
    assert main([str(archive)]) == 2
    assert not placed(home)


def test_too_many_files_are_refused(good, home, tmp_path, capsys):
    def many(files):
        for number in range(1001):
            files[f"{MODEL}/fold_{number}/progress.png"] = b""

    assert_refused(repacked(good, tmp_path / "m.zip", many), home, capsys, "it holds 10")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_zip_is_refused(good, home, tmp_path, capsys, share):
    content = good.read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(len(content) * share)])
    assert_refused(tmp_path / "cut.zip", home, capsys, "is no whole zip file")


def test_damaged_zip_is_refused(good, home, tmp_path, capsys):
    content = bytearray(good.read_bytes())
    for at in range(2000, 3000):
        content[at] ^= 0x5A
    (tmp_path / "damaged.zip").write_bytes(content)
    assert_refused(tmp_path / "damaged.zip", home, capsys, "is no whole zip file")


@pytest.mark.parametrize("kind", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_damaged_zip_of_another_compression_is_refused(good, home, tmp_path, capsys, kind):
    path = tmp_path / "damaged.zip"
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w", kind) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        largest = max(new.infolist(), key=lambda entry: entry.compress_size)
    content = bytearray(path.read_bytes())
    middle = largest.header_offset + largest.compress_size // 2
    for at in range(middle, middle + 400):
        content[at] ^= 0x5A
    path.write_bytes(content)
    assert_refused(path, home, capsys, "is no whole zip file")


def test_encrypted_zip_is_refused(good, home, tmp_path, capsys):
    content = bytearray(good.read_bytes())
    at = content.find(b"PK\x01\x02")
    content[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(content)
    assert_refused(tmp_path / "locked.zip", home, capsys, "is encrypted")


def change_json(name: str, change):
    def apply(files):
        content = json.loads(files[f"{MODEL}/{name}"])
        change(content)
        files[f"{MODEL}/{name}"] = json.dumps(content).encode()

    return apply


def network(value: str):
    return lambda p: p["configurations"]["3d_fullres"]["architecture"].update(
        network_class_name=value
    )


@pytest.mark.parametrize(
    "change",
    [
        network("torch.hub.load"),
        network("os.system"),
        network("payload.Network"),
        lambda p: p.update(image_reader_writer="subprocess.Popen"),
        lambda p: p.update(label_manager="exec"),
        lambda p: p["configurations"]["3d_fullres"].update(preprocessor_name="Evil"),
        lambda p: p["configurations"]["3d_fullres"].update(resampling_fn_data="system"),
        lambda p: p["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(
            conv_op="builtins.exec"
        ),
    ],
)
def test_plans_that_name_foreign_code_are_refused(good, home, tmp_path, capsys, change):
    archive = repacked(good, tmp_path / "bad.zip", change_json("plans.json", change))
    assert_refused(archive, home, capsys, "is not one of nnU-Net's own")


class _Canary:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("as_torch", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(good, home, tmp_path, capsys, as_torch):
    canary = tmp_path / "canary"
    name = f"{MODEL}/fold_all/checkpoint_final.pth"

    def poison(files):
        buffer = io.BytesIO()
        if as_torch:
            content = torch.load(io.BytesIO(files[name]), weights_only=True)
            torch.save(content | {"extra": _Canary(canary)}, buffer)
        else:
            pickle.dump({"network_weights": _Canary(canary)}, buffer)
        files[name] = buffer.getvalue()

    archive = repacked(good, tmp_path / "bad.zip", poison)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        words = f"fold_all/checkpoint_final.pth in {archive}"
        assert_refused(archive, home, capsys, words)
    assert not canary.exists()


def change_weights(change):
    name = f"{MODEL}/fold_all/checkpoint_final.pth"

    def apply(files):
        content = torch.load(io.BytesIO(files[name]), weights_only=True)
        change(content)
        buffer = io.BytesIO()
        torch.save(content, buffer)
        files[name] = buffer.getvalue()

    return apply


def _spoil(content):
    content["network_weights"]["decoder.seg_layers.0.bias"][0] = np.nan


def _rename(content):
    content["init_args"]["configuration"] = "3d_lowres"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.pop(f"{MODEL}/plans.json"), "plans.json is missing"),
        (lambda f: f.pop(f"{MODEL}/dataset.json"), "dataset.json is missing"),
        (lambda f: f.pop(f"{MODEL}/fold_all/checkpoint_final.pth"), "it has no checkpoint"),
        (add(f"{MODEL}/plans.json", b"{"), "is not valid JSON"),
        (add(f"{MODEL}/fold_all/checkpoint_final.pth", b"x" * 99), "cannot be read"),
        (change_weights(_spoil), "are not finite"),
        (change_weights(_rename), "is of configuration '3d_lowres', which plans.json lacks"),
        (add(MODEL.replace("3d_fullres", "2d") + "/plans.json"), "does not hold one model"),
        (lambda f: f.clear(), "does not hold one model: model folders: none"),
    ],
)
def test_zip_without_one_whole_model_is_refused(good, home, tmp_path, capsys, change, words):
    assert_refused(repacked(good, tmp_path / "bad.zip", change), home, capsys, words)


def test_installed_model_is_replaced_only_when_told(good, home, tmp_path, capsys):
    folder = install_model(good)
    (folder / "fold_all" / "mark").touch()
    assert_refused(good, home, capsys, "a model would be replaced")
    assert (folder / "fold_all" / "mark").exists()
    bad = repacked(good, tmp_path / "bad.zip", change_weights(_spoil))
    assert_refused(bad, home, capsys, "are not finite", "--overwrite")
    assert (folder / "fold_all" / "mark").exists()  # the old model outlives a bad new one
    assert main([str(good), "--overwrite"]) == 0
    assert not (folder / "fold_all" / "mark").exists()
    assert load_checkpoint(folder / "fold_all" / "checkpoint_final.pth")
    with pytest.raises(RefusedError):
        install_model(good)


def test_missing_file_and_missing_argument_end_with_2(home, tmp_path, capsys):
    assert_refused(tmp_path / "none.zip", home, capsys, "none.zip is missing")
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


TWO_FAULTS = b'{"channel_names": {"0": "CT"}, "labels": {"background": "x"}, "file_ending": 7}'


@pytest.mark.parametrize("content", [b"{}", b"[1]", TWO_FAULTS])
def test_description_that_describes_nothing_is_refused(good, home, tmp_path, capsys, content):
    def empty(files):
        for name in files:
            if name.endswith("dataset.json"):
                files[name] = content

    archive = repacked(good, tmp_path / "empty.zip", empty)
    assert_refused(archive, home, capsys, f"dataset.json in {archive} ", "--overwrite")
