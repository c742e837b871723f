"""Predictions of three images: diffused, out of reach, given."""

import math

import torch

from graphnn_unet.classification.outputs import Predictions, predictions_of
from graphnn_unet.classification.table import Finding

KIND, SIZE = Finding("kind", ("a", "b")), Finding("size", ("big", "mid", "small"))
NEAR = [[("x", 0.5), ("y", 0.25)], [], [("x", -0.1)]]


def predictions(findings=(KIND,)) -> Predictions:
    """Of three images: diffused, out of reach, given."""
    n_classes = sum(len(finding.classes) for finding in findings)
    score = torch.zeros(3, n_classes, dtype=torch.float64)
    score[0, :2], score[2, :2] = torch.tensor([0.25, 0.75]), torch.tensor([0.9, 0.1])
    if len(findings) == 2:
        score[:, 2:] = torch.tensor([0.2, 0.5, 0.3])
    given = torch.full((3, len(findings)), -1)
    given[2, 0] = 1
    logits = torch.zeros(3, n_classes)
    logits[1, 0] = math.log(3)
    return predictions_of(("p", "q", "r"), findings, score, logits, given, NEAR)
