import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.report.demo_scans import SHAPE, synthetic_scan, write_scans


def test_scans_vary_in_place_size_and_contrast():
    scans = [synthetic_scan(seed) for seed in range(8)]
    sizes = [int((labels == 1).sum()) for _, labels in scans]
    centers = np.array([np.argwhere(labels == 1).mean(0) for _, labels in scans])
    contrast = [image[labels == 1].mean() - image[labels == 0].mean() for image, labels in scans]
    assert max(sizes) > 1.3 * min(sizes)
    assert centers.std(0).max() > 1
    assert max(contrast) > 1.3 * min(contrast)
    assert all(set(np.unique(labels)) == {0, 1, 2} for _, labels in scans)


def test_no_threshold_solves_the_scans():
    best = []
    for seed in range(4):
        image, labels = synthetic_scan(seed)
        truth = labels > 0
        dices = []
        for level in np.quantile(image, np.linspace(0.5, 0.99, 40)):
            guess = image > level
            dices.append(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))
        best.append(max(dices))
    assert np.mean(best) < 0.85


def test_same_seed_makes_the_same_scan():
    assert np.array_equal(synthetic_scan(3)[0], synthetic_scan(3)[0])
    assert not np.array_equal(synthetic_scan(3)[0], synthetic_scan(4)[0])


def test_written_scans_have_labels_for_some(tmp_path):
    write_scans(tmp_path, n_labeled=2, n_unlabeled=1, n_test=1)
    counts = {folder.name: len(list(folder.iterdir())) for folder in tmp_path.iterdir()}
    assert counts == {"images": 3, "labels": 2, "test_images": 1, "test_labels": 1}
    image = sitk.ReadImage(str(tmp_path / "images" / "case_00.nii.gz"))
    assert image.GetSize() == SHAPE[::-1]
    assert image.GetSpacing() == pytest.approx((1.0, 1.0, 1.5))
