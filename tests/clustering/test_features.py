from pictures import as_image, blob

from graphnn_unet.clustering.features import HandFeatures, working_image


def test_large_images_are_reduced_with_their_aspect():
    rgb, _ = blob(200, 300, 60)
    work = working_image(as_image(rgb), 96)
    assert work.shape == (3, 64, 96)
    assert HandFeatures(96)(as_image(rgb)).grid.size == (16, 24)
