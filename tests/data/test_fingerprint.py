"""The fingerprint is nnU-Net's, made once for every file."""

import json
import multiprocessing
import types
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
import pytest
from tiny_study import DATASET, ball_case, use_home, write_image, write_raw_dataset

from graphnn_unet.data import fingerprint as module
from graphnn_unet.data.check import check_dataset
from graphnn_unet.data.fingerprint import (
    extract_fingerprint,
    largest_component_shares,
    one_component_classes,
)
from graphnn_unet.data.plan_and_preprocess import class_table
from graphnn_unet.errors import FaultsError


@pytest.fixture
def raw(tmp_path, monkeypatch) -> Path:
    home = use_home(tmp_path / "home", monkeypatch)
    (home / "preprocessed" / DATASET).mkdir(parents=True)
    return write_raw_dataset(home / "raw", n_channels=2)


def target_of(raw: Path) -> Path:
    return raw.parent.parent / "preprocessed" / DATASET / "dataset_fingerprint.json"


def extract(raw: Path, roles=("labeled", "unlabeled"), n_workers: int = 0) -> dict:
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    cases = {
        case: metadata
        for case, metadata in check_dataset(raw, n_workers=0).cases.items()
        if metadata.role in roles
    }
    return extract_fingerprint(
        target_of(raw), cases, description, class_table(description), n_workers=n_workers
    )


@pytest.fixture
def analyzed(monkeypatch) -> list[str]:
    """Cases that were read, in order."""
    seen: list[str] = []
    analyze = module._analyze

    def noted(job):
        seen.append(job.case)
        return analyze(job)

    monkeypatch.setattr(module, "_analyze", noted)
    return seen


# ------------------------------------------------------------------------------ nnU-Net


def stock_fingerprint(raw: Path, monkeypatch) -> dict:
    """What nnU-Net's extractor writes, with threads in the place of its processes."""
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor as stock

    context = types.SimpleNamespace(Pool=ThreadPool)
    threads = types.SimpleNamespace(get_context=lambda _: context)
    monkeypatch.setattr(stock, "multiprocessing", threads)
    extractor = stock.DatasetFingerprintExtractor(DATASET, 2)
    extractor.num_foreground_voxels_for_intensitystats = 4e5
    extractor.show_progress_bar = False
    extractor.run(overwrite_existing=True)
    return json.loads(target_of(raw).read_text(encoding="utf-8"))


def zero_border(raw: Path) -> None:
    """Images that are 0 outside a box, so that nnU-Net crops them."""
    for number in range(4):
        channels, _ = ball_case(number, n_channels=2)
        for c, channel in enumerate(channels):
            outside = np.ones(channel.shape, bool)
            outside[number : 16 + number, 1:19, 2:20] = False
            channel[outside] = 0
            write_image(raw / "imagesTr" / f"case_{number:02d}_{c:04d}.nii.gz", channel)


@pytest.mark.parametrize("cropped", [False, True])
def test_on_labeled_scans_it_equals_nnunets_within_its_sampling_error(raw, monkeypatch, cropped):
    if cropped:
        zero_border(raw)
    theirs = stock_fingerprint(raw, monkeypatch)
    target_of(raw).unlink()
    ours = extract(raw, roles=("labeled",))
    assert ours["spacings"] == theirs["spacings"]
    assert ours["shapes_after_crop"] == theirs["shapes_after_crop"]
    assert (ours["shapes_after_crop"][0] != [18, 20, 22]) == cropped
    assert ours["median_relative_size_after_cropping"] == pytest.approx(
        theirs["median_relative_size_after_cropping"]
    )
    for channel in ("0", "1"):
        our_channel, other = (
            f["foreground_intensity_properties_per_channel"][channel] for f in (ours, theirs)
        )
        assert our_channel.keys() == other.keys()
        # nnU-Net draws 100 000 voxels a case with replacement: about 1/300 of a standard deviation
        for key in ("mean", "std", "median"):
            assert our_channel[key] == pytest.approx(other[key], abs=0.02 * other["std"]), key
        for key in ("percentile_00_5", "percentile_99_5"):  # few voxels lie there
            assert our_channel[key] == pytest.approx(other[key], abs=0.1 * other["std"]), key
        assert (our_channel["min"], our_channel["max"]) == pytest.approx(
            (other["min"], other["max"])
        )


