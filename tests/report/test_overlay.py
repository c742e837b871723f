from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from matplotlib import colors, image

from graphnn_unet.errors import InputError, MissingFileError, ShapeError
from graphnn_unet.report import overlay
from graphnn_unet.report.overlay import OverlayRow, save_contact_sheet

SHAPE = (24, 30, 36)
NO_GRAY = 0.25


def write(path: Path, array: np.ndarray, spacing=(1.0, 1.0, 1.0)) -> Path:
    volume = sitk.GetImageFromArray(array)
    volume.SetSpacing([float(step) for step in spacing[::-1]])
    sitk.WriteImage(volume, str(path))
    return path


def ball(shape=SHAPE, spacing=(1.0, 1.0, 1.0), center=None, radius_mm=6.0, value=1) -> np.ndarray:
    center = (
        [n * step / 2 for n, step in zip(shape, spacing, strict=True)] if center is None else center
    )
    grid = np.meshgrid(
        *(np.arange(n) * s for n, s in zip(shape, spacing, strict=True)), indexing="ij"
    )
    distance = np.sqrt(sum((axis - c) ** 2 for axis, c in zip(grid, center, strict=True)))
    return np.where(distance <= radius_mm, value, 0).astype(np.uint8)


def gray(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)


def colored(path: Path, number: int = 0) -> np.ndarray:
    """Pixels in the color of a class, above the legend."""
    picture = image.imread(path)[:, :, :3]
    hue = colors.rgb_to_hsv(picture)
    wanted = colors.rgb_to_hsv(colors.to_rgb(overlay.COLORS[number]))[0]
    pixels = (
        (np.abs(hue[..., 0] - wanted) < 0.04) & (hue[..., 1] > NO_GRAY) & (hue[..., 2] > NO_GRAY)
    )
    pixels[-70:] = False
    return pixels


