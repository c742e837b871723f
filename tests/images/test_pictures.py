import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from graphnn_unet.errors import InputError
from graphnn_unet.images.flat_picture import network_picture, stored_plainly, used_bits
from graphnn_unet.images.pictures import (
    decode_picture,
    label_picture,
    picture_size,
    read_picture,
)

GRAY = np.arange(30, dtype=np.uint8).reshape(5, 6)
COLOR = np.random.default_rng(3).integers(0, 255, (5, 6, 3), dtype=np.uint8)


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
    with pytest.raises(InputError, match=r"b\.tif is a stack of 7 pages"):
        read_picture(tmp_path / "b.tif")


def test_bits_become_0_and_255(tmp_path):
    Image.fromarray(np.eye(4, dtype=bool)).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png")[0] == 255 * np.eye(4)).all()


def rotated(array: np.ndarray, orientation: int) -> np.ndarray:
    """The upright picture as Pillow, which knows the standard, has it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(array)
    picture.info["exif"] = exif.tobytes()
    picture.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
def test_turned_pictures_come_as_viewers_show_them(tmp_path, name, orientation):
    path = tmp_path / name
    if name == "a.tif":
        tag = [(0x0112, "H", 1, orientation, True)]
        tifffile.imwrite(path, COLOR, photometric="rgb", extratags=tag)
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(COLOR).save(path, exif=exif, quality=100, subsampling=0)
    upright = rotated(COLOR, orientation)
    read = np.moveaxis(read_picture(path), 0, -1)
    assert read.shape == upright.shape
    assert np.abs(read.astype(int) - upright).max() <= (8 if name == "a.jpg" else 0)
    assert picture_size(path) == upright.shape[:2]


def test_white_is_zero_is_turned_into_black_is_zero(tmp_path):
    for array, largest in ((GRAY, 255), (GRAY.astype(np.uint16) * 900, 65535)):
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="miniswhite")
        assert (read_picture(tmp_path / "a.tif")[0] == largest - array).all()


def test_palette_of_a_tiff(tmp_path):
    picture = Image.fromarray(COLOR).quantize(7)
    picture.save(tmp_path / "a.tif")
    shown = np.moveaxis(np.asarray(picture.convert("RGB")), -1, 0)
    assert (read_picture(tmp_path / "a.tif") == shown).all()
    assert (read_picture(tmp_path / "a.tif", indexed=True)[0] == np.asarray(picture)).all()


@pytest.mark.parametrize("n_pages", [2, 3, 4])
@pytest.mark.parametrize("imagej", [False, True])
def test_stack_of_pages_is_no_color_picture(tmp_path, n_pages, imagej):
    stack = np.stack([GRAY] * n_pages)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack", imagej=imagej)
    with pytest.raises(InputError, match=rf"a\.tif is a stack of {n_pages} pages"):
        read_picture(tmp_path / "a.tif")
    planes = {"photometric": "minisblack", "planarconfig": "separate", "metadata": None}
    if n_pages > 2:
        tifffile.imwrite(tmp_path / "b.tif", stack, **planes, extrasamples=[0] * (n_pages - 1))
        with pytest.raises(InputError, match=rf"b\.tif has {n_pages} gray planes"):
            read_picture(tmp_path / "b.tif")


def test_planes_of_red_green_blue_are_a_color_picture(tmp_path):
    planes = np.moveaxis(COLOR, -1, 0)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    assert (read_picture(tmp_path / "a.tif") == planes).all()
    assert picture_size(tmp_path / "a.tif") == (5, 6)


def test_thumbnail_beside_a_picture_is_passed_over(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(COLOR, photometric="rgb")
        file.write(COLOR[::2, ::2], photometric="rgb", subfiletype=1)
    assert read_picture(tmp_path / "a.tif").shape == (3, 5, 6)


def test_animation_is_refused(tmp_path):
    frames = [Image.fromarray(GRAY + number) for number in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b.gif").rename(tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        with pytest.raises(InputError, match=rf"{name} has 3 frames"):
            read_picture(tmp_path / name)


def test_ink_becomes_color(tmp_path):
    Image.fromarray(COLOR).convert("CMYK").save(tmp_path / "a.tif")
    shown = np.asarray(Image.open(tmp_path / "a.tif").convert("RGB"))
    assert (read_picture(tmp_path / "a.tif") == np.moveaxis(shown, -1, 0)).all()


def test_alpha_is_kept_apart(tmp_path):
    alpha = (GRAY > 10).astype(np.uint8) * 255
    Image.fromarray(np.dstack([COLOR, alpha])).save(tmp_path / "a.png")
    picture = decode_picture(tmp_path / "a.png")
    assert (picture.alpha == alpha).all()
    assert picture.array.shape == (3, 5, 6)


def test_label_picture_shows_its_ids(tmp_path):
    labels = np.array([[0, 1], [2, 255]])
    label_picture(labels, {2: (1, 2, 3)}).save(tmp_path / "a.png")
    assert (read_picture(tmp_path / "a.png", indexed=True)[0] == labels).all()
    colors = np.moveaxis(read_picture(tmp_path / "a.png"), 0, -1).reshape(4, 3)
    assert len(np.unique(colors, axis=0)) == 4
    assert colors[2].tolist() == [1, 2, 3]
    label_picture(labels * 10).save(tmp_path / "b.png")
    assert (read_picture(tmp_path / "b.png", indexed=True)[0] == labels * 10).all()


DEEP = np.random.default_rng(4).integers(0, 2**16, (5, 6, 4), dtype=np.uint16)
ONE_COLOR, GRAY_ALPHA, COLOR_ALPHA = 2, 4, 6
"""Kinds of color in the head of a PNG file."""


def save_deep_png(path, array: np.ndarray, kind: int) -> None:
    """A PNG file of 16 bits a color, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        length = struct.pack(">I", len(content))
        return length + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize("kind", [ONE_COLOR, COLOR_ALPHA])