def test_a_single_labeled_case_has_its_exact_statistics(raw):
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    metadata = check_dataset(raw, n_workers=0).cases
    statistics = extract_fingerprint(
        target_of(raw), {"case_00": metadata["case_00"]}, description, class_table(description),
        n_workers=0,
    )["foreground_intensity_properties_per_channel"]["0"]  # fmt: skip
    channels, label = ball_case(0, n_channels=2)
    voxels = channels[0][label > 0].astype(np.float64)
    assert statistics["mean"] == pytest.approx(voxels.mean())
    assert statistics["std"] == pytest.approx(voxels.std())
    assert [
        statistics[k] for k in ("min", "percentile_00_5", "median", "percentile_99_5", "max")
    ] == (pytest.approx(np.percentile(voxels, [0, 0.5, 50, 99.5, 100])))


def test_the_deviation_of_cases_together_counts_their_different_means(raw):
    """Means 0, 40, 80, 120 and a deviation of 10 within each: 45.8, not 10."""
    for number in range(4):
        channel = np.random.default_rng(number).normal(40 * number, 10, (18, 20, 22))
        write_image(raw / "imagesTr" / f"case_{number:02d}_0000.nii.gz", channel.astype(np.float32))
    statistics = extract(raw)["foreground_intensity_properties_per_channel"]["0"]
    assert statistics["mean"] == pytest.approx(60, abs=1)
    assert statistics["std"] == pytest.approx(np.sqrt(2000 + 100), rel=0.02)


def test_large_cases_are_sampled_without_repetition(monkeypatch):
    values = np.arange(1000, dtype=np.float32)
    intensities = module._intensities(values, 999)
    assert intensities["n"] == 999
    assert abs(intensities["mean"] - 499.5) < 0.51  # one value is missing, whichever it is
    assert module._intensities(values, 5000)["n"] == 1000
    assert module._intensities(values[:0], 10) is None


# --------------------------------------------------------------------- unlabeled scans


def test_spacings_and_sizes_come_from_all_scans_intensities_from_the_labeled(raw):
    few = extract(raw, roles=("labeled",))
    target_of(raw).unlink()
    for path in sorted((raw / "imagesUn").iterdir()):
        write_image(path, np.full((9, 10, 11), 10_000, np.float32) + 1, (2.0, 1.0, 1.0))
    every = extract(raw)
    assert len(every["spacings"]) == 7
    assert every["spacings"][4:] == [[2.0, 1.0, 1.0]] * 3
    assert every["shapes_after_crop"][4:] == [[9, 10, 11]] * 3
    key = "foreground_intensity_properties_per_channel"
    assert every[key] == few[key]


def test_labels_of_unlabeled_scans_are_never_needed(raw, monkeypatch):
    """A label map that lies about is not opened."""
    write_image(raw / "labelsUn" / "case_04.nii.gz", np.zeros((3, 3, 3), np.uint8))
    opened = []
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    read = SimpleITKIO.read_seg
    monkeypatch.setattr(
        SimpleITKIO, "read_seg", lambda self, path: (opened.append(path), read(self, path))[1]
    )
    extract(raw)
    assert sorted(Path(path).name for path in opened) == [f"case_{n:02d}.nii.gz" for n in range(4)]
    assert all("labelsTr" in path for path in opened)


# ------------------------------------------------------------------------ what is redone


def test_a_second_run_reads_nothing_and_writes_the_same(raw, analyzed):
    extract(raw)
    first = target_of(raw).read_bytes()
    assert len(analyzed) == 7
    extract(raw)
    assert len(analyzed) == 7
    assert target_of(raw).read_bytes() == first


