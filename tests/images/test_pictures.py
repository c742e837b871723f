import numpy as np
import pytest
import tifffile
from PIL import Image

from graphnn_unet.errors import InputError
from graphnn_unet.images.pictures import read_picture


def test_palette_gives_colors_or_numbers(tmp_path):
    number = np.array([[0, 1], [2, 1]], dtype=np.uint8)
    picture = Image.fromarray(number).convert("P")
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    picture.putdata(number.ravel())
    picture.save(tmp_path / "a.png")
    colors = read_picture(tmp_path / "a.png")
    assert colors[:, 0, 1].tolist() == [255, 0, 0]
    assert (read_picture(tmp_path / "a.png", indexed=True) == number).all()


@pytest.mark.parametrize(("n_channels", "kept"), [(1, 1), (2, 1), (3, 3), (4, 3)])
def test_alpha_is_dropped(tmp_path, n_channels, kept):
    array = np.random.default_rng(0).integers(0, 255, (5, 6, n_channels), dtype=np.uint8)
    Image.fromarray(array.squeeze()).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png") == np.moveaxis(array[..., :kept], -1, 0)).all()


def test_deep_tiff_keeps_its_values_and_planes_are_refused(tmp_path):
    deep = np.linspace(0, 60000, 30).reshape(5, 6).astype(np.float32)
    tifffile.imwrite(tmp_path / "a.tif", deep)
    assert (read_picture(tmp_path / "a.tif")[0] == deep).all()
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((7, 5, 6), np.uint16))
    with pytest.raises(InputError, match=r"b\.tif has axes \(7, 5, 6\)"):
        read_picture(tmp_path / "b.tif")


def test_bits_become_0_and_255(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png")[0] == 255 * np.eye(4)).all()
