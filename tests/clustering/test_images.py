import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from pictures import blob, blob_volume, save, write_volume
from tiny_study import write_image

from graphnn_unet.clustering.images import (
    find_images,
    is_whole,
    read_image,
    write_label_map,
)
from graphnn_unet.errors import InputError, MissingFileError
from graphnn_unet.images.grid import compare_grids
from graphnn_unet.images.pictures import read_picture
from graphnn_unet.images.read import read_volume


def only(folder: Path):
    (source,), faults, _ = find_images(folder)
    assert not faults
    return source


@pytest.mark.parametrize("ending", [".png", ".jpg", ".JPEG", ".bmp", ".tif"])
def test_pictures_of_every_kind_become_png_maps(tmp_path, ending):
    rgb, mask = blob()
    path = tmp_path / "in" / f"a b{ending}"
    if ending == ".tif":
        path.parent.mkdir()
        tifffile.imwrite(path, rgb)
    else:
        save(path, rgb)
    source = only(tmp_path / "in")
    image = read_image(source)
    assert (image.array.shape, image.is_color) == ((3, *mask.shape), True)
    assert abs(image.array - np.moveaxis(rgb, -1, 0) / 255).mean() < 0.05
    write_label_map(mask.astype(int), image, tmp_path / source.target_name)
    assert source.target_name == "a b.png"
    assert (read_picture(tmp_path / "a b.png", indexed=True)[0] == mask).all()


def test_deep_gray_picture_is_stretched_and_alpha_dropped(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", (np.arange(400).reshape(20, 20) + 1000).astype(np.uint16))
    image = read_image(only(tmp_path))
    assert not image.is_color
    assert image.array.shape == (1, 20, 20)
    assert (image.array.min(), image.array.max()) == (0, 1)
    rgba = np.dstack([blob()[0], np.zeros((48, 56), np.uint8)])
    save(tmp_path / "b" / "b.png", rgba)
    assert read_image(only(tmp_path / "b")).array.shape[0] == 3


@pytest.mark.parametrize("shape", [(6, 20, 18), (20, 18)])
def test_maps_of_volumes_keep_their_geometry(tmp_path, shape):
    image = sitk.GetImageFromArray(np.random.default_rng(0).random(shape).astype(np.float32))
    image.SetSpacing([0.5, 0.7, 3.0][: len(shape)])
    image.SetOrigin([3.0, -4, 5][: len(shape)])
    sitk.WriteImage(image, str(tmp_path / "v.nii.gz"))
    picture = read_image(only(tmp_path))
    labels = np.zeros(shape, int)
    labels[2, 3] = 2
    write_label_map(labels, picture, tmp_path / "out" / "v.nii.gz")
    label_map = sitk.ReadImage(str(tmp_path / "out" / "v.nii.gz"))
    assert (sitk.GetArrayFromImage(label_map) == labels).all()
    assert label_map.GetSpacing() == pytest.approx(image.GetSpacing(), abs=1e-6)
    assert label_map.GetOrigin() == pytest.approx(image.GetOrigin())


@pytest.mark.parametrize("ending", [".mhd", ".img", ".mgz", ".mgh", ".mha", ".nrrd", ".nii"])
def test_maps_of_every_kind_of_volume_can_be_read(tmp_path, ending):
    """Two files are no kind for one label map, and nobody writes those of FreeSurfer."""
    path = write_volume(tmp_path / "in" / f"v{ending}", blob_volume()[0])
    source = only(path.parent)
    own = ending in (".mha", ".nrrd", ".nii")
    assert source.target_name == f"v{ending if own else '.nii.gz'}"
    image = read_image(source)
    labels = np.zeros(image.shape, int)
    labels[2:5, 3:9, 4:7] = 1
    target = tmp_path / "out" / source.target_name
    write_label_map(labels, image, target)
    assert [file.name for file in target.parent.iterdir()] == [target.name]
    label_map, given = read_volume(target), read_volume(path)
    assert (label_map.array == labels).all()
    assert not compare_grids(label_map.grid, given.grid).is_mismatch
    assert is_whole(target, source)


def test_channels_of_a_volume_are_one_image(tmp_path):
    for channel in range(2):
        write_image(tmp_path / f"a_000{channel}.nii.gz", np.ones((4, 5, 6), np.float32) * channel)
    with pytest.raises(InputError, match=r"can be cases, or channels.*--channels 2"):
        find_images(tmp_path)
    assert [source.case for source in find_images(tmp_path, 1)[0]] == ["a_0000", "a_0001"]
    ((source,), _, _) = find_images(tmp_path, 2)
    assert source.case == "a"
    assert read_image(source).array.shape == (2, 4, 5, 6)
    write_image(tmp_path / "a_0001.nii.gz", np.ones((4, 5, 7), np.float32))
    with pytest.raises(InputError, match="not on the grid"):
        read_image(find_images(tmp_path, 2)[0][0])
    (tmp_path / "a_0001.nii.gz").unlink()
    assert only(tmp_path).target_name == "a_0000.nii.gz"


def test_a_frame_around_the_picture_is_found_and_an_object_is_not(tmp_path):
    rgb, _ = blob(60, 70)
    framed = rgb.copy()
    framed[:4] = 0
    framed[:, -6:] = 0
    image = read_image(only(save(tmp_path / "a.png", framed).parent))
    assert image.inner[0].start in (4, 5)
    assert image.inner[0].stop == 60
    assert image.inner[1].stop in (63, 64)
    plain = read_image(only(save(tmp_path / "b" / "b.png", rgb).parent))
    assert plain.inner == (slice(0, 60), slice(0, 70))


def test_files_that_cannot_be_taken_are_told(tmp_path):
    rgb, _ = blob()
    save(tmp_path / "a.png", rgb)
    save(tmp_path / "a.bmp", rgb)
    (tmp_path / "notes.txt").write_text("x")
    sources, faults, skipped = find_images(tmp_path)
    assert not sources
    assert "holds it twice, as a.bmp and a.png" in faults[0].cause
    assert skipped == ["notes.txt"]
    with pytest.raises(MissingFileError):
        find_images(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        find_images(tmp_path / "empty")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "one pixel"])