@pytest.mark.parametrize(
    ("name", "case"),
    [("imagesTr/case_01_0001.nii.gz", "case_01"), ("imagesUn/case_05_0000.nii.gz", "case_05")],
)
def test_a_changed_image_is_read_again_alone(raw, analyzed, name, case):
    before = extract(raw)
    channel = ball_case(77)[0][0] * 50
    write_image(raw / name, channel)
    analyzed.clear()
    after = extract(raw)
    assert analyzed == [case]
    key = "foreground_intensity_properties_per_channel"
    assert (after[key]["1"] != before[key]["1"]) == (case == "case_01")


def test_a_changed_label_is_read_again(raw, analyzed):
    extract(raw)
    write_image(raw / "labelsTr" / "case_02.nii.gz", ball_case(50)[1])
    analyzed.clear()
    extract(raw)
    assert analyzed == ["case_02"]


def test_a_removed_case_leaves_and_a_new_one_is_added(raw, analyzed):
    extract(raw)
    for path in (raw / "imagesUn").glob("case_06*"):
        path.unlink()
    for c, channel in enumerate(ball_case(99, n_channels=2)[0]):
        write_image(raw / "imagesUn" / f"new_{c:04d}.nii.gz", channel)
    analyzed.clear()
    after = extract(raw)
    assert analyzed == ["new"]
    assert "case_06" not in after["gnnunet"]["cases"]
    assert len(after["spacings"]) == 7


def test_another_table_of_classes_is_measured_anew(raw, analyzed):
    extract(raw)
    description = json.loads((raw / "dataset.json").read_text(encoding="utf-8"))
    description["labels"] = {"background": 0, "whole": [1, 2], "core": [2]}
    description["regions_class_order"] = [1, 2]
    (raw / "dataset.json").write_text(json.dumps(description))
    analyzed.clear()
    after = extract(raw)
    assert len(analyzed) == 7
    assert set(one_component_classes(after, None)) == {"whole", "core"}


@pytest.mark.parametrize("content", ["{", "[]", '{"gnnunet": {"schema_version": 0}}', "{}"])
def test_a_damaged_or_foreign_fingerprint_is_made_again(raw, analyzed, content):
    target_of(raw).write_text(content)
    extract(raw)
    assert len(analyzed) == 7
    assert len(json.loads(target_of(raw).read_text(encoding="utf-8"))["spacings"]) == 7


def test_finished_cases_are_kept_when_another_fails(raw, monkeypatch, analyzed):
    analyze = module._analyze

    def fail(job):
        if job.case == "case_03":
            raise ValueError("broken")
        return analyze(job)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_analyze", fail)
        with pytest.raises(FaultsError, match="case_03: ValueError: broken"):
            extract(raw)
    assert not target_of(raw).exists()
    analyzed.clear()
    extract(raw)
    assert analyzed == ["case_03"]
    assert [p.name for p in target_of(raw).parent.iterdir()] == [target_of(raw).name]


def test_finished_cases_are_kept_when_the_run_is_stopped(raw, monkeypatch, analyzed):
    analyze = module._analyze

    class Stop(BaseException):
        pass

    def stop(job):
        if job.case == "case_05":
            raise Stop
        return analyze(job)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_analyze", stop)
        with pytest.raises(Stop):
            extract(raw)
    analyzed.clear()
    extract(raw)
    assert analyzed == ["case_05", "case_06"]


def test_workers_find_the_same(raw):
    alone = extract(raw)
    target_of(raw).unlink()
    assert extract(raw, n_workers=2) == alone
    assert multiprocessing.active_children() == []


# ---------------------------------------------------------------------------- components


def labels(*boxes: tuple[slice, slice, slice]) -> np.ndarray:
    volume = np.zeros((8, 12, 12), np.uint8)
    for box in boxes:
        volume[box] = 1
    return volume


