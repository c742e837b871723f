import numpy as np
import pytest
from report.small_folders import scan

from graphnn_unet.report.outliers import FLIPS, median_factor, mirrored, size_words, thumbnail


def thumbnails(**flips):
    """Six scans, and one a flip."""
    usual = {f"c{n}": scan(n)[0] for n in range(6)}
    odd = {name: scan(10 + n, flip=flip)[0] for n, (name, flip) in enumerate(flips.items())}
    return {case: thumbnail(image) for case, image in (usual | odd).items()}


def test_ten_times_the_median_stands_out_and_nine_times_does_not():
    sizes = {"a": 10.0, "b": 10.0, "c": 10.0}
    assert median_factor(sizes | {"d": 100.0}) == {"d": 10.0}
    assert median_factor(sizes | {"d": 1.0}) == {"d": 0.1}
    assert not median_factor(sizes | {"d": 90.0, "e": 1.2})
    assert not median_factor({"a": 1.0, "b": 1000.0}), "two have no usual size"


def test_an_empty_label_has_no_part_in_the_median():
    assert median_factor({"a": 0.0, "b": 0.0, "c": 0.0, "d": 5.0}) == {}


@pytest.mark.parametrize("flip", FLIPS)
def test_a_mirrored_scan_is_told_with_its_axes(flip):
    result = mirrored(thumbnails(odd=flip))
    assert {case: hit.axes for case, hit in result.items()} == {"odd": flip}


def test_words_name_the_direction():
    assert mirrored(thumbnails(odd=(2,)))["odd"].words == "looks mirrored left to right"
    assert size_words("core", 0.05) == "core is 1/20 of its median size"


def test_usual_scans_are_not_told():
    assert not mirrored(thumbnails())


def test_data_sets_of_both_sides_are_left_alone():
    both = thumbnails(**{f"r{n}": (2,) for n in range(5)})
    assert not mirrored(both)


def test_an_exact_mirror_image_of_another_scan_is_told_however_few_there_are():
    first, second = scan(0)[0], np.random.default_rng(5).normal(size=(12, 14, 16))
    small = {"a": thumbnail(first), "b": thumbnail(second), "c": thumbnail(np.flip(first, 1))}
    result = mirrored(small)
    assert list(result) == ["c"]
    assert result["c"].words == "the mirror image (front to back) of a"


def test_thumbnails_mirror_as_their_scans_do_and_even_scans_have_none():
    image = np.random.default_rng(0).normal(size=(13, 29, 31)).astype(np.float32)
    mirror = thumbnail(np.flip(image, 1))
    np.testing.assert_allclose(mirror, np.flip(thumbnail(image), 1), atol=1e-5)
    assert not thumbnail(np.full((5, 5, 5), 7)).any()
    assert thumbnail(image[0]).shape == thumbnail(image).shape