def extent(pixels: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(pixels)
    return int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def runs_across(path: Path) -> int:
    """Stretches of color of at least 3 pixels along the middle of the first panel."""
    pixels = colored(path)
    pixels[:, pixels.shape[1] // 3 :] = False
    rows = np.flatnonzero(pixels.any(axis=1))
    ends = np.flatnonzero(np.diff(np.pad(pixels[(rows[0] + rows[-1]) // 2].astype(int), 1)))
    return int((np.diff(ends)[::2] >= 3).sum())


def save_overlay(image_path, prediction_path, target_png, reference_path=None, labels=None):
    """A sheet of one case."""
    row = OverlayRow(image_path, prediction_path, reference_path)
    save_contact_sheet([row], target_png, labels)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {
        "image": write(tmp_path / "case_7_0000.nii.gz", gray()),
        "prediction": write(tmp_path / "case_7.nii.gz", ball()),
        "reference": write(tmp_path / "true.nii.gz", ball(radius_mm=8.0)),
    }


def test_prediction_is_filled_and_reference_is_a_line(files, tmp_path: Path):
    alone, both = tmp_path / "alone.png", tmp_path / "both.png"
    save_overlay(files["image"], files["prediction"], alone)
    save_overlay(files["image"], files["prediction"], both, files["reference"])
    rows, columns = np.nonzero(colored(alone)[:, : image.imread(alone).shape[1] // 3])
    area = colored(alone)[rows.min() : rows.max(), columns.min() : columns.max()]
    disc = ball()[12]
    filled = disc.sum() / np.prod(extent(disc))
    assert area.mean() == pytest.approx(filled, abs=0.04)
    assert [runs_across(picture) for picture in (alone, both)] == [1, 3]  # line, area, line


def test_a_ball_is_round_whatever_the_voxels(tmp_path: Path):
    spacing, shape = (0.5, 1.0, 0.7), (48, 24, 34)
    written = {
        "image_path": write(tmp_path / "i.mha", gray(shape), spacing),
        "prediction_path": write(tmp_path / "p.mha", ball(shape, spacing), spacing),
    }
    save_overlay(**written, target_png=tmp_path / "a.png")
    pixels = colored(tmp_path / "a.png")
    columns = np.flatnonzero(pixels.any(axis=0))
    parts = np.split(columns, np.flatnonzero(np.diff(columns) > 30) + 1)
    assert len(parts) == 3
    for part in parts:
        height, width = extent(pixels[:, part[0] : part[-1] + 1])
        assert height == pytest.approx(width, rel=0.1)


def test_areas_lie_on_the_tissue_they_mean(tmp_path: Path):
    """An organ that is white in the image is colored all over: no white is left."""
    spacing, shape = (0.5, 1.0, 0.7), (48, 24, 34)
    organ = ball(shape, spacing)
    paths = (
        write(tmp_path / "i.mha", organ.astype(np.float32), spacing),
        write(tmp_path / "p.mha", organ, spacing),
    )
    save_overlay(*paths, tmp_path / "a.png")
    picture = image.imread(tmp_path / "a.png")[:, :, :3]
    white = (picture.min(axis=2) > 0.85)[130:-130]  # between the head and the bars of length
    assert white.sum() < 0.05 * colored(tmp_path / "a.png").sum()


def test_long_organ_is_seen_from_end_to_end(tmp_path: Path):
    label = np.zeros((16, 60, 20), dtype=np.uint8)
    label[6:10, 4:56, 8:12] = 1
    paths = write(tmp_path / "i.nii", gray(label.shape)), write(tmp_path / "p.nii", label)
    save_overlay(*paths, tmp_path / "a.png")
    pixels = colored(tmp_path / "a.png")
    columns = np.flatnonzero(pixels.any(axis=0))
    axial = np.split(columns, np.flatnonzero(np.diff(columns) > 30) + 1)[0]
    first = pixels[:, : axial[-1] + 1]
    height, width = extent(first)
    assert height == pytest.approx(52 / 4 * width, rel=0.1)


def test_thick_slices_are_shown_three_times_across(tmp_path: Path):
    spacing, shape = (8.0, 1.0, 1.0), (9, 40, 40)
    label = ball(shape, spacing, radius_mm=16.0)
    case = overlay._load(
        OverlayRow(
            write(tmp_path / "i.nii", gray(shape), spacing),
            write(tmp_path / "p.nii", label, spacing),
        ),
        {"a": 1},
    )
    heads = [panel.head for panel in case.panels]
    assert len(heads) == 3
    assert all(head.startswith("axial ") and head.endswith(" / 9") for head in heads)
    assert all(panel.masks[0][0].any() for panel in case.panels)


def test_slices_go_through_the_largest_area(tmp_path: Path):
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[5, 3:9, 3:9] = 1
    label[11:18, 20, 30] = 1
    case = overlay._load(
        OverlayRow(write(tmp_path / "i.nii", gray()), write(tmp_path / "p.nii", label)), {"a": 1}
    )
    # fullest planes: z 5 by the square; y and x by their columns of the square, else the rod
    assert [panel.head for panel in case.panels] == [
        "axial 6 / 24",
        "coronal 21 / 30",
        "sagittal 31 / 36",
    ]


@pytest.mark.parametrize("radius_mm", [4.0, -1.0])
def test_a_large_mistake_does_not_hide_the_reference(tmp_path: Path, radius_mm):
    label = np.zeros(SHAPE, dtype=np.uint8)
    label[20:, 20:, 20:] = 1
    reference = ball(SHAPE, center=(6.0, 8.0, 10.0), radius_mm=radius_mm)
    paths = [write(tmp_path / f"{name}.nii", array)
             for name, array in (("i", gray()), ("p", label), ("r", reference))]  # fmt: skip
    case = overlay._load(OverlayRow(*paths), {"a": 1})
    shown = [panel.masks[0][1].any() for panel in case.panels]
    assert shown == [radius_mm > 0] * 3
    assert len(case.panels) == 3


def test_picture_does_not_depend_on_how_the_volume_is_stored(tmp_path: Path):
    """The same anatomy, stored with turned axes, gives the same picture."""
    shape = (20, 30, 24)
    label = ball(shape, center=(8.0, 20.0, 7.0))
    pictures: list[np.ndarray] = []
    for orientation in ("LPS", "RAS", "PIR"):
        paths: list[Path] = []
        for name, array in (("i", gray(shape)), ("p", label)):
            stored = sitk.DICOMOrient(sitk.GetImageFromArray(array), orientation)
            paths.append(tmp_path / f"{name}{orientation}" / "case.nii.gz")
            paths[-1].parent.mkdir()
            sitk.WriteImage(stored, str(paths[-1]))
        target = tmp_path / f"{orientation}.png"
        save_overlay(*paths, target)
        pictures.append(image.imread(target)[110:])  # below the head, which names the stored size
    np.testing.assert_allclose(pictures[1], pictures[0], atol=0.02)
    np.testing.assert_allclose(pictures[2], pictures[0], atol=0.02)


def test_patients_left_is_on_the_right(tmp_path: Path):
    label = ball(center=(12.0, 8.0, 28.0), radius_mm=4.0)  # LPS: x to the left, y to the back
    save_overlay(
        write(tmp_path / "i.nii", gray()), write(tmp_path / "p.nii", label), tmp_path / "a.png"
    )
    case = overlay._load(OverlayRow(tmp_path / "i.nii", tmp_path / "p.nii"), {"a": 1})
    axial = case.panels[0]
    assert axial.letters == "RLAP"
    assert not axial.upwards
    rows, columns = np.nonzero(axial.masks[0][0])
    assert columns.mean() == pytest.approx(28, abs=0.1)
    assert rows.mean() == pytest.approx(8, abs=0.1)


def test_title_and_dice_are_those_of_the_case(files):
    row = OverlayRow(files["image"], files["prediction"], files["reference"])
    case = overlay._load(row, {"organ": 1, "nowhere": 5})
    inner, outer = int(ball().sum()), int(ball(radius_mm=8.0).sum())
    assert case.title == "case_7"
    assert case.detail == "36 × 30 × 24 voxels of 1 × 1 × 1 mm"
    assert case.dices[0] == pytest.approx(2 * inner / (inner + outer))
    assert np.isnan(case.dices[1])


def test_regions_are_drawn_in_their_own_colors(tmp_path: Path):
    label = np.maximum(ball(radius_mm=9.0), ball(radius_mm=4.0, value=2))
    paths = write(tmp_path / "i.nii", gray()), write(tmp_path / "p.nii", label)
    save_overlay(*paths, tmp_path / "a.png", labels={"whole": [1, 2], "core": 2})
    case = overlay._load(OverlayRow(*paths), {"whole": [1, 2], "core": 2})
    whole, core = (pair[0] for pair in case.panels[0].masks)
    assert np.array_equal(whole, label[12] > 0)
    assert np.array_equal(core, label[12] == 2)


def test_same_input_gives_the_same_bytes(files, tmp_path: Path):
    for name in ("a.png", "b.png"):
        save_overlay(files["image"], files["prediction"], tmp_path / name, files["reference"])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.filterwarnings("error")
def test_empty_prediction_and_flat_image_are_drawn(tmp_path: Path):
    empty = np.zeros(SHAPE, dtype=np.uint8)
    image_path = write(tmp_path / "i.nii", np.full(SHAPE, 7.0, dtype=np.float32))
    save_overlay(image_path, write(tmp_path / "p.nii", empty), tmp_path / "a.png")
    assert not colored(tmp_path / "a.png").any()


def test_a_slice_is_drawn_alone(tmp_path: Path):
    label = ball()[12]
    paths = (
        write(tmp_path / "i.nii", gray()[12], (2.0, 1.0)),
        write(tmp_path / "p.nii", label, (2.0, 1.0)),
    )
    save_overlay(*paths, tmp_path / "a.png")
    height, width = extent(colored(tmp_path / "a.png"))
    assert height == pytest.approx(2 * width, rel=0.1)


def test_sheet_has_a_row_a_case_and_one_color_a_class(files, tmp_path: Path):
    second = write(tmp_path / "case_8.nii.gz", ball(value=2))
    rows = [
        OverlayRow(files["image"], files["prediction"], files["reference"]),
        OverlayRow(files["image"], second),
    ]
    save_contact_sheet(rows, tmp_path / "sheet.png")
    half = image.imread(tmp_path / "sheet.png").shape[0] // 2
    first, other = colored(tmp_path / "sheet.png", 0), colored(tmp_path / "sheet.png", 1)
    assert first[:half].any()
    assert not first[half:].any()
    assert other[half:].any()
    assert not other[:half].any()


@pytest.mark.parametrize("n_rows", [0, overlay.MAX_ROWS + 1])
def test_sheet_without_rows_or_with_too_many_is_refused(files, tmp_path: Path, n_rows: int):
    rows = [OverlayRow(files["image"], files["prediction"])] * n_rows
    with pytest.raises(InputError, match=f"{n_rows} cases do not fit"):
        save_contact_sheet(rows, tmp_path / "sheet.png")


def test_files_of_two_grids_are_refused_and_nothing_is_written(files, tmp_path: Path):
    other = write(tmp_path / "other.nii.gz", ball(), (1.0, 1.0, 2.0))
    target = tmp_path / "out" / "a.png"
    with pytest.raises(ShapeError, match=r"other\.nii\.gz is not on the grid of .*spacing"):
        save_overlay(files["image"], files["prediction"], target, other)
    with pytest.raises(MissingFileError):
        save_overlay(files["image"], tmp_path / "nowhere.nii.gz", target)
    assert not target.parent.exists()
