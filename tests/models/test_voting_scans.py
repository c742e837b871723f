"""The vote of the training's labeled scans at prediction: where they come from, what it changes."""

import pickle
import shutil
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from models.small_models import change_checkpoint, label_maps, read, same_maps
from tiny_study import DATASET, ball_case, model_of, use_home, write_image

from graphnn_unet import export, predict
from graphnn_unet.commands.export import main as export_main
from graphnn_unet.commands.install_model import main as install_main
from graphnn_unet.commands.predict import main as predict_main
from graphnn_unet.data import patch_dataset, preprocess
from graphnn_unet.errors import InputError, RefusedError
from graphnn_unet.models.voting_scans import FACTS, FOLDER, KeptScan, find_voting_scans
from graphnn_unet.storage.atomic import write_json
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.safe_load import read_json

cases_module = import_module("graphnn_unet.models.predict_cases")
VOTERS = ["case_00", "case_02"]
QUICK = {"affine_iterations": 20, "smooth_iterations": 10, "fine_iterations": 10}


def of_two_scans(content) -> None:
    """Make a checkpoint that of a training with two of the four labeled scans."""
    content["gnnunet"]["cases"]["labeled"] = VOTERS
    content["gnnunet"]["recipe"]["registration"] = QUICK


@pytest.fixture(scope="module")
def model(trained_home, tmp_path_factory) -> Path:
    """A model of two scans. Read only."""
    source = model_of(trained_home, "BCPTrainer")
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("voting") / source.name))
    change_checkpoint(folder / "fold_all" / FINAL, of_two_scans)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """One image on the plan's grid. Read only."""
    folder = tmp_path_factory.mktemp("images")
    write_image(folder / "new_0000.nii.gz", ball_case(20)[0][0])
    return folder


@pytest.fixture(autouse=True)
def home(trained_home, monkeypatch) -> Path:
    """The home of the trainings. Read only."""
    return use_home(trained_home, monkeypatch)


def run(images, target, model, **options):
    options = {"mirroring": False, "n_workers": 0, **options}
    return predict(images, target, model=model, device="cpu", **options)


