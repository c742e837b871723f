import numpy as np
import pytest
from benchmarks._contact_sheet import (
    PREDICTION,
    REFERENCE,
    PictureCase,
    save_picture_sheet,
)
from PIL import Image as Pillow

from graphnn_unet.errors import InputError, ShapeError


@pytest.fixture
def files(tmp_path):
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 10:30] = 255
    Pillow.fromarray(np.full((40, 60, 3), 128, np.uint8)).save(tmp_path / "image.png")
    Pillow.fromarray(mask).save(tmp_path / "truth.png")
    Pillow.fromarray(np.roll(mask, 20, axis=1) // 255).save(tmp_path / "found.png")
    return tmp_path


def test_outlines_lie_where_the_maps_say(files):
    case = PictureCase(*(files / f"{n}.png" for n in ("image", "found", "truth")), "IoU 0.33")
    save_picture_sheet([case] * 3, files / "sheet.png", columns=2, cell=60)
    sheet = np.asarray(Pillow.open(files / "sheet.png").convert("RGB")).astype(int)
    assert sheet.shape == (2 * 80, 2 * 66 + 6, 3)
    near = [(abs(sheet - np.array(color)).sum(axis=2) < 30) for color in (PREDICTION, REFERENCE)]
    first = near[0][:80, :72]
    assert np.argwhere(first).min(axis=0).tolist() == [20, 36]
    assert np.argwhere(near[1][:80, :72]).min(axis=0).tolist() == [20, 16]
    assert near[0][80:, 72:].sum() == 0  # three pictures, four places


def test_sheets_that_cannot_be_are_refused(files):
    with pytest.raises(InputError, match="make no sheet"):
        save_picture_sheet([], files / "sheet.png")
    Pillow.fromarray(np.zeros((9, 9), np.uint8)).save(files / "small.png")
    with pytest.raises(ShapeError, match=r"small\.png is not of the size"):
        save_picture_sheet([PictureCase(files / "image.png", files / "small.png")], files / "s.png")
    assert not (files / "s.png").exists()
