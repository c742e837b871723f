import numpy as np
import pytest
import SimpleITK as sitk
import torch
from PIL import Image

from graphnn_unet.classification.augment import Views, apply_views, draw_views
from graphnn_unet.classification.images import (
    ImageSet,
    Normalization,
    find_images,
    fitted,
    load_images,
    read_image,
)
from graphnn_unet.errors import FaultsError, InputError, MissingFileError


def save(path, array):
    Image.fromarray(np.asarray(array, dtype=np.uint8)).save(path)


def test_proportions_are_kept_and_the_border_continues():
    image = torch.zeros(1, 10, 20)
    image[:, :, 10:] = 100.0
    image[:, 0] = 50.0
    transformed = fitted(image, (1.0, 1.0), 20)
    assert transformed.shape == (1, 20, 20)
    torch.testing.assert_close(transformed[0, 5:15], image[0])
    assert (transformed[0, :5] == 50).all()
    assert torch.equal(transformed[0, 15:], image[0, -1:].expand(5, -1))


def test_spacing_counts_in_volumes():
    transformed = fitted(torch.rand(1, 8, 16, 16), (2.0, 1.0, 1.0), 16)
    flat = fitted(torch.rand(1, 8, 16, 16), (1.0, 1.0, 1.0), 16)
    assert transformed.shape == flat.shape == (1, 16, 16, 16)
    assert not torch.equal(transformed[0, 0], transformed[0, 3])  # all 16 planes hold the image
    assert torch.equal(flat[0, 0], flat[0, 3])  # four planes of border


def test_shrinking_averages():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.float32)
    transformed = fitted(torch.from_numpy(board)[None], (1.0, 1.0), 16)
    assert float(transformed.std()) < 20
    volume = torch.from_numpy(np.indices((32, 32, 32)).sum(0) % 2 * 255.0).float()[None]
    assert float(fitted(volume, (1.0, 1.0, 1.0), 16).std()) < 1


def test_pictures_are_normalized_together_and_volumes_apart(tmp_path):
    save(tmp_path / "dark.png", np.full((20, 20), 40))
    save(tmp_path / "light.png", np.full((20, 20), 200))
    images = load_images(find_images(tmp_path), 16)
    transformed = Normalization.of(images)(images.pixels)
    assert transformed.flatten(1).mean(1).tolist() == pytest.approx([-1, 1])
    (tmp_path / "volumes").mkdir()
    for name, scale in (("a", 1.0), ("b", 1000.0)):
        array = scale * (5 + np.random.default_rng(0).normal(0, 1, (9, 9, 9)))
        image = sitk.GetImageFromArray(array.astype(np.float32))
        sitk.WriteImage(image, str(tmp_path / "volumes" / f"{name}.nii.gz"))
    volumes = load_images(find_images(tmp_path / "volumes"), 16)
    assert volumes.n_dims == 3
    torch.testing.assert_close(volumes.pixels[0], volumes.pixels[1], atol=2e-2, rtol=0)


def test_picture_of_one_gray_has_no_infinite_scale():
    images = ImageSet(("a",), torch.full((1, 1, 16, 16), 7, dtype=torch.uint8))
    assert torch.equal(Normalization.of(images)(images.pixels), torch.zeros(1, 1, 16, 16))


def test_transparent_palette_and_16_bit_pictures_are_read(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (20, 20, 4), dtype=np.uint8), "RGBA").save(
        tmp_path / "a.png"
    )
    Image.fromarray(rng.integers(0, 255, (20, 20), dtype=np.uint8)).convert("P").save(
        tmp_path / "b.png"
    )
    deep = np.linspace(1000, 60000, 400).reshape(20, 20).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "c.png")
    images = load_images(find_images(tmp_path), 20)
    assert images.pixels.shape == (3, 3, 20, 20)
    assert int(images.pixels[2].min()) == 0
    assert int(images.pixels[2].max()) == 255


def test_folder_faults(tmp_path):
    with pytest.raises(MissingFileError, match="holds no image"):
        find_images(tmp_path)
    with pytest.raises(MissingFileError, match="missing"):
        find_images(tmp_path / "none")
    save(tmp_path / "a.png", np.zeros((4, 4)))
    save(tmp_path / "a.bmp", np.zeros((4, 4)))
    with pytest.raises(FaultsError, match=r"twice, as a\.bmp and a\.png"):
        find_images(tmp_path)
    (tmp_path / "a.bmp").rename(tmp_path / "b.nii.gz")
    with pytest.raises(InputError, match="pictures and volumes"):
        find_images(tmp_path)


def test_all_images_damaged_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(FaultsError) as caught:
        load_images(find_images(tmp_path), 16)
    assert [line.split(":")[0] for line in caught.value.lines] == ["a", "b"]


def test_damaged_volume_is_named(tmp_path):
    path = tmp_path / "v.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 5, 5), np.float32)), str(path))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"v\.nii\.gz"):
        read_image(path, 16)


def test_gray_model_takes_colored_pictures(tmp_path):
    save(tmp_path / "a.png", np.stack([np.full((8, 8), v) for v in (30, 60, 90)], axis=2))
    images = load_images(find_images(tmp_path), 16, n_channels=1)
    assert images.pixels.unique().tolist() == [60]


@pytest.mark.parametrize("n_dims", [2, 3])
@pytest.mark.parametrize("kind", ["standard", "any-orientation"])
def test_views_depend_on_the_generator_alone(n_dims, kind):
    images = torch.rand(4, 1, *[16] * n_dims)
    transformed = [
        apply_views(images, draw_views(4, n_dims, kind, torch.Generator().manual_seed(s)))
        for s in (0, 0, 1)
    ]
    assert transformed[0].shape == images.shape
    assert torch.equal(transformed[0], transformed[1])
    assert not torch.equal(transformed[0], transformed[2])


def test_no_augmentation_changes_nothing():
    images = torch.rand(2, 1, 16, 16)
    assert draw_views(2, 2, "none", torch.Generator()) is None
    assert apply_views(images, None) is images


def test_mirrored_view_is_the_mirrored_image(monkeypatch):
    from graphnn_unet.classification import augment

    monkeypatch.setattr(augment, "_NOISE", 0.0)
    image = torch.rand(1, 1, 16, 16)
    affine = torch.tensor([[[-1.0, 0, 0], [0, 1, 0]]])
    transformed = apply_views(image, Views(affine, torch.ones(1), torch.zeros(1), 0))
    torch.testing.assert_close(transformed, image.flip(3))


def test_standard_views_never_turn_pictures_upside_down():
    views = draw_views(200, 2, "standard", torch.Generator().manual_seed(0))
    assert (views.affine[:, 1, 1] > 0).all()  # down stays down
    assert (views.affine[:, 0, 0] < 0).any()  # left and right change


def test_numbered_volumes_are_images_and_channels_are_refused(tmp_path):
    for name in ("scan_0000", "scan_0001"):
        (tmp_path / f"{name}.nii.gz").touch()
    assert list(find_images(tmp_path)) == ["scan_0000", "scan_0001"]
    for name in ("other_0000", "other_0001"):
        (tmp_path / f"{name}.nii.gz").touch()
    with pytest.raises(InputError, match="cases, or channels"):
        find_images(tmp_path)
