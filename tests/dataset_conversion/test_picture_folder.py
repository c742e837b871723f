"""Folders of pictures and masks: what masks mean, which belongs to which, what is written."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from graphnn_unet import convert
from graphnn_unet.data.check import check_dataset
from graphnn_unet.errors import FaultsError, InputError
from graphnn_unet.images.pictures import label_colors

RNG = np.random.default_rng(0)
MASK = np.zeros((20, 30), np.uint8)
MASK[5:15, 8:22] = 128
MASK[8:12, 12:18] = 255


def picture(n_channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (20, 30) if n_channels == 1 else (20, 30, n_channels)
    return np.random.default_rng(seed).integers(1, 255, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray | Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, **options)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Folder with three colored pictures below ``im`` and no masks."""
    for number in range(3):
        save(tmp_path / "im" / f"p{number}.png", picture(seed=number))
    return tmp_path


def converted(work: Path, **options):
    options = {"images": work / "im", "labels": work / "ma", "dataset": "Dataset501_P", **options}
    return convert("pictures", n_workers=0, **options)


def label(result, name: str) -> np.ndarray:
    return np.asarray(Image.open(result.folder / "labelsTr" / f"{name}.png"))


@pytest.mark.parametrize(
    "name",
    ["p0.png", "p0_mask.png", "p0_segmentation.PNG", "p0-mask.bmp", "p0_gt.tif", "p0_label.png",
     "mask_p0.png", "P0_GT.png", "p0_lesion.bmp"],
)  # fmt: skip
def test_mask_belongs_to_the_picture_of_its_name(work, name):
    save(work / "ma" / name, MASK)
    result = converted(work)
    assert [row.role for row in result.rows] == ["labeled", "unlabeled", "unlabeled"]
    assert result.labels == {"background": 0, "label_128": 1, "label_255": 2}
    assert (label(result, "p0") == (MASK > 0).astype(int) + (MASK == 255)).all()
    stored = Image.open(result.folder / "imagesTr" / "p0_0000.png")
    assert (np.asarray(stored) == picture()).all()
    assert not check_dataset(result.folder, n_workers=0).errors


def test_mask_without_picture_and_two_for_one_are_named(work):
    save(work / "ma" / "other_mask.png", MASK)
    save(work / "ma" / "p1_mask.png", MASK)
    save(work / "ma" / "p1_gt.png", MASK)
    with pytest.raises(FaultsError) as caught:
        converted(work)
    assert {fault.case for fault in caught.value.faults} == {"other_mask", "p1"}


def test_masks_among_the_pictures(work):
    save(work / "im" / "p0_mask.png", MASK)
    with pytest.raises(InputError, match=r"p0_mask\.png .*looks like the mask"):
        converted(work, labels=None)
    assert [row.case for row in converted(work, labels=work / "im").rows] == ["p0", "p1", "p2"]


def test_mask_of_another_size_is_refused(work):
    save(work / "ma" / "p0.png", MASK[:, :29])
    with pytest.raises(FaultsError, match="its mask has 29x20 pixels, the picture 30x20"):
        converted(work)