def test_one_box_is_one_component_everywhere():
    box = labels(np.s_[2:6, 2:6, 2:6])
    assert largest_component_shares(box, (1,)) == [1.0, 1.0, 1.0, 1.0]


def test_an_absent_class_has_no_share():
    assert largest_component_shares(labels(), (1,)) == [None] * 4
    assert largest_component_shares(labels(np.s_[2:4, 2:4, 2:4]), (2,)) == [None] * 4


def test_two_boxes_share_the_voxels():
    parted = labels(np.s_[0:2, 0:3, 0:3], np.s_[5:6, 6:9, 6:9])
    assert largest_component_shares(parted, (1,))[0] == pytest.approx(2 / 3)


def test_components_in_slices_depend_on_the_axis():
    """Two rods along z, joined at one end: one component in 3D, two in slices across z."""
    rods = labels(np.s_[0:8, 2:4, 2:4], np.s_[0:8, 8:10, 2:4], np.s_[0:1, 2:10, 2:4])
    volume, across_z, across_y, across_x = largest_component_shares(rods, (1,))
    assert volume == 1.0
    assert across_z == pytest.approx((16 + 7 * 4) / (16 + 7 * 8))
    assert across_y == 1.0
    assert across_x == 1.0


def test_touching_corners_are_one_component():
    corner = labels(np.s_[0:2, 0:2, 0:2], np.s_[2:4, 2:4, 2:4])
    assert largest_component_shares(corner, (1,))[0] == 1.0


def test_a_region_is_measured_as_a_whole():
    both = labels(np.s_[0:4, 0:4, 0:4])
    both[0:4, 4:8, 0:4] = 2
    both[7, 11, 11] = 2
    assert largest_component_shares(both, (1, 2))[0] == pytest.approx(128 / 129)
    assert largest_component_shares(both, (1,))[0] == 1.0


def fingerprint_of(*shares: list) -> dict:
    cases = {str(i): {"largest_share": [row]} for i, row in enumerate(shares)}
    return {"gnnunet": {"classes": {"1": [1]}, "cases": {**cases, "unlabeled": {}}}}


@pytest.mark.parametrize(
    ("shares", "axis", "single"),
    [
        ([[1.0, 0.5, 1.0, 1.0]], None, True),
        ([[1.0, 0.5, 1.0, 1.0]], 0, False),
        ([[1.0, 0.5, 1.0, 1.0]], 1, True),
        ([[1.0] * 4, [0.94] * 4], None, False),
        ([[1.0] * 4, [0.95] * 4], None, True),
        ([[1.0] * 4, [None] * 4], None, True),
        ([[None] * 4], None, False),
    ],
)
def test_a_class_counts_as_one_component_if_it_is_in_every_case(shares, axis, single):
    assert one_component_classes(fingerprint_of(*shares), axis) == {"1": single}


# ------------------------------------------------------------------------------ ignored voxels


def test_voxels_to_be_ignored_are_no_foreground(tmp_path, monkeypatch):
    """They are most of a scan whose mask is sparse; here their intensities are far off."""
    home = use_home(tmp_path / "home", monkeypatch)
    (home / "preprocessed" / DATASET).mkdir(parents=True)
    labels = {"background": 0, "shell": 1, "core": 2, "ignore": 3}

    def sparse(label):
        label[[z for z in range(len(label)) if z % 3]] = 3
        return label

    raw = write_raw_dataset(home / "raw", labels=labels, transform_label=sparse)
    for number in range(4):
        (channel,), label = ball_case(number)
        channel[sparse(label.copy()) == 3] = 5000
        write_image(raw / "imagesTr" / f"case_{number:02d}_0000.nii.gz", channel)
    content = extract(raw)
    assert content["foreground_intensity_properties_per_channel"]["0"]["max"] < 500
    assert content["gnnunet"]["ignore"] == 3