def test_damaged_pictures_are_named(tmp_path, damage):
    path = save(tmp_path / "a.png", blob()[0])
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:600])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_bytes(b"no picture at all")
    else:
        save(path, np.zeros((1, 9, 3), np.uint8))
    with pytest.raises(InputError, match=r"a\.png"):
        read_image(only(tmp_path))


def test_values_that_are_not_finite_are_counted(tmp_path):
    array = np.ones((20, 20), np.float32)
    array[3, 4:6] = np.nan
    tifffile.imwrite(tmp_path / "a.tif", array)
    with pytest.raises(InputError, match="2 values that are not finite"):
        read_image(only(tmp_path))


def test_only_whole_and_younger_maps_are_kept(tmp_path):
    rgb, mask = blob()
    save(tmp_path / "in" / "a.png", rgb)
    source = only(tmp_path / "in")
    target = tmp_path / "a.png"
    assert not is_whole(target, source)
    write_label_map(mask.astype(int), read_image(source), target)
    assert is_whole(target, source)
    os.utime(target, (1, 1))
    assert not is_whole(target, source)
    os.utime(target)
    target.write_bytes(target.read_bytes()[:-30])
    assert not is_whole(target, source)
    save(target, mask[:-1].astype(np.uint8))
    assert not is_whole(target, source)


@pytest.mark.parametrize("kind", ["picture", "deep picture", "volume"])
def test_the_image_behind_a_map_is_not_read_again(tmp_path, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 60000, (64, 70)).astype(np.uint16)
    if kind == "picture":
        save(folder / "a.png", (noise // 256).astype(np.uint8))
    elif kind == "deep picture":
        tifffile.imwrite(folder / "a.tif", np.stack([noise] * 3))
    else:
        write_image(folder / "a.nii", np.stack([noise.astype(np.float32)] * 5), (3.0, 1.0, 0.5))
    source = only(folder)
    image = read_image(source)
    target = tmp_path / source.target_name
    write_label_map(np.ones(image.shape, int), image, target)
    path = source.paths[0]
    path.write_bytes(path.read_bytes()[:-2000])  # its header says enough
    os.utime(path, (1, 1))
    with pytest.raises(InputError):
        read_image(source)
    assert is_whole(target, source)


def test_a_map_that_lies_elsewhere_is_not_kept(tmp_path):
    array = np.random.default_rng(0).random((5, 20, 20)).astype(np.float32)
    write_image(tmp_path / "in" / "a.nii.gz", array, (3.0, 1.0, 1.0))
    source = only(tmp_path / "in")
    target = tmp_path / "a.nii.gz"
    write_label_map(np.ones(array.shape, int), read_image(source), target)
    assert is_whole(target, source)
    moved = sitk.ReadImage(str(target))
    moved.SetOrigin((0.0, 0.0, 9.0))
    sitk.WriteImage(moved, str(target))
    assert not is_whole(target, source)
