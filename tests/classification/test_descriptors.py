import pytest
import torch

from graphnn_unet import classify
from graphnn_unet.classification.descriptors import DescriptorExtractor, joined
from graphnn_unet.classification.images import ImageSet


def images(n: int = 6, shape: tuple[int, ...] = (3, 32, 32), seed: int = 0) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((n, shape[0], *[4] * (len(shape) - 1)), generator=generator)
    fine = torch.nn.functional.interpolate(coarse, size=shape[1:])
    noisy = fine + 0.2 * torch.rand(fine.shape, generator=generator)
    pixels = (200 * noisy).byte() if len(shape) == 3 else (4 * noisy - 2).half()
    return ImageSet(tuple(f"c{row}" for row in range(n)), pixels)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 24, 24), (1, 16, 16, 16)])
@pytest.mark.parametrize("augmentation", ["standard", "any-orientation"])
def test_rows_are_of_unit_length_and_of_one_image_each(shape, augmentation):
    several = images(shape=shape)
    describe, descriptors = DescriptorExtractor.learn(several, augmentation)
    assert torch.equal(describe(several), descriptors)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.ones(6))
    alone = torch.cat(
        [describe(ImageSet((case,), several.pixels[i : i + 1])) for i, case in enumerate("abcdef")]
    )
    torch.testing.assert_close(descriptors, alone)


def test_parts_fit_the_images():
    upright, turned = ("gradients", "thumbnail"), ("rings", "shapes")
    assert DescriptorExtractor.learn(images(), "standard")[0].parts[2:] == upright
    assert DescriptorExtractor.learn(images(), "none")[0].parts[2:] == upright
    assert DescriptorExtractor.learn(images(), "any-orientation")[0].parts[2:] == turned
    volumes = images(shape=(1, 16, 16, 16))
    assert DescriptorExtractor.learn(volumes, "standard")[0].parts[2:] == ("thumbnail",)
    assert DescriptorExtractor.learn(volumes, "any-orientation")[0].parts[2:] == ("rings",)


def test_turned_images_are_alike_where_orientation_says_nothing():
    several = images()
    turned = ImageSet(several.cases, several.pixels.rot90(1, (2, 3)).flip(2))
    free = DescriptorExtractor.learn(several, "any-orientation")[0]
    torch.testing.assert_close(free(several), free(turned), atol=1e-5, rtol=0)
    upright = DescriptorExtractor.learn(several, "standard")[0]
    assert float((upright(several) * upright(turned)).sum(dim=1).max()) < 0.9


def test_color_and_place_count():
    several = images()
    swapped = ImageSet(several.cases, several.pixels.flip(1))  # red for blue: as light or so
    describe = DescriptorExtractor.learn(several, "any-orientation")[0]
    assert float((describe(several) * describe(swapped)).sum(dim=1).max()) < 0.9


def test_flat_images_have_finite_rows():
    flat = ImageSet(("a", "b"), torch.full((2, 1, 32, 32), 7, dtype=torch.uint8))
    describe = DescriptorExtractor.learn(flat, "standard")[0]
    assert bool((describe(flat) == 0).all())  # nothing tells them apart
    assert bool(torch.isfinite(describe(images(shape=(1, 32, 32)))).all())


def test_a_stored_describer_says_the_same():
    several = images()
    describe = DescriptorExtractor.learn(several, "standard")[0]
    again = DescriptorExtractor(**vars(describe))
    assert torch.equal(describe(several), again(several))


def test_joined_cosine_is_the_mixture():
    generator = torch.Generator().manual_seed(1)
    unit = torch.nn.functional.normalize
    feature = unit(torch.randn(5, 7, generator=generator), dim=1)
    description = unit(torch.randn(5, 3, generator=generator), dim=1)
    both = joined(feature, description, 0.3)
    expected = 0.7 * feature @ feature.T + 0.3 * description @ description.T
    torch.testing.assert_close(both @ both.T, expected)
    assert joined(feature, description, 0.0) is feature
    assert joined(feature, None, 0.3) is feature


def test_the_share_decides_which_images_are_neighbors(study, quick):
    quick |= {"mode": "one-pass", "max_epochs": 1}
    run = {}
    for share in (0.0, 0.7):
        out = study.root / f"out_{share}"
        run[share] = classify(
            study.images, study.labels, out, descriptor_share=share, device="cpu", **quick
        )
    assert run[0.0].feature.shape[1] < run[0.7].feature.shape[1]
    nearest = [[near[0][0] for near in run[share].predictions.neighbors] for share in (0.0, 0.7)]
    assert nearest[0] != nearest[1]


def test_later_images_are_described_as_the_first_were(study, quick):
    quick |= {"mode": "one-pass", "max_epochs": 1}
    first = classify(study.images, study.labels, study.root / "out", device="cpu", **quick)
    again = classify(study.images, None, study.root / "again", model=first.output, device="cpu")
    torch.testing.assert_close(again.feature, first.feature, atol=1e-5, rtol=0)
