"""Label maps of whole scans in self-training: who makes them, and who learns from them."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from tiny_study import DATASET, plan_in, train_in, write_raw_dataset
from trainers.small_trainers import (
    files_of_last_phase,
    killed_and_continued,
    leave_out_pictures_and_predictions,
    make_trainer,
)

from graphnn_unet.data.patch_dataset import StoredCase
from graphnn_unet.errors import InputError, RecipeError
from graphnn_unet.networks.hook import one_output
from graphnn_unet.plans.recipe import load_recipe, resolve
from graphnn_unet.pseudo_labels.blur import Blur, smooth_axis
from graphnn_unet.storage.checkpoints import FINAL
from graphnn_unet.storage.safe_load import load_checkpoint
from graphnn_unet.trainers import BCPTrainer, GraphCLTrainer, scan_labels
from graphnn_unet.trainers.confidence_table import Confidence, last_confidences
from graphnn_unet.trainers.losses import region_losses
from graphnn_unet.trainers.scan_labels import (
    FOLDER,
    TABLE,
    ScanLabels,
    ScanLabelsSettings,
    ScanWithLabels,
    label_scans,
    labels_of,
)
from graphnn_unet.trainers.supervised import mixed_pairs

SHORT = ["scan_labels.rounds=2", "schedule.pretrain_steps=2", "schedule.selftrain_steps=4",
         "schedule.steps_per_epoch=2"]  # fmt: skip
UNLABELED = {"case_04", "case_05", "case_06"}


def trainer_in_round(home, monkeypatch, tmp_path, *overrides, cls=BCPTrainer, **keywords):
    """A trainer in its first round, whose scans are labeled by its random network."""
    trainer = make_trainer(cls, home, monkeypatch, *SHORT, *overrides, **keywords)
    trainer.output_folder = str(tmp_path / "fold")
    phase = trainer.phases()[1]
    trainer.step = phase.start
    label_scans(trainer, phase)
    return trainer, phase


def test_self_training_is_parted_into_rounds(tiny_home, monkeypatch):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, "scan_labels.rounds=3",
                           "schedule.pretrain_steps=5", "schedule.selftrain_steps=10")  # fmt: skip
    found = [(p.name, p.start, p.stop, p.labels_scans) for p in trainer.phases()]
    assert found == [("pretrain", 0, 5, False), ("round_1", 5, 8, True), ("round_2", 8, 11, True),
                     ("round_3", 11, 15, True)]  # fmt: skip
    for phase in trainer.phases():  # as many patches as in a step with labeled cases alone
        assert trainer.slots(phase) == list(range(trainer.recipe.batch.labeled))


@pytest.mark.parametrize("configuration", ["3d_fullres", "2d"])
def test_label_map_is_the_corrected_and_cleaned_answer_for_the_whole_scan(
    tiny_home, monkeypatch, tmp_path, configuration
):
    overrides = ['pseudo_label.correct=["blur"]', "blur.sigma_mm=2.0"]
    trainer, phase = trainer_in_round(
        tiny_home, monkeypatch, tmp_path, *overrides, configuration=configuration
    )
    scan = trainer.cases.unlabeled[1]
    (case,) = labels_of(trainer, phase).cases([scan])
    image = torch.from_numpy(scan.image()[:].astype(np.float32))
    with one_output(trainer.network):
        logits = trainer.predictor_of(trainer.network, mirroring=True).logits(image)
    share = logits.softmax(0)[None]
    spacing = trainer.configuration_manager.spacing
    for axis in range(2 if configuration == "3d_fullres" else 3, 5):
        share = smooth_axis(share, axis, 2.0 / spacing[axis - 5])
    expected, plain = (cleaned(trainer, x) for x in (share.log()[0], logits))
    assert (case.label()[:] != expected).mean() < 2e-3  # sums in another order
    assert (expected != plain).mean() > 2e-2
    for name, voxels in case.properties()["class_locations"].items():
        assert all(expected[tuple(voxel)] == name for voxel in voxels[:20])


def cleaned(trainer, logits):
    """Label map ``(1, z, y, x)`` with the largest components, of slices where patches are flat."""
    if len(trainer.configuration_manager.patch_size) == 3:
        return trainer.pseudo_labels.clean(logits[None])[0].numpy()
    slices = [trainer.pseudo_labels.clean(x[None])[0] for x in logits.transpose(0, 1)]
    return torch.stack(slices, 1).numpy()


class WithEmptyCorner(StoredCase):
    """A scan whose first voxels have no intensity, as outside of a head."""

    def image(self):
        array = super().image()[:]
        array[:, :9, :9] = 0
        return array


def test_label_map_keeps_what_is_outside_of_the_scan(tiny_home, monkeypatch, tmp_path):
    """Augmentation puts these voxels back to 0, of unlabeled scans as of labeled ones."""
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, *SHORT)
    trainer.output_folder = str(tmp_path)
    phase = trainer.phases()[1]
    trainer.step = phase.start
    scans = [WithEmptyCorner(s.case_id, s.folder, False) for s in trainer.cases.unlabeled]

    def noise(*_):
        torch.manual_seed(0)
        for scan in scans:
            yield scan, torch.randn(3, *scan.image().shape[1:])

    monkeypatch.setattr(scan_labels, "answers", noise)
    label_scans(trainer, phase)
    plain = [case.label()[:] for case in labels_of(trainer, phase).cases(scans)]
    assert all(array.min() == 0 for array in plain)
    shutil.rmtree(tmp_path / FOLDER)
    trainer.configuration_manager.configuration["use_mask_for_norm"] = [True]
    label_scans(trainer, phase)
    for case, before in zip(labels_of(trainer, phase).cases(scans), plain, strict=True):
        expected = before.copy()
        expected[:, :9, :9][before[:, :9, :9] == 0] = -1
        assert 0 < (expected == -1).sum() < expected[:, :9, :9].size
        np.testing.assert_array_equal(case.label()[:], expected)


def test_hidden_labels_score_the_maps_of_a_round(tiny_copy, monkeypatch):
    leave_out_pictures_and_predictions(monkeypatch)
    hidden = tiny_copy / "raw" / DATASET / "labelsTr"
    for case in UNLABELED:
        shutil.copy(hidden / "case_00.nii.gz", hidden / f"{case}.nii.gz")
    result = train_in(tiny_copy, "BCPTrainer", overrides=SHORT, hidden_labels=hidden)
    rows = pd.read_csv(result.model / "fold_all" / "metrics.csv").set_index("phase")
    scored = rows["pseudo_patches"]
    assert scored["round_1"] == scored["round_2"] == len(UNLABELED)
    assert rows["pseudo_dice_taught"]["round_1"] >= 0
    assert np.isnan(scored["pretrain"])


def test_round_sees_all_scans_as_labeled_ones_with_maps_of_the_network(
    tiny_home, monkeypatch, tmp_path
):
    trainer, phase = trainer_in_round(tiny_home, monkeypatch, tmp_path)
    patches = trainer.patches_of(phase)
    cases = {patches.case_at(step, slot).case_id for step in range(5) for slot in range(4)}
    assert cases >= UNLABELED
    assert cases >= {case.case_id for case in trainer.cases.labeled}
    names = files_of_last_phase_of(trainer, phase, monkeypatch)
    assert len({f"{case}_seg.b2nd" for case in UNLABELED} & names) > 1
    assert not {f"{case}.pkl" for case in UNLABELED} & names


def test_scans_whose_maps_the_network_doubts_are_left_out(tiny_home, monkeypatch, tmp_path):
    """Both classes are found clearly in the first scan, with doubt in the second, then not."""
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, *SHORT, "pseudo_label.correct=[]")
    trainer.output_folder = str(tmp_path)
    phase = trainer.phases()[1]
    trainer.step = phase.start
    scans, odds = trainer.cases.unlabeled, (30, 3, 1e-6)

    def answers(*_):
        for scan, likely in zip(scans, odds, strict=True):
            logits = torch.full((3, *scan.image().shape[1:]), np.log(1e-9))
            logits[0] = 0
            for label in (1, 2):  # a slice each
                logits[label, label] = np.log(likely)
            yield scan, logits

    lines = []
    monkeypatch.setattr(trainer.log, "line", lines.append)
    monkeypatch.setattr(scan_labels, "answers", answers)
    label_scans(trainer, phase)
    labels = labels_of(trainer, phase)
    shares = [likely / (likely + 1) for likely in odds]
    expected = [2 * share / (share + 1) for share in shares[:2]] + [0]  # cases show both classes
    assert [len(labels.cases(scans, share)) for share in (0, 1e-9, 1, 1.1)] == [3, 2, 2, 1]
    patches = trainer.patches_of(phase)
    seen = {patches.case_at(step, slot).case_id for step in range(9) for slot in range(4)}
    assert seen == {case.case_id for case in [*trainer.cases.labeled, *scans[:2]]}
    table = pd.read_csv(labels.folder / TABLE)
    assert list(table["case"]) == [scans[2].case_id, scans[1].case_id, scans[0].case_id]
    assert list(table["expected_dice"]) == pytest.approx(expected[::-1], abs=1e-4)
    assert list(table["used"]) == [0, 1, 1]
    assert lines == [
        f"labels of 3 whole scans: the network expects a Dice of {expected[1]:.2f} (median) and "
        f"0.00 ({scans[2].case_id}, the lowest); 1 left out, see confidence.csv"
    ]


def label_with(trainer, tmp_path, monkeypatch, odds):
    """Label scans by answers in which class 1 fills two slices with these odds, class 2 none."""
    trainer.output_folder = str(tmp_path)
    phase = trainer.phases()[1]
    trainer.step = phase.start

    def answers(*_):
        for scan, likely in zip(trainer.cases.unlabeled, odds, strict=True):
            logits = torch.full((3, *scan.image().shape[1:]), np.log(1e-9))
            logits[0] = 0
            logits[1, 1:3] = np.log(likely)
            yield scan, logits

    monkeypatch.setattr(scan_labels, "answers", answers)
    label_scans(trainer, phase)
    return labels_of(trainer, phase)


def test_maps_without_a_class_leave_out_no_scan_that_shows_one(tiny_home, monkeypatch, tmp_path):
    """Most scans show no lesion, nor does one of the labeled: those with one are not in doubt."""
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, *SHORT, "pseudo_label.correct=[]")
    monkeypatch.setattr(StoredCase, "properties", lambda _: {"class_locations": {1: [], 2: []}})
    labels = label_with(trainer, tmp_path, monkeypatch, (3, 1e-6, 1e-6))
    scans = trainer.cases.unlabeled
    assert len(labels.cases(scans, 0.9)) == 3
    first, *rest = pd.read_csv(labels.folder / TABLE, keep_default_na=False).to_dict("records")
    assert (first["case"], float(first["expected_dice"])) == (
        scans[0].case_id, pytest.approx(2 * 0.75 / 1.75, abs=1e-3),
    )  # fmt: skip
    assert [row["expected_dice"] for row in rest] == ["", ""]
    assert last_confidences(tmp_path)[scans[1].case_id] == Confidence(None, True)


def test_empty_label_maps_are_told(tiny_home, monkeypatch, tmp_path, capsys):
    trainer = make_trainer(BCPTrainer, tiny_home, monkeypatch, *SHORT, "pseudo_label.correct=[]")
    label_with(trainer, tmp_path, monkeypatch, (1e-6, 1e-6, 1e-6))
    assert "has found no class in any of 3 unlabeled scans" in capsys.readouterr().err
    shutil.rmtree(tmp_path / FOLDER)
    label_with(trainer, tmp_path, monkeypatch, (1e-6, 3, 1e-6))
    assert "found no class" not in capsys.readouterr().err


def files_of_last_phase_of(trainer, phase, monkeypatch):
    """As :func:`files_of_last_phase`, the first round being the last phase."""
    phases = trainer.phases()[:2]
    monkeypatch.setattr(type(trainer), "phases", lambda _: phases)
    opened = set()
    original = scan_labels.open_array
    monkeypatch.setattr(
        scan_labels, "open_array", lambda path, *rest: (opened.add(path), original(path, *rest))[1]
    )
    names = files_of_last_phase(trainer, monkeypatch)
    folder = labels_of(trainer, phase).folder
    assert opened
    assert all(path.parent == folder for path in opened)  # never a drawn label map of such a scan
    return names | {path.name for path in opened}


def test_loss_is_that_of_labeled_scans_and_what_the_method_adds(tiny_home, monkeypatch, tmp_path):
    trainer, phase = trainer_in_round(
        tiny_home, monkeypatch, tmp_path, "graph.kappa=1.0", cls=GraphCLTrainer
    )
    batch = trainer.to_device(next(iter(trainer.loader(phase))))
    state = batch.generator.get_state()
    loss = trainer.batch_loss(batch, phase)
    assert float(loss.terms["cluster_loss"]) != 0
    batch.generator.set_state(state)
    images, labels = mixed_pairs(trainer, batch)
    output, _ = trainer.student.predict(images)
    plain = region_losses(output, labels, None, trainer.loss_settings)[0]
    assert float(loss.total.detach()) == pytest.approx(
        float(plain) + float(loss.terms["cluster_loss"]), abs=1e-5
    )


@pytest.mark.parametrize("steps", ["schedule.selftrain_steps=1", "schedule.selftrain_steps=0"])
def test_rounds_without_a_step_are_refused(tiny_home, monkeypatch, steps):
    with pytest.raises(RecipeError, match=r"no step for a round of scan_labels\.rounds = 2"):
        make_trainer(BCPTrainer, tiny_home, monkeypatch, *SHORT, steps)


@pytest.mark.parametrize("name", ["diffusion", "mllc"])
def test_corrections_that_read_features_are_refused(tiny_home, monkeypatch, name):
    with pytest.raises(RecipeError, match="reads features of a network"):
        make_trainer(BCPTrainer, tiny_home, monkeypatch, *SHORT, f'pseudo_label.correct=["{name}"]')


def test_damaged_label_map_is_named(tmp_path):
    labels = ScanLabels(tmp_path, (1,))
    case = ScanWithLabels("a", tmp_path, True, tmp_path / "a_seg.b2nd", (1,))
    assert not labels.has(case)
    (tmp_path / "a_seg.b2nd").write_bytes(b"no")
    with pytest.raises(InputError, match=r"a_seg\.b2nd cannot be read"):
        case.label()


@pytest.mark.parametrize("killed_at", [("label", 2), ("label", 5), ("step", 5)])
def test_killed_at_any_moment_it_ends_with_the_same_bytes(tiny_copy, monkeypatch, killed_at, whole):
    """After some scans of the first or second round, and within a round."""
    leave_out_pictures_and_predictions(monkeypatch)
    what, count = killed_at
    where = {"label": (ScanLabels, "write"), "step": (BCPTrainer, "train_step")}[what]
    fold = killed_and_continued(tiny_copy, monkeypatch, "BCPTrainer", SHORT, *where, count)
    weights = load_checkpoint(fold / FINAL)["network_weights"]
    assert all(torch.equal(weights[key], whole[0][key]) for key in whole[0])
    assert last_labels(fold) == whole[1]


def last_labels(fold):
    left = {path.name for path in (fold / FOLDER).iterdir()}
    assert left == {"round_2"}
    return {p.name: p.read_bytes() for p in (fold / FOLDER / "round_2").iterdir()}


@pytest.fixture(scope="module")
def whole(tiny_home, tmp_path_factory):
    """Weights and last labels of a training that was never stopped."""
    home = tmp_path_factory.mktemp("whole") / "home"
    shutil.copytree(tiny_home, home)
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures_and_predictions(patch)
        fold = train_in(home, "BCPTrainer", overrides=SHORT).model / "fold_all"
    return load_checkpoint(fold / FINAL)["network_weights"], last_labels(fold)


def test_overlapping_regions_become_label_maps(tmp_path, monkeypatch):
    leave_out_pictures_and_predictions(monkeypatch)
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    write_raw_dataset(tmp_path / "raw", labels=labels)
    plan_in(tmp_path)
    fold = train_in(tmp_path, "BCPTrainer", overrides=SHORT).model / "fold_all"
    for case in ScanLabels(fold / FOLDER / "round_2", [(1, 2), 2]).cases(
        [StoredCase(name, fold, False) for name in sorted(UNLABELED)]
    ):
        values = case.label()[:]
        assert values.shape[0] == 1
        assert set(np.unique(values)) <= {0, 1, 2}
        whole = case.properties()["class_locations"][1, 2]
        assert len(whole) == (values > 0).sum()


@pytest.mark.parametrize("labels", [
    {"background": 0, "shell": 1, "core": 2, "ignore": 3},
    {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3},
])  # fmt: skip
def test_labels_drawn_in_some_slices_only(tmp_path, monkeypatch, labels):
    def drawn(label):
        kept = np.full_like(label, 3)
        kept[::4] = label[::4]
        return kept

    leave_out_pictures_and_predictions(monkeypatch)
    write_raw_dataset(tmp_path / "raw", labels=labels, transform_label=drawn)
    plan_in(tmp_path)
    fold = train_in(tmp_path, "GraphCLTrainer").model / "fold_all"
    scans = [StoredCase(name, fold, False) for name in sorted(UNLABELED)]
    maps = [case.label()[:] for case in ScanLabels(fold / FOLDER / "round_1", [1, 2]).cases(scans)]
    values = {int(value) for array in maps for value in np.unique(array)}
    assert {0} < values <= {0, 1, 2}  # the network leaves nothing out
    assert np.isfinite(pd.read_csv(fold / "metrics.csv")["loss"]).all()


def phase_names(trainer):
    return [phase.name for phase in trainer.phases()]


@pytest.mark.parametrize(
    ("cls", "overrides", "last", "corrections"),
    [
        (GraphCLTrainer, [], "round_1", [Blur]),
        (GraphCLTrainer, ["scan_labels.rounds=0"], "selftrain", []),
        (GraphCLTrainer, ["pseudo_label.correct=[]"], "selftrain", []),
        (GraphCLTrainer, ["scan_labels.rounds=1", "pseudo_label.correct=[]"], "round_1", []),
        (GraphCLTrainer, ["schedule.pretrain_steps=0"], "selftrain", []),
        (GraphCLTrainer, ["schedule.selftrain_steps=0"], "pretrain", []),
        (BCPTrainer, [], "selftrain", []),
        (BCPTrainer, ["scan_labels.rounds=2"], "round_2", [Blur]),
    ],
)
def test_scans_are_labeled_whole_by_default_where_it_was_found_to_help(
    tiny_home, monkeypatch, cls, overrides, last, corrections
):
    trainer = make_trainer(cls, tiny_home, monkeypatch, *overrides)
    assert phase_names(trainer)[-1] == last
    assert [type(corrector) for corrector in trainer.pseudo_labels.correctors] == corrections


@pytest.mark.parametrize("name", ["la_paper", "acdc_paper", "pancreas_paper"])
def test_published_recipes_have_a_teacher(name):
    assert resolve(load_recipe(name)).of(ScanLabelsSettings).rounds == 0


def test_an_untrained_network_labels_no_scans(tiny_home, monkeypatch):
    with pytest.raises(RecipeError, match=r"rounds = 1 cannot.*pretrain_steps = 0"):
        make_trainer(BCPTrainer, tiny_home, monkeypatch, "scan_labels.rounds=1",
                     "schedule.pretrain_steps=0")  # fmt: skip
