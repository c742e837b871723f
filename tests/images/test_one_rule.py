"""One rule says what lies on one grid: for convert, check, predict, evaluate and cluster."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.clustering import images as clustering
from graphnn_unet.data.check_files import check_images, grid_faults
from graphnn_unet.dataset_conversion.prepare import CaseJob, prepare_case
from graphnn_unet.dataset_conversion.records import Case
from graphnn_unet.errors import FaultsError, InputError
from graphnn_unet.images.grid import compare_grids
from graphnn_unet.images.header import read_grid
from graphnn_unet.metrics.evaluate import PartlyEvaluatedError, evaluate
from graphnn_unet.metrics.unsupervised import evaluate_unsupervised
from graphnn_unet.models.cases import is_whole
from graphnn_unet.prediction.write_case import Outputs

SHAPE = (6, 40, 50)
SPACING = (3.0, 1.0, 0.5)  # z y x
ORIGIN = (3.0, -4.0, 5.0)  # x y z
SLIGHTLY_OFF = [
    {"origin": (3.04, -4.0, 5.0)},  # 0.08 voxels
    {"origin": (3.0, -4.0, 5.25)},  # of 3 mm
    {"spacing": (3.0, 1.0, 0.50075)},  # 0.075 voxels at the far side
    {"direction": (1.0, -1e-3, 0.0, 1e-3, 1.0, 0.0, 0.0, 0.0, 1.0)},
]
OFF = [
    {"origin": (3.06, -4.0, 5.0)},
    {"origin": (3.0, -4.0, 5.4)},
    {"spacing": (3.0, 1.0, 0.502)},
    {"direction": (0.99998, -6e-3, 0.0, 6e-3, 0.99998, 0.0, 0.0, 0.0, 1.0)},
]


def save(path: Path, array: np.ndarray, spacing=SPACING, origin=ORIGIN, direction=None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    sitk.WriteImage(image, str(path), True)
    return path


@pytest.fixture
def image(tmp_path: Path) -> Path:
    array = np.random.default_rng(0).normal(100, 20, SHAPE).astype(np.float32)
    return save(tmp_path / "images" / "a_0000.nii.gz", array)


@pytest.fixture
def labels() -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[2:4, 10:20, 10:30] = 1
    return array


def converted(image: Path, label: Path) -> list[str]:
    case = Case("a", (image,), label, "labeled", "a", (image, label))
    job = CaseJob(case, image.parent, None, 1, (0, 1), {}, None)
    return [fault.cause for fault in prepare_case(job)[1]]


def checked(image: Path, label: Path) -> list[str]:
    faults = grid_faults("a", ("image", read_grid(image)), ("label map", read_grid(label)))
    return [fault.cause for fault in faults if fault.severity == "error"]


def checked_as_channel(image: Path, label: Path) -> list[str]:
    _, faults = check_images("a", [image, label], ["first", "second"])
    return [fault.cause for fault in faults if fault.severity == "error"]


def evaluated(image: Path, label: Path) -> list[str]:
    """The label map as a prediction on the image's grid."""
    truth = sitk.ReadImage(str(label))
    truth.CopyInformation(sitk.ReadImage(str(image)))
    folder = image.parent.parent / "truth"
    folder.mkdir()
    sitk.WriteImage(truth, str(folder / "a.nii.gz"))
    (label.parent / "dataset.json").unlink(missing_ok=True)
    causes = []
    for score in (evaluate, evaluate_unsupervised):
        try:
            score(label.parent, folder, image.parent.parent / f"scores_{score.__name__}")
        except (PartlyEvaluatedError, FaultsError) as error:
            causes.append(" ".join(fault.cause for fault in error.faults))
    assert len(causes) in (0, 2)
    return causes


def clustered(image: Path, label: Path) -> list[str]:
    """Whether the label map would be kept, and whether the two are channels of one image."""
    source = clustering.Source("a", (image,), ".nii.gz")
    kept = clustering.is_whole(label, source)
    try:
        clustering.read_array(clustering.Source("a", (image, label), ".nii.gz"))
    except InputError as error:
        assert not kept
        return [error.line]
    assert kept
    return []


WAYS = [converted, checked, checked_as_channel, evaluated, clustered]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("header", SLIGHTLY_OFF)
def test_a_label_map_slightly_off_is_accepted(tmp_path: Path, image, labels, way, header):
    assert way(image, save(tmp_path / "labels" / "a.nii.gz", labels, **header)) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("header", OFF)
def test_one_outside_is_refused_with_the_same_words(tmp_path: Path, image, labels, way, header):
    label = save(tmp_path / "labels" / "a.nii.gz", labels, **header)
    words = compare_grids(read_grid(label), read_grid(image)).words
    causes = way(image, label)
    assert causes
    for cause in causes:
        assert "is not on the grid of" in cause
        assert words in cause


@pytest.mark.parametrize(
    ("header", "kept"), [(h, True) for h in SLIGHTLY_OFF] + [(h, False) for h in OFF]
)
def test_a_prediction_that_is_continued_obeys_the_same_rule(
    tmp_path: Path, image, labels, header, kept, capsys
):
    label = save(tmp_path / "labels" / "a.nii.gz", labels, **header)
    assert is_whole(label.parent, "a", image, Outputs(".nii.gz")) == kept
    words = compare_grids(read_grid(label), read_grid(image)).words
    assert (words in capsys.readouterr().err) != kept
