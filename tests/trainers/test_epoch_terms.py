"""Means of the terms of an epoch."""

import math

import pytest
import torch

from graphnn_unet.trainers.epoch_terms import EpochTerms

STEPS = ({"loss": 1.0, "cosine": torch.tensor(0.5)}, {"loss": float("inf")}, {"loss": 4.0})


@pytest.fixture
def terms():
    filled = EpochTerms()
    for step in STEPS:
        filled.add(step)
    return filled


def test_steps_that_are_not_finite_have_no_part_in_a_mean(terms):
    assert terms.means() == {"loss": 2.5, "cosine": 0.5}
    assert terms.n_not_finite("loss") == 1
    assert math.isnan(EpochTerms({"loss": [math.nan]}).means()["loss"])


def test_the_last_value_is_of_the_term_that_is_asked_for(terms):
    assert (terms.last("loss"), terms.last("cosine")) == (4.0, 0.5)
    assert math.isnan(terms.last("entropy"))


def test_a_checkpoint_gives_the_same_epoch_back(terms):
    restored = EpochTerms(terms.as_lists())
    restored.add({"loss": 1.0})
    assert restored.means() == {"loss": 2.0, "cosine": 0.5}
    assert terms.means()["loss"] == 2.5  # of its own
    assert EpochTerms().means() == {}