@pytest.fixture(scope="module")
def predicted(model, images, trained_home, tmp_path_factory) -> dict[str, Path]:
    """Predictions of the network, of the vote, and of both. Read only."""
    folder = tmp_path_factory.mktemp("predicted")
    asked = {
        "network": {}, "none": {"scan_graph_blend": 0.0}, "vote": {"scan_graph_blend": 1},
        "both": {"scan_graph_blend": None},
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        use_home(trained_home, patch)
        for name, options in asked.items():
            run(
                images, folder / name, model, save_probabilities=True, uncertainty=True,
                scan_graph=bool(options), **options,
            )  # fmt: skip
    return {name: folder / name for name in asked}


def probabilities(folder: Path) -> np.ndarray:
    with np.load(folder / "new.npz") as stored:
        return stored["probabilities"]


def test_probabilities_and_labels_are_those_of_the_blend(predicted, model):
    network, vote, both = (probabilities(predicted[name]) for name in ("network", "vote", "both"))
    np.testing.assert_array_equal(network, probabilities(predicted["none"]))
    assert same_maps(label_maps(predicted["network"]), label_maps(predicted["none"]))
    known = np.abs(vote - network).max(0) > 1e-4
    assert 0.3 < known.mean() < 1  # where links leave the other scans there is no vote
    np.testing.assert_allclose(both, (network + vote) / 2, atol=1e-5)
    np.testing.assert_allclose(network[:, ~known], vote[:, ~known], atol=1e-4)
    for name, p in (("vote", vote), ("both", both)):
        np.testing.assert_array_equal(label_maps(predicted[name])["new"], p.argmax(0))
    is_ball = ball_case(20)[1] > 0
    dice = {
        name: 2 * np.sum(is_ball & (p.argmax(0) > 0)) / (is_ball.sum() + np.sum(p.argmax(0) > 0))
        for name, p in (("network", network), ("both", both))
    }
    assert dice["both"] > max(0.7, dice["network"] + 0.3)  # of six steps of training, and two scans
    panel = find_voting_scans(model, ["all"], FINAL).panel
    assert [scan.case_id for scan in panel.labeled] == VOTERS


def test_the_uncertainty_is_that_of_the_blend(predicted):
    p = np.maximum(probabilities(predicted["both"]), 1e-9)
    entropy = -(p * np.log(p)).sum(0) / np.log(len(p))
    there = read(predicted["both"] / "new_uncertainty.nii.gz")
    np.testing.assert_allclose(there, entropy, atol=2e-3)


def test_the_record_tells_of_the_vote(predicted, model, images, tmp_path, capsys):
    facts = {name: read_json(folder / "prediction.json") for name, folder in predicted.items()}
    assert facts["both"]["scan_graph"] == {"labeled_scans": 2, "blend": 0.5}
    assert "scan_graph" not in facts["network"]
    made_by = {name: fact["cases"]["new"]["made_by"] for name, fact in facts.items()}
    assert len(set(made_by.values())) == 4
    target = Path(shutil.copytree(predicted["both"], tmp_path / "out"))
    again = {"scan_graph": True, "continue_prediction": True}
    assert run(images, target, model, **again).kept == ["new"]
    assert "graph of scans: 2 labeled scans vote, blend 0.5" in capsys.readouterr().err
    assert run(images, target, model, continue_prediction=True).predicted == ["new"]
    assert "of another model or other options" in capsys.readouterr().err
    others = tmp_path / "others"
    write_image(others / "other_0000.nii.gz", ball_case(21)[0][0])
    with pytest.raises(RefusedError, match=r"scan_graph None there, \{'labeled_scans': 2"):
        run(others, target, model, scan_graph=True)


def test_an_exported_model_predicts_the_same_in_an_empty_home(
    predicted, model, images, tmp_path, monkeypatch, capsys
):
    archive = tmp_path / "model.zip"
    assert export_main([str(model), "-o", str(archive), "--scan-graph"]) == 0
    said = capsys.readouterr().err
    assert "patient data travel with this model: 2 labeled scans and their label maps (0." in said
    empty = use_home(tmp_path / "empty", monkeypatch)
    assert install_main([str(archive)]) == 0
    (installed,) = (empty / "results" / DATASET).glob("nnUNetTrainer__*")
    kept = find_voting_scans(installed, ["all"], FINAL)
    assert kept.source == installed / FOLDER
    arguments = ("-i", images, "-o", tmp_path / "out", "-d", "801", "-device", "cpu", "-np", "0",
                 "--disable_tta", "--scan-graph")  # fmt: skip
    assert predict_main([*map(str, arguments)]) == 0
    assert same_maps(label_maps(tmp_path / "out"), label_maps(predicted["both"]))
    # one channel and the label map of the two, nothing else of the data set
    assert {path.name for path in (installed / FOLDER).iterdir()} == {
        FACTS, *(f"{case}.npz" for case in VOTERS)
    }  # fmt: skip
    shutil.rmtree(installed / FOLDER)
    assert predict_main([*map(str, arguments)]) == 2
    assert "one exported with --scan-graph" in capsys.readouterr().err


def test_label_maps_of_other_cases_are_never_opened(model, images, tmp_path, monkeypatch):
    names: set[str] = set()
    for module, function in ((patch_dataset, "open_array"), (preprocess, "checksum")):
        original = getattr(module, function)

        def noted(path, *rest, original=original):
            names.add(path.name)
            return original(path, *rest)

        monkeypatch.setattr(module, function, noted)
    run(images, tmp_path / "out", model, scan_graph=True)
    assert names == {
        f"{case}{end}" for case in VOTERS for end in (".b2nd", "_seg.b2nd", ".pkl")
    }  # fmt: skip


def test_each_fold_has_its_own_scans(model, tmp_path):
    folder = Path(shutil.copytree(model, tmp_path / model.name))
    for fold, cases in ((0, ["case_00", "case_01"]), (1, ["case_01", "case_03"])):
        shutil.copytree(folder / "fold_all", folder / f"fold_{fold}")
        change_checkpoint(
            folder / f"fold_{fold}" / FINAL,
            lambda c, cases=cases: c["gnnunet"]["cases"].update(labeled=cases),
        )
    exported = export(folder, tmp_path / "plain", folds=[0, 1], scan_graph=True).target
    for place in (folder, exported):
        for folds, expected in (([0, 1], "013"), ([0], "01"), ([1], "13")):
            panel = find_voting_scans(place, folds, FINAL).panel
            assert [scan.case_id for scan in panel.labeled] == [f"case_0{n}" for n in expected]
    one, other = (find_voting_scans(place, [0, 1], FINAL).panel for place in (folder, exported))
    assert one.digest() == other.digest()


def test_scans_that_cannot_be_registered_get_the_network_alone(model, tmp_path, capsys):
    images = tmp_path / "in"
    write_image(images / "flat_0000.nii.gz", np.full((17, 18, 19), 7, np.float32))
    write_image(images / "thin_0000.nii.gz", ball_case(3)[0][0][:5])
    run(images, tmp_path / "alone", model)
    capsys.readouterr()
    assert run(images, tmp_path / "out", model, scan_graph=True).predicted == ["flat", "thin"]
    said = [x for x in capsys.readouterr().err.splitlines() if "the network decides alone" in x]
    assert len(said) == 2
    assert said[0].startswith("warning: flat: no labeled scan can be registered to it")
    assert "too small to be registered" in said[1]
    assert same_maps(label_maps(tmp_path / "out"), label_maps(tmp_path / "alone"))


def change_plan(folder: Path, **values) -> None:
    plans = read_json(folder / "plans.json")
    plans["configurations"]["3d_fullres"].update(values)
    write_json(folder / "plans.json", plans)


def set_configuration(folder: Path, name: str) -> None:
    def change(content) -> None:
        content["init_args"]["configuration"] = name

    change_checkpoint(folder / "fold_all" / FINAL, change)


def change_labels(folder: Path) -> None:
    description = read_json(folder / "dataset.json")
    description["labels"] = {"background": 0, "ball": [1, 2], "core": 2}
    description["regions_class_order"] = [1, 2]
    write_json(folder / "dataset.json", description)


def without_cases(folder: Path) -> None:
    change_checkpoint(folder / "fold_all" / FINAL, lambda content: content.pop("gnnunet"))


def with_lost_case(folder: Path) -> None:
    change_checkpoint(
        folder / "fold_all" / FINAL,
        lambda content: content["gnnunet"]["cases"].update(labeled=["case_00", "case_05"]),
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: set_configuration(f, "2d"), "its configuration is 2d"),
        (change_labels, r"its classes overlap \(regions\)"),
        (without_cases, "it names no labeled scans"),
        (with_lost_case, "case_05 are not among the labeled scans of gnnunetPlans_3d_fullres"),
        (lambda f: change_plan(f, spacing=[1.0, 1.0, 2.0]), "were not made for this plan"),
    ],
)
def test_what_cannot_be_done_is_said(model, tmp_path, change, words):
    folder = Path(shutil.copytree(model, tmp_path / model.name))
    change(folder)
    with pytest.raises(InputError, match=words) as caught:
        find_voting_scans(folder, ["all"], FINAL)
    assert len(caught.value.lines) == 1
    assert caught.value.remedy