def test_numbers_of_a_palette_are_the_ids(work):
    indices = Image.fromarray((MASK // 127).astype(np.uint8)).convert("P")
    indices.putdata((MASK // 127).ravel().tolist())
    indices.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    save(work / "ma" / "p0.png", indices)
    result = converted(work)
    assert result.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert (label(result, "p0") == MASK // 127).all()


def test_swapped_folders_are_told_as_such(work):
    for number in range(3):
        save(work / "im" / f"p{number}.png", picture(1, number))
        save(work / "ma" / f"p{number}.png", ((MASK > 0) * 255).astype(np.uint8))
    with pytest.raises(InputError, match="--images and --labels look swapped, as in p0: "):
        converted(work, images=work / "ma", labels=work / "im")


def test_gray_masks_of_two_kinds_are_asked_about(work):
    for number, white in enumerate((255, 1, 255)):
        save(work / "ma" / f"p{number}.png", ((MASK > 0) * white).astype(np.uint8))
    assert any("label 1 occurs in 1 of 3 label maps only (p1)" in n for n in converted(work).notes)


def test_colors_become_ids_by_a_table_that_is_kept(work):
    colors = np.zeros((20, 30, 3), np.uint8)
    colors[MASK == 128] = (255, 0, 0)
    colors[MASK == 255] = (0, 0, 255)
    save(work / "ma" / "p0.png", colors)
    save(work / "ma" / "p1.png", np.zeros((20, 30), np.uint8))
    result = converted(work)
    assert result.labels == {"background": 0, "color_0000ff": 1, "color_ff0000": 2}
    names = {"#ff0000": "cytoplasm", "#0000ff": "nucleus"}
    result = converted(work, label_names=names, overwrite=True)
    assert result.labels == {"background": 0, "cytoplasm": 1, "nucleus": 2}
    assert (label(result, "p0") == (MASK > 0).astype(int) + (MASK == 255)).all()
    table = {"#000000": 0, "#ff0000": 1, "#0000ff": 2}
    for name in ("gnnunet.json", "dataset.json"):
        assert (
            json.loads((result.folder / name).read_text(encoding="utf-8"))["label_colors"] == table
        )


def test_a_named_color_that_no_mask_has_is_told(work):
    colors = np.zeros((20, 30, 3), np.uint8)
    colors[MASK == 255] = (255, 0, 0)
    save(work / "ma" / "p0.png", colors)
    notes = converted(work, label_names={"#ff0000": "cell", "#00ff00": "ghost"}).notes
    assert any(note.startswith("no label map has #00ff00 (ghost): ") for note in notes)


def test_background_of_colors_is_asked_for(work):
    colors = np.full((20, 30, 3), (9, 9, 99), np.uint8)
    colors[MASK > 0] = (255, 0, 0)
    save(work / "ma" / "p0.png", colors)
    with pytest.raises(InputError, match="no color of the masks is the background"):
        converted(work)
    names = {"#090963": "background", "#ff0000": "cell"}
    assert (label(converted(work, label_names=names), "p0") == (MASK > 0)).all()


def test_compressed_masks_of_two_values_are_cleaned_with_a_note(work):
    binary = ((MASK > 0) * 255).astype(np.uint8)
    save(work / "ma" / "p0.jpg", binary, quality=60)
    assert len(np.unique(np.asarray(Image.open(work / "ma" / "p0.jpg")))) > 2
    result = converted(work)
    assert result.labels == {"background": 0, "label_255": 1}
    assert (label(result, "p0") != (MASK > 0)).mean() < 0.02
    assert any("brought to the nearest of 0, 255" in note for note in result.notes)


def test_compressed_masks_of_more_values_need_a_table(work):
    save(work / "ma" / "p0.jpg", MASK, quality=80)
    with pytest.raises(InputError, match="compressed with loss"):
        converted(work)
    result = converted(work, label_names={128: "cytoplasm", 255: "nucleus"})
    assert result.labels == {"background": 0, "cytoplasm": 1, "nucleus": 2}
    assert (label(result, "p0") != (MASK > 0).astype(int) + (MASK == 255)).mean() < 0.05


def test_gray_pictures_have_one_channel_and_gray_among_colors_three(work):
    save(work / "im" / "p1.png", picture(1))
    result = converted(work, labels=None)
    assert len(result.channel_names) == 3
    assert any("p1: it is gray" in note for note in result.notes)
    for number in (0, 2):
        save(work / "im" / f"p{number}.png", np.dstack([picture(1, number + 1)] * 3))
    result = converted(work, labels=None, overwrite=True)
    assert result.channel_names == {0: "gray"}
    assert Image.open(result.folder / "imagesUn" / "p0_0000.png").mode == "L"


def test_deep_gray_pictures_stay_deep(work):
    deep = (picture(1).astype(np.uint16) << 6) + 3
    for number in range(3):
        save(work / "im" / f"p{number}.png", deep + number)
    result = converted(work, labels=None)
    assert (np.asarray(Image.open(result.folder / "imagesUn" / "p1_0000.png")) == deep + 1).all()


def test_deep_colors_of_a_data_set_are_reduced_alike(work):
    for number, brightest in enumerate((4000, 2000, 300)):
        array = np.full((20, 30, 3), (256, 128, 64), np.uint16)
        array[0, number] = brightest
        (work / "im" / f"p{number}.png").unlink()
        tifffile.imwrite(work / "im" / f"p{number}.tif", array, photometric="rgb")
    result = converted(work, labels=None)
    for number in range(3):
        stored = np.asarray(Image.open(result.folder / "imagesUn" / f"p{number}_0000.png"))
        assert stored[9, 9].tolist() == [16, 8, 4]
    note = "the brightest of the deep colors has 12 bits: all are divided by 16 to have 8"
    assert any(line.startswith(note) for line in result.notes)
    description = json.loads((result.folder / "dataset.json").read_text(encoding="utf-8"))
    assert description["color_bits"] == 12


def test_alpha_is_said_and_stacks_are_named(work):
    save(work / "im" / "p0.png", picture(4))
    assert any("alpha" in note for note in converted(work, labels=None).notes)
    frames = [Image.fromarray(picture(seed=n)) for n in range(2)]
    save(work / "im" / "p1.tif", frames[0], save_all=True, append_images=frames[1:])
    (work / "im" / "p1.png").unlink()
    with pytest.raises(FaultsError, match=r"p1\.tif is a stack of 2 pages"):
        converted(work, labels=None, overwrite=True)


def test_hidden_masks_leave_no_trace(work):
    for number in range(3):
        save(work / "ma" / f"p{number}.png", MASK)
    result = converted(work, labeled=1, test=1)
    assert [row.role for row in result.rows] == ["labeled", "unlabeled", "test"]
    inputs = json.loads((result.folder / "gnnunet.json").read_text(encoding="utf-8"))["sha256"]
    assert "ma/p1.png" not in inputs
    assert "ma/p0.png" in inputs


def test_pictures_that_stock_nnunet_sees_otherwise_are_found_by_the_check(work):
    save(work / "ma" / "p0.png", MASK)
    folder = converted(work).folder
    path = folder / "labelsTr" / "p0.png"
    palette = Image.fromarray(np.asarray(Image.open(path))).convert("P")
    save(path, palette)
    save(folder / "imagesUn" / "p1_0000.png", picture(1))
    causes = {fault.case: fault.cause for fault in check_dataset(folder, n_workers=0).errors}
    assert "it has a palette" in causes["p0"]
    assert "is gray (1 channels), dataset.json lists 3" in causes["p1"]


def test_colors_are_no_names_of_other_forms(work):
    with pytest.raises(InputError, match="which only form pictures has"):
        convert("nifti", images=work / "im", label_names={"#ff0000": "a"})


def save_tiff(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric="minisblack")


@pytest.mark.parametrize("kind", ["float32", "float64", "int32", "int64", "uint32"])
def test_whole_numbers_of_any_type_are_ids(work, kind):
    ids = (MASK // 127).astype(kind)
    save_tiff(work / "ma" / "p0.tif", ids)
    result = converted(work)
    assert result.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert (label(result, "p0") == ids).all()
    note = f"p0: its mask was stored as {kind}; written as integers"
    assert (note in result.notes) == kind.startswith("float")


def test_floats_just_beside_a_whole_number_are_rounded_and_told(work):
    save_tiff(work / "ma" / "p0.tif", (MASK // 127 * 0.9997).astype(np.float32))
    result = converted(work)
    assert (label(result, "p0") == MASK // 127).all()
    assert "p0: its mask was rounded to integers (140 pixels)" in result.notes


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.float32(MASK) / 256, r"p0: its mask has values that are no integers, such as 0\.5"),
        (np.where(MASK, np.nan, 0.0), "p0: its mask has NaN or infinite pixels"),
        (MASK.astype(np.int16) - 128, r"its mask has values that are not expected: -128"),
        (
            np.arange(600, dtype=np.uint16).reshape(20, 30),
            "it has 600 values, and a label map can have 255",
        ),
    ],
)
def test_masks_that_hold_no_ids_are_refused(work, mask, words):
    save_tiff(work / "ma" / "p0.tif", mask)
    save(work / "ma" / "p1.png", MASK // 127)
    with pytest.raises(FaultsError, match=words) as caught:
        converted(work)
    assert [fault.case for fault in caught.value.faults] == ["p0"]


def bands(values: list[int]) -> np.ndarray:
    """A mask of 60 x 60 pixels with a band of 3 x 15 pixels for each value."""
    mask = np.zeros((60, 60), np.uint8)
    for number, value in enumerate(values):
        mask[5 * number : 5 * number + 3, 10:25] = value
    return mask


def with_pictures(work: Path, masks: list[np.ndarray], ending: str = "png", **options) -> Path:
    """The folder with masks and a picture of the size of each."""
    for number, mask in enumerate(masks):
        save(work / "ma" / f"p{number}.{ending}", mask, **options)
        save(work / "im" / f"p{number}.png", np.resize(picture(seed=number), (*mask.shape, 3)))
    for number in range(len(masks), 3):
        (work / "im" / f"p{number}.png").unlink()
    return work


def smooth(mask: np.ndarray) -> np.ndarray:
    """The mask with edges as painting programs smooth them."""
    times = 4
    small = Image.fromarray(np.kron(mask, np.ones((times, times), np.uint8)))
    small = small.rotate(7, Image.NEAREST).resize(mask.shape[::-1], Image.BOX)
    return np.asarray(small)


VOID = bands([*range(1, 12)])
VOID[:, 40:43] = 255
CODED = bands([28 * k for k in range(1, 9)])
CODED[:50, 35:58] = 255
ONE_EACH = [np.where(np.isin(CODED, (value, 255)), CODED, 0) for value in np.unique(CODED)]


@pytest.mark.parametrize("masks", [[VOID], [CODED], ONE_EACH], ids=["void", "coded", "one each"])
def test_many_values_of_clean_masks_are_values(work, masks):
    result = converted(with_pictures(work, masks))
    values = sorted({int(value) for mask in masks for value in np.unique(mask)})
    assert list(result.labels)[1:] == [f"label_{value}" for value in values[1:]]
    for number, mask in enumerate(masks):
        assert (np.array(values)[label(result, f"p{number}")] == mask).all()


def test_values_without_a_name_stay_values_of_their_own(work):
    mask = bands([*range(1, 12)])
    result = converted(with_pictures(work, [mask]), label_names={1: "a", 2: "b", 3: "c"})
    assert list(result.labels)[:5] == ["background", "a", "b", "c", "label_4"]
    assert (label(result, "p0") == mask).all()


def discs(*values: int) -> np.ndarray:
    """Discs in each other, of 400 x 400 pixels, with one value each from outside in."""
    distance = np.hypot(*np.mgrid[-200:200, -200:200])
    mask = np.zeros(distance.shape, np.uint8)
    for number, value in enumerate(values):
        mask[distance < 120 - 8 * number] = value
    return mask


@pytest.mark.parametrize("names", [None, {255: "cell"}])
def test_smooth_edges_of_two_values_are_cleaned_with_a_note(work, names):
    mask = smooth(discs(255))
    assert len(np.unique(mask)) > 8
    result = converted(with_pictures(work, [mask]), label_names=names)
    assert list(result.labels.values()) == [0, 1]
    assert (label(result, "p0") == (mask > 127)).all()
    assert any("brought to the nearest of 0, 255" in note for note in result.notes)


def test_smooth_edges_of_more_values_are_cleaned_by_the_names(work):
    mask = smooth(discs(128, 255))
    names = {128: "ring", 255: "disc"}
    result = converted(with_pictures(work, [mask]), label_names=names)
    assert result.labels == {"background": 0, "ring": 1, "disc": 2}


def compressed(mask: np.ndarray, quality: int) -> np.ndarray:
    """The mask saved as JPEG and read again."""
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def halved(mask: np.ndarray) -> np.ndarray:
    size = (mask.shape[1] // 2, mask.shape[0] // 2)
    return np.asarray(Image.fromarray(mask).resize(size, Image.BILINEAR))


def cells(n: int, radius: float, size: int = 256) -> np.ndarray:
    """Discs of 255 in random places."""
    rng = np.random.default_rng(3)
    y, x = np.indices((size, size))
    mask = np.zeros((size, size), np.uint8)
    for center in rng.uniform(0, size, (n, 2)):
        mask[np.hypot(y - center[0], x - center[1]) < radius] = 255
    return mask


@pytest.mark.parametrize("names", [None, {255: "cell"}])
@pytest.mark.parametrize(
    "mask",
    [
        *(compressed(cells(20, 8), quality) for quality in (40, 75, 90)),
        compressed(discs(255), 75),
        halved(cells(150, 7, 512)),
        np.asarray(Image.fromarray(cells(20, 12)).filter(ImageFilter.GaussianBlur(3))),
    ],
    ids=["cells 40", "cells 75", "cells 90", "disc 75", "halved", "soft"],
)
def test_two_blurred_values_of_png_are_two(work, mask, names):
    assert len(np.unique(mask)) > 8
    result = converted(with_pictures(work, [mask]), label_names=names)
    assert list(result.labels.values()) == [0, 1]
    assert (label(result, "p0") == (mask > 127)).all()


@pytest.mark.parametrize("quality", [60, 90])
def test_three_blurred_values_of_png_are_asked_for(work, quality):
    mask = compressed(discs(128, 255), quality)
    work = with_pictures(work, [mask])
    for names in (None, {255: "disc"}):
        with pytest.raises(InputError, match=r"flat pixels gather around 12[78], beside 0, 255"):
            converted(work, label_names=names)
    result = converted(work, label_names={128: "ring", 255: "disc"})
    assert result.labels == {"background": 0, "ring": 1, "disc": 2}
    assert (label(result, "p0") != np.searchsorted([64, 192], mask)).mean() < 0.001


def test_a_map_of_soft_values_is_no_mask_without_a_name(work):
    soft = Image.fromarray(cells(20, 12)).filter(ImageFilter.GaussianBlur(25))
    work = with_pictures(work, [np.asarray(soft)])
    with pytest.raises(InputError, match="it is not clear which are labels"):
        converted(work)


def test_a_handful_of_flat_pixels_is_no_third_value(work):
    mask = smooth(discs(255)).copy()
    mask[20:24, 20:24] = 128
    result = converted(with_pictures(work, [mask], "jpg", quality=75))
    assert result.labels == {"background": 0, "label_255": 1}


@pytest.mark.parametrize("quality", [60, 90])
def test_a_thin_third_value_of_compressed_masks_is_no_blur_of_two(work, quality):
    work = with_pictures(work, [discs(128, 255)], "jpg", quality=quality)
    with pytest.raises(InputError, match="compressed with loss"):
        converted(work)


@pytest.mark.parametrize("mask", [discs(255), smooth(discs(255))])
@pytest.mark.parametrize("quality", [30, 60, 90])
def test_two_values_are_two_values_at_any_quality(work, mask, quality):
    result = converted(with_pictures(work, [mask], "jpg", quality=quality))
    assert result.labels == {"background": 0, "label_255": 1}
    assert (label(result, "p0") != (mask > 127)).mean() < 0.002


BLACK, RED, GREEN, BLUE, WHITE = (0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def save_palette(path: Path, numbers: np.ndarray, *colors: tuple[int, int, int]) -> None:
    image = Image.fromarray(numbers.astype(np.uint8))
    image.putpalette([value for color in colors for value in color])
    save(path, image)


def test_palettes_that_differ_are_read_by_their_colors(work):
    numbers = MASK // 127
    save_palette(work / "ma" / "p0.png", numbers, BLACK, RED, GREEN)
    save_palette(work / "ma" / "p1.png", numbers, BLACK, GREEN, RED)
    save_palette(work / "ma" / "p2.png", 2 * (numbers == 0), GREEN, GREEN, BLACK)
    result = converted(work)
    assert result.labels == {"background": 0, "color_00ff00": 1, "color_ff0000": 2}
    assert (label(result, "p0") == np.array([0, 2, 1])[numbers]).all()
    assert (label(result, "p1") == numbers).all()
    assert (label(result, "p2") == (numbers > 0)).all()
    words = r"palettes of the masks differ \(0 is #000000 in one, #00ff00 in another\): masks with"
    assert any(re.search(words, note) for note in result.notes)
    named = converted(work, label_names={"#ff0000": "a", "#00ff00": "b"}, overwrite=True)
    assert named.labels == {"background": 0, "a": 1, "b": 2}
    assert (label(named, "p0") == numbers).all()
    result = converted(work, label_names={1: "a"}, overwrite=True)
    assert result.labels == {"background": 0, "a": 1, "label_2": 2}
    assert (label(result, "p1") == numbers).all()
    assert any("names numbers, so numbers count and not colors" in note for note in result.notes)
    save(work / "ma" / "p2.png", numbers)
    with pytest.raises(InputError, match="other masks have no palette and the values 1, 2"):
        converted(work, overwrite=True)


VOC = ((0, 0, 0), (128, 0, 0), (0, 128, 0))


@pytest.mark.parametrize(
    "foreign",
    [label_colors(3), (VOC[0], (127, 0, 0), VOC[2]), ((255, 255, 255), *VOC[1:])],
    ids=["predicted", "one off", "white"],
)
def test_a_foreign_palette_doubles_no_class(work, foreign):
    numbers = MASK // 127
    for number, palette in enumerate((VOC, VOC, foreign)):
        save_palette(work / "ma" / f"p{number}.png", numbers, *palette)
    words = r"show 3 numbers in [45] colors .* Where numbers are meant, name them: --label-names 1="
    with pytest.raises(InputError, match=words):
        converted(work)
    result = converted(work, label_names={1: "nucleus", 2: "cytoplasm"})
    assert result.labels == {"background": 0, "nucleus": 1, "cytoplasm": 2}
    for name in ("p0", "p2"):
        assert (label(result, name) == numbers).all()
    assert any("names numbers, so numbers count and not colors" in note for note in result.notes)
    colors = {f"#{r:02x}{g:02x}{b:02x}": k for p in (VOC, foreign) for k, (r, g, b) in enumerate(p)}
    names = {color: ("background", "a", "b")[k] for color, k in colors.items()}
    result = converted(work, label_names=names, overwrite=True)
    assert result.labels == {"background": 0, "a": 1, "b": 2}
    assert (label(result, "p2") == numbers).all()


def test_a_palette_whose_0_is_no_background_is_read_by_its_colors(work):
    numbers = MASK // 127
    save_palette(work / "ma" / "p0.png", numbers, RED, BLACK, GREEN)
    result = converted(work)
    assert result.labels == {"background": 0, "color_00ff00": 1, "color_ff0000": 2}
    assert (label(result, "p0") == np.array([2, 0, 1])[numbers]).all()
    result = converted(work, label_names={1: "a"}, overwrite=True)
    assert result.labels == {"background": 0, "a": 1, "label_2": 2}
    assert (label(result, "p0") == numbers).all()
    save_palette(work / "ma" / "p0.png", numbers, RED, BLUE, GREEN)
    words = r"show 0, the background, in #ff0000: no color.* Where numbers are meant, name them"
    with pytest.raises(InputError, match=words):
        converted(work, overwrite=True)


@pytest.mark.parametrize("colors", [(WHITE, RED, GREEN), (BLACK, WHITE, BLUE)])
def test_numbers_count_where_palettes_agree_and_0_is_a_background(work, colors):
    save_palette(work / "ma" / "p0.png", MASK // 127, *colors)
    save_palette(work / "ma" / "p1.png", MASK // 255, *colors)
    save(work / "ma" / "p2.png", Image.fromarray(MASK // 127).convert("P"))  # shows its numbers
    result = converted(work)
    assert result.labels == {"background": 0, "label_1": 1, "label_2": 2}
    for name in ("p0", "p2"):
        assert (label(result, name) == MASK // 127).all()


def test_names_of_colors_name_those_of_palettes(work):
    save_palette(work / "ma" / "p0.png", MASK // 127, BLACK, RED, GREEN)
    result = converted(work, label_names={"#00ff00": "a"})
    assert result.labels == {"background": 0, "a": 1, "color_ff0000": 2}
    assert (label(result, "p0") == np.array([0, 2, 1])[MASK // 127]).all()


def test_folders_beside_pictures_are_told_and_given_ones_are_not(work):
    save(work / "im" / "more" / "a.png", picture(seed=7))
    save(work / "im" / "masks" / "p0.png", MASK)
    result = converted(work, labels=work / "im" / "masks")
    assert [row.case for row in result.rows] == ["p0", "p1", "p2"]
    assert result.skipped == (("im/more", "a subfolder"),)


def test_folders_of_pictures_are_taken_without_that_of_the_masks(work):
    (work / "im").rename(work / "all")
    for number in range(3):
        path = work / "all" / f"p{number}.png"
        save(work / "all" / f"part{number % 2}" / path.name, Image.open(path))
        path.unlink()
    save(work / "all" / "masks" / "p0.png", MASK)
    save(work / "all" / "part1" / "deeper" / "x.png", MASK)
    result = converted(work, images=work / "all", labels=work / "all" / "masks")
    assert [row.role for row in result.rows] == ["labeled", "unlabeled", "unlabeled"]
    assert result.skipped == (("part1/deeper", "a subfolder"),)


def test_masks_that_are_not_read_are_told(work):
    save(work / "ma" / "p0.png", MASK)
    save(work / "ma" / "more" / "p1.png", MASK)
    (work / "ma" / "p2.gif").write_bytes(b"GIF89a")
    result = converted(work)
    told = (("ma/more", "a subfolder"), ("ma/p2.gif", "of a kind that is not read"))
    assert result.skipped == told


def test_colors_of_16_bits_that_8_can_say_are_these(work):
    colors = np.zeros((20, 30, 3), np.uint16)
    colors[MASK > 0] = (2**16 - 1, 0, 0)
    (work / "ma").mkdir()
    tifffile.imwrite(work / "ma" / "p0.tif", colors, photometric="rgb")
    assert converted(work).labels == {"background": 0, "color_ff0000": 1}
