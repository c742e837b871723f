"""A trained model and images to predict, made once a file."""

from pathlib import Path

import pytest
from models.small_models import opened_model, write_good_images


@pytest.fixture(scope="module")
def model(trained_home, tmp_path_factory) -> Path:
    """GraphCL with an open gate. Read only."""
    return opened_model(trained_home, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Three good images. Read only."""
    return write_good_images(tmp_path_factory.mktemp("images"))