def test_deep_colors_of_png_keep_all_bits(tmp_path, kind):
    array = DEEP[..., :3] if kind == ONE_COLOR else DEEP
    save_deep_png(tmp_path / "a.PNG", array, kind)
    picture = decode_picture(tmp_path / "a.PNG")
    assert picture.array.dtype == np.uint16
    assert (picture.array == np.moveaxis(DEEP[..., :3], -1, 0)).all()
    assert (picture.alpha is None) == (kind == ONE_COLOR)
    assert stored_plainly(tmp_path / "a.PNG", is_label=False)


@pytest.mark.parametrize("brightest", [2**12 - 1, 2**11 - 1])
def test_deep_colors_are_reduced_by_the_bits_of_their_data_set(tmp_path, brightest):
    array = np.minimum(DEEP[..., :3] >> 4, brightest).astype(np.uint16)
    save_deep_png(tmp_path / "a.png", array, ONE_COLOR)
    picture = network_picture(tmp_path / "a.png", 3, color_bits=12)
    assert (picture.array == np.moveaxis(array >> 4, -1, 0)).all()
    assert picture.notes == ("its colors of 12 bits were reduced to 8",)
    unlike = network_picture(tmp_path / "a.png", 3)
    assert (unlike.array == picture.array >> 4).all()
    brightest_of_8 = unlike.array.max()
    note = f"its colors of 16 bits were reduced to 8; its brightest is {brightest_of_8} of 255"
    assert unlike.notes == (note,)
    assert used_bits(tmp_path / "a.png") == brightest.bit_length()


def test_values_beyond_the_bits_of_the_data_set_are_the_brightest_and_told(tmp_path):
    array = np.full((4, 5, 3), (100, 90, 80), np.uint16)
    array[0, 0] = 5000
    save_deep_png(tmp_path / "a.png", array, ONE_COLOR)
    picture = network_picture(tmp_path / "a.png", 3, color_bits=12)
    assert picture.array[:, 0].max(axis=0).tolist() == [255, 6, 6, 6, 6]
    assert "; 3 values beyond are 255" in picture.notes[0]


def test_deep_gray_with_alpha_and_cut_files_are_refused(tmp_path):
    save_deep_png(tmp_path / "a.png", DEEP[..., :2], GRAY_ALPHA)
    with pytest.raises(InputError, match=r"a\.png has 16 bits and transparency"):
        read_picture(tmp_path / "a.png")
    save_deep_png(tmp_path / "b.png", DEEP, COLOR_ALPHA)
    (tmp_path / "b.png").write_bytes((tmp_path / "b.png").read_bytes()[:150])
    with pytest.raises(InputError, match=r"b\.png cannot be read"):
        read_picture(tmp_path / "b.png")
