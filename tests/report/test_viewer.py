import base64
import gzip
import json
import re

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from graphnn_unet.images.volume import Volume, to_itk
from graphnn_unet.report import viewer as module
from graphnn_unet.report.overlay import FLAT_PLACE
from graphnn_unet.report.shown_cases import ShownCase
from graphnn_unet.report.viewer import bundle, id_names, viewer

CLASSES = {"organ": 1, "lesion": 4}
ANGLE = 0.3
TURNED = (np.cos(ANGLE), -np.sin(ANGLE), 0, np.sin(ANGLE), np.cos(ANGLE), 0, 0, 0, 1.0)


def volume(array: np.ndarray) -> Volume:
    return Volume(array, (3.0, 1.5, 0.5), (-20.0, 31.0, 7.0), tuple(map(float, TURNED)))


def case(**more) -> ShownCase:
    rng = np.random.default_rng(0)
    label, predicted = np.zeros((2, 6, 8, 10), np.uint8)
    label[2:4, 2:6, 2:6], predicted[2:4, 2:6, 4:8] = 4, 4
    predicted[2, 2, 2], predicted[0, 0, 0] = 1, 9
    image = rng.normal(0, 1, label.shape).astype(np.float32)
    values = {"image": image, "label": label, "prediction": predicted} | more
    volumes = {k: None if v is None else volume(v) for k, v in values.items()}
    return ShownCase("a<b", **volumes, word="worst")


def opened(part) -> tuple[dict, dict[str, nib.Nifti1Image]]:
    data = re.search(r"id='viewer-data'>(.*?)</script>", part.html)[1]
    packed = re.findall(r"id='volume-0-(\w+)'>(.*?)</script>", part.html)
    images = {
        kind: nib.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(text)))
        for kind, text in packed
    }
    return json.loads(data), images


def test_voxels_lie_where_the_file_has_them():
    shown = case()
    _, images = opened(viewer([shown], CLASSES, 10**7))
    itk = to_itk(shown.image)
    for index in ((0, 0, 0), (9, 7, 5), (3, 1, 4)):
        x, y, z = itk.TransformContinuousIndexToPhysicalPoint([float(i) for i in index])
        here = images["image"].affine @ [*index, 1]
        np.testing.assert_allclose(here[:3], (-x, -y, z), atol=1e-4)
    stored = sitk.GetArrayFromImage(itk)
    values = np.asarray(images["image"].dataobj).T
    np.testing.assert_allclose(values, stored, atol=np.ptp(stored) / 4095)


def test_layers_are_what_they_are_called():
    data, images = opened(viewer([case(uncertainty=np.full((6, 8, 10), 0.5))], CLASSES, 10**7))
    arrays = {kind: np.asarray(image.dataobj).T for kind, image in images.items()}
    assert list(arrays) == ["image", "label", "prediction", "difference", "uncertainty"]
    assert set(np.unique(arrays["label"])) == {0, 2}, "the second class, whatever its id"
    assert arrays["prediction"][0, 0, 0] == 3, "an id that no class has"
    difference = arrays["difference"]
    assert difference[2, 3, 3] == 1, "missed"
    assert difference[2, 3, 7] == 2, "invented"
    assert difference[2, 2, 2] == 3, "another class"
    assert (difference[2, 3, 5], difference[5, 7, 9]) == (0, 0)
    np.testing.assert_allclose(arrays["uncertainty"], 0.5, atol=1 / 255)
    names = [color[3] for color in data["layers"][1]["colors"]]
    assert names == ["background", "organ", "lesion", "not in dataset.json"]


def test_without_uncertainty_the_page_says_so_and_without_label_there_is_no_difference():
    data, images = opened(viewer([case(label=None)], CLASSES, 10**7))
    assert list(images) == ["image", "prediction"]
    assert "no uncertainty was saved" in data["cases"][0]["note"]


def test_it_opens_on_the_slice_with_most_foreground():
    data, _ = opened(viewer([case()], CLASSES, 10**7))
    x, y, z = data["cases"][0]["center"]
    assert z in (2, 3)
    assert x in range(2, 6)
    assert y in range(2, 6)


@pytest.mark.parametrize("values", [(-1000, 3000), (0, 255)])
def test_whole_numbers_stay_as_they_are(values):
    image = np.random.default_rng(1).integers(*values, (6, 8, 10)).astype(np.float64)
    _, images = opened(viewer([case(image=image)], CLASSES, 10**7))
    assert (image == np.asarray(images["image"].dataobj).T).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_do_no_harm(bad):
    image = np.random.default_rng(1).normal(size=(6, 8, 10))
    image[0, 0, 0] = bad
    _, images = opened(viewer([case(image=image)], CLASSES, 10**7))
    values = np.asarray(images["image"].dataobj).T
    assert np.isfinite(values).all()
    assert np.abs(values - image)[1:].max() < 0.01


def test_what_does_not_fit_is_thinned_then_left_out():
    rng = np.random.default_rng(0)
    shape = (32, 64, 64)
    big = ShownCase("big", Volume(rng.normal(size=shape), (1.0, 1.0, 1.0)))
    fixed = len(bundle()) + len(module.asset("viewer.js")) + 8000
    whole = viewer([big], {}, fixed + 2 * 10**6)
    assert opened(whole)[1]["image"].shape == shape[::-1]
    thin = viewer([big], {}, fixed + 60_000)
    data, images = opened(thin)
    assert images["image"].shape == tuple(n // 2 for n in shape[::-1])
    np.testing.assert_allclose(images["image"].header.get_zooms(), 2)
    assert "thinned" in data["cases"][0]["note"]
    assert len(thin.html) + len(thin.script) < fixed + 60_000
    none = viewer([big], {}, fixed + 20)
    assert (none.n_shown, none.script) == (0, "")
    assert "--megabytes" in none.html


def test_thick_slices_are_not_thinned():
    image = np.random.default_rng(0).normal(size=(12, 64, 64))
    thick = ShownCase("thick", Volume(image, (5.0, 0.5, 0.5)))
    room = len(bundle()) + len(module.asset("viewer.js")) + 8000 + 40_000
    _, images = opened(viewer([thick], {}, room))
    assert images["image"].shape == (32, 32, 12)


def test_pictures_keep_their_colors_and_stand_upright():
    color = np.random.default_rng(0).integers(0, 255, (3, 9, 7)).astype(np.uint8)
    gray = Volume(color.mean(axis=0), *FLAT_PLACE)
    label = Volume((gray.array > 120).astype(np.uint8), *FLAT_PLACE)
    data, images = opened(viewer([ShownCase("p", gray, color, label)], {"cell": 1}, 10**7))
    stored = np.asarray(images["image"].dataobj)[:, :, 0].T
    assert (np.stack([stored[name] for name in "RGB"]) == color).all()
    assert data["cases"][0]["flat"] is True
    assert images["image"].affine[1, 1] == -1, "rows run down"


def test_names_of_regions_are_put_together():
    assert id_names({"whole": [1, 3], "core": 3}) == {1: "whole", 3: "whole + core"}


def test_the_bundle_is_one_file_below_a_megabyte():
    packed = re.search(r">(.*)<", bundle())[1]
    code = gzip.decompress(base64.b64decode(packed)).decode()
    assert len(code) < 10**6
    assert "var niivue=" in code[:300]