def test_without_the_scans_nothing_is_begun(model, images, tmp_path, monkeypatch):
    use_home(tmp_path / "empty", monkeypatch)
    with pytest.raises(InputError, match=r"2 labeled scans .* are not there .*--scan-graph"):
        run(images, tmp_path / "out", model, scan_graph=True)
    with pytest.raises(InputError, match="acts with scan_graph alone"):
        run(images, tmp_path / "out", model, scan_graph_blend=0.5)
    with pytest.raises(InputError, match=r"scan_graph_blend 1\.5"):
        run(images, tmp_path / "out", model, scan_graph=True, scan_graph_blend=1.5)
    with pytest.raises(InputError, match="are not there"):
        export(model, tmp_path / "plain", scan_graph=True)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "plain").exists()


def test_scans_from_elsewhere_are_read_with_care(model, tmp_path):
    exported = export(model, tmp_path / "plain", scan_graph=True).target
    (scan, _) = find_voting_scans(exported, ["all"], FINAL).panel.labeled
    whole = scan.path.read_bytes()
    scan.path.write_bytes(whole[:-200])
    with pytest.raises(InputError, match=r"case_00.npz cannot be read.*Copy"):
        scan.image()
    hostile = np.empty(1, object)
    hostile[0] = Path
    for arrays in (
        {"image": hostile},
        {"image": np.zeros((3, 4), np.float32)},
        {"image": np.zeros((4, 4, 4))},
        {"image": np.full((4, 4, 4), np.nan, np.float32)},
        {"image": np.zeros((100, 100, 100), np.float32)},
        {"label": np.zeros((4, 4, 4), np.int16)},
    ):
        np.savez_compressed(tmp_path / "x.npz", **arrays)
        with pytest.raises(InputError, match=r"x\.npz cannot be read"):
            KeptScan("x", tmp_path / "x.npz").image()
    facts = read_json(exported / FOLDER / FACTS)
    for change, words in (
        ({"spacing_mm": [1.0, 1.0, 3.0]}, "are of another model"),
        ({"labeled": {"all": ["../../etc/case"]}}, "is damaged"),
        ({"labeled": {"0": ["case_00"]}}, "names no scans of fold all"),
        ({"scan_graph": {"blend": 3}}, "blend = 3 in"),
    ):
        write_json(exported / FOLDER / FACTS, {**facts, **change})
        with pytest.raises(InputError, match=words):
            find_voting_scans(exported, ["all"], FINAL)


def test_panels_go_to_worker_processes(model):
    panel = find_voting_scans(model, ["all"], FINAL).panel
    assert pickle.loads(pickle.dumps(panel)).digest() == panel.digest()


def test_what_is_drawn_ahead_stops_with_its_consumer(tmp_path):
    """An interrupt does not wait for registrations that nobody wants any more."""
    at_work = TemporaryDirectory(dir=tmp_path)

    def until_the_folder_is_gone():
        yield 1
        while Path(at_work.name).is_dir():
            pass
        yield 2

    items = cases_module.prefetch(until_the_folder_is_gone(), at_work)
    assert next(items) == 1
    items.close()  # would wait for ever
    assert not list(tmp_path.iterdir())
