"""Labels from a teacher, cleaned before they teach."""

import torch

from graphnn_unet.pseudo_labels.largest_component import PseudoLabeler


def test_labeler_cleans_only_the_classes_that_are_one_component():
    logits = torch.full((1, 3, 1, 7), -5.0)
    for position, label in enumerate([1, 0, 1, 1, 2, 0, 2]):
        logits[0, label, 0, position] = 5
    labeler = PseudoLabeler({"1": True, "2": False})
    labels = labeler.finish(labeler.start(logits))
    assert labels.shape == (1, 1, 1, 7)
    assert labels.flatten().tolist() == [0, 0, 1, 1, 2, 0, 2]


def test_labeler_handles_overlapping_outputs():
    logits = torch.tensor([[[[3.0, -1, 3, 3]], [[-1.0, 2, -1, 2]]]])
    labeler = PseudoLabeler({"whole": True, "core": False}, overlapping=True)
    labels = labeler.finish(labeler.start(logits))
    assert labels.dtype == torch.bool
    assert labels[0, :, 0].tolist() == [[False, False, True, True], [False, True, False, True]]
